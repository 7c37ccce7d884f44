"""Normalisers: each row is rescaled by a statistic of itself."""

from typing import Annotated

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ..rule import rule
from ..signature import Ge, Try
from ._sums import row_mean, sum_to, wide

Eps = Annotated[float, Ge(0), Try(1e-5, 1e-1)]


@rule
def layer_norm(
    x: Float[Array, "*batch d"], gamma: Float[Array, "d"], beta: Float[Array, "d"], *, eps: Eps = 1e-5
) -> Float[Array, "*batch d"]:
    r"""Give every row zero mean and unit variance, then rescale it:  y = γ x̂ + β.

        x̂ = (x − μ) r,   r = 1 / √(σ² + ε),   μ and σ² the mean and variance of the row

    Derivative  γ̄ = Σ ȳ x̂    β̄ = Σ ȳ
                x̄ = g − ⟨g⟩ − x̂ ⟨g x̂⟩,   g = γ r ȳ,   ⟨·⟩ the mean over the row

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
    centred = wide(x) - row_mean(wide(x))
    r = lax.rsqrt(row_mean(centred**2) + eps)
    x_hat = centred * r
    return (gamma * x_hat + beta).astype(x.dtype), (x_hat.astype(x.dtype), r, gamma)


@layer_norm.def_backward
def _(residuals, y_bar, *, eps):
    x_hat, r, gamma = residuals
    g = wide(gamma) * (r * wide(y_bar))  # r first: γ ȳ may be too small a number
    x_bar = g - row_mean(g) - x_hat * row_mean(g * x_hat)
    gamma_bar = sum_to(gamma.shape, wide(y_bar) * x_hat)
    return x_bar.astype(y_bar.dtype), gamma_bar.astype(y_bar.dtype), sum_to(gamma.shape, y_bar)


@rule
def rms_norm(x: Float[Array, "*batch d"], gamma: Float[Array, "d"], *, eps: Eps = 1e-5) -> Float[Array, "*batch d"]:
    r"""Give every row unit mean square, then rescale it:  y = γ x̂.

        x̂ = x r,   r = 1 / √(⟨x²⟩ + ε),   ⟨·⟩ the mean over the row

    Derivative  γ̄ = Σ ȳ x̂    x̄ = g − x̂ ⟨g x̂⟩,   g = γ r ȳ

    The subtracted term projects g away from the scale of the row, which the row cannot change.

    Source: Zhang, Sennrich, 'Root Mean Square Layer Normalization', 2019, eq. 4.

    >>> print(rms_norm(jnp.array([[1.0, 7.0]]), jnp.array([5.0, 5.0]), eps=0.0))
    [[1. 7.]]
    """
    return gamma * x / jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + eps)


@rms_norm.def_forward
def _(x, gamma, *, eps):
    r = lax.rsqrt(row_mean(wide(x) ** 2) + eps)
    x_hat = wide(x) * r
    return (gamma * x_hat).astype(x.dtype), (x_hat.astype(x.dtype), r, gamma)


@rms_norm.def_backward
def _(residuals, y_bar, *, eps):
    x_hat, r, gamma = residuals
    g = wide(gamma) * (r * wide(y_bar))
    x_bar = g - x_hat * row_mean(g * x_hat)
    return x_bar.astype(y_bar.dtype), sum_to(gamma.shape, wide(y_bar) * x_hat).astype(y_bar.dtype)
