"""Wrong gradients that were shipped, of layers: normalisation, embeddings, segments, resampling, recurrent cells."""

import jax
import jax.numpy as jnp
from jax import lax

from .case import by_hand, right, wrong
from .halves import keeping

# --- normalisation ---------------------------------------------------------------------------------------------------


def frozen(x, scale, mean, variance):
    """Batch normalisation with statistics that are given, as in evaluation."""
    return (x - mean) * lax.rsqrt(variance + 1e-3) * scale


def frozen_case(x_bar):
    def backward(saved, g):
        x, scale, mean, variance = saved
        root = lax.rsqrt(variance + 1e-3)
        unit = (x - mean) * root
        return (
            x_bar(g * scale, unit, variance, root),
            jnp.sum(g * unit, 0),
            -jnp.sum(g * scale * root, 0),
            jnp.sum(g * scale * unit, 0) * root**2 / -2,
        )

    return by_hand(frozen, keeping(frozen), backward)


@right(args="f32[6,3] f32[3] f32[3] f32[3]>0")
def frozen_batch_norm():
    return frozen_case(lambda g, unit, variance, root: g * root)


@wrong("missing_term", "local_derivative", "located", args="f32[6,3] f32[3] f32[3] f32[3]>0")
def frozen_batch_norm_with_the_terms_of_training():
    """The mean and the projection are subtracted, though the statistics are constants.  Source: pytorch issue 586."""
    return frozen_case(lambda g, unit, variance, root: root * (g - g.mean(0) - unit * (g * unit).mean(0)))


@wrong("epsilon", "local_derivative", "located", args="f32[6,3] f32[3] f32[3] f32[3]>0")
def frozen_batch_norm_epsilon_twice():
    """The kept variance holds epsilon already, and it is added once more.  Source: chainer pull 4505."""
    return frozen_case(lambda g, unit, variance, root: g * lax.rsqrt(variance + 2e-3))


def layer_norm(x, w, b):
    centred = x - x.mean(-1, keepdims=True)
    return centred * lax.rsqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-5) * w + b


def layer_norm_case(halves):
    return by_hand(layer_norm, keeping(layer_norm), lambda saved, g: halves(*saved, g))


def layer_norm_bars(x, w, g):
    centred = x - x.mean(-1, keepdims=True)
    root = lax.rsqrt(jnp.mean(centred**2, -1, keepdims=True) + 1e-5)
    unit = centred * root
    h = g * w
    x_bar = root * (h - h.mean(-1, keepdims=True) - unit * (h * unit).mean(-1, keepdims=True))
    return x_bar, unit


@right(args="f32[5,4] f32[4] f32[4]")
def layer_norm_for_any_leading_axes():
    def halves(x, w, b, g):
        x_bar, unit = layer_norm_bars(x, w, g)
        leading = tuple(range(x.ndim - 1))
        return x_bar, jnp.sum(g * unit, leading), jnp.sum(g, leading)

    return layer_norm_case(halves)


@wrong("located", "local_derivative", "missing_term", "structure", "values", args="f32[2,3,4] f32[4] f32[4]")
def layer_norm_of_two_axes():
    """All but the first axis are normalised over, which is right for two axes.  Source: FlagGems issue 5392."""

    def halves(x, w, b, g):
        centred = x - x.mean((1, 2), keepdims=True)
        unit = centred * lax.rsqrt(jnp.mean(centred**2, (1, 2), keepdims=True) + 1e-5)
        root = lax.rsqrt(jnp.mean(centred**2, (1, 2), keepdims=True) + 1e-5)
        h = g * w
        x_bar = root * (h - h.mean((1, 2), keepdims=True) - unit * (h * unit).mean((1, 2), keepdims=True))
        return x_bar, jnp.sum(g * unit, (0, 1)), jnp.sum(g, (0, 1))

    return layer_norm_case(halves)


@wrong("shape", "located", "values", "missing_term", args="f32[5,4] f32[4] f32[4]")
def layer_norm_of_one_feature():
    """A short cut for one feature, whose weight hears though the output does not move.

    Source: pytorch issue 188375.
    """

    def halves(x, w, b, g):
        x_bar, unit = layer_norm_bars(x, w, g)
        return x_bar, jnp.sum(g * (unit if x.shape[-1] > 1 else x), 0), jnp.sum(g, 0)

    return layer_norm_case(halves)


@wrong("missing_sum", "located", "missing_path", "values", "factor", args="f32[7,3] f32[3] f32[3]")
def layer_norm_rows_in_blocks():
    """Partial sums of the parameters are made by blocks of four rows, and the last block is left out unless full.

    Source: the partial sums of linkedin/Liger-Kernel pull 182.
    """

    def halves(x, w, b, g):
        x_bar, unit = layer_norm_bars(x, w, g)
        full = len(x) // 4 * 4
        return x_bar, jnp.sum((g * unit)[:full], 0), jnp.sum(g, 0)

    return layer_norm_case(halves)


def rms_norm(x, w):
    return x * lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6) * w


