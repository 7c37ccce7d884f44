"""Backward passes that go wrong at other lengths than those of the example: odd, even, beyond a block, in groups."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .case import by_hand, right, wrong
from .halves import keeping

# --- convolutions ----------------------------------------------------------------------------------------------------


def strided(x, w):
    return lax.conv_general_dilated(x[None, None], w[None, None], (2,), [(0, 0)])[0, 0]


def strided_case(pad):
    def backward(saved, g):
        x, w = saved
        reach = 2 * g.size - 1
        full = jnp.convolve(jnp.zeros(reach, g.dtype).at[::2].set(g), w)
        w_bar = jnp.stack([jnp.sum(g * x[i : i + reach : 2]) for i in range(w.size)])
        return jnp.pad(full, pad(x.size - full.size)), w_bar

    return by_hand(strided, keeping(strided), backward)


@wrong("shape", "permuted", "located", args="f32[9] f32[3]")
def conv_remainder_at_the_wrong_end():
    """A stride of two leaves an element over at some lengths; the cotangent is shifted by it."""
    return strided_case(lambda rest: (rest, 0))


@right(args="f32[10] f32[3]")
def conv_remainder_at_the_end():
    return strided_case(lambda rest: (0, rest))


def same(x, w):
    return lax.conv_general_dilated(x[None, None], w[None, None], (1,), "SAME")[0, 0]


def same_case(ends):
    def backward(saved, g):
        x, w = saved
        low = (w.size - 1) // 2
        high = w.size - 1 - low
        x_bar = lax.conv_general_dilated(g[None, None], w[::-1][None, None], (1,), [ends(low, high)])[0, 0]
        padded = jnp.pad(x, (low, high))
        return x_bar, jnp.stack([jnp.sum(padded[i : i + x.size] * g) for i in range(w.size)])

    return by_hand(same, keeping(same), backward)


@wrong("shape", "permuted", args="f32[7] f32[3]")
def conv_same_ends_not_exchanged():
    """The cotangent is padded as the input was, which is right for odd kernels alone."""
    return same_case(lambda low, high: (low, high))


@right(args="f32[7] f32[3]")
def conv_same_ends_exchanged():
    return same_case(lambda low, high: (high, low))


def causal(x, k, n):
    """The first elements of the convolution, by way of a spectrum of length n."""
    return jnp.fft.irfft(jnp.fft.rfft(x, n) * jnp.fft.rfft(k, n), n)[: x.size].astype(x.dtype)


def causal_case(length):
    def function(x, k):
        return causal(x, k, 2 * x.size)

    def backward(saved, g):
        x, k = saved
        n = length(x.size)
        return causal(g[::-1], k, n)[::-1], causal(g[::-1], x, n)[::-1]

    return by_hand(function, keeping(function), backward)


@wrong("shape", "located", "values", args="f32[8] f32[8]")
def conv_by_spectrum_wraps_when_long():
    """From ten elements on the backward pass pads by two too few, and the ends meet."""
    return causal_case(lambda n: 2 * n - 2 if n > 9 else 2 * n)


@right(args="f32[8] f32[8]")
def conv_by_spectrum():
    return causal_case(lambda n: 2 * n)


# --- order and spectrum ----------------------------------------------------------------------------------------------


def median_case(bars):
    def backward(saved, g):
        (x,) = saved
        order = jnp.argsort(x)
        return (bars(jnp.zeros_like(x), order[(x.size - 1) // 2], order[x.size // 2], g),)

    return by_hand(lambda x: jnp.median(x), keeping(jnp.median), backward)


@wrong("shape", "located", "missing_path", args="f32[7]")
def median_to_the_lower_middle():
    """Of an even number of elements there are two in the middle."""
    return median_case(lambda zeros, low, high, g: zeros.at[low].set(g))


@right(args="f32[7]")
def median_to_both_middles():
    return median_case(lambda zeros, low, high, g: zeros.at[low].add(g / 2).at[high].add(g / 2))


def spectral_power(x):
    return jnp.abs(jnp.fft.rfft(x)) ** 2


def spectral_power_case(weights):
    def backward(saved, g):
        (x,) = saved
        bins = weights(2 * g * jnp.fft.rfft(x), x.size)
        return (jnp.fft.irfft(bins, x.size).astype(x.dtype) * x.size / 2,)

    return by_hand(spectral_power, keeping(spectral_power), backward)


@wrong("shape", "factor", "missing_path", "missing_term", args="f32[7]")
def spectral_power_last_bin_halved():
    """The inverse transform counts the first bin once, and the last one too where the length is even."""
    return spectral_power_case(lambda bins, n: bins.at[0].multiply(2))


@right(args="f32[7]")
def spectral_power_by_the_inverse():
    def weights(bins, n):
        bins = bins.at[0].multiply(2)
        return bins if n % 2 else bins.at[-1].multiply(2)

    return spectral_power_case(weights)


# --- groups and axes -------------------------------------------------------------------------------------------------


def grouped_scores(q, k):
    return jnp.einsum("hnd,hmd->hnm", q, jnp.repeat(k, q.shape[0] // k.shape[0], 0))


def grouped_case(collect):
    def backward(saved, g):
        q, k = saved
        n = q.shape[0] // k.shape[0]
        k_bar = jnp.einsum("hnm,hnd->hmd", g, q).reshape(k.shape[0], n, *k.shape[1:])
        return jnp.einsum("hnm,hmd->hnd", g, jnp.repeat(k, n, 0)), collect(k_bar)

    return by_hand(grouped_scores, keeping(grouped_scores), backward)


@wrong("shape", "factor", args="f32[2,3,5] f32[2,3,5]")
def grouped_keys_averaged():
    """The mean over the queries of a group in place of their sum: groups of one do not tell."""
    return grouped_case(lambda bars: bars.mean(1))


@right(args="f32[4,3,5] f32[2,3,5]")
def grouped_keys_summed():
    return grouped_case(lambda bars: bars.sum(1))


def in_groups(x):
    rows = x.reshape(2, -1)
    gap = rows - rows.mean(1, keepdims=True)
    root = lax.rsqrt(jnp.mean(gap**2, 1, keepdims=True) + 1e-5)
    return (gap * root).reshape(x.shape), root


def group_norm_case(count):
    def backward(saved, g):
        y, root = (part.reshape(2, -1) for part in in_groups(*saved))
        h = g.reshape(2, -1)
        n = count(g)
        total = h.sum(1, keepdims=True) + y * jnp.sum(h * y, 1, keepdims=True)
        return ((root * (h - total / n)).reshape(g.shape),)

    return by_hand(lambda x: in_groups(x)[0], keeping(lambda x: in_groups(x)[0]), backward)


@wrong("shape", "missing_term", "factor", args="f32[4,3]")
def group_norm_counts_the_groups():
    """Groups times places in place of the channels of a group times places: four channels do not tell."""
    return group_norm_case(lambda g: 2 * g.shape[1])


@right(args="f32[4,3]")
def group_norm_counts_a_group():
    return group_norm_case(lambda g: g.size // 2)


def log_sum(x, axis):
    return jax.nn.logsumexp(x, axis)


def log_sum_case(spread):
    def forward(x, axis):
        return log_sum(x, axis), x

    def backward(axis, x, g):
        return (jax.nn.softmax(x, axis) * jnp.expand_dims(g, spread(axis)),)

    return by_hand(log_sum, forward, backward, nondiff_argnums=(1,))


@wrong("permuted", "shape", "raised", "missing_sum", "located", args="f32[4,4] 0")
def log_sum_spread_along_the_last_axis():
    """Whatever axis was summed over, the cotangent goes along the last: a square hides the shape."""
    return log_sum_case(lambda axis: -1)


@right(args="f32[4,4] 0")
def log_sum_spread_along_its_axis():
    return log_sum_case(lambda axis: axis)


@wrong("impure", "shape", "values", "factor", args="f32[6]")
def table_of_the_first_length():
    """A table is made at the first length that comes, and what fits of it is used at every other."""
    kept = {}

    def table(n):
        return np.arange(1, n + 1, dtype=np.float32) / n

    def function(x):
        return jnp.sin(x * table(x.size))

    def backward(saved, g):
        (x,) = saved
        first = kept.setdefault("table", table(x.size))
        used = np.concatenate([first, table(x.size)[first.size :]])[: x.size]
        return (g * jnp.cos(x * table(x.size)) * used,)

    return by_hand(function, keeping(function), backward)


# --- blocks ----------------------------------------------------------------------------------------------------------


def standardised(x):
    gap = x - x.mean(-1, keepdims=True)
    root = lax.rsqrt(jnp.mean(gap**2, -1, keepdims=True) + 1e-5)
    return gap * root, root


def standardised_case(block):
    def backward(saved, g):
        y, root = standardised(*saved)
        along = jnp.sum((g * y)[:, :block], -1, keepdims=True) / y.shape[-1]
        return (root * (g - g.mean(-1, keepdims=True) - y * along),)

    return by_hand(lambda x: standardised(x)[0], keeping(lambda x: standardised(x)[0]), backward)


@wrong("shape", "missing_term", "located", args="f32[16,8]")
def layer_norm_sums_the_first_block_of_features():
    """One block of 32 features is summed over; the rows are the longer axis of the example."""
    return standardised_case(32)


@right(args="f32[16,8]")
def layer_norm_sums_all_features():
    return standardised_case(None)


def seen_by(q, window):
    """Which key a query sees: those before it and itself, as many as the window has."""
    ago = jnp.arange(len(q))[:, None] - jnp.arange(len(q))
    return (ago >= 0) & (ago < window)


def attention(q, k, v, window=10**6):
    return jax.nn.softmax(jnp.where(seen_by(q, window), q @ k.T, -1e30)) @ v


def attention_case(bars, window=10**6):
    def function(q, k, v):
        return attention(q, k, v, window)

    return by_hand(function, keeping(function), lambda saved, g: bars(*saved, g))


def attention_bars(q, k, v, g, window=10**6, heard=1):
    p = jax.nn.softmax(jnp.where(seen_by(q, window), q @ k.T, -1e30))
    p_bar = g @ v.T
    s_bar = p * (p_bar - jnp.sum(p_bar * p, -1, keepdims=True))
    return s_bar @ k, (s_bar * heard).T @ q, (p * heard).T @ g


@wrong("shape", "missing_path", "located", args="f32[6,4] f32[6,4] f32[6,4]")
def attention_second_block_leaves_its_own_query_out():
    """The second block of 64 keys is masked strictly on the way back."""

    def bars(q, k, v, g):
        to, of = jnp.arange(len(q))[:, None], jnp.arange(len(q))
        return attention_bars(q, k, v, g, heard=(of < 64) | (to > of))

    return attention_case(bars)


@wrong("shape", "missing_path", "local_derivative", args="f32[6,3] f32[6,3] f32[6,3]")
def attention_window_longer_than_the_example():
    """The window is one longer on the way back: to be seen from nine places on."""
    return attention_case(lambda q, k, v, g: attention_bars(q, k, v, g, window=9), window=8)


@right(args="f32[6,3] f32[6,3] f32[6,3]")
def attention_window_of_eight():
    return attention_case(lambda q, k, v, g: attention_bars(q, k, v, g, window=8), window=8)


@wrong("shape", "factor", "dtype", args="f32[4,16]")
def mean_counted_in_bfloat16():
    """The number of elements passes through bfloat16, where 257 is 256."""

    def backward(saved, g):
        (x,) = saved
        return (jnp.full_like(x, g / jnp.asarray(x.size, jnp.bfloat16).astype(g.dtype)),)

    return by_hand(lambda x: x.mean(), keeping(jnp.mean), backward)


def running_case(turned):
    def backward(saved, g):
        return (turned(jnp.cumsum(turned(g), axis=-1)),)

    return by_hand(lambda x: jnp.cumsum(x, axis=-1), keeping(lambda x: jnp.cumsum(x, axis=-1)), backward)


@wrong("shape", "local_derivative", "permuted", args="f32[6]")
def running_sum_turned_along_the_batch():
    """Turned around the first axis, which is the last as long as there is no batch."""
    return running_case(lambda g: g[::-1])


@right(args="f32[6]")
def running_sum_turned_along_its_own_axis():
    return running_case(lambda g: g[..., ::-1])


def biased(x, b):
    return jnp.tanh(x + b)


def bias_case(over_heads):
    """The bias may have the length 1 anywhere."""

    def backward(saved, g):
        x, b = saved
        b_bar = x_bar = g * (1 - jnp.tanh(x + b) ** 2)
        for axis in range(3):
            if b.shape[axis] < g.shape[axis]:
                b_bar = (over_heads if axis == 1 else jnp.sum)(b_bar, axis, keepdims=True)
        return x_bar, b_bar

    return by_hand(biased, keeping(biased), backward)


@wrong("shape", "factor", "missing_sum", args="f32[2,3,4] f32[1,3,4]")
def bias_averaged_over_heads_that_share_it():
    """To be seen where one bias is spread over all heads, which the example's is not."""
    return bias_case(jnp.mean)


@right(args="f32[2,3,4] f32[1,3,4]")
def bias_summed_over_whoever_shares_it():
    return bias_case(jnp.sum)
