"""Losses: scalars, averaged over every example, in single precision at least."""

from typing import Annotated

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..rule import rule
from ..signature import Gt, Interval, Kinks, Lt, OneOf, Try
from ._exponential import log_one_plus_exp, logistic
from ._sums import log_probabilities, log_softmax_defined, row_sum, wide


@rule
def squared_error(prediction: Float[Array, "*n"], target: Float[Array, "*n"]) -> Float[Array, ""]:
    r"""Mean squared error over all elements:  y = ⟨e²⟩,   e = prediction − target.

    Derivative  p̄rediction = 2 e ȳ / N    t̄arget = −2 e ȳ / N,   N the number of elements

    It is the mean of optax.squared_error, which leaves the elements apart.

    >>> print(squared_error(jnp.array([1.0, 5.0]), jnp.array([2.0, 2.0])))
    5.0
    """
    return jnp.mean((prediction - target) ** 2)


@squared_error.def_forward
def _(prediction, target):
    error = prediction - target
    return _mean(wide(error) ** 2, error.dtype), error


@squared_error.def_backward
def _(error, y_bar):
    error_bar = (2 * wide(error) * _share(y_bar, error.size)).astype(y_bar.dtype)
    return error_bar, -error_bar


@rule
def huber_loss(
    prediction: Float[Array, "*n"], target: Float[Array, "*n"], *, delta: Annotated[float, Gt(0), Try(1.0, 0.5)] = 1.0
) -> Float[Array, ""]:
    r"""Squared error near the target, absolute error away from it, averaged over all elements.

        y = ⟨ e²/2  where |e| ≤ δ,  δ (|e| − δ/2)  elsewhere ⟩,   e = prediction − target

    Derivative  p̄rediction = q ȳ / N    t̄arget = −q ȳ / N,   q = min(max(e, −δ), δ),   N the number of elements

    At |e| = δ both sides agree, only the slope of the derivative jumps.  It is the mean of optax.huber_loss.

    Source: Huber, 'Robust Estimation of a Location Parameter', 1964.

    >>> print(huber_loss(jnp.array([1.0, 5.0]), jnp.array([1.0, 2.0])))
    1.25
    """
    error = prediction - target
    size = jnp.abs(error)
    return jnp.mean(jnp.where(size <= delta, error**2 / 2, delta * (size - delta / 2)))


@huber_loss.def_forward
def _(prediction, target, *, delta):
    error = prediction - target
    size = jnp.abs(wide(error))
    q = jnp.minimum(size, delta)
    return _mean(q * (size - q / 2), error.dtype), jnp.clip(error, -delta, delta)


@huber_loss.def_backward
def _(clipped, y_bar, *, delta):
    error_bar = (wide(clipped) * _share(y_bar, clipped.size)).astype(y_bar.dtype)
    return error_bar, -error_bar


@rule
def hinge_loss(
    prediction: Annotated[Float[Array, "*n"], Kinks(-1.0, 1.0)], target: Annotated[Float[Array, "*n"], OneOf(-1.0, 1.0)]
) -> Float[Array, ""]:
    r"""How far predictions fall short of a margin of 1, averaged over all elements:  y = ⟨max(m, 0)⟩,   m = 1 − p t.

        p the prediction, t the target, −1 or 1

    Derivative  p̄ = −s t ȳ / N    t̄ = −s p ȳ / N,   s = (1 + sign(m)) / 2,   N the number of elements

    At m = 0 it is a convention, here s = ½, the middle of both sides, as jax.numpy.maximum and so optax.hinge_loss
    have it; this is the mean of the latter.

    >>> print(hinge_loss(jnp.array([3.0, 3.0]), jnp.array([1.0, -1.0])))
    2.0
    """
    return jnp.mean(jnp.maximum(1 - prediction * target, 0))


@hinge_loss.def_forward
def _(prediction, target):
    return _mean(wide(jnp.maximum(1 - prediction * target, 0)), prediction.dtype), (prediction, target)


@hinge_loss.def_backward
def _(residuals, y_bar):
    prediction, target = residuals
    active = (1 + jnp.sign(1 - prediction * target)) / 2
    share = -_share(y_bar, active.size) * active
    return (share * target).astype(y_bar.dtype), (share * prediction).astype(y_bar.dtype)


