"""Plain functions of every element."""

from typing import Annotated

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..rule import rule
from ..signature import Gt

Positive = Annotated[Float[Array, "*n"], Gt(0)]


@rule
def identity(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    r"""The value itself:  y = x.

    Derivative  x̄ = ȳ

    >>> print(identity(jnp.array([2.0])))
    [2.]
    """
    return x


@identity.def_forward
def _(x):
    return x, ()


@identity.def_backward
def _(residuals, y_bar):
    return (y_bar,)


@rule
def log(x: Positive) -> Float[Array, "*n"]:
    r"""Natural logarithm:  y = log x,   x > 0.

    Derivative  x̄ = ȳ / x

    >>> print(log(jnp.array([1.0])))
    [0.]
    """
    return jnp.log(x)


@log.def_forward
def _(x):
    return jnp.log(x), x


@log.def_backward
def _(x, y_bar):
    return (y_bar / x,)


@rule
def sqrt(x: Positive) -> Float[Array, "*n"]:
    r"""Square root:  y = √x,   x > 0.

    Derivative  x̄ = ȳ / (2y), from the output alone

    >>> print(sqrt(jnp.array([9.0])))
    [3.]
    """
    return jnp.sqrt(x)


@sqrt.def_forward
def _(x):
    y = jnp.sqrt(x)
    return y, y


@sqrt.def_backward
def _(y, y_bar):
    return (y_bar / (2 * y),)