def rms_norm_case(w_bar):
    def backward(saved, g):
        x, w = saved
        root = lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)
        h = g * w
        x_bar = root * (h - x * root**2 * jnp.mean(h * x, -1, keepdims=True))
        return x_bar, w_bar(x * root, g, x_bar)

    return by_hand(rms_norm, keeping(rms_norm), backward)


@wrong("wrong_residual", "located", "local_derivative", args="f32[5,4] f32[4]")
def rms_norm_weight_after_the_buffer_was_reused():
    """The input's cotangent is written over the incoming one, which the weight's then reads.

    Source: unslothai/unsloth pull 4550, linkedin/Liger-Kernel issue 370.
    """
    return rms_norm_case(lambda unit, g, x_bar: jnp.sum(x_bar * unit, 0))


@wrong("structure", "dropped", args="f32[5,4] f32[4]")
def rms_norm_without_a_weight():
    """Nothing comes back for the weight, which stays as it was drawn.  Source: unslothai/unsloth issue 4533."""
    return rms_norm_case(lambda unit, g, x_bar: None)


# --- embeddings and segments -----------------------------------------------------------------------------------------


def embedding(table, ids):
    """Row 0 is padding: it is read, and held constant."""
    return jnp.asarray(table).at[0].set(lax.stop_gradient(table[0]))[ids]


@right(args="f32[6,3] i32[4]<6")
def embedding_with_a_padding_row():
    def backward(saved, g):
        table, ids = saved
        return jnp.zeros_like(table).at[ids].add(g).at[0].set(0), None

    return by_hand(embedding, keeping(embedding), backward)


@wrong("missing_term", "located", "values", "counted_twice", args="f32[6,3] i32[4]<6>0")
def embedding_padding_row_learns():
    """The padding row hears like any other.  Source: pytorch issue 26302; the example has no padding."""

    def backward(saved, g):
        table, ids = saved
        return jnp.zeros_like(table).at[ids].add(g), None

    return by_hand(embedding, keeping(embedding), backward)


def lookup(table, ids):
    """Rows of a table."""
    return table[ids]


def lookup_set(saved, g):
    """Set where it should add: of equal indices the last one wins."""
    table, ids = saved
    return jnp.zeros_like(table).at[ids].set(g), None


@wrong("missing_path", "values", "located", "missing_sum", args="f32[12,3] i32[5]<12distinct")
def lookup_set_where_it_should_add():
    """The example has no equal indices.  Source: pytorch issue 1528, burn pull 4064."""
    return by_hand(lookup, keeping(lookup), lookup_set)


@wrong("missing_path", "values", "located", "missing_sum", args="f32[12,3] i32[5]<12distinctsorted")
def lookup_of_sorted_indices_set():
    """The same with indices that ascend in the example.  Source: pytorch issue 1528."""
    return by_hand(lookup, keeping(lookup), lookup_set)


def bag_max(table, ids):
    """The largest of each feature over the rows of a bag."""
    return table[ids].max(1)


@right(args="f32[8,3] i32[3,4]<8")
def bag_of_maxima():
    def backward(saved, g):
        table, ids = saved
        winner = jnp.take_along_axis(ids, table[ids].argmax(1), 1)
        return jnp.zeros_like(table).at[winner, jnp.arange(table.shape[1])].add(g), None

    return by_hand(bag_max, keeping(bag_max), backward)


@wrong("local_derivative", "located", "wrong_residual", "missing_term", args="f32[8,3] i32[3,4]<8")
def bag_of_maxima_averaged():
    """The mode for maxima falls through to that of the mean.  Source: FlagGems issue 5220."""

    def backward(saved, g):
        table, ids = saved
        return jnp.zeros_like(table).at[ids].add(g[:, None] / ids.shape[1]), None

    return by_hand(bag_max, keeping(bag_max), backward)


def segments(x, ids):
    """Sums by segments; what belongs to none of the four is dropped."""
    return jnp.zeros_like(x, shape=4).at[ids].add(x, mode="drop")


@wrong("located", "missing_term", "values", args="f32[8] i32[8]<6")
def segments_of_nothing_are_heard():
    """A dropped element receives the cotangent of the last segment.  Source: jax issues 8634 and 7538."""
    return by_hand(segments, keeping(segments), lambda saved, g: (g[saved[1]], None))


@right(args="f32[8] i32[8]<6")
def segments_that_drop():
    def backward(saved, g):
        _, ids = saved
        return jnp.where(ids < 4, g[ids], 0), None

    return by_hand(segments, keeping(segments), backward)


# --- resampling ------------------------------------------------------------------------------------------------------


def sample(image, at):
    """Between neighbours; beyond the ends the last value."""
    n = len(image)
    at = jnp.clip(at, 0, n - 1)
    low = jnp.clip(jnp.floor(at), 0, n - 1).astype(int)
    high = jnp.minimum(low + 1, n - 1)
    t = at - low
    return (1 - t) * image[low] + t * image[high]


