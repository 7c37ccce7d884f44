"""Rows as probabilities: exponentials over their sum, and the logarithms of both."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..rule import rule
from ._sums import constant_max, log_probabilities, log_softmax_defined, row_max, row_sum


@rule
def softmax(x: Float[Array, "*batch c"]) -> Float[Array, "*batch c"]:
    r"""Turn every row into probabilities:  y_i = e^x_i / Σ_j e^x_j.

    Derivative  x̄ = y (ȳ − Σ_j y_j ȳ_j), from the output alone

    The subtracted mean of ȳ, weighted by y, is the part that a common shift of the row cannot answer.  A constant
    may therefore be taken from ȳ first: with ȳ_k, where y_k is the largest, no difference 1 − y_k is left to cancel.

    >>> print(softmax(jnp.array([5.0, 5.0])))
    [0.5 0.5]
    """
    unscaled = jnp.exp(x - constant_max(x))
    return unscaled / row_sum(unscaled)


@softmax.def_forward
def _(x):
    unscaled = jnp.exp(x - row_max(x))
    y = unscaled / row_sum(unscaled)
    return y, y


@softmax.def_backward
def _(y, y_bar):
    largest = jnp.argmax(y, axis=-1, keepdims=True)
    y_bar = y_bar - jnp.take_along_axis(y_bar, largest, axis=-1)
    return (y * (y_bar - row_sum(y * y_bar)),)


@rule
def log_softmax(x: Float[Array, "*batch c"]) -> Float[Array, "*batch c"]:
    r"""Turn every row into log-probabilities:  y_i = log p_i,   p_i = e^x_i / Σ_j e^x_j.

    Derivative  x̄_i = Σ_j ([i = j] − p_i) ȳ_j = (1 − p_i) ȳ_i − p_i Σ_{j≠i} ȳ_j

    Both coefficients come from the output alone, p = eʸ and 1 − p = −(eʸ − 1), exact where p is near 1.

    >>> print(log_softmax(jnp.array([5.0])))
    [0.]
    """
    return log_softmax_defined(x)


@log_softmax.def_forward
def _(x):
    y = log_probabilities(x)
    return y, y


@log_softmax.def_backward
def _(y, y_bar):
    return (-jnp.expm1(y) * y_bar - jnp.exp(y) * (row_sum(y_bar) - y_bar),)


@rule
def logsumexp(x: Float[Array, "*batch c"]) -> Float[Array, "*batch"]:
    r"""Smooth maximum of every row:  y = log Σ_j e^x_j.

    Derivative  x̄ = p ȳ,   p = softmax(x): the cotangent is shared out in proportion

    Kept is p, as large as x: e^(x − y) would give it too, but with the rounding of y, large where x is.

    >>> print(f"{logsumexp(jnp.zeros(4)):.6f}")  # log 4
    1.386294
    """
    m = constant_max(x)
    return jnp.squeeze(m + jnp.log(row_sum(jnp.exp(x - m))), axis=-1)


@logsumexp.def_forward
def _(x):
    largest = row_max(x)
    unscaled = jnp.exp(x - largest)
    total = row_sum(unscaled)
    return jnp.squeeze(largest + jnp.log(total), axis=-1), unscaled / total


@logsumexp.def_backward
def _(p, y_bar):
    return (p * y_bar[..., None],)
