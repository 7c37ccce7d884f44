"""Functions that are not smooth, and what their derivative is taken to be at the kink.

    python -m tests.bench_kinks

For each: the cotangents that JAX gives there (`jax.vjp` of the plain function), those of the catalogue's rule, the
one-sided derivatives by differences, and another choice that is as good, with one that is not.  Each cotangent is that
of an output whose own is 1, or 1, 2, 3, ... where there are several.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

X3 = (1.0, 1.0, -2.0)  # two equal numbers, one below them
FOUR = (0.5, 2.0, 2.0, 3.0)


@dataclasses.dataclass(frozen=True)
class Kink:
    """A function, its primals at a kink, and its pullback with the choice left open.

    backward   (primals, y_bar, choice) -> cotangents
    choices    JAX's own, another one between the one-sided derivatives, and one that lies beyond them
    rule       the expression of the catalogue's rule for this function, if there is one
    """

    name: str
    function: Callable
    primals: tuple
    backward: Callable
    choices: tuple
    rule: str = ""

    @property
    def arrays(self) -> tuple:
        return tuple(np.asarray(a, np.float32) for a in self.primals)

    def by_hand(self, choice) -> Callable:
        """The function with the derivative that makes this choice."""

        @jax.custom_vjp
        def made(*primals):
            return self.function(*primals)

        made.defvjp(
            lambda *primals: (self.function(*primals), primals),
            lambda primals, y_bar: tuple(self.backward(primals, y_bar, choice)),
        )
        return made


def slope(at, left, right):
    """The pullback of an elementwise function with these derivatives on both sides of one point."""

    def backward(primals, y_bar, choice):
        (x,) = primals
        return (y_bar * jnp.where(x == at, choice, jnp.where(x < at, left, right)).astype(x.dtype),)

    return backward


def _shares(equal, y_bar, choice):
    """A cotangent handed to all that are equal, along the last axis: in equal parts, to one of them, or to each."""
    parts = {
        "equal": equal / equal.sum(-1, keepdims=True),
        "first": equal & (jnp.cumsum(equal, -1) == 1),
        "last": equal & (jnp.cumsum(equal[..., ::-1], -1)[..., ::-1] == 1),
        "each": equal,
    }
    return y_bar[..., None] * parts[choice].astype(y_bar.dtype)


def _extreme(primals, y_bar, choice, of):
    (x,) = primals
    return (_shares(x == of(x, axis=-1, keepdims=True), y_bar, choice),)


def _pool(x):
    return jnp.max(x.reshape(-1, 2), axis=-1)


def _pool_back(primals, y_bar, choice):
    (x,) = primals
    windows = x.reshape(-1, 2)
    return (_shares(windows == _pool(x)[:, None], y_bar, choice).reshape(x.shape),)


def _window(x):
    return lax.reduce_window(x, -jnp.inf, lax.max, (2,), (2,), "VALID")


def _maximum_back(primals, y_bar, choice):
    x, y = primals
    share = jnp.where(x == y, choice, (x > y)).astype(x.dtype)
    return y_bar * share, y_bar * (1 - share)


def _clip_back(primals, y_bar, choice):
    (x,) = primals
    inside = jnp.where((x == -1) | (x == 1), choice, (x > -1) & (x < 1))
    return (y_bar * inside.astype(x.dtype),)


def _sort_back(primals, y_bar, choice):
    """Each output's cotangent goes to one place; which, among equals, is open; that both get both is not."""
    (x,) = primals
    order = jnp.argsort(x, stable=True) if choice != "backwards" else x.size - 1 - jnp.argsort(x[::-1], stable=True)
    bar = jnp.zeros_like(x).at[order].set(y_bar)
    return (jnp.where(jnp.sum(x == x[:, None], -1) > 1, (x == x[:, None]) @ bar, bar) if choice == "each" else bar,)


def _top_two(x):
    return lax.top_k(x, 2)[0]


def _top_two_back(primals, y_bar, choice):
    (x,) = primals
    order = jnp.argsort(-x, stable=True) if choice != "last" else x.size - 1 - jnp.argsort(-x[::-1], stable=True)
    bar = jnp.zeros_like(x).at[order[:2]].set(y_bar)
    if choice == "each":  # the one that is left out by lot gets as much as its equal
        bar = jnp.where((bar == 0) & (x == x[order[1]]), y_bar[1], bar)
    return (bar,)


