"""Pooling, padding and resampling: who was looked at, by how many, and with which weight."""

import jax.numpy as jnp

from .case import by_hand, right, wrong
from .convolution import taps
from .halves import keeping


def max_pool(x):
    """Windows of three with stride two, over time and channels: (t, c)."""
    return x[taps(len(x), 3, 2)].max(1)


def first_winner(x):
    """Where in x each window's first maximum stands."""
    windows = taps(len(x), 3, 2)
    return jnp.take_along_axis(windows[..., None], x[windows].argmax(1)[:, None], 1)[:, 0]


@right(args="f32[9,2]")
def max_pool_added():
    """Windows overlap, so a winner collects from several; of equal ones the first wins."""

    def backward(saved, g):
        (x,) = saved
        return (jnp.zeros_like(x).at[first_winner(x), jnp.arange(x.shape[1])].add(g),)

    return by_hand(max_pool, keeping(max_pool), backward)


@right(args="f32[9,2]")
def max_pool_shared_among_ties():
    """Of equal ones each receives its share, as the maximum of JAX has it."""

    def backward(saved, g):
        (x,) = saved
        windows = taps(len(x), 3, 2)
        won = (x[windows] == max_pool(x)[:, None]).astype(x.dtype)
        return (jnp.zeros_like(x).at[windows].add(won / won.sum(1, keepdims=True) * g[:, None]),)

    return by_hand(max_pool, keeping(max_pool), backward)


@wrong("missing_path", "located", "missing_sum", args="f32[9,2]")
def max_pool_overwritten():
    """A winner of two windows keeps the cotangent of one.  Source: FluxML/NNlib.jl issue 205."""

    def backward(saved, g):
        (x,) = saved
        return (jnp.zeros_like(x).at[first_winner(x), jnp.arange(x.shape[1])].set(g),)

    return by_hand(max_pool, keeping(max_pool), backward)


@wrong("kink", "counted_twice", args="f32[9,2]")
def max_pool_paid_to_every_tie():
    """All that equal the maximum receive the whole cotangent; wrong at ties alone."""

    def backward(saved, g):
        (x,) = saved
        windows = taps(len(x), 3, 2)
        won = x[windows] == max_pool(x)[:, None]
        return (jnp.zeros_like(x).at[windows].add(won * g[:, None]),)

    return by_hand(max_pool, keeping(max_pool), backward)


@wrong("located", "values", "local_derivative", args="f32[6]")
def max_pool_zero_padding():
    """Forward pads with minus infinity and backward with zero, which wins where an edge is negative.

    Source: the padded pooling of FluxML/NNlib.jl issue 133.
    """
    windows = taps(8, 3)

    def function(x):
        return jnp.pad(x, 1, constant_values=-jnp.inf)[windows].max(1)

    def backward(saved, g):
        padded = jnp.pad(saved[0], 1)
        winner = jnp.take_along_axis(windows, padded[windows].argmax(1)[:, None], 1)[:, 0]
        return (jnp.zeros_like(padded).at[winner].add(g)[1:-1],)

    return by_hand(function, keeping(function), backward)


def mean_pool(x):
    """Windows of three with one beyond each end, divided by how many lie inside."""
    return jnp.convolve(x, jnp.ones(3, x.dtype), "same") / inside(x)


def inside(x):
    return jnp.convolve(jnp.ones_like(x), jnp.ones(3, x.dtype), "same")


@right(args="f32[7]")
def mean_pool_excluding_padding():
    """Each cotangent is divided by its own window's count before it is spread."""

    def backward(saved, g):
        return (jnp.convolve(g / inside(g), jnp.ones(3, g.dtype), "same"),)

    return by_hand(mean_pool, keeping(mean_pool), backward)


@wrong("located", "factor", args="f32[7]")
def mean_pool_by_the_size_of_the_window():
    """The cotangents at both ends are divided by three though two lie inside."""

    def backward(saved, g):
        return (jnp.convolve(g / 3, jnp.ones(3, g.dtype), "same"),)

    return by_hand(mean_pool, keeping(mean_pool), backward)


def nearest(x):
    return jnp.repeat(jnp.repeat(x, 2, 0), 2, 1)


