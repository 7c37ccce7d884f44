"""Normalisers: each row is rescaled by a statistic of itself."""

from typing import Annotated

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ..rule import rule
from ..signature import OneOf
from ._sums import row_mean, sum_to

Eps = Annotated[float, OneOf(1e-5, 1e-1)]


@rule
def layer_norm(
    x: Float[Array, "*batch d"], gamma: Float[Array, "d"], beta: Float[Array, "d"], *, eps: Eps = 1e-5
) -> Float[Array, "*batch d"]:
    r"""Give every row zero mean and unit variance, then rescale it:  y = γ x̂ + β.

        x̂ = (x − μ) r,   r = 1 / √(σ² + ε),   μ and σ² the mean and variance of the row

    Derivative  γ̄ = Σ ȳ x̂    β̄ = Σ ȳ
                x̄ = r (g − ⟨g⟩ − x̂ ⟨g x̂⟩),   g = γ ȳ,   ⟨·⟩ the mean over the row

    The two subtracted terms project g away from what the row cannot change: its mean and its scale.

    Source: Ba, Kiros, Hinton, 'Layer Normalization', 2016, eq. 3.

    >>> print(layer_norm(jnp.array([[2.0, 4.0]]), jnp.ones(2), jnp.zeros(2), eps=0.0))
    [[-1.  1.]]
    """
    mean = jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean((x - mean) ** 2, axis=-1, keepdims=True)
    return gamma * (x - mean) / jnp.sqrt(variance + eps) + beta


@layer_norm.def_forward
def _(x, gamma, beta, *, eps):
    centred = x - row_mean(x)
    r = lax.rsqrt(row_mean(centred**2) + eps)
    x_hat = centred * r
    return gamma * x_hat + beta, (x_hat, r, gamma)


@layer_norm.def_backward
def _(residuals, y_bar, *, eps):
    x_hat, r, gamma = residuals
    g = gamma * y_bar
    x_bar = r * (g - row_mean(g) - x_hat * row_mean(g * x_hat))
    return x_bar, sum_to(gamma.shape, y_bar * x_hat), sum_to(gamma.shape, y_bar)