def _median(x):
    return jnp.sort(x)[x.size // 2]


def _quantile(x):
    return jnp.quantile(x, 0.25)


def _of_sorted(place):
    """The pullback of one number of those that are sorted."""

    def backward(primals, y_bar, choice):
        (x,) = primals
        value = jnp.sort(x)[place(x)]
        if choice == "stable":
            return (jnp.zeros_like(x).at[jnp.argsort(x, stable=True)[place(x)]].set(y_bar),)
        return (_shares(x == value, y_bar, choice),)

    return backward


def _elu_back(primals, y_bar, choice):
    (x,) = primals
    return (y_bar * jnp.where(x == 0, choice, jnp.where(x < 0, 0.5 * jnp.exp(x), 1)).astype(x.dtype),)


def _norm(x):
    return jnp.sqrt(jnp.sum(x * x))


def _norm_back(primals, y_bar, choice):
    (x,) = primals
    n = _norm(x)
    return (y_bar * jnp.where(n == 0, jnp.asarray(choice, x.dtype), x / jnp.where(n == 0, 1, n)),)


def _threshold(x):
    return jnp.where(x > 0.5, 2 * x - 0.5, x)


KINKS = [
    Kink("relu", jax.nn.relu, ((-1.0, 0.0, 2.0),), slope(0, 0, 1), (0.0, 1.0, 1.5), "relu"),
    Kink("abs", jnp.abs, ((-1.0, 0.0, 2.0),), slope(0, -1, 1), (1.0, -1.0, 2.0)),
    Kink("leaky relu", lambda x: jnp.where(x >= 0, x, 0.01 * x), ((-1.0, 0.0, 2.0),), slope(0, 0.01, 1),
         (1.0, 0.01, 0.0), "leaky_relu"),
    Kink("elu", lambda x: jax.nn.elu(x, 0.5), ((-1.0, 0.0, 2.0),), _elu_back, (0.5, 1.0, 0.0), "elu(alpha=0.5)"),
    Kink("max(x, 0)", lambda x: jnp.maximum(x, 0), ((-1.0, 0.0, 2.0),), slope(0, 0, 1), (0.5, 0.0, -0.5)),
    Kink("maximum", jnp.maximum, ((1.0, 2.0, 3.0), (2.0, 2.0, 1.0)), _maximum_back, (0.5, 1.0, 1.5)),
    Kink("max, ties", lambda x: jnp.max(x, axis=-1), (X3,), lambda *a: _extreme(*a, jnp.max),
         ("equal", "first", "each")),
    Kink("min, ties", lambda x: jnp.min(x, axis=-1), ((-1.0, 2.0, -1.0),), lambda *a: _extreme(*a, jnp.min),
         ("equal", "last", "each")),
    Kink("clip, edges", lambda x: jnp.clip(x, -1, 1), ((-1.0, 1.0, 0.25, 3.0),), _clip_back, (0.5, 0.0, -1.0)),
    Kink("hard tanh", jax.nn.hard_tanh, ((-1.0, 1.0, 0.25, 3.0),), _clip_back, (1.0, 0.25, 1.5), "hard_tanh"),
    Kink("hinge", lambda x: jnp.maximum(0, 1 - x), ((0.0, 1.0, 2.0),), slope(1, -1, 0), (-0.5, 0.0, 0.5)),
    Kink("where", _threshold, ((0.0, 0.5, 2.0),), slope(0.5, 1, 2), (1.0, 2.0, 0.0)),
    Kink("norm at 0", _norm, ((0.0, 0.0, 0.0),), _norm_back, (np.nan, 0.0, 3.0)),
    Kink("sign", jnp.sign, ((-1.0, 0.0, 2.0),), slope(0, 0, 0), (0.0, 0.0, 1.0)),
    Kink("floor", jnp.floor, ((-0.5, 1.0, 2.25),), slope(1, 0, 0), (0.0, 0.0, 1.0)),
    Kink("sort, ties", jnp.sort, (FOUR,), _sort_back, ("stable", "backwards", "each")),
    Kink("max pool, ties", _pool, ((1.0, 1.0, 0.5, 2.0),), _pool_back, ("equal", "first", "each")),
    Kink("max window, ties", _window, ((1.0, 1.0, 0.5, 2.0),), _pool_back, ("first", "last", "each")),
    Kink("top-k, ties", _top_two, ((3.0, 2.0, 2.0, 0.5),), _top_two_back, ("first", "last", "each")),
    Kink("median, ties", _median, ((1.0, 1.0, 3.0),), _of_sorted(lambda x: x.size // 2), ("stable", "first", "each")),
    Kink("quantile, ties", _quantile, ((1.0, 2.0, 2.0, 4.0, 5.0),), _of_sorted(lambda x: 1),
         ("stable", "last", "each")),
]  # fmt: skip


def cotangent(kink, primals):
    """1, or 1, 2, 3, ... where there are several outputs."""
    out = jax.eval_shape(kink.function, *primals)
    return jnp.arange(1.0, 1 + out.size, dtype=out.dtype).reshape(out.shape)


def of_jax(kink):
    """What `jax.vjp` of the plain function gives."""
    primals = tuple(map(jnp.asarray, kink.arrays))
    return jax.vjp(kink.function, *primals)[1](cotangent(kink, primals))


def of_choice(kink, choice):
    """What the derivative that makes a choice gives."""
    primals = tuple(map(jnp.asarray, kink.arrays))
    return jax.vjp(kink.by_hand(choice), *primals)[1](cotangent(kink, primals))


def of_rule(kink):
    """What the catalogue's rule gives, if it has one."""
    from manual_backprop.architecture import build

    if not kink.rule:
        return None
    rule = build(kink.rule)
    primals = tuple(map(jnp.asarray, kink.arrays))
    y, residuals = rule.forward(*primals)
    return rule.backward(residuals, cotangent(kink, primals).astype(y.dtype))


def sides(kink):
    """The derivatives to the left and to the right of each number, by differences; NaN where the function jumps."""
    from manual_backprop.reference.oracles import richardson

    primals = tuple(a.astype(np.float64) for a in kink.arrays)
    estimate = richardson(kink.function)(primals, np.asarray(cotangent(kink, primals), np.float64))

    def known(side):
        return tuple(np.where(e <= 1, v, np.nan) for v, e in zip(side.value, side.error, strict=True))

    return known(estimate.left), known(estimate.right)


def shown(bars) -> str:
    """Cotangents as short text."""
    if bars is None:
        return "-"
    return "; ".join(" ".join(f"{float(a):.4g}" for a in np.ravel(np.asarray(bar, float))) for bar in bars)


def main():
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(title="The derivative where it is a convention", box=SIMPLE)
    for column in ("function", "at", "JAX", "ours", "left", "right", "as good", "not"):
        table.add_column(column)
    for kink in KINKS:
        left, right = sides(kink)
        as_good, wrong = (of_choice(kink, choice) for choice in kink.choices[1:])
        row = (kink.primals, of_jax(kink), of_rule(kink), left, right, as_good, wrong)
        table.add_row(kink.name, *map(shown, row))
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
