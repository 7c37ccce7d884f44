"""Sums and means that several rules share, and a logarithm of one."""

import jax.numpy as jnp
from jax import lax


def sum_to(shape, a):
    """Undo a broadcast over leading axes: the sum of `a` over all axes that `shape` lacks."""
    return jnp.sum(a, axis=tuple(range(a.ndim - len(shape))))


def row_mean(a):
    """The mean over the last axis, kept."""
    return jnp.mean(a, axis=-1, keepdims=True)


def row_sum(a):
    """The sum over the last axis, kept."""
    return jnp.sum(a, axis=-1, keepdims=True)


def row_max(a):
    """The maximum over the last axis, kept."""
    return jnp.max(a, axis=-1, keepdims=True)


def constant_max(a):
    """The maximum over the last axis, kept, as a constant m, for definitions that have the same value for every m.

    e^a overflows, and autodiff divides by (Σ e^a)², which vanishes without a sign of it; e^(a − m) does neither.
    """
    return lax.stop_gradient(row_max(a))


def log_softmax_defined(a):
    """log softmax as its definition says, whose autodiff is the truth for all that are made of it."""
    shifted = a - constant_max(a)
    return shifted - jnp.log(row_sum(jnp.exp(shifted)))


def wide(a):
    """Half precision as single precision, where squares would overflow and counts would round; the rest as it is."""
    return a.astype(jnp.promote_types(a.dtype, jnp.float32))


def log_probabilities(x):
    """The logarithm of softmax along the last axis, accurate for the largest probability too, however near 1 it is."""
    below = x - row_max(x)
    largest = jnp.argmax(x, axis=-1, keepdims=True) == jnp.arange(x.shape[-1])
    others = row_sum(jnp.where(largest, 0, jnp.exp(below)))  # the largest is 1, and would swallow them
    return below - jnp.log1p(others)
