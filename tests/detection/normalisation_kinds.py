"""Normalisations other than those of rows with a scale: batch, group, instance, weight, length, range."""

import jax.numpy as jnp
from jax import lax

from .case import by_hand, right, wrong
from .halves import keeping
from .normalisation import mean, standardise, standardised_back

EPS = 1e-5


def batch_norm(x, gamma, beta):
    """The outputs, and the mean and variance that the running averages are made of."""
    mu, variance = jnp.mean(x, axis=0), jnp.var(x, axis=0)
    return gamma * (x - mu) * lax.rsqrt(variance + EPS) + beta, mu, variance


def batch_norm_forward(x, gamma, beta):
    x_hat, r = standardise(x, 0)
    return batch_norm(x, gamma, beta), (x, x_hat, r, gamma)


def group_norm(x, gamma, groups):
    x_hat, _ = standardise(x.reshape(len(x), groups, -1))
    return x_hat.reshape(x.shape) * gamma[:, None, None]


def group_norm_forward(x, gamma, groups):
    x_hat, r = standardise(x.reshape(x.shape[0], groups, -1))
    return group_norm(x, gamma, groups), (x_hat, r, gamma, x)


def instance_norm(x):
    return standardise(x, (-2, -1))[0]


def weight_norm(v, g):
    return g[:, None] * v / jnp.sqrt(jnp.sum(v**2, axis=1, keepdims=True))


def weight_norm_forward(v, g):
    size = jnp.sqrt(jnp.sum(v**2, axis=1, keepdims=True))
    return g[:, None] * v / size, (v / size, size, g)


def unit_rows(x):
    """Rows divided by their length, or by a hundredth where they are shorter."""
    square = jnp.sum(x**2, axis=-1, keepdims=True)
    return x * jnp.where(square > 1e-4, lax.rsqrt(jnp.where(square > 1e-4, square, 1)), 100)


# --- right ------------------------------------------------------------------------------------------------------------


@right(args="f32[6,3] f32[3] f32[3]")
def batch_norm_with_statistics():
    """Three outputs, and the cotangents of the mean and the variance count as well."""

    def backward(residuals, cotangents):
        x, x_hat, r, gamma = residuals
        y_bar, mu_bar, variance_bar = cotangents
        x_bar = standardised_back(x_hat, r, gamma * y_bar, 0)
        x_bar += (mu_bar + 2 * variance_bar * (x - jnp.mean(x, 0))) / x.shape[0]
        return x_bar, jnp.sum(y_bar * x_hat, 0), jnp.sum(y_bar, 0)

    return by_hand(batch_norm, batch_norm_forward, backward)


@right(args="f32[5,3] f32[3] f32[3] f32[3]>0")
def batch_norm_in_evaluation():
    """With given statistics the map is affine in x; the statistics have cotangents too."""

    def function(x, gamma, mu, variance):
        return gamma * (x - mu) / jnp.sqrt(variance + EPS)

    def backward(residuals, y_bar):
        x, gamma, mu, variance = residuals
        r = lax.rsqrt(variance + EPS)
        x_bar = gamma * r * y_bar
        centred = jnp.sum(y_bar * (x - mu), 0)
        return x_bar, r * centred, -jnp.sum(x_bar, 0), -gamma * (r * centred) * r * r / 2

    return by_hand(function, keeping(function), backward)


@right(args="f32[2,4,3,3] f32[4] 2")
def group_norm_two_groups():
    def backward(groups, residuals, y_bar):
        x_hat, r, gamma, x = residuals
        g = (y_bar * gamma[:, None, None]).reshape(x_hat.shape)
        gamma_bar = jnp.sum(y_bar * x_hat.reshape(x.shape), (0, 2, 3))
        return standardised_back(x_hat, r, g).reshape(x.shape), gamma_bar

    return by_hand(group_norm, group_norm_forward, backward, nondiff_argnums=(2,))


@right(args="f32[2,3,4,4]")
def instance_norm_over_the_image():
    return by_hand(
        instance_norm,
        lambda x: (instance_norm(x), standardise(x, (-2, -1))),
        lambda residuals, y_bar: (standardised_back(*residuals, y_bar, (-2, -1)),),
    )


@right(args="f32[3,5] f32[3]")
def weight_norm_by_rows():
    def backward(residuals, w_bar):
        unit, size, g = residuals
        along = jnp.sum(w_bar * unit, axis=1, keepdims=True)
        return g[:, None] / size * (w_bar - unit * along), along[:, 0]

    return by_hand(weight_norm, weight_norm_forward, backward)


@right(args="f32[4,5]")
def unit_rows_with_short_rows():
    """Short rows are scaled by a constant, so nothing is projected away there; the zero row is one of them."""

    def backward(x, y_bar):
        square = jnp.sum(x**2, axis=-1, keepdims=True)
        r = lax.rsqrt(jnp.where(square > 1e-4, square, 1))
        y = x * r
        return (jnp.where(square > 1e-4, r * (y_bar - y * jnp.sum(y_bar * y, -1, keepdims=True)), y_bar * 100),)

    return by_hand(unit_rows, lambda x: (unit_rows(x), x), backward)


