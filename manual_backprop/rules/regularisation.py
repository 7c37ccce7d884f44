"""Rules that draw: the key is a primal like any other, without a derivative."""

from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from ..rule import rule
from ..signature import Ge, Lt, Try


@rule
def dropout(
    x: Float[Array, "*n"], key: Key[Array, ""], *, rate: Annotated[float, Ge(0), Lt(1), Try(0.5, 0.1)] = 0.5
) -> Float[Array, "*n"]:
    r"""Switch off each element with probability `rate`, and scale the others up to keep the mean.

        y = m x / (1 − rate),   m a mask of zeros and ones

    Derivative  x̄ = m ȳ / (1 − rate): the same mask, drawn once.  The key has none.

    The uniforms are single precision whatever x is, so that one key gives one mask in every dtype.  0 ≤ rate < 1.

    Source: Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov, 'Dropout', 2014, section 10.

    >>> print(dropout(jnp.array([3.0]), jax.random.key(0), rate=0.0))
    [3.]
    """
    return jnp.where(_mask(key, x.shape, rate), x, 0) / (1 - rate)


@dropout.def_forward
def _(x, key, *, rate):
    mask = _mask(key, x.shape, rate)
    return jnp.where(mask, x / (1 - rate), 0), mask


@dropout.def_backward
def _(mask, y_bar, *, rate):
    return jnp.where(mask, y_bar / (1 - rate), 0), None


def _mask(key, shape, rate):
    return jax.random.uniform(key, shape, jnp.float32) >= rate
