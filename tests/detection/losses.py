"""Losses on numbers and distributions: regression, classification, divergences."""

import math

import jax
import jax.numpy as jnp

from .case import by_hand, right, wrong
from .halves import keeping


def squared_error(x, target):
    return jnp.mean((x - target) ** 2)


def huber(x, target, delta):
    gap = jnp.abs(x - target)
    return jnp.sum(jnp.where(gap < delta, gap**2 / 2, delta * (gap - delta / 2)))


def quantile(x, target, q):
    """The pinball loss: q per unit that x is too small, 1 - q per unit that it is too large."""
    return jnp.mean(jnp.maximum(q * (target - x), (q - 1) * (target - x)))


def binary_cross_entropy(x, target):
    return jnp.mean(jnp.maximum(x, 0) - x * target + jnp.log1p(jnp.exp(-jnp.abs(x))))


def poisson(log_rate, count):
    return jnp.mean(jnp.exp(log_rate) - count * log_rate)


def gaussian_kl(mu, log_variance):
    """KL of N(mu, e^log_variance) from the standard normal, summed over all but the first axis."""
    return jnp.mean(jnp.sum(jnp.exp(log_variance) + mu**2 - 1 - log_variance, axis=-1) / 2)


def jensen_shannon(log_q, log_p):
    q, p = jnp.exp(log_q), jnp.exp(log_p)
    m = (p + q) / 2
    return jnp.sum(p * log_p + q * log_q - 2 * m * jnp.log(m)) / 2


def multiclass_hinge(scores, labels):
    own = jnp.take_along_axis(scores, labels[:, None], axis=1)
    others = jnp.arange(scores.shape[1]) != labels[:, None]
    return jnp.mean(jnp.sum(jnp.where(others, jnp.maximum(scores - own + 1, 0), 0), axis=1))


# --- right ------------------------------------------------------------------------------------------------------------


@right(args="f32[5,3] f32[5,3]")
def squared_error_mean():
    def backward(gap, loss_bar):
        x_bar = 2 * loss_bar * gap / gap.size
        return x_bar, -x_bar

    return by_hand(squared_error, lambda x, target: (squared_error(x, target), x - target), backward)


@right(args="f32[8] f32[8] 2.0")
def huber_clips_the_gap():
    def backward(delta, gap, loss_bar):
        x_bar = loss_bar * jnp.clip(gap, -delta, delta)
        return x_bar, -x_bar

    return by_hand(huber, lambda x, target, delta: (huber(x, target, delta), x - target), backward, (2,))


@right(args="f32[6] f32[6] 0.9")
def quantile_loss_too_large_at_ties():
    """At a tie the slope of the right side is taken."""

    def backward(q, gap, loss_bar):
        x_bar = loss_bar * jnp.where(gap > 0, -q, 1 - q).astype(gap.dtype) / gap.size
        return x_bar, -x_bar

    return by_hand(quantile, lambda x, target, q: (quantile(x, target, q), target - x), backward, (2,))


@right(args="f32[4,3] f32[4,3]>=0<=1")
def binary_cross_entropy_of_logits():
    """The sigmoid less the target, and minus the logit for a target that is not constant."""

    def backward(residuals, loss_bar):
        x, target = residuals
        return loss_bar * (jax.nn.sigmoid(x) - target) / x.size, -loss_bar * x / x.size

    return by_hand(binary_cross_entropy, keeping(binary_cross_entropy), backward)


@right(args="f32[6] i32[6]<9")
def poisson_of_counts():
    def backward(residuals, loss_bar):
        log_rate, count = residuals
        return loss_bar * (jnp.exp(log_rate) - count) / log_rate.size, None

    return by_hand(poisson, keeping(poisson), backward)


@right(args="{mu: f32[4,3], log_variance: f32[4,3]}")
def gaussian_kl_of_a_dictionary():
    """expm1 keeps the digits of e^v - 1 near the minimum."""

    def function(code):
        return gaussian_kl(code["mu"], code["log_variance"])

    def backward(code, loss_bar):
        each = loss_bar / len(code["mu"])
        return ({"mu": each * code["mu"], "log_variance": each * jnp.expm1(code["log_variance"]) / 2},)

    return by_hand(function, lambda code: (function(code), code), backward)


@right(args="f32[6] f32[6]")
def jensen_shannon_of_logarithms():
    """q/2 (log q - log m), with m beside p and q by logaddexp."""

    def backward(residuals, loss_bar):
        log_q, log_p = residuals
        log_m = jnp.logaddexp(log_q, log_p) - math.log(2)
        q_bar = jnp.exp(log_q) * (log_q - log_m)
        return loss_bar * q_bar / 2, loss_bar * jnp.exp(log_p) * (log_p - log_m) / 2

    return by_hand(jensen_shannon, keeping(jensen_shannon), backward)


