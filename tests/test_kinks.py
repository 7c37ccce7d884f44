"""Where a derivative is a convention: ours is JAX's, by hand and by autodiff of the definition, and no wild one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import nn

from manual_backprop.architecture import build
from manual_backprop.reference.precision import compiled
from manual_backprop.rules import RULES
from manual_backprop.signature import Kinks, is_leaf

# The rule, its primals at the kink, and the derivative of JAX's own function along each of them.
TABLE = [
    ("relu", (0.0,), (0.0,)),
    ("relu6", (0.0,), (0.0,)),
    ("relu6", (6.0,), (0.0,)),
    ("leaky_relu", (0.0,), (1.0,)),
    ("leaky_relu(negative_slope=0.3)", (0.0,), (1.0,)),
    ("prelu", (0.0, 0.25), (1.0, 0.0)),
    ("elu", (0.0,), (1.0,)),
    ("elu(alpha=0.5)", (0.0,), (0.5,)),
    ("celu", (0.0,), (1.0,)),
    ("celu(alpha=0.5)", (0.0,), (1.0,)),
    ("selu", (0.0,), (1.7580993408473766,)),
    ("soft_sign", (0.0,), (1.0,)),
    ("hard_tanh", (-1.0,), (1.0,)),
    ("hard_tanh", (1.0,), (1.0,)),
    ("hard_sigmoid", (-3.0,), (0.0,)),
    ("hard_sigmoid", (3.0,), (0.0,)),
    ("hard_silu", (-3.0,), (0.0,)),
    ("hard_silu", (3.0,), (1.0,)),
    ("sparse_plus", (-1.0,), (0.0,)),
    ("sparse_plus", (1.0,), (1.0,)),
    ("sparse_sigmoid", (-1.0,), (0.25,)),
    ("sparse_sigmoid", (1.0,), (0.25,)),
    ("huber_loss", (2.0, 2.0), (0.0, 0.0)),
    ("huber_loss", (3.0, 2.0), (1.0, -1.0)),
    ("huber_loss(delta=0.5)", (1.5, 2.0), (-0.5, 0.5)),
    ("hinge_loss", (1.0, 1.0), (-0.5, -0.5)),
    ("hinge_loss", (-1.0, -1.0), (0.5, 0.5)),
]
JAX = {
    **{name: getattr(nn, name) for name in RULES if hasattr(nn, name)},
    "prelu": nn.leaky_relu,
    "huber_loss": lambda *primals, **options: jnp.mean(optax.huber_loss(*primals, **options)),
    "hinge_loss": lambda *primals: jnp.mean(optax.hinge_loss(*primals)),
}

at_every_kink = pytest.mark.parametrize(("expression", "primals", "slopes"), TABLE, ids=lambda value: str(value))
in_every_dtype = pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])


def by_hand(rule, *primals):
    y, residuals = rule.forward(*primals)
    return rule.backward(residuals, jnp.ones_like(y))


def by_autodiff(function, *primals):
    y, pullback = jax.vjp(function, *primals)
    return pullback(jnp.ones_like(y))


def same(got, slopes, dtype):
    return all(abs(float(g[0]) - s) <= float(jnp.finfo(dtype).eps) * abs(s) for g, s in zip(got, slopes, strict=True))


def test_every_declared_kink_is_in_the_table():
    listed = {(build(expression).name, primal) for expression, primals, _ in TABLE for primal in primals[:1]}
    declared = {
        (rule.name, point)
        for rule in RULES.values()
        for leaf in jax.tree.leaves(list(rule.signature.primals.values()), is_leaf=is_leaf)
        for constraint in leaf.domain
        if isinstance(constraint, Kinks)
        for point in constraint.points
    }
    assert declared <= listed


@at_every_kink
@in_every_dtype
def test_convention_is_that_of_jax(expression, primals, slopes, dtype):
    rule = build(expression)
    with jax.enable_x64(True):
        at = [jnp.full((1,), value, dtype) for value in primals]
        options = {name: value for name, value in rule.options.items() if f"{name}=" in expression}
        functions = functools.partial(JAX[rule.name], **options), rule.definition
        *found, hand = compiled(lambda *at: (*(by_autodiff(f, *at) for f in functions), by_hand(rule, *at)))(*at)
    theirs, ours = found
    assert same(theirs, slopes, dtype), "jax has changed"
    assert same(ours, slopes, dtype)
    assert same(hand, slopes, dtype)


@at_every_kink
def test_convention_lies_between_both_sides(expression, primals, slopes):
    """The derivatives just left and just right of the point, where they are no convention, enclose it."""
    rule = build(expression)
    near = 2.0**-50
    with jax.enable_x64(True):
        at = [jnp.full((1,), value) for value in primals]
        autodiff = compiled(functools.partial(by_autodiff, rule.definition))
        for i, slope in enumerate(slopes):
            moved = [autodiff(*at[:i], at[i] + step, *at[i + 1 :])[i] for step in (-near, near)]
            low, high = sorted(float(m[0]) for m in moved)
            assert low - near * 2 <= slope <= high + near * 2  # twice: the largest second derivative is below 2


ONE_NUMBER = [rule for rule in RULES.values() if list(map(str, rule.signature.primals.values())) == ["float[*n]"]]


@in_every_dtype
@pytest.mark.parametrize("rule", ONE_NUMBER, ids=str)
def test_autodiff_of_a_definition_is_finite_at_ordinary_points(rule, dtype):
    """A branch that was not taken must not leak the infinities of its derivative into one that was."""
    positive = any(getattr(constraint, "gt", None) == 0 for constraint in rule.input.domain)
    points = 2.0 ** np.arange(-6, 3.2, 0.25)
    with jax.enable_x64(True):
        x = jnp.asarray(points if positive else [0.0, *points, *-points], dtype)
        (slopes,) = compiled(lambda x: by_autodiff(rule.definition, x))(x)
    assert np.isfinite(np.asarray(slopes, float)).all()