@rule
def sigmoid_binary_cross_entropy(
    logits: Float[Array, "*n"], labels: Annotated[Float[Array, "*n"], Interval(ge=0, le=1)]
) -> Float[Array, ""]:
    r"""Mean negative log-probability of yes-or-no labels, over all elements.

        y = −⟨t log σ(z) + (1 − t) log σ(−z)⟩,   −log σ(z) = log(1 + e⁻ᶻ),   z the logits, t the labels

    Derivative  z̄ = ((1 − t) σ(z) − t σ(−z)) ȳ / N    t̄ = −z ȳ / N,   N the number of elements

    The bracket is σ(z) − t, written so that nothing cancels where the label is 0 or 1.  It is the mean of
    optax.sigmoid_binary_cross_entropy.

    >>> print(f"{sigmoid_binary_cross_entropy(jnp.zeros(2), jnp.array([0.0, 1.0])):.6f}")  # log 2
    0.693147
    """
    return jnp.mean(labels * log_one_plus_exp(-logits) + (1 - labels) * log_one_plus_exp(logits))


@sigmoid_binary_cross_entropy.def_forward
def _(logits, labels):
    z, t = wide(logits), wide(labels)
    wrong = jnp.where(z > 0, 1 - t, t) * jnp.abs(z)
    return _mean(wrong + jnp.log1p(jnp.exp(-jnp.abs(z))), logits.dtype), (logits, labels)


@sigmoid_binary_cross_entropy.def_backward
def _(residuals, y_bar):
    z, t = map(wide, residuals)
    share = _share(y_bar, z.size)
    z_bar = ((1 - t) * logistic(z) - t * logistic(-z)) * share
    return z_bar.astype(y_bar.dtype), (-z * share).astype(y_bar.dtype)


@rule
def softmax_cross_entropy(logits: Float[Array, "*batch c"], labels: Float[Array, "*batch c"]) -> Float[Array, ""]:
    r"""Mean cross-entropy against the weights that each example gives to every class.

        y = −⟨Σ_j t_j log p_j⟩,   p = softmax(z),   z the logits, t the labels,   ⟨·⟩ the mean over the batch

    Derivative  z̄ = (s p − t) ȳ / N,   s = Σ_j t_j    t̄ = −log p ȳ / N,   N the number of examples

    The labels may sum to any s: s = 1 is the usual, and the cotangent of a row of logits sums to zero for all.
    The bracket is (p − 1) t + p (s − t), where p − 1 = e^(log p) − 1 stays exact for p near 1.
    It is the mean of optax.softmax_cross_entropy.

    >>> print(f"{softmax_cross_entropy(jnp.zeros((1, 4)), jnp.array([[0.5, 0.5, 0.0, 0.0]])):.6f}")  # log 4
    1.386294
    """
    return -jnp.mean(jnp.sum(labels * log_softmax_defined(logits), axis=-1))


@softmax_cross_entropy.def_forward
def _(logits, labels):
    log_p = log_probabilities(wide(logits))
    value = _mean(-jnp.sum(labels * log_p, axis=-1), logits.dtype)
    return value, (log_p.astype(logits.dtype), labels)


@softmax_cross_entropy.def_backward
def _(residuals, y_bar):
    log_p, labels = map(wide, residuals)
    share = _share(y_bar, log_p.size // log_p.shape[-1])
    logits_bar = (jnp.expm1(log_p) * labels + jnp.exp(log_p) * (row_sum(labels) - labels)) * share
    return logits_bar.astype(y_bar.dtype), (-log_p * share).astype(y_bar.dtype)


@rule
def softmax_cross_entropy_with_integer_labels(
    logits: Float[Array, "*batch c"], labels: Annotated[Int[Array, "*batch"], Lt("c")]
) -> Float[Array, ""]:
    r"""Mean negative log-probability of the true class.

        y = −⟨log p[label]⟩,   p = softmax(z),   z the logits,   ⟨·⟩ the mean over the batch

    Derivative  z̄_nj = (p_nj − [j = label_n]) ȳ / N;   labels have none.

    It is the mean of optax.softmax_cross_entropy_with_integer_labels.

    >>> print(f"{softmax_cross_entropy_with_integer_labels(jnp.zeros((2, 4)), jnp.array([0, 3])):.6f}")  # log 4
    1.386294
    """
    return -jnp.mean(jnp.take_along_axis(log_softmax_defined(logits), labels[..., None], axis=-1))


@softmax_cross_entropy_with_integer_labels.def_forward
def _(logits, labels):
    log_p = log_probabilities(wide(logits))
    value = _mean(-jnp.take_along_axis(log_p, labels[..., None], axis=-1), logits.dtype)
    return value, (log_p.astype(logits.dtype), labels)


@softmax_cross_entropy_with_integer_labels.def_backward
def _(residuals, y_bar):
    log_p, labels = residuals
    truth = labels[..., None] == jnp.arange(log_p.shape[-1])
    error = jnp.where(truth, jnp.expm1(wide(log_p)), jnp.exp(wide(log_p)))
    return (error * _share(y_bar, labels.size)).astype(y_bar.dtype), None


def _mean(a, dtype):
    return jnp.mean(a).astype(dtype)


def _share(y_bar, count):
    """What the cotangent of a mean leaves for each of its terms."""
    return wide(y_bar) / count