@right(args="f32[5,4]")
def unbiased_standardisation():
    """The standard deviation with n - 1: its projection has n - 1 as well."""

    def function(x):
        return (x - mean(x)) / jnp.sqrt(jnp.var(x, axis=-1, keepdims=True, ddof=1) + EPS)

    def backward(x, y_bar):
        n = x.shape[-1]
        r = lax.rsqrt(jnp.var(x, axis=-1, keepdims=True, ddof=1) + EPS)
        x_hat = (x - mean(x)) * r
        return (r * (y_bar - mean(y_bar) - x_hat * jnp.sum(y_bar * x_hat, -1, keepdims=True) / (n - 1)),)

    return by_hand(function, lambda x: (function(x), x), backward)


@right(args="f32[4,6]")
def to_unit_range():
    """The smallest goes to zero, the largest to about one; at ties the first of them bears the cotangent."""

    def function(x):
        low, high = jnp.min(x, -1, keepdims=True), jnp.max(x, -1, keepdims=True)
        return (x - low) / (high - low + 1e-2)

    def backward(x, y_bar):
        low, high = jnp.min(x, -1, keepdims=True), jnp.max(x, -1, keepdims=True)
        width, index = high - low + 1e-2, jnp.arange(x.shape[-1])
        width_bar = -jnp.sum(y_bar * (x - low), -1, keepdims=True) / width**2
        low_bar = -jnp.sum(y_bar, -1, keepdims=True) / width - width_bar
        at_low = index == jnp.argmin(x, -1, keepdims=True)
        at_high = index == jnp.argmax(x, -1, keepdims=True)
        return (y_bar / width + jnp.where(at_low, low_bar, 0) + jnp.where(at_high, width_bar, 0),)

    return by_hand(function, lambda x: (function(x), x), backward)


# --- wrong ------------------------------------------------------------------------------------------------------------


@wrong("missing_term", "missing_path", args="f32[6,3] f32[3] f32[3]")
def batch_norm_statistics_unheard():
    """The cotangents of the mean and the variance, two of three outputs, are thrown away."""

    def backward(residuals, cotangents):
        _, x_hat, r, gamma = residuals
        y_bar, _, _ = cotangents
        return standardised_back(x_hat, r, gamma * y_bar, 0), jnp.sum(y_bar * x_hat, 0), jnp.sum(y_bar, 0)

    return by_hand(batch_norm, batch_norm_forward, backward)


@wrong("missing_path", "missing_term", args="f32[6,3] f32[3] f32[3]")
def batch_norm_as_in_evaluation():
    """The statistics are held constant, as is right in evaluation alone."""

    def backward(residuals, cotangents):
        x, x_hat, r, gamma = residuals
        y_bar, mu_bar, variance_bar = cotangents
        x_bar = gamma * r * y_bar + (mu_bar + 2 * variance_bar * (x - jnp.mean(x, 0))) / x.shape[0]
        return x_bar, jnp.sum(y_bar * x_hat, 0), jnp.sum(y_bar, 0)

    return by_hand(batch_norm, batch_norm_forward, backward)


@wrong("factor", args="f32[2,4,3,3] f32[4] 2")
def group_norm_gamma_averaged():
    """Over the image the cotangent of gamma is averaged instead of summed."""

    def backward(groups, residuals, y_bar):
        x_hat, r, gamma, x = residuals
        g = (y_bar * gamma[:, None, None]).reshape(x_hat.shape)
        gamma_bar = jnp.sum(jnp.mean(y_bar * x_hat.reshape(x.shape), (2, 3)), 0)
        return standardised_back(x_hat, r, g).reshape(x.shape), gamma_bar

    return by_hand(group_norm, group_norm_forward, backward, nondiff_argnums=(2,))


@wrong("permuted", args="f32[2,3,4,4]")
def instance_norm_turned():
    """The image comes back with rows for columns."""
    return by_hand(
        instance_norm,
        lambda x: (instance_norm(x), standardise(x, (-2, -1))),
        lambda residuals, y_bar: (standardised_back(*residuals, y_bar, (-2, -1)).swapaxes(-2, -1),),
    )


@wrong("missing_term", "missing_path", args="f32[3,5] f32[3]")
def weight_norm_not_projected():
    """The length of v is held constant."""

    def backward(residuals, w_bar):
        unit, size, g = residuals
        return g[:, None] / size * w_bar, jnp.sum(w_bar * unit, axis=1)

    return by_hand(weight_norm, weight_norm_forward, backward)


@wrong("values", "missing_term", "not_finite", "counted_twice", args="f32[4,5]")
def unit_rows_projects_short_rows():
    """Rows shorter than the guard are projected like all others, though their scale is constant there."""

    def backward(x, y_bar):
        r = 1 / jnp.maximum(jnp.sqrt(jnp.sum(x**2, axis=-1, keepdims=True)), 1e-2)
        y = x * r
        return (r * (y_bar - y * jnp.sum(y_bar * y, -1, keepdims=True)),)

    return by_hand(unit_rows, lambda x: (unit_rows(x), x), backward)


@wrong("factor", "missing_term", "local_derivative", args="f32[5,4]")
def unbiased_standardisation_biased_back():
    """The definition divides by n - 1, the projection in the backward pass by n."""

    def function(x):
        return (x - mean(x)) / jnp.sqrt(jnp.var(x, axis=-1, keepdims=True, ddof=1) + EPS)

    def backward(x, y_bar):
        r = lax.rsqrt(jnp.var(x, axis=-1, keepdims=True, ddof=1) + EPS)
        return (standardised_back((x - mean(x)) * r, r, y_bar),)

    return by_hand(function, lambda x: (function(x), x), backward)
