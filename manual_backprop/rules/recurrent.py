"""Recurrent cells: one step in time, (x_t, h_{t−1}) -> (y_t, h_t).  `scan` runs them over a sequence."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..rule import rule
from ._sums import sum_to


class Recurrent(NamedTuple):
    """The parameters of a plain recurrent cell."""

    w: Float[Array, "i o"]
    u: Float[Array, "o o"]
    b: Float[Array, "o"]


@rule
def recurrent(
    x: Float[Array, "*batch i"], h: Float[Array, "*batch o"], params: Recurrent
) -> tuple[Float[Array, "*batch o"], Float[Array, "*batch o"]]:
    r"""A plain recurrent cell:  h_t = tanh(x_t w + h_{t−1} u + b), handed out and handed on.

    Derivative  z̄ = (ȳ + h̄) (1 − h_t²),  the new state being used twice
                x̄ = z̄ wᵀ    h̄_{t−1} = z̄ uᵀ    w̄ = Σ xᵀ z̄    ū = Σ h_{t−1}ᵀ z̄    b̄ = Σ z̄

    Source: Elman, 'Finding Structure in Time', 1990.

    >>> y, h = recurrent(jnp.zeros(2), jnp.zeros(3), Recurrent(jnp.ones((2, 3)), jnp.ones((3, 3)), jnp.zeros(3)))
    >>> print(y)
    [0. 0. 0.]
    """
    h = jnp.tanh(x @ params.w + h @ params.u + params.b)
    return h, h


@recurrent.def_forward
def _(x, h, params):
    h_new = jnp.tanh(x @ params.w + h @ params.u + params.b)
    return (h_new, h_new), (x, h, h_new, params)


@recurrent.def_backward
def _(residuals, cotangents):
    x, h, h_new, params = residuals
    y_bar, h_bar = cotangents
    z_bar = (y_bar + h_bar) * (1 - h_new * h_new)
    params_bar = Recurrent(
        w=jnp.einsum("...i,...o->io", x, z_bar),
        u=jnp.einsum("...h,...o->ho", h, z_bar),
        b=sum_to(params.b.shape, z_bar),
    )
    return z_bar @ params.w.T, z_bar @ params.u.T, params_bar
