"""Activations that let large inputs through and hold small ones back."""

from typing import Annotated

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..rule import rule
from ..signature import Gt, Kinks, Try
from ._exponential import exp_minus_one, log_one_plus_exp
from ._sums import sum_to

Kinked = Annotated[Float[Array, "*n"], Kinks(0.0)]


@rule
def relu(x: Kinked) -> Float[Array, "*n"]:
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


@rule
def relu6(x: Annotated[Float[Array, "*n"], Kinks(0.0, 6.0)]) -> Float[Array, "*n"]:
    r"""Rectifier with a ceiling:  y = min(max(x, 0), 6).

    Derivative  x̄ = ȳ [0 < x < 6]; at x = 0 and x = 6 it is a convention, here 0 as in jax.nn.relu6.

    >>> print(relu6(jnp.array([-2.0, 3.0, 8.0])))
    [0. 3. 6.]
    """
    return jnp.where(x <= 0, 0, jnp.where(x >= 6, 6, x))


@relu6.def_forward
def _(x):
    y = jnp.clip(x, 0, 6)
    return y, y


@relu6.def_backward
def _(y, y_bar):
    return (jnp.where((y > 0) & (y < 6), y_bar, 0),)


@rule
def leaky_relu(x: Kinked, *, negative_slope: Annotated[float, Try(0.01, 0.3)] = 0.01) -> Float[Array, "*n"]:
    r"""Rectifier that leaks:  y = x where x ≥ 0,  a x elsewhere,   a the negative slope.

    Derivative  x̄ = ȳ where x ≥ 0,  a ȳ elsewhere; at x = 0 it is a convention, here 1 as in jax.nn.leaky_relu.

    The side is kept as one bit of x, since a x may round to zero and a may have any sign.

    >>> print(leaky_relu(jnp.array([-2.0, 3.0]), negative_slope=0.5))
    [-1.  3.]
    """
    return jnp.where(x >= 0, x, negative_slope * x)


@leaky_relu.def_forward
def _(x, *, negative_slope):
    passes = x >= 0
    return jnp.where(passes, x, negative_slope * x), passes


@leaky_relu.def_backward
def _(passes, y_bar, *, negative_slope):
    return (jnp.where(passes, y_bar, negative_slope * y_bar),)


@rule
def prelu(x: Annotated[Float[Array, "*batch d"], Kinks(0.0)], slope: Float[Array, "d"]) -> Float[Array, "*batch d"]:
    r"""Rectifier that learns how much to leak:  y = x where x ≥ 0,  a x elsewhere,   a the slope of its channel.

    Derivative  x̄ = ȳ where x ≥ 0,  a ȳ elsewhere    ā = Σ ȳ x over the batch, where x < 0

    At x = 0 the derivative along x is a convention, here 1 as in leaky_relu.

    Source: He, Zhang, Ren, Sun, 'Delving Deep into Rectifiers', 2015, eqs. 1 and 3.

    >>> print(prelu(jnp.array([-2.0, 3.0]), jnp.array([0.5, 0.5])))
    [-1.  3.]
    """
    return jnp.where(x >= 0, x, slope * x)


@prelu.def_forward
def _(x, slope):
    return jnp.where(x >= 0, x, slope * x), (x, slope)


@prelu.def_backward
def _(residuals, y_bar):
    x, slope = residuals
    return jnp.where(x >= 0, y_bar, slope * y_bar), sum_to(slope.shape, y_bar * jnp.minimum(x, 0))


@rule
def elu(x: Kinked, *, alpha: Annotated[float, Try(1.0, 0.5)] = 1.0) -> Float[Array, "*n"]:
    r"""Exponential linear unit:  y = x where x > 0,  α (eˣ − 1) elsewhere.

    Derivative  x̄ = ȳ where x > 0,  ȳ α eˣ elsewhere; at x = 0 it is a convention, here α as in jax.nn.elu.

    On the left the slope is y + α too, but that has cancelled by the time it is small.

    Source: Clevert, Unterthiner, Hochreiter, 'Fast and Accurate Deep Network Learning by ELUs', 2016, eq. 15.

    >>> print(elu(jnp.array([-100.0, 3.0]), alpha=0.5))
    [-0.5  3. ]
    """
    return jnp.where(x > 0, x, alpha * exp_minus_one(_left(x)))


@elu.def_forward
def _(x, *, alpha):
    return jnp.where(x > 0, x, alpha * jnp.expm1(_left(x))), x


@elu.def_backward
def _(x, y_bar, *, alpha):
    return (jnp.where(x > 0, y_bar, y_bar * alpha * jnp.exp(_left(x))),)


@rule
def celu(x: Kinked, *, alpha: Annotated[float, Gt(0), Try(1.0, 0.5)] = 1.0) -> Float[Array, "*n"]:
    r"""Exponential linear unit without a corner:  y = x where x > 0,  α (e^(x/α) − 1) elsewhere.

    Derivative  x̄ = ȳ where x > 0,  ȳ e^(x/α) elsewhere; at x = 0 it is 1 from both sides, only its slope jumps.

    Source: Barron, 'Continuously Differentiable Exponential Linear Units', 2017.

    >>> print(celu(jnp.array([-100.0, 3.0]), alpha=0.5))
    [-0.5  3. ]
    """
    return jnp.where(x > 0, x, alpha * exp_minus_one(_left(x) / alpha))


