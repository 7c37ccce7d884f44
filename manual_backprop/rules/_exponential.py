"""Exponentials that are accurate in both tails, by themselves and under autodiff: a definition has to be the truth."""

import jax.numpy as jnp


def exp_minus_one(x):
    """eˣ − 1, whose value is exact near zero and whose derivative by autodiff is exact far to the left.

    jnp.expm1 has the first only: autodiff takes its derivative to be y + 1, which cancels where y is near −1.
    """
    return jnp.where(x > -1, jnp.expm1(x), jnp.exp(x) - 1)


def logistic(x):
    """σ(x) = 1 / (1 + e⁻ˣ) = eˣ / (1 + eˣ), each on the side where it cannot overflow.

    lax.logistic takes the first on both sides, and gives 0 in half precision from −12 on, where e¹² is too large.
    Its derivative by autodiff is y (1 − y), which cancels where y is near 1.
    """
    e = jnp.exp(jnp.where(x >= 0, -x, x))
    return jnp.where(x >= 0, 1, e) / (1 + e)


def logistic_defined(x):
    """σ(x) = e^(−log(1 + e⁻ˣ)), to be differentiated: the square of 1 + e⁻ˣ, as of 1 / (1 + e⁻ˣ), would overflow."""
    return jnp.exp(-log_one_plus_exp(-x))


def log_one_plus_exp(x):
    """log(1 + eˣ), whose value and whose derivatives by autodiff are exact in both tails.

    log1p(eˣ) as it stands divides by 1 + eˣ on the way back, which underflows before it is multiplied with eˣ again.
    """
    return jnp.where(x >= 0, x, 0) + jnp.log1p(jnp.exp(jnp.where(x >= 0, -x, x)))
