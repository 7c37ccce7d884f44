"""Lengths and maxima: what is kinked at the origin or at ties."""

import math

import jax.numpy as jnp

from .case import by_hand, right, wrong
from .halves import keeping, pointwise


def norm(x):
    return jnp.sqrt(jnp.sum(x**2, axis=-1))


def norm_guarded(x):
    square = jnp.sum(x**2, axis=-1)
    return jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


# --- right ------------------------------------------------------------------------------------------------------------


@right(args="f32[4,3]")
def norm_zero_at_zero():
    """The unit vector, and zero at the origin: the smallest of the subgradients, where autodiff gives NaN."""

    def backward(residuals, n_bar):
        x, n = residuals
        return (jnp.where(n > 0, n_bar / jnp.where(n > 0, n, 1), 0)[..., None] * x,)

    return by_hand(norm, lambda x: (norm(x), (x, norm(x))), backward)


@right(args="f32[7]")
def norm_scaled_by_the_largest():
    """Neither half squares a large number; the definition does."""

    def unit(x):
        largest = jnp.max(jnp.abs(x))
        scaled = x / jnp.where(largest > 0, largest, 1)
        size = jnp.sqrt(jnp.sum(scaled**2))
        return largest * size, scaled / jnp.where(size > 0, size, 1)

    return by_hand(norm, unit, lambda direction, n_bar: (n_bar * direction,))


@right(args="f32[6] f32[6]")
def hypot_by_ratios():
    def backward(residuals, r_bar):
        x, y = residuals
        r = jnp.hypot(x, y)
        r = jnp.where(r > 0, r, 1)
        return r_bar * (x / r), r_bar * (y / r)

    return by_hand(jnp.hypot, keeping(jnp.hypot), backward)


@right(args="f32[5] f32[5]")
def maximum_to_the_first():
    """At ties all goes to the first argument, where JAX halves."""

    def backward(residuals, z_bar):
        a, b = residuals
        return jnp.where(a >= b, z_bar, 0), jnp.where(a >= b, 0, z_bar)

    return by_hand(jnp.maximum, keeping(jnp.maximum), backward)


# --- wrong ------------------------------------------------------------------------------------------------------------


@wrong("exchanged", "wrong_residual", args="f32[6] f32[6]")
def hypot_exchanged():
    """y/r for x and x/r for y."""

    def backward(residuals, r_bar):
        x, y = residuals
        r = jnp.hypot(x, y)
        r = jnp.where(r > 0, r, 1)
        return r_bar * (y / r), r_bar * (x / r)

    return by_hand(jnp.hypot, keeping(jnp.hypot), backward)


@wrong("kink", "counted_twice", "values", args="f32[5] f32[5]")
def maximum_to_both():
    """At ties both get the whole cotangent: along (1, 1) the slope would be two."""

    def backward(residuals, z_bar):
        a, b = residuals
        return jnp.where(a >= b, z_bar, 0), jnp.where(b >= a, z_bar, 0)

    return by_hand(jnp.maximum, keeping(jnp.maximum), backward)


@wrong("kink", "values", "not_finite", args="f32[4,3]")
def norm_nan_at_zero():
    """A guard put after the division: at the origin 0/0 is multiplied by zero."""

    def backward(residuals, n_bar):
        x, n = residuals
        return ((n_bar * (n > 0))[..., None] * (x / n[..., None]),)

    return by_hand(norm_guarded, lambda x: (norm(x), (x, norm(x))), backward)


@wrong("epsilon", "local_derivative", "kink", "values", "wrong_residual", args="f32[10]")
def smooth_abs_epsilon_outside():
    """√(x² + ε) with a slope of x/(|x| + √ε)."""
    epsilon = 1e-2
    return pointwise(lambda x: jnp.sqrt(x**2 + epsilon), lambda x: x / (jnp.abs(x) + math.sqrt(epsilon)))