@celu.def_forward
def _(x, *, alpha):
    return jnp.where(x > 0, x, alpha * jnp.expm1(_left(x) / alpha)), x


@celu.def_backward
def _(x, y_bar, *, alpha):
    return (jnp.where(x > 0, y_bar, y_bar * jnp.exp(_left(x) / alpha)),)


SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946


@rule
def selu(x: Kinked) -> Float[Array, "*n"]:
    r"""Exponential linear unit that keeps mean and variance:  y = λ x where x > 0,  λ α (eˣ − 1) elsewhere.

        α = 1.67326…,   λ = 1.05070…, so that mean 0 and variance 1 are a fixed point

    Derivative  x̄ = λ ȳ where x > 0,  λ α ȳ eˣ elsewhere; at x = 0 it is a convention, here λ α as in jax.nn.selu.

    Source: Klambauer, Unterthiner, Mayr, Hochreiter, 'Self-Normalizing Neural Networks', 2017, eqs. 2 and 14.

    >>> print(selu(jnp.array([0.0, 2.0])))
    [0.       2.101402]
    """
    return SELU_SCALE * jnp.where(x > 0, x, SELU_ALPHA * exp_minus_one(_left(x)))


@selu.def_forward
def _(x):
    return SELU_SCALE * jnp.where(x > 0, x, SELU_ALPHA * jnp.expm1(_left(x))), x


@selu.def_backward
def _(x, y_bar):
    return (SELU_SCALE * jnp.where(x > 0, y_bar, y_bar * SELU_ALPHA * jnp.exp(_left(x))),)


def _left(x):
    """x on the left of zero, 0 on the right, where an exponential that is not wanted would overflow."""
    return jnp.where(x > 0, 0, x)


@rule
def softplus(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    r"""Smooth rectifier:  y = log(1 + eˣ).

    Derivative  x̄ = ȳ σ(x) = ȳ (1 − e⁻ʸ), from the output alone and exact in both tails

    >>> print(f"{softplus(jnp.array(0.0)):.6f}")  # log 2
    0.693147
    """
    return log_one_plus_exp(x)


@softplus.def_forward
def _(x):
    y = log_one_plus_exp(x)
    return y, y


@softplus.def_backward
def _(y, y_bar):
    return (-y_bar * jnp.expm1(-y),)


@rule
def sparse_plus(x: Annotated[Float[Array, "*n"], Kinks(-1.0, 1.0)]) -> Float[Array, "*n"]:
    r"""Rectifier rounded off by a parabola:  y = 0 where x ≤ −1,  x where x ≥ 1,  (x + 1)² / 4 between.

    Derivative  x̄ = ȳ (min(max(x, −1), 1) + 1) / 2; at x = ±1 both sides agree, only the slope of it jumps.

    Source: Blondel, Martins, Niculae, 'Learning with Fenchel-Young Losses', 2020, section 6.2.

    >>> print(sparse_plus(jnp.array([-2.0, 0.0, 3.0])))
    [0.   0.25 3.  ]
    """
    return jnp.where(x <= -1, 0, jnp.where(x >= 1, x, (x + 1) ** 2 / 4))


@sparse_plus.def_forward
def _(x):
    middle = jnp.clip(x, -1, 1) + 1
    return jnp.where(x >= 1, x, middle * middle / 4), x


@sparse_plus.def_backward
def _(x, y_bar):
    return (y_bar * (jnp.clip(x, -1, 1) + 1) / 2,)


@rule
def squareplus(x: Float[Array, "*n"], *, b: Annotated[float, Gt(0), Try(4.0, 1.0)] = 4.0) -> Float[Array, "*n"]:
    r"""Algebraic rectifier:  y = (x + √(x² + b)) / 2,   b > 0.

    It is the positive root of y² − x y − b/4 = 0, and −b/(4y) is the other one.  On the left, where x and the
    square root cancel, forward takes the other root, which adds them, and divides it out of b/4.

    Derivative  2 y y' − y − x y' = 0 gives  x̄ = ȳ y / (2y − x) = ȳ y / (y + b/(4y)), from the output alone

    Source: Barron, 'Squareplus: A Softplus-Like Algebraic Rectifier', 2021.

    >>> print(squareplus(jnp.array([0.0, 1.5])))
    [1. 2.]
    """
    return (x + jnp.sqrt(x**2 + b)) / 2


@squareplus.def_forward
def _(x, *, b):
    larger = jnp.hypot(x, b**0.5) / 2 + jnp.abs(x) / 2  # halves first: their sum may be too large for the dtype
    y = jnp.where(x >= 0, larger, (b / 4) / larger)
    return y, y


@squareplus.def_backward
def _(y, y_bar, *, b):
    return (y_bar * (y / (y + (b / 4) / y)),)