@right(args="f32[3,4]")
def upsample_summed():
    """Four copies, whose cotangents add."""

    def backward(_, g):
        return (g.reshape(g.shape[0] // 2, 2, g.shape[1] // 2, 2).sum((1, 3)),)

    return by_hand(nearest, keeping(nearest), backward)


@wrong("missing_sum", "missing_path", args="f32[3,4]")
def upsample_subsampled():
    """The cotangent is subsampled: one copy of four.  Source: the strides of tinygrad pull 377."""
    return by_hand(nearest, keeping(nearest), lambda _, g: (g[::2, ::2],))


def shuffle(x):
    """Channels to space: (h, w, 4 c) to (2 h, 2 w, c)."""
    h, w, c = x.shape
    return x.reshape(h, w, 2, 2, c // 4).transpose(0, 2, 1, 3, 4).reshape(2 * h, 2 * w, c // 4)


@right(args="f32[2,3,8]")
def pixel_shuffle_undone():
    """The inverse permutation."""

    def backward(_, g):
        h, w, c = g.shape
        return (g.reshape(h // 2, 2, w // 2, 2, c).transpose(0, 2, 1, 3, 4).reshape(h // 2, w // 2, 4 * c),)

    return by_hand(shuffle, keeping(shuffle), backward)


@wrong("permuted", args="f32[2,3,8]")
def pixel_shuffle_rows_for_columns():
    """Rows and columns of the small block are exchanged on the way back."""

    def backward(_, g):
        h, w, c = g.shape
        return (g.reshape(h // 2, 2, w // 2, 2, c).transpose(0, 2, 3, 1, 4).reshape(h // 2, w // 2, 4 * c),)

    return by_hand(shuffle, keeping(shuffle), backward)


def blur(x):
    padded = jnp.pad(x, 1, mode="reflect")
    return (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4


def blur_bar(g):
    """The transpose before reflection: one longer at either end."""
    wide = jnp.pad(g, 2)
    return (wide[:-2] + 2 * wide[1:-1] + wide[2:]) / 4


@right(args="f32[6]")
def blur_reflected():
    """What falls on the reflection is folded back to where it was reflected from."""

    def backward(_, g):
        g = blur_bar(g)
        last = g.size - 3
        return (g[1:-1].at[min(1, last)].add(g[0]).at[max(last - 1, 0)].add(g[-1]),)

    return by_hand(blur, keeping(blur), backward)


@wrong("located", "permuted", args="f32[6]")
def blur_taken_for_its_own_transpose():
    """The blur is symmetric but for its ends, where reflection is not its own transpose."""
    return by_hand(blur, keeping(blur), lambda _, g: (blur(g),))


def edge(x):
    return jnp.pad(x, ((2, 1), (0, 0)), mode="edge")


@right(args="f32[4,3]")
def edge_padding_collected():
    """The first and last rows collect what their copies received."""

    def backward(_, g):
        return (g[2:-1].at[0].add(g[0] + g[1]).at[-1].add(g[-1]),)

    return by_hand(edge, keeping(edge), backward)


@wrong("located", "missing_path", args="f32[4,3]")
def edge_padding_cropped():
    """The copies of the first and last row are cropped away."""
    return by_hand(edge, keeping(edge), lambda _, g: (g[2:-1],))


def resize_weights(n, m, aligned):
    """Linear interpolation from n points to m, with the ends aligned or the cells' middles."""
    step = jnp.arange(m)
    at = step * (n - 1) / (m - 1) if aligned else jnp.clip((step + 0.5) * n / m - 0.5, 0, n - 1)
    return jnp.maximum(0, 1 - jnp.abs(at[:, None] - jnp.arange(n)))


def resize(x):
    return resize_weights(len(x), 7, aligned=False).astype(x.dtype) @ x


@right(args="f32[4,2]")
def resize_transposed():
    """The transposed weights."""

    def backward(saved, g):
        return (resize_weights(len(saved[0]), 7, aligned=False).astype(g.dtype).T @ g,)

    return by_hand(resize, keeping(resize), backward)


@wrong("local_derivative", "wrong_residual", args="f32[4,2]")
def resize_with_aligned_ends():
    """Forward places the middles of cells, backward aligns the ends."""

    def backward(saved, g):
        return (resize_weights(len(saved[0]), 7, aligned=True).astype(g.dtype).T @ g,)

    return by_hand(resize, keeping(resize), backward)


def position(x, at):
    """From [-1, 1] to [0, n - 1], kept inside; the cell it falls into, and how far along."""
    raw = (at + 1) / 2 * (len(x) - 1)
    low = jnp.clip(jnp.floor(raw), 0, len(x) - 2).astype(int)
    return raw, low, jnp.clip(raw, 0, len(x) - 1) - low


def sample(x, at):
    """Linear interpolation at coordinates; beyond the ends the end's value."""
    _, low, along = position(x, at)
    return x[low] * (1 - along) + x[low + 1] * along


def sample_bar(x, at, g):
    _, low, along = position(x, at)
    return jnp.zeros_like(x).at[low].add(g * (1 - along)).at[low + 1].add(g * along)


@right(args="f32[6] f32[9]")
def sample_at_coordinates():
    """The coordinate's cotangent is the slope of its cell times half the width, and zero beyond the ends."""

    def backward(saved, g):
        x, at = saved
        raw, low, _ = position(x, at)
        slope = (x[low + 1] - x[low]) * (len(x) - 1) / 2
        return sample_bar(x, at, g), jnp.where((raw > 0) & (raw < len(x) - 1), g * slope, 0)

    return by_hand(sample, keeping(sample), backward)


@wrong("factor", args="f32[6] f32[9]>=-1<=1")
def sample_coordinate_unscaled():
    """The coordinate's cotangent lacks half the width, by which [-1, 1] is stretched."""

    def backward(saved, g):
        x, at = saved
        _, low, _ = position(x, at)
        return sample_bar(x, at, g), g * (x[low + 1] - x[low])

    return by_hand(sample, keeping(sample), backward)


@wrong("values", "local_derivative", args="f32[6] f32[9]")
def sample_beyond_the_border():
    """Coordinates beyond the ends receive the slope of the last cell instead of zero."""

    def backward(saved, g):
        x, at = saved
        _, low, _ = position(x, at)
        return sample_bar(x, at, g), g * (x[low + 1] - x[low]) * (len(x) - 1) / 2

    return by_hand(sample, keeping(sample), backward)