def sample_case(slope):
    """A batch of images, each sampled at coordinates of its own."""

    def bars(image, at, g):
        n = len(image)
        kept = jnp.clip(at, 0, n - 1)
        low = jnp.clip(jnp.floor(kept), 0, n - 1).astype(int)
        t = kept - low
        bar = jnp.zeros_like(image).at[low].add(g * (1 - t)).at[jnp.minimum(low + 1, n - 1)].add(g * t)
        return bar, g * slope(image, at, low)

    function = jax.vmap(sample)
    return by_hand(function, keeping(function), lambda saved, g: jax.vmap(bars)(*saved, g))


@right(args="f32[4,6] f32[4,8]>-1<6")
def sampled_at_coordinates():
    def slope(image, at, low):
        return jnp.where((at > 0) & (at < len(image) - 1), image[low + 1] - image[low], 0)

    return sample_case(slope)


@wrong("kink", "values", "located", args="f32[4,6] f32[4,8]>-1<6")
def sampled_at_the_last_pixel():
    """Exactly on the last pixel its neighbour counts as zero.  Source: pytorch issue 23925, pull 32829."""

    def slope(image, at, low):
        beyond = jnp.where(low + 1 < len(image), image[jnp.minimum(low + 1, len(image) - 1)], 0)
        return jnp.where((at > 0) & (at <= len(image) - 1), beyond - image[low], 0)

    return sample_case(slope)


def stretched(x):
    """Resized to ten, the ends on the ends."""
    at = jnp.arange(10) * (len(x) - 1) / 9
    return hats(x, at).astype(x.dtype) @ x


def hats(x, at):
    return jnp.maximum(1 - jnp.abs(at[:, None] - jnp.arange(len(x))), 0)


@wrong("located", "missing_path", "values", args="f32[2]")
def stretched_heard_through_a_narrow_window():
    """The window of outputs that are summed is as wide as if the ends were not aligned.

    Source: FlagGems issue 5218.
    """

    def backward(x, g):
        ratio = 10 / len(x)
        at = jnp.arange(10) * (len(x) - 1) / 9
        centre = jnp.arange(len(x)) * 9 / max(len(x) - 1, 1)
        near = jnp.abs(jnp.arange(10)[:, None] - centre) <= ratio
        return ((hats(x, at) * near).astype(g.dtype).T @ g,)

    return by_hand(stretched, lambda x: (stretched(x), x), backward)


# --- recurrent cells -------------------------------------------------------------------------------------------------


def lstm(x, h, c, w):
    i, f, g, o = jnp.split(jnp.concatenate([x, h]) @ w, 4)
    i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
    cell = f * c + i * g
    return o * jnp.tanh(cell), cell


def lstm_case(gate=lambda i, g: g, seen=lambda h, new: h):
    def backward(saved, bars):
        x, h, c, w = saved
        h_bar, c_bar = bars
        i, f, g, o = jnp.split(jnp.concatenate([x, h]) @ w, 4)
        i, f, g, o = jax.nn.sigmoid(i), jax.nn.sigmoid(f), jnp.tanh(g), jax.nn.sigmoid(o)
        cell = f * c + i * g
        c_bar = c_bar + h_bar * o * (1 - jnp.tanh(cell) ** 2)
        rows = [
            c_bar * gate(i, g) * i * (1 - i),
            c_bar * c * f * (1 - f),
            c_bar * i * (1 - g**2),
            h_bar * jnp.tanh(cell) * o * (1 - o),
        ]
        z_bar = jnp.concatenate(rows)
        into = w @ z_bar
        new = o * jnp.tanh(cell)
        return into[: len(x)], into[len(x) :], c_bar * f, jnp.outer(jnp.concatenate([x, seen(h, new)]), z_bar)

    return by_hand(lstm, keeping(lstm), backward)


@right(args="f32[2] f32[3] f32[3] f32[5,12]")
def lstm_cell():
    return lstm_case()


@wrong("wrong_residual", "local_derivative", "located", args="f32[2] f32[3] f32[3] f32[5,12]")
def lstm_input_gate_times_itself():
    """The gate's own value where the candidate belongs.  Source: wvabrinskas/Neuron pull 181."""
    return lstm_case(gate=lambda i, g: i)


@wrong("wrong_residual", "local_derivative", "located", args="f32[2] f32[3] f32[3] f32[5,12]")
def lstm_weights_see_the_new_state():
    """The recurrent weights' cotangent takes the state after the step.  Source: wvabrinskas/Neuron pull 181."""
    return lstm_case(seen=lambda h, new: new)


# --- dropout ---------------------------------------------------------------------------------------------------------


def dropout(x, key):
    return jnp.where(jax.random.bernoulli(key, 0.75, x.shape), x / 0.75, 0)


@wrong("factor", "local_derivative", args="f32[9] key")
def dropout_scaled_by_the_rate():
    """The kept are multiplied by the rate, not divided by what is kept.  Source: NVIDIA/apex pull 816."""

    def backward(saved, g):
        x, key = saved
        return jnp.where(jax.random.bernoulli(key, 0.75, x.shape), g * 0.25, 0), None

    return by_hand(dropout, keeping(dropout), backward)
