"""Activations that level off on both sides, and the logarithm of one."""

from typing import Annotated

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..rule import rule
from ..signature import Kinks
from ._exponential import log_one_plus_exp, logistic, logistic_defined


@rule
def tanh(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    r"""Hyperbolic tangent:  y = tanh x.

    Derivative  x̄ = ȳ (1 − y) (1 + y), a product rather than 1 − y², which rounds before it cancels

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
    return (y_bar * (1 - y) * (1 + y),)


@rule
def sigmoid(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    r"""Logistic function:  y = σ(x) = 1 / (1 + e⁻ˣ).

    Derivative  x̄ = ȳ σ(x) σ(−x)

    The output alone would do, as y (1 − y), but says nothing once y has rounded to 1; x keeps both tails.

    >>> print(sigmoid(jnp.array([0.0])))
    [0.5]
    """
    return logistic_defined(x)


@sigmoid.def_forward
def _(x):
    return logistic(x), x


@sigmoid.def_backward
def _(x, y_bar):
    return (y_bar * logistic(x) * logistic(-x),)


@rule
def log_sigmoid(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    r"""Logarithm of the logistic function:  y = log σ(x) = −log(1 + e⁻ˣ).

    Derivative  x̄ = ȳ σ(−x) = ȳ (1 − eʸ), from the output alone and exact in both tails

    >>> print(f"{log_sigmoid(jnp.array(0.0)):.6f}")  # −log 2
    -0.693147
    """
    return -log_one_plus_exp(-x)


@log_sigmoid.def_forward
def _(x):
    y = -log_one_plus_exp(-x)
    return y, y


@log_sigmoid.def_backward
def _(y, y_bar):
    return (-y_bar * jnp.expm1(y),)


@rule
def soft_sign(x: Annotated[Float[Array, "*n"], Kinks(0.0)]) -> Float[Array, "*n"]:
    r"""Sign that turns over slowly:  y = x / (1 + |x|).

    Derivative  x̄ = ȳ r²,   r = 1 / (1 + |x|);   at x = 0 it is 1 from both sides, only its own slope jumps.

    >>> print(soft_sign(jnp.array([-1.0, 3.0])))
    [-0.5   0.75]
    """
    return x / (1 + jnp.abs(x))


@soft_sign.def_forward
def _(x):
    r = 1 / (1 + jnp.abs(x))
    return x * r, r


@soft_sign.def_backward
def _(r, y_bar):
    return (y_bar * r * r,)


@rule
def hard_tanh(x: Annotated[Float[Array, "*n"], Kinks(-1.0, 1.0)]) -> Float[Array, "*n"]:
    r"""Identity, cut off at −1 and 1:  y = min(max(x, −1), 1).

    Derivative  x̄ = ȳ [|x| ≤ 1]; at x = ±1 the derivative is a convention, here 1 as in jax.nn.hard_tanh.

    >>> print(hard_tanh(jnp.array([-2.0, 0.5])))
    [-1.   0.5]
    """
    return jnp.where(x > 1, 1, jnp.where(x < -1, -1, x))


@hard_tanh.def_forward
def _(x):
    return jnp.clip(x, -1, 1), jnp.abs(x) <= 1


@hard_tanh.def_backward
def _(inside, y_bar):
    return (jnp.where(inside, y_bar, 0),)


@rule
def hard_sigmoid(x: Annotated[Float[Array, "*n"], Kinks(-3.0, 3.0)]) -> Float[Array, "*n"]:
    r"""Straight line from 0 to 1, cut off at both:  y = min(max(x + 3, 0), 6) / 6.

    Derivative  x̄ = ȳ [|x| < 3] / 6; at x = ±3 the derivative is a convention, here 0 as in jax.nn.hard_sigmoid.

    >>> print(hard_sigmoid(jnp.array([-3.0, 0.0, 3.0])))
    [0.  0.5 1. ]
    """
    return jnp.where(x <= -3, 0, jnp.where(x >= 3, 1, (x + 3) / 6))


@hard_sigmoid.def_forward
def _(x):
    return jnp.clip(x + 3, 0, 6) / 6, jnp.abs(x) < 3


@hard_sigmoid.def_backward
def _(inside, y_bar):
    return (jnp.where(inside, y_bar / 6, 0),)


@rule
def sparse_sigmoid(x: Annotated[Float[Array, "*n"], Kinks(-1.0, 1.0)]) -> Float[Array, "*n"]:
    r"""Straight line from 0 to 1, cut off at both:  y = (min(max(x, −1), 1) + 1) / 2.

    Derivative  x̄ = ȳ (1 + s) / 4,   s = sign(1 − |x|):  ½ inside, 0 outside

    At x = ±1 the derivative is a convention, here ¼, the middle of both sides, as in jax.nn.sparse_sigmoid.

    Source: Blondel, Martins, Niculae, 'Learning with Fenchel-Young Losses', 2020, section 6.2.

    >>> print(sparse_sigmoid(jnp.array([-2.0, 0.5])))
    [0.   0.75]
    """
    return (jnp.clip(x, -1, 1) + 1) / 2


@sparse_sigmoid.def_forward
def _(x):
    # Three cases need one byte, not the whole of x.
    return (jnp.clip(x, -1, 1) + 1) / 2, jnp.sign(1 - jnp.abs(x)).astype(jnp.int8)


@sparse_sigmoid.def_backward
def _(s, y_bar):
    return (y_bar * (1 + s).astype(y_bar.dtype) / 4,)
