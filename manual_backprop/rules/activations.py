"""Elementwise activations.  Derivatives that need only the output keep only the output."""

from typing import Annotated

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..rule import rule
from ..signature import Kinks


@rule
def tanh(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    r"""Hyperbolic tangent:  y = tanh x.

    Derivative  x̄ = ȳ (1 − y²)

    >>> print(tanh(jnp.array([0.0])))
    [0.]
    """
    return jnp.tanh(x)


@tanh.def_forward
def _(x):
    y = jnp.tanh(x)
    return y, y


@tanh.def_backward
def _(y, y_bar):
    return (y_bar * (1 - y * y),)


@rule
def relu(x: Annotated[Float[Array, "*n"], Kinks(0.0)]) -> Float[Array, "*n"]:
    r"""Rectifier:  y = max(x, 0).

    Derivative  x̄ = ȳ [x > 0]; at x = 0 the derivative is a convention, here 0 as in jax.nn.relu.

    >>> print(relu(jnp.array([-2.0, 3.0])))
    [0. 3.]
    """
    return jnp.where(x > 0, x, 0)


@relu.def_forward
def _(x):
    y = jnp.maximum(x, 0)
    return y, y


@relu.def_backward
def _(y, y_bar):
    return (jnp.where(y > 0, y_bar, 0),)
