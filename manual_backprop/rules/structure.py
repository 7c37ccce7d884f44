"""Rules that move, add and multiply whole arrays: splitting, joining, adding, gating."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..rule import rule

Halves = tuple[Float[Array, "*batch d"], Float[Array, "*batch d"]]
Pair = tuple[Float[Array, "*n"], Float[Array, "*n"]]


@rule
def split(x: Float[Array, "*batch 2*d"]) -> Halves:
    r"""Cut the last axis into two halves:  (x_1, x_2) = x.

    Derivative  x̄ = (ȳ_1, ȳ_2): the halves are put back side by side.

    >>> print(*split(jnp.array([1.0, 2.0])))
    [1.] [2.]
    """
    d = x.shape[-1] // 2
    return x[..., :d], x[..., d:]


@split.def_forward
def _(x):
    d = x.shape[-1] // 2
    return (x[..., :d], x[..., d:]), ()


@split.def_backward
def _(residuals, halves_bar):
    return (jnp.concatenate(halves_bar, axis=-1),)


@rule
def join(halves: Halves) -> Float[Array, "*batch 2*d"]:
    r"""Put two arrays side by side along the last axis:  y = (x_1, x_2).

    Derivative  (x̄_1, x̄_2) = ȳ: the cotangent is cut where the arrays were joined.

    >>> print(join((jnp.array([1.0]), jnp.array([2.0]))))
    [1. 2.]
    """
    return jnp.concatenate(halves, axis=-1)


@join.def_forward
def _(halves):
    return jnp.concatenate(halves, axis=-1), ()


@join.def_backward
def _(residuals, y_bar):
    d = y_bar.shape[-1] // 2
    return ((y_bar[..., :d], y_bar[..., d:]),)


@rule
def add(terms: Pair) -> Float[Array, "*n"]:
    r"""Add two arrays:  y = a + b.

    Derivative  ā = ȳ    b̄ = ȳ: a sum hands its cotangent whole to every term.

    >>> print(add((jnp.array([1.0]), jnp.array([2.0]))))
    [3.]
    """
    a, b = terms
    return a + b


@add.def_forward
def _(terms):
    a, b = terms
    return a + b, ()


@add.def_backward
def _(residuals, y_bar):
    return ((y_bar, y_bar),)


@rule
def multiply(factors: Pair) -> Float[Array, "*n"]:
    r"""Multiply two arrays element by element, one gating the other:  y = a b.

    Derivative  ā = ȳ b    b̄ = ȳ a: each factor receives the other.

    >>> print(multiply((jnp.array([3.0]), jnp.array([2.0]))))
    [6.]
    """
    a, b = factors
    return a * b


@multiply.def_forward
def _(factors):
    a, b = factors
    return a * b, factors


@multiply.def_backward
def _(factors, y_bar):
    a, b = factors
    return ((y_bar * b, y_bar * a),)
