"""Sums that several rules share."""

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
