"""Selection: extremes and ties, clipping, sorting, masks."""

import jax.numpy as jnp
from jax import lax

from .case import by_hand, right, wrong
from .halves import keeping

# --- selection and ties ---------------------------------------------------------------------------------------------


def spread(x):
    """The largest less the smallest of every row."""
    return x.max(-1) - x.min(-1)


@right(args="f32[3,5]")
def range_shared_among_ties():
    """Equal extremes share, as JAX has it; a row of equal ones receives zero."""

    def backward(saved, g):
        (x,) = saved
        top, bottom = (x == end(-1, keepdims=True) for end in (x.max, x.min))
        share = top / top.sum(-1, keepdims=True) - bottom / bottom.sum(-1, keepdims=True)
        return (g[:, None] * share.astype(x.dtype),)

    return by_hand(spread, keeping(spread), backward)


@right(args="f32[3,5]")
def range_to_the_first():
    """The first of equal extremes receives all: another subgradient than that of JAX."""

    def backward(saved, g):
        (x,) = saved
        rows, zero = jnp.arange(len(x)), jnp.zeros_like(x)
        return (zero.at[rows, x.argmax(-1)].add(g).at[rows, x.argmin(-1)].add(-g),)

    return by_hand(spread, keeping(spread), backward)


@wrong("missing_path", args="f32[3,5]")
def range_of_the_largest_alone():
    """The smallest is taken for a constant."""

    def backward(saved, g):
        (x,) = saved
        return (jnp.zeros_like(x).at[jnp.arange(len(x)), x.argmax(-1)].add(g),)

    return by_hand(spread, keeping(spread), backward)


@wrong("kink", "counted_twice", args="f32[3,5]")
def range_paid_to_every_tie():
    """Each of the equal extremes receives the whole cotangent; wrong where one end of a row is tied."""

    def backward(saved, g):
        (x,) = saved
        top, bottom = (x == end(-1, keepdims=True) for end in (x.max, x.min))
        return (g[:, None] * (top.astype(x.dtype) - bottom.astype(x.dtype)),)

    return by_hand(spread, keeping(spread), backward)


def clamp(x, low, high):
    return jnp.clip(x, low, high)


@right(args="f32[8] -0.5 0.5")
def clamp_closed():
    """One between the edges and on them, zero beyond."""

    def backward(low, high, x, g):
        return (jnp.where((x >= low) & (x <= high), g, 0),)

    return by_hand(clamp, lambda x, low, high: (clamp(x, low, high), x), backward, nondiff_argnums=(1, 2))


@wrong("local_derivative", "values", args="f32[8] -0.5 0.5")
def clamp_straight_through():
    """The cotangent goes through as if nothing had been cut."""
    return by_hand(
        clamp, lambda x, low, high: (clamp(x, low, high), x), lambda low, high, x, g: (g,), nondiff_argnums=(1, 2)
    )


@wrong("kink", args="f32[8]")
def absolute_with_slope_two_at_zero():
    """x sign(x) with the sign's jump counted as a slope: two at zero, and right everywhere else."""
    return by_hand(jnp.abs, keeping(jnp.abs), lambda saved, g: (g * jnp.where(saved[0] == 0, 2, jnp.sign(saved[0])),))


def best(x):
    """The three largest of every row, in descending order."""
    return lax.top_k(x, 3)[0]


@right(args="f32[4,6]")
def top_k_scattered():
    """Every winner receives the cotangent of its rank."""

    def backward(ids, g):
        return (jnp.zeros((len(g), 6), g.dtype).at[jnp.arange(len(g))[:, None], ids].set(g),)

    return by_hand(best, lambda x: lax.top_k(x, 3), backward)


@wrong("permuted", args="f32[4,6]")
def top_k_in_order_of_place():
    """The winners receive the cotangents in the order in which they stand, not by rank."""

    def backward(ids, g):
        return (jnp.zeros((len(g), 6), g.dtype).at[jnp.arange(len(g))[:, None], jnp.sort(ids)].set(g),)

    return by_hand(best, lambda x: lax.top_k(x, 3), backward)


def ordered(x):
    return jnp.sort(x, 0)


@right(args="f32[6,3]")
def sort_put_back():
    """Each element receives the cotangent of the place that it went to."""

    def backward(order, g):
        return (jnp.take_along_axis(g, jnp.argsort(order, 0), 0),)

    return by_hand(ordered, lambda x: (ordered(x), jnp.argsort(x, 0)), backward)


@wrong("permuted", args="f32[6,3]")
def sort_done_once_more():
    """The order is applied to the cotangent, where its inverse belongs."""

    def backward(order, g):
        return (jnp.take_along_axis(g, order, 0),)

    return by_hand(ordered, lambda x: (ordered(x), jnp.argsort(x, 0)), backward)


# --- masks ----------------------------------------------------------------------------------------------------------


def masked_norm(x, mask):
    """The root of the sum of squares of what the mask keeps, zero if that is nothing."""
    total = jnp.sum(jnp.where(mask, x, 0) ** 2)
    return jnp.where(total > 0, jnp.sqrt(jnp.where(total > 0, total, 1)), 0)


@right(args="f32[6] bool[6]")
def masked_norm_finite():
    """Zero where nothing is kept, and for zeros."""

    def backward(saved, g):
        x, mask, y = saved
        return g * jnp.where(mask, x, 0) / jnp.where(y > 0, y, 1), None

    return by_hand(masked_norm, lambda x, mask: (masked_norm(x, mask), (x, mask, masked_norm(x, mask))), backward)


@wrong("not_finite", "values", args="f32[6] bool[6]")
def masked_norm_not_finite():
    """Zero over zero where nothing is kept, and for zeros.  Source: jax issues 3058 and 4047."""

    def backward(saved, g):
        x, mask, y = saved
        return g * jnp.where(mask, x, 0) / y, None

    return by_hand(masked_norm, lambda x, mask: (masked_norm(x, mask), (x, mask, masked_norm(x, mask))), backward)


def masked_mean(x, mask):
    return jnp.sum(jnp.where(mask, x, 0)) / jnp.maximum(mask.sum(), 1)


@right(args="f32[4,3] bool[4,3]")
def masked_mean_of_the_kept():
    """Divided by the number kept."""

    def backward(saved, g):
        x, mask = saved
        return jnp.where(mask, g / jnp.maximum(mask.sum(), 1).astype(x.dtype), 0), None

    return by_hand(masked_mean, keeping(masked_mean), backward)


@wrong("factor", args="f32[4,3] bool[4,3]")
def masked_mean_of_all():
    """Divided by the number of all, kept or not."""

    def backward(saved, g):
        x, mask = saved
        return jnp.where(mask, g / x.size, 0), None

    return by_hand(masked_mean, keeping(masked_mean), backward)


@wrong("missing_term", "located", "values", args="f32[4,3] bool[4,3]")
def masked_mean_heard_by_the_masked():
    """The masked elements receive the cotangent of the kept."""

    def backward(saved, g):
        x, mask = saved
        return jnp.full_like(x, g / jnp.maximum(mask.sum(), 1)), None

    return by_hand(masked_mean, keeping(masked_mean), backward)
