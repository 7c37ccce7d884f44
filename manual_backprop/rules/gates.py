"""Activations that weigh a value by a gate between 0 and 1, mostly a function of the value itself."""

import math
from typing import Annotated

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from ..rule import rule
from ..signature import Kinks
from ._exponential import exp_minus_one, log_one_plus_exp, logistic, logistic_defined
from ._sums import wide


@rule
def silu(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    r"""Value times its logistic function, also called swish:  y = x σ(x).

    Derivative  x̄ = ȳ σ(x) (1 + x σ(−x))

    >>> print(silu(jnp.array([0.0, 100.0])))
    [  0. 100.]
    """
    return x * logistic_defined(x)


@silu.def_forward
def _(x):
    return x * logistic(x), x


@silu.def_backward
def _(x, y_bar):
    return (y_bar * logistic(x) * (1 + x * logistic(-x)),)


swish = silu


@rule
def hard_silu(x: Annotated[Float[Array, "*n"], Kinks(-3.0, 3.0)]) -> Float[Array, "*n"]:
    r"""Value times its piecewise linear gate, also called hard swish:  y = x h(x),   h(x) = min(max(x + 3, 0), 6) / 6.

    Derivative  x̄ = ȳ (2x + 3) / 6 where |x| < 3,  ȳ h(x) elsewhere

    At x = ±3 the derivative is a convention, here that of the outside, 0 and 1, as in jax.nn.hard_silu.

    Source: Howard et al., 'Searching for MobileNetV3', 2019, section 5.2.

    >>> print(hard_silu(jnp.array([-4.0, 0.0, 4.0])))
    [-0.  0.  4.]
    """
    return x * jnp.where(x <= -3, 0, jnp.where(x >= 3, 1, (x + 3) / 6))


@hard_silu.def_forward
def _(x):
    return x * (jnp.clip(x + 3, 0, 6) / 6), x


@hard_silu.def_backward
def _(x, y_bar):
    return (y_bar * jnp.where(x <= -3, 0, jnp.where(x >= 3, 1, (2 * x + 3) / 6)),)


hard_swish = hard_silu


@rule
def gelu(x: Float[Array, "*n"], *, approximate: bool = True) -> Float[Array, "*n"]:
    r"""Value times the probability that a standard normal variable is smaller:  y = x Φ(x).

        Φ(x) = erfc(−x/√2) / 2,   approximately  (1 + tanh u) / 2 = σ(2u),   u = √(2/π) (x + 0.044715 x³)

    Derivative  x̄ = ȳ (Φ(x) + x φ(x)),   φ(x) = Φ'(x) = e^(−x²/2) / √(2π)
                approximately  x̄ = ȳ (σ(2u) + x σ(2u) σ(−2u) 2u'),   u' = √(2/π) (1 + 3 · 0.044715 x²)

    Written with erfc and σ, small gates on the left are not differences of ones.

    Source: Hendrycks, Gimpel, 'Gaussian Error Linear Units', 2016, section 2.

    >>> print(gelu(jnp.array([0.0, 100.0])))
    [  0. 100.]
    """
    if approximate:
        return x * logistic(2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    return x * lax.erfc(-x * math.sqrt(0.5)) / 2


@gelu.def_forward
def _(x, *, approximate):
    return x * (logistic(_twice_u(x)) if approximate else _normal_cdf(x)), x


@gelu.def_backward
def _(x, y_bar, *, approximate):
    if not approximate:
        return (y_bar * (_normal_cdf(x) + x * jnp.exp(-x * x / 2) / math.sqrt(2 * math.pi)),)
    x = jnp.clip(x, -50, 50)  # beyond, the gate is 0 or 1 in every dtype, and x² must not overflow
    gate, other = logistic(_twice_u(x)), logistic(-_twice_u(x))
    slope = 2 * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)
    return (y_bar * (gate + gate * other * x * slope),)


def _twice_u(x):
    return 2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)


def _normal_cdf(x):
    return lax.erfc(-x * math.sqrt(0.5)) / 2


@rule
def mish(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    r"""Value times a gate of its softplus:  y = x t,   t = tanh s,   s = log(1 + eˣ).

    Derivative  x̄ = ȳ (t + x (1 − t²) σ(x))

    The hyperbolic tangent of a logarithm is rational in e = eˣ:  with n = e (e + 2),  t = n / (n + 2)  and
    (1 − t²) σ(x) = 4 e (1 + e) / (n + 2)².  On the right both fractions are reduced to powers of e⁻ˣ, so that one
    exponential, e^(−|x|), serves every x and never overflows.

    Source: Misra, 'Mish: A Self Regularized Non-Monotonic Activation Function', 2019.

    >>> print(mish(jnp.array([0.0, 100.0])))
    [  0. 100.]
    """
    s = log_one_plus_exp(x)
    return x * -exp_minus_one(-2 * s) / (1 + jnp.exp(-2 * s))  # tanh s, without the 1 − t² of its derivative


@mish.def_forward
def _(x):
    return x * _mish_gate(x)[0], x


@mish.def_backward
def _(x, y_bar):
    gate, slope = _mish_gate(x)
    return (y_bar * (gate + x * slope),)


def _mish_gate(x):
    """t and its derivative (1 − t²) σ(x)."""
    right, e = x > 0, jnp.exp(-jnp.abs(x))
    above = jnp.where(right, 1 + 2 * e, e * (e + 2))
    below = jnp.where(right, above + 2 * e * e, above + 2)
    return above / below, 4 * e * (1 + e) * jnp.where(right, e, 1) / (below * below)


@rule
def glu(x: Float[Array, "*batch 2*d"]) -> Float[Array, "*batch d"]:
    r"""One half of the last axis gates the other:  y = a σ(b),   (a, b) = x.

    Derivative  ā = ȳ σ(b)    b̄ = ȳ a σ(b) σ(−b)    x̄ = (ā, b̄) side by side

    Source: Dauphin, Fan, Auli, Grangier, 'Language Modeling with Gated Convolutional Networks', 2017, eq. 1.

    >>> print(glu(jnp.array([3.0, 0.0])))
    [1.5]
    """
    a, b = _halves(x)
    return a * logistic_defined(b)


@glu.def_forward
def _(x):
    a, b = _halves(wide(x))  # a large a may raise what half precision has taken for zero
    return (a * logistic(b)).astype(x.dtype), x


@glu.def_backward
def _(x, y_bar):
    a, b = _halves(wide(x))
    a_bar = y_bar * logistic(b)
    return (jnp.concatenate([a_bar, a_bar * a * logistic(-b)], axis=-1).astype(x.dtype),)


def _halves(x):
    d = x.shape[-1] // 2
    return x[..., :d], x[..., d:]
