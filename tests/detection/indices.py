"""Indices: gather and scatter, slices, segments."""

import jax
import jax.numpy as jnp
from jax import lax

from .case import by_hand, right, wrong
from .halves import keeping

# --- gather and scatter ----------------------------------------------------------------------------------------------


def gather(table, ids):
    return table[ids]


@right(args="f32[5,3] i32[8]<5")
def gather_added():
    """A row read several times collects from all of them; the indices receive nothing."""

    def backward(saved, g):
        table, ids = saved
        return jnp.zeros_like(table).at[ids].add(g), None

    return by_hand(gather, keeping(gather), backward)


@wrong("missing_path", "missing_sum", args="f32[5,3] i32[8]<5")
def gather_overwritten():
    """Of equal indices one wins.  Source: pytorch issue 1528, AiDotNet.Tensors pull 894."""

    def backward(saved, g):
        table, ids = saved
        return jnp.zeros_like(table).at[ids].set(g), None

    return by_hand(gather, keeping(gather), backward)


@wrong("located", "dropped", args="f32[5,3] i32[8]<5")
def gather_padding_row_silenced():
    """Row 0 counts as padding and receives zero, though it is read like any other."""

    def backward(saved, g):
        table, ids = saved
        return jnp.zeros_like(table).at[ids].add(g).at[0].set(0), None

    return by_hand(gather, keeping(gather), backward)


@wrong("factor", "values", args="f32[5,3] i32[8]<5")
def gather_divided_by_frequency():
    """Every row's cotangent is divided by how often the row was read: an option that no value knows of."""

    def backward(saved, g):
        table, ids = saved
        count = jnp.zeros_like(table, shape=len(table)).at[ids].add(1)
        return jnp.zeros_like(table).at[ids].add(g / count[ids][:, None]), None

    return by_hand(gather, keeping(gather), backward)


@wrong("structure", args="f32[5,3] i32[8]<5")
def gather_cotangent_for_the_indices():
    """A cotangent of floats for the integers, which JAX drops in silence: only the backward pass itself shows it."""

    def backward(saved, g):
        table, ids = saved
        return jnp.zeros_like(table).at[ids].add(g), g.sum(-1)

    return by_hand(gather, keeping(gather), backward)


def replace(x, v):
    """Every other row of x is replaced."""
    return x.at[::2].set(v)


@right(args="f32[6,2] f32[3,2]")
def replaced_rows():
    """What was replaced hears nothing."""
    return by_hand(replace, keeping(replace), lambda _, g: (g.at[::2].set(0), g[::2]))


@wrong("missing_term", "counted_twice", "located", args="f32[6,2] f32[3,2]")
def replaced_rows_still_heard():
    """What was replaced receives the cotangent as well.  Source: PaddlePaddle pull 30604."""
    return by_hand(replace, keeping(replace), lambda _, g: (g, g[::2]))


def fill(x, ids, value):
    return x.at[ids].set(value)


@wrong("counted_twice", args="f32[6] i32[4]<6 f32[]")
def filled_places_counted_by_index():
    """One value is written to places some of which are named twice, and is counted as often as they are named.

    Source: pytorch issue 57006.
    """

    def backward(saved, g):
        _, ids, _ = saved
        return g.at[ids].set(0), None, g[ids].sum()

    return by_hand(fill, keeping(fill), backward)


@right(args="f32[6] i32[4]<6 f32[]")
def filled_places_counted_once():
    """The value hears once from every place that holds it."""

    def backward(saved, g):
        _, ids, _ = saved
        rest = g.at[ids].set(0)
        return rest, None, (g - rest).sum()

    return by_hand(fill, keeping(fill), backward)


def window(x, start):
    """Three elements from start, which is kept inside as lax.dynamic_slice does."""
    return lax.dynamic_slice(x, (start,), (3,))


@right(args="f32[7] i32[]<7")
def slice_put_back():
    """The cotangent is put where the window was after it was kept inside."""

    def backward(saved, g):
        x, start = saved
        return lax.dynamic_update_slice(jnp.zeros_like(x), g, (start,)), None

    return by_hand(window, keeping(window), backward)


@wrong("permuted", "values", "located", args="f32[7] i32[]<7")
def slice_put_where_it_was_asked_for():
    """The cotangent is put at start as given, and lost beyond the end; right where the window fits."""

    def backward(saved, g):
        x, start = saved
        return jnp.zeros_like(x).at[start + jnp.arange(3)].add(g, mode="drop"), None

    return by_hand(window, keeping(window), backward)


# --- segments -------------------------------------------------------------------------------------------------------


def segment_mean(x, ids):
    total = jax.ops.segment_sum(x, ids, 4)
    return total / jnp.maximum(jax.ops.segment_sum(jnp.ones_like(x), ids, 4), 1)


@right(args="f32[9] i32[9]<4")
def segment_mean_shared():
    """Every member receives its segment's cotangent over the segment's size; empty segments are mean zero."""

    def backward(saved, g):
        x, ids = saved
        size = jax.ops.segment_sum(jnp.ones_like(x), ids, 4)
        return (g / jnp.maximum(size, 1))[ids], None

    return by_hand(segment_mean, keeping(segment_mean), backward)


@wrong("factor", args="f32[9] i32[9]<4")
def segment_mean_by_the_number_of_segments():
    """Divided by the average size of a segment instead of each one's own."""

    def backward(saved, g):
        x, ids = saved
        return g[ids] * len(g) / len(x), None

    return by_hand(segment_mean, keeping(segment_mean), backward)


def segment_product(x, ids):
    return jax.ops.segment_prod(x, ids, 3)


def product_by_masks(x, ids):
    return jnp.prod(jnp.where(ids == jnp.arange(3)[:, None], x, 1), 1)


@right(args="f32[7] i32[7]<3", truth=product_by_masks)
def segment_product_of_the_others():
    """The product of all others of the segment, taken without dividing; autodiff of segment_prod wants unique ids."""

    def backward(saved, g):
        x, ids = saved
        others = (ids[:, None] == ids) & ~jnp.eye(len(ids), dtype=bool)
        return g[ids] * jnp.prod(jnp.where(others, x, 1), 1), None

    return by_hand(segment_product, lambda x, ids: (product_by_masks(x, ids), (x, ids)), backward)


@wrong(
    "not_finite",
    "values",
    args="f32[7] i32[7]<3",
    truth=product_by_masks,
)
def segment_product_divided():
    """The segment's product over the element: not a number at zeros.  Source: pytorch pull 76523, jax issue 9296."""

    def backward(saved, g):
        x, ids = saved
        return (g * segment_product(x, ids))[ids] / x, None

    return by_hand(segment_product, keeping(segment_product), backward)
