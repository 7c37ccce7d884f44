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

from .signature import Leaf, SignatureError, bind_primals, is_leaf, signature_of, unify, with_bounds, with_sizes


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
        return self.custom_vjp(*primals)

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
        return self._definition, *self._halves, tuple(sorted(self._bound.items()))

    def def_forward(self, function: Callable) -> Callable:
        """Register forward(*primals, **options) -> (out, residuals)."""
        self._halves[0] = function
        return function

    def def_backward(self, function: Callable) -> Callable:
        """Register backward(residuals, cotangent, **options) -> one cotangent per primal."""
        self._halves[1] = function
        return function

    def definition(self, *primals):
        return self._definition(*primals, **self.options)

    def forward(self, *primals):
        return self._halves[0](*primals, **self.options)

    def backward(self, residuals, y_bar):
        return self._halves[1](residuals, y_bar, **self.options)

    def __call__(self, *primals, **options):
        if options:
            return self.bind(**options)(*primals)
        bind_primals(self.signature, primals, self.name)
        return self.custom_vjp(*primals)

    def bind(self, **values) -> "Elementary":
        """The same rule with some lengths and options fixed."""
        return _bind(self, tuple(values.items()))

    def sized(self, *lengths: int) -> "Elementary":
        """The same rule with its free lengths fixed, in their order: `dense.sized(3)` has 3 outputs."""
        names = self.signature.free_sizes
        if len(lengths) > len(names):
            wanted = f"at most {', '.join(names)}" if names else "no length"
            raise SignatureError(f"{self.name} takes {wanted}, but {lengths} came")
        return self.bind(**dict(zip(names, lengths, strict=False)))

    def shapes(self, x):
        first, *rest = self.signature.primals.items()
        name, tree = first
        leaves, structure = jax.tree.flatten(tree, is_leaf=is_leaf)
        sizes = dict(self.sizes)
        try:
            for leaf, given in zip(leaves, structure.flatten_up_to(x), strict=True):
                if not is_leaf(given):
                    raise SignatureError("several arrays where one was expected")
                if given.kind != leaf.kind:
                    raise SignatureError(f"{given.kind} values where {leaf.kind} was expected")
                sizes = unify(leaf, given.shape, sizes)
        except (SignatureError, ValueError) as error:
            raise SignatureError(f"{self.name}: {name} has {error}") from None
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
    for name, value in values:
        allowed = (*rule.signature.sizes, *rule.signature.options)
        if name not in allowed:
            raise SignatureError(f"{rule.name} has no {name}; it has {', '.join(allowed) or 'nothing to bind'}")
        if name in rule.signature.sizes and not name.startswith("*") and not (type(value) is int and value >= 0):
            raise SignatureError(f"{rule.name}: the length {name} is {value!r}; a whole number was expected")
    return type(rule)(rule._definition, rule._halves, {**rule._bound, **dict(values)})


def rule(definition: Callable) -> Elementary:
    """Make a rule of an annotated function; write its halves with `@name.def_forward` and `@name.def_backward`."""
    return Elementary(definition)


def value_and_grad(rule: Rule) -> Callable:
    """The value and, by hand, its gradient with respect to every primal of a rule with a scalar output.

    f(x, *params) -> value, (x_bar, *params_bar);  None where a primal has no derivative.
    """

    def function(*primals):
        value, residuals = rule.forward(*primals)
        if jnp.shape(value) != ():
            raise SignatureError(f"{rule} has an output of shape {jnp.shape(value)}; a gradient needs a scalar")
        return value, rule.backward(residuals, jnp.ones_like(value))

    return function


__all__ = ["Elementary", "Leaf", "Rule", "rule", "value_and_grad"]