@right(args="f32[5,4] i32[5]<4")
def multiclass_hinge_counts_violations():
    def backward(residuals, loss_bar):
        scores, labels = residuals
        own = jnp.take_along_axis(scores, labels[:, None], axis=1)
        others = jnp.arange(scores.shape[1]) != labels[:, None]
        violated = (others & (scores - own + 1 > 0)).astype(scores.dtype)
        return loss_bar / len(labels) * jnp.where(others, violated, -jnp.sum(violated, 1, keepdims=True)), None

    return by_hand(multiclass_hinge, keeping(multiclass_hinge), backward)


# --- wrong ------------------------------------------------------------------------------------------------------------


@wrong("factor", args="f32[5,3] f32[5,3]")
def squared_error_mean_taken_twice():
    """Divided by all elements and by the rows once more."""

    def backward(gap, loss_bar):
        x_bar = 2 * loss_bar * gap / gap.size / len(gap)
        return x_bar, -x_bar

    return by_hand(squared_error, lambda x, target: (squared_error(x, target), x - target), backward)


@wrong("sign", args="f32[5,3] f32[5,3]")
def squared_error_target_sign():
    """The target's cotangent has the sign of the prediction's."""

    def backward(gap, loss_bar):
        x_bar = 2 * loss_bar * gap / gap.size
        return x_bar, x_bar

    return by_hand(squared_error, lambda x, target: (squared_error(x, target), x - target), backward)


@wrong("factor", "values", "local_derivative", args="f32[8] f32[8] 2.0")
def huber_delta_forgotten():
    """The slope of the linear part is one, not delta: right while delta is one."""

    def backward(delta, gap, loss_bar):
        x_bar = loss_bar * jnp.where(jnp.abs(gap) < delta, gap, jnp.sign(gap))
        return x_bar, -x_bar

    return by_hand(huber, lambda x, target, delta: (huber(x, target, delta), x - target), backward, (2,))


@wrong("local_derivative", "exchanged", "values", "factor", "missing_term", args="f32[6] f32[6] 0.9")
def quantile_sides_exchanged():
    """1 - q where q belongs, and q where 1 - q does: right at the median."""

    def backward(q, gap, loss_bar):
        x_bar = loss_bar * jnp.where(gap > 0, q - 1, q).astype(gap.dtype) / gap.size
        return x_bar, -x_bar

    return by_hand(quantile, lambda x, target, q: (quantile(x, target, q), target - x), backward, (2,))


@wrong("kink", "values", args="f32[6] f32[6] 0.9")
def quantile_one_at_ties():
    """At a tie the slope is one, outside the one-sided slopes -0.9 and 0.1."""

    def backward(q, gap, loss_bar):
        slope = jnp.where(gap > 0, -q, jnp.where(gap < 0, 1 - q, 1)).astype(gap.dtype)
        return loss_bar * slope / gap.size, -loss_bar * slope / gap.size

    return by_hand(quantile, lambda x, target, q: (quantile(x, target, q), target - x), backward, (2,))


@wrong("not_finite", "values", args="f32[4,3] f32[4,3]>=0<=1")
def binary_cross_entropy_saturates():
    """(p - t)/(p (1 - p)) times p (1 - p) is nought over nought as soon as p rounds to one."""

    def backward(residuals, loss_bar):
        x, target = residuals
        p = jax.nn.sigmoid(x)
        return loss_bar * (p - target) / (p * (1 - p)) * (p * (1 - p)) / x.size, -loss_bar * x / x.size

    return by_hand(binary_cross_entropy, keeping(binary_cross_entropy), backward)


@wrong("wrong_residual", "local_derivative", "missing_term", args="f32[6] i32[6]<9")
def poisson_rate_not_exponentiated():
    """The rate for the exponential of its logarithm: log λ - n where λ - n belongs."""

    def backward(residuals, loss_bar):
        log_rate, count = residuals
        return loss_bar * (log_rate - count) / log_rate.size, None

    return by_hand(poisson, keeping(poisson), backward)


@wrong("missing_term", "local_derivative", "missing_path", args="{mu: f32[4,3], log_variance: f32[4,3]}")
def gaussian_kl_minus_one_forgotten():
    """The -log_variance of the loss adds -1/2 to every element of the cotangent, which is missing."""

    def function(code):
        return gaussian_kl(code["mu"], code["log_variance"])

    def backward(code, loss_bar):
        each = loss_bar / len(code["mu"])
        return ({"mu": each * code["mu"], "log_variance": each * jnp.exp(code["log_variance"]) / 2},)

    return by_hand(function, lambda code: (function(code), code), backward)


@wrong("located", "values", "missing_term", args="f32[5,4] i32[5]<4")
def multiclass_hinge_counts_its_own_label():
    """A label has a gap of one to itself and so counts as violated: its own cotangent is one too low."""

    def backward(residuals, loss_bar):
        scores, labels = residuals
        own = jnp.take_along_axis(scores, labels[:, None], axis=1)
        others = jnp.arange(scores.shape[1]) != labels[:, None]
        violated = (scores - own + 1 > 0).astype(scores.dtype)
        return loss_bar / len(labels) * jnp.where(others, violated, -jnp.sum(violated, 1, keepdims=True)), None

    return by_hand(multiclass_hinge, keeping(multiclass_hinge), backward)
