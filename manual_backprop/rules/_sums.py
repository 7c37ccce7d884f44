"""Sums and means that several rules share, and a logarithm of one."""

import jax.numpy as jnp


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


def wide(a):
    """Half precision as single precision, where squares would overflow and counts would round; the rest as it is."""
    return a.astype(jnp.promote_types(a.dtype, jnp.float32))


def log_probabilities(x):
    """The logarithm of softmax along the last axis, accurate for the largest probability too, however near 1 it is."""
    shifted = x - row_max(x)
    largest = jnp.argmax(x, axis=-1, keepdims=True) == jnp.arange(x.shape[-1])
    others = row_sum(jnp.where(largest, 0, jnp.exp(shifted)))  # the largest is 1, and would swallow them
    return shifted - jnp.log1p(others)
