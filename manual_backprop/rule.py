"""A rule: a function, written plainly, with its derivative written by hand.

    definition(x, *params)         -> y              naive and obviously right; what every oracle sees
    forward(x, *params)            -> y, residuals   the same value, computed the way one would ship it
    backward(residuals, y_bar)     -> x_bar, *params_bar     None for an integer, boolean or key

This is the convention of `jax.custom_vjp`, and calling a rule calls that function: under `jax.grad` the derivative
is the one written by hand.  The first primal is what flows through a network; the others are its parameters.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .signature import (
    LENGTHS,
    Leaf,
    SignatureError,
    bind_primals,
    hold,
    is_leaf,
    kind_of,
    signature_of,
    with_bounds,
    with_sizes,
)

HALVES = (
    ("forward", "(*primals, **options) -> (out, residuals)"),
    ("backward", "(residuals, cotangent, **options) -> one cotangent per primal"),
)


class Rule:
    """What elementary rules and networks have in common: the triple, the shapes, and an expression to print."""

    definition: Callable
    forward: Callable
    backward: Callable

    def shapes(self, x) -> tuple[tuple, Any]:
        """The leaves of the parameters and of the output, for an input of these leaves."""
        raise NotImplementedError

    @property
    def input(self):
        """The leaves of the first primal, with names for lengths."""
        raise NotImplementedError

    def map(self, transform: Callable[["Rule"], "Rule"]) -> "Rule":
        """The same expression with `transform` applied to each part that runs as one piece."""
        return transform(self)

    def __call__(self, *primals):
        self.hold(primals)
        return self.custom_vjp(*primals)

    def hold(self, primals: tuple) -> None:
        """Hold values against what the rule reads; a SignatureError names what does not fit."""
        if not primals:
            raise SignatureError(f"{self} takes an input and its parameters, but nothing came")
        x, *params = primals
        parameters, _ = self.shapes(jax.tree.map(_leaf, x))
        if len(params) != len(parameters):
            wanted = f"an input and {len(parameters)} parameters" if parameters else "an input alone"
            raise SignatureError(f"{self} takes {wanted}, but {len(primals)} primals came")
        hold(parameters, tuple(params), f"{self}: params", {})

    @functools.cached_property
    def custom_vjp(self) -> Callable:
        """The rule as a `jax.custom_vjp` function of its primals."""
        function = jax.custom_vjp(lambda *primals: self.forward(*primals)[0])
        function.defvjp(self.forward, self.backward)
        return function

    def compiled(self) -> "Rule":
        """The same rule, each part compiled once per shape and dtype, and shared by all rules that contain it."""
        return self.map(_compiled)

    def __eq__(self, other):
        return isinstance(other, Rule) and self._identity == other._identity

    def __hash__(self):
        return hash(self._identity)

    def __repr__(self):
        return str(self)


def _leaf(array) -> Leaf:
    if kind_of(array) == "other":
        raise SignatureError(f"the input holds a {type(array).__name__}; arrays were expected")
    return Leaf(kind_of(array), array.shape if hasattr(array, "shape") else np.shape(array))


@functools.cache
def _compiled(rule: Rule) -> Rule:
    return Opaque(rule, jax.jit)


class Opaque(Rule):
    """A rule whose three functions went through a transformation such as `jax.jit`."""

    def __init__(self, rule: Rule, transform: Callable):
        # New functions, since JAX remembers what it traced by function: halves that were written anew are traced anew.
        self.definition = transform(lambda *primals: rule.definition(*primals))
        self.forward = transform(lambda *primals: rule.forward(*primals))
        self.backward = transform(lambda residuals, y_bar: rule.backward(residuals, y_bar))
        self.shapes, self._rule, self._identity = rule.shapes, rule, (rule._identity, transform)

    @property
    def input(self):
        return self._rule.input

    def __str__(self):
        return str(self._rule)


class Elementary(Rule):
    """A rule written down as one function and two halves, with its signature in its annotations.

    `rule.bind(o=3, eps=0.1)` fixes lengths that the input leaves open, and static options.
    """

    def __init__(self, definition: Callable, halves: list | None = None, bound: dict | None = None):
        functools.update_wrapper(self, definition)
        self.name = definition.__name__
        self.signature = signature_of(definition)
        self._definition, self._halves, self._bound = definition, halves or [None, None], dict(bound or {})
        self.sizes = {k: v for k, v in self._bound.items() if k not in self.signature.options}
        self.options = {**self.signature.defaults, **{k: v for k, v in self._bound.items() if k not in self.sizes}}

    @property
    def _identity(self):
        return self._definition, *self._halves, *sorted(_exactly(self._bound))

    def def_forward(self, function: Callable) -> Callable:
        """Register forward(*primals, **options) -> (out, residuals)."""
        return self._define(0, function)

    def def_backward(self, function: Callable) -> Callable:
        """Register backward(residuals, cotangent, **options) -> one cotangent per primal."""
        return self._define(1, function)

    def _define(self, which, function):
        if self._halves[which] is not None:
            # JAX remembers what it traced by function: whoever compiled with the old half would keep it.
            jax.clear_caches()
        self._halves[which] = function
        return function

    def definition(self, *primals):
        return self._definition(*primals, **self.options)

    def forward(self, *primals):
        return self._half(0)(*primals, **self.options)

    def backward(self, residuals, y_bar):
        return self._half(1)(residuals, y_bar, **self.options)

    def _half(self, which):
        half = self._halves[which]
        if half is None:
            name, form = HALVES[which]
            raise SignatureError(f"{self.name} has no {name} half: write it as {form}, below @{self.name}.def_{name}")
        return half

    def __call__(self, *primals, **named):
        """The value; primals may be named, and options and lengths are bound on the way."""
        given = {k: named.pop(k) for k in self.signature.primals if k in named}
        if named:
            return self.bind(**named)(*primals, **given)
        missing = list(self.signature.primals)[len(primals) :]
        if twice := [name for name in given if name not in missing]:
            raise SignatureError(f"{self.name}: {twice[0]} came twice")
        return super().__call__(*primals, *(given[name] for name in missing if name in given))

    def hold(self, primals: tuple) -> None:
        bind_primals(self.signature, primals, str(self), self.sizes)

    def bind(self, **values) -> "Elementary":
        """The same rule with some lengths and options fixed."""
        return _bind(self, _exactly({name: self._checked(name, value) for name, value in values.items()}))

    def _checked(self, name, value):
        """A length or an option as a plain value; SignatureError where the signature does not allow it."""
        where = f"{self.name}: {name}"
        if name in self.signature.options:
            return self.signature.allowed[name].checked(value, where)
        if name not in self.signature.sizes:
            known = [n for n in (*self.signature.sizes, *self.signature.options) if not n.startswith("*")]
            raise SignatureError(f"{self.name} has no {name}; it has {', '.join(known) or 'nothing to bind'}")
        lengths = tuple(value) if name.startswith("*") else (value,)
        lengths = tuple(int(n) if isinstance(n, np.integer) else n for n in lengths)
        if any(type(n) is not int or not 0 <= n < LENGTHS for n in lengths):
            raise SignatureError(
                f"{self.name}: the length {name} is {value!r}; a whole number from 0 to 2³¹ − 1 was expected"
            )
        return lengths if name.startswith("*") else lengths[0]

    def sized(self, *lengths: int) -> "Elementary":
        """The same rule with its free lengths fixed, in their order: `dense.sized(3)` has 3 outputs."""
        names = self.signature.free_sizes
        if len(lengths) > len(names):
            wanted = f"at most {', '.join(names)}" if names else "no length"
            raise SignatureError(f"{self.name} takes {wanted}, but {lengths} came")
        return self.bind(**dict(zip(names, lengths, strict=False)))

    def shapes(self, x):
        first, *rest = self.signature.primals.items()
        sizes = hold(first[1], x, f"{self.name}: {first[0]}", self.sizes)
        missing = [size for size in self.signature.sizes if size not in sizes]
        if missing:
            example = ", ".join("3" for _ in self.signature.free_sizes)
            raise SignatureError(f"{self.name} needs the length {missing[0]}: write {self.name}({example})")
        return tuple(with_sizes(tree, sizes) for _, tree in rest), with_sizes(self.signature.output, sizes)

    @property
    def input(self):
        tree = next(iter(self.signature.primals.values()))
        return jax.tree.map(lambda leaf: with_bounds(leaf, self.sizes), tree, is_leaf=is_leaf)

    def __str__(self):
        lengths = [str(self.sizes[name]) for name in self.signature.free_sizes if name in self.sizes]
        options = [f"{k}={v!r}" for k, v in self._bound.items() if k in self.signature.options]
        return self.name + (f"({', '.join(lengths + options)})" if lengths or options else "")


@functools.cache
def _bind(rule: Elementary, values: tuple) -> Elementary:
    return type(rule)(rule._definition, rule._halves, rule._bound | {name: value for name, _, value in values})


def _exactly(values: dict) -> tuple:
    """Values as part of a key: what is written differently is different, such as True and 1."""
    return tuple((name, repr(value), value) for name, value in values.items())


def rule(definition: Callable) -> Elementary:
    """Make a rule of an annotated function; write its halves with `@name.def_forward` and `@name.def_backward`."""
    return Elementary(definition)


def value_and_grad(rule: Rule) -> Callable:
    """The value and, by hand, its gradient with respect to every primal of a rule with a scalar output.

    f(x, *params) -> value, (x_bar, *params_bar);  None where a primal has no derivative.
    """

    def function(*primals):
        rule.hold(primals)
        value, residuals = rule.forward(*primals)
        if jnp.shape(value) != ():
            raise SignatureError(f"{rule} has an output of shape {jnp.shape(value)}; a gradient needs a scalar")
        return value, rule.backward(residuals, jnp.ones_like(value))

    return function


__all__ = ["Elementary", "Leaf", "Rule", "rule", "value_and_grad"]
