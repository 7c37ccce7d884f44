"""Activations with a parameter, a static option or a key."""

import math

import jax
import jax.numpy as jnp

from .case import by_hand, right, wrong
from .halves import keeping

ROOT_TWO_PI = math.sqrt(2 * math.pi)
K = math.sqrt(2 / math.pi)  # of the tanh approximation of the GELU


def elu(x, alpha):
    return jnp.where(x > 0, x, alpha * jnp.expm1(jnp.where(x > 0, 0, x)))


def swish_beta(x, beta):
    return x * jax.nn.sigmoid(beta * x)


def softplus_threshold(x, beta, threshold):
    """The softplus of torch: the identity where beta x exceeds the threshold."""
    return jnp.where(beta * x > threshold, x, jnp.logaddexp(beta * x, 0) / beta)


def dropout(x, key):
    return jnp.where(jax.random.bernoulli(key, 0.75, x.shape), x / 0.75, 0)


# --- right ------------------------------------------------------------------------------------------------------------


@right(args="f32[6] -1.0 1.0")
def clip_keeps_its_edges():
    """The cotangent passes at the edges as well, and the limits are static."""

    def backward(low, high, x, y_bar):
        return (jnp.where((x >= low) & (x <= high), y_bar, 0),)

    return by_hand(jnp.clip, lambda x, low, high: (jnp.clip(x, low, high), x), backward, nondiff_argnums=(1, 2))


@right(args="f32[14] 1.5")
def elu_with_alpha():
    """Continuous but kinked at zero where alpha is not one."""

    def backward(alpha, x, y_bar):
        return (jnp.where(x > 0, y_bar, y_bar * alpha * jnp.exp(jnp.minimum(x, 0))),)

    return by_hand(elu, lambda x, alpha: (elu(x, alpha), x), backward, nondiff_argnums=(1,))


@right(args="f32[5,3] f32[]")
def swish_with_a_learned_beta():
    """One beta for all elements: its cotangent is a sum over them."""

    def backward(residuals, y_bar):
        x, beta = residuals
        s = jax.nn.sigmoid(beta * x)
        inner = y_bar * x * s * (1 - s)
        return y_bar * s + beta * inner, jnp.sum(x * inner)

    return by_hand(swish_beta, keeping(swish_beta), backward)


@right(args="f32[6] {scale: f32[], slope: f32[6]}")
def scaled_tanh_with_a_dictionary():
    """A dictionary of parameters comes back as a dictionary of cotangents."""

    def function(x, params):
        return params["scale"] * jnp.tanh(params["slope"] * x)

    def backward(residuals, y_bar):
        x, params = residuals
        t = jnp.tanh(params["slope"] * x)
        inner = y_bar * params["scale"] * (1 - t) * (1 + t)
        return inner * params["slope"], {"scale": jnp.sum(y_bar * t), "slope": inner * x}

    return by_hand(function, keeping(function), backward)


@right(args="f32[4,6] key")
def dropout_draws_the_mask_again():
    """Only the key is kept; its cotangent is None."""
    return by_hand(dropout, lambda x, key: (dropout(x, key), key), lambda key, y_bar: (dropout(y_bar, key), None))


# --- wrong ------------------------------------------------------------------------------------------------------------


@wrong("values", "factor", "local_derivative", args="f32[14] 1.5")
def elu_alpha_forgotten():
    """Right where alpha is one, as in its first test."""

    def backward(alpha, x, y_bar):
        return (jnp.where(x > 0, y_bar, y_bar * jnp.exp(jnp.minimum(x, 0))),)

    return by_hand(elu, lambda x, alpha: (elu(x, alpha), x), backward, nondiff_argnums=(1,))


@wrong("values", "local_derivative", args="f32[20] 2.0 3.0")
def softplus_threshold_without_beta():
    """The backward pass compares x, not beta x, with the threshold: wrong for x between 1.5 and 3."""

    def backward(beta, threshold, x, y_bar):
        return (jnp.where(x > threshold, y_bar, y_bar * jax.nn.sigmoid(beta * x)),)

    def forward(x, beta, threshold):
        return softplus_threshold(x, beta, threshold), x

    return by_hand(softplus_threshold, forward, backward, nondiff_argnums=(1, 2))


@wrong("missing_sum", "located", args="f32[5,3] f32[3]")
def prelu_slope_of_the_first_row():
    """The cotangent of the slopes is that of one row, not the sum over the rows."""

    def prelu(x, slope):
        return jnp.where(x > 0, x, slope * x)

    def backward(residuals, y_bar):
        x, slope = residuals
        return jnp.where(x > 0, y_bar, slope * y_bar), jnp.where(x > 0, 0, x * y_bar)[0]

    return by_hand(prelu, keeping(prelu), backward)


@wrong("missing_path", "missing_term", "local_derivative", args="f32[5,3] f32[]")
def swish_beta_outside_alone():
    """x is used twice in x σ(βx); the use inside the sigmoid is held constant."""

    def backward(residuals, y_bar):
        x, beta = residuals
        s = jax.nn.sigmoid(beta * x)
        return y_bar * s, jnp.sum(y_bar * x**2 * s * (1 - s))

    return by_hand(swish_beta, keeping(swish_beta), backward)


@wrong("factor", args="f32[4,6] key")
def dropout_scale_forgotten():
    """The mask is drawn again, the division by the keeping probability 0.75 is not."""

    def backward(key, y_bar):
        return jnp.where(jax.random.bernoulli(key, 0.75, y_bar.shape), y_bar, 0), None

    return by_hand(dropout, lambda x, key: (dropout(x, key), key), backward)


@wrong("wrong_residual", "located", "values", args="f32[4,6] key")
def dropout_with_another_mask():
    """The forward pass hands on a key split off its own, so the backward pass draws another mask."""
    return by_hand(
        dropout,
        lambda x, key: (dropout(x, key), jax.random.split(key)[1]),
        lambda key, y_bar: (dropout(y_bar, key), None),
    )
