"""Attention of other kinds: few key heads, biases by position, rotated queries, linear attention."""

import jax
import jax.numpy as jnp

from .attention import attention, attention_back, attention_forward, rooted, softmax_back, weights
from .case import by_hand, right, wrong
from .halves import keeping


def grouped_attention(q, k, v):
    """Heads, positions, features; each key head serves as many neighbouring query heads as there are."""
    times = len(q) // len(k)
    return attention(q, jnp.repeat(k, times, 0), jnp.repeat(v, times, 0))


def grouped_forward(q, k, v):
    times = len(q) // len(k)
    wide_k, wide_v = jnp.repeat(k, times, 0), jnp.repeat(v, times, 0)
    o, residuals = attention_forward(q, wide_k, wide_v)
    return o, (residuals, k)


def distance(n, dtype):
    return -jnp.abs(jnp.arange(n)[:, None] - jnp.arange(n)).astype(dtype)


def alibi(q, k, v, slopes):
    return weights(q, k, slopes[:, None, None] * distance(q.shape[1], q.dtype)) @ v


def relative(q, k, v, table):
    """A bias for every difference of positions, from a table of 2 n - 1."""
    return weights(q, k, table[offsets(len(q))]) @ v


def offsets(n):
    return jnp.arange(n)[:, None] - jnp.arange(n) + n - 1


def rotate_half(x):
    a, b = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([-b, a], axis=-1)


def rotary(x, cos, sin):
    return x * cos + rotate_half(x) * sin


def features(x):
    """Positive features, elu + 1."""
    return jnp.where(x > 0, x + 1, jnp.exp(jnp.where(x > 0, 0, x)))


def feature_slopes(x):
    return jnp.exp(jnp.minimum(x, 0))


def linear_attention(q, k, v):
    a, b = features(q), features(k)
    return a @ (b.T @ v) / (a @ jnp.sum(b, 0))[:, None]


def causal_linear(q, k, v):
    """Without a normaliser: o_i = Σ_{j ≤ i} (q_i·k_j) v_j."""
    return jnp.einsum("id,ide->ie", q, jnp.cumsum(k[:, :, None] * v[:, None, :], axis=0))


def biased_back(q, k, v, p, o_bar):
    """The cotangents of queries, keys, values and of the bias, which is added after the scaling."""
    bias_bar = softmax_back(p, o_bar @ v.mT)
    return *attention_back(q, k, v, p, o_bar), bias_bar


# --- right -----------------------------------------------------------------------------------------------------------


@right(args="f32[4,3,2] f32[2,3,2] f32[2,3,2]")
def grouped_query_attention():
    """The cotangents of a key head are summed over the query heads that it serves."""

    def backward(residuals, o_bar):
        inner, k = residuals
        q_bar, k_bar, v_bar = attention_back(*inner, o_bar)
        gather = (len(k), -1, *k.shape[1:])
        return q_bar, jnp.sum(k_bar.reshape(gather), 1), jnp.sum(v_bar.reshape(gather), 1)

    return by_hand(grouped_attention, grouped_forward, backward)


@right(args="f32[2,4,3] f32[2,4,3] f32[2,4,3] f32[2]>0")
def alibi_with_learned_slopes():
    def backward(residuals, o_bar):
        q, k, v, slopes = residuals
        far = distance(q.shape[1], q.dtype)
        q_bar, k_bar, v_bar, bias_bar = biased_back(q, k, v, weights(q, k, slopes[:, None, None] * far), o_bar)
        return q_bar, k_bar, v_bar, jnp.sum(bias_bar * far, (1, 2))

    return by_hand(alibi, keeping(alibi), backward)


@right(args="f32[4,3] f32[4,3] f32[4,3] f32[7]")
def relative_bias_gathered():
    """An entry of the table serves a whole diagonal: its cotangents add."""

    def backward(residuals, o_bar):
        q, k, v, table = residuals
        *bars, bias_bar = biased_back(q, k, v, weights(q, k, table[offsets(len(q))]), o_bar)
        return *bars, jnp.zeros_like(table).at[offsets(len(q))].add(bias_bar)

    return by_hand(relative, keeping(relative), backward)


@right(args="f32[3,4] f32[3,4] f32[3,4]")
def rotary_embedding():
    """ȳ cos less the half-rotation of ȳ sin; the tables have cotangents too."""

    def backward(residuals, y_bar):
        x, cos, sin = residuals
        return y_bar * cos - rotate_half(y_bar * sin), y_bar * x, y_bar * rotate_half(x)

    return by_hand(rotary, keeping(rotary), backward)


@right(args="f32[4,3] f32[5,3] f32[5,2]")
def linear_attention_with_normaliser():
    def backward(residuals, o_bar):
        q, k, v = residuals
        a, b = features(q), features(k)
        z = (a @ jnp.sum(b, 0))[:, None]
        o = a @ (b.T @ v) / z
        scaled = o_bar / z
        z_bar = -jnp.sum(scaled * o, -1, keepdims=True)
        a_bar = scaled @ (b.T @ v).T + z_bar * jnp.sum(b, 0)
        b_bar = v @ (a.T @ scaled).T + jnp.sum(z_bar * a, 0)
        slope_a, slope_b = feature_slopes(q), feature_slopes(k)
        return a_bar * slope_a, b_bar * slope_b, b @ (a.T @ scaled)

    return by_hand(linear_attention, keeping(linear_attention), backward)


@right(args="f32[5,3] f32[5,3] f32[5,2]")
def causal_linear_attention_reversed():
    """Queries look back through a sum from the left, keys and values forward through a sum from the right."""

    def backward(residuals, o_bar):
        q, k, v = residuals
        past = jnp.cumsum(k[:, :, None] * v[:, None, :], axis=0)
        future = jnp.cumsum((q[:, :, None] * o_bar[:, None, :])[::-1], axis=0)[::-1]
        return (
            jnp.einsum("ie,ide->id", o_bar, past),
            jnp.einsum("jde,je->jd", future, v),
            jnp.einsum("jde,jd->je", future, k),
        )

    return by_hand(causal_linear, keeping(causal_linear), backward)


@right(args="f32[4,3] f32[5,3] f32[5,3]")
def sigmoid_attention():
    """No normaliser, so every score has its own slope."""

    def function(q, k, v):
        return jax.nn.sigmoid(q @ k.T * rooted(q)) @ v

    def backward(residuals, o_bar):
        q, k, v = residuals
        s = jax.nn.sigmoid(q @ k.T * rooted(q))
        scores_bar = s * (1 - s) * (o_bar @ v.T) * rooted(q)
        return scores_bar @ k, scores_bar.T @ q, s.T @ o_bar

    return by_hand(function, keeping(function), backward)


@right(args="f32[5,4] f32[4,4] f32[4,4]")
def attention_layer_around_a_kernel():
    """Ordinary projections and a residual connection around attention whose derivative is by hand."""
    kernel = by_hand(attention, attention_forward, lambda residuals, o_bar: attention_back(*residuals, o_bar))
    return lambda x, wq, wv: x + kernel(x @ wq, x, jnp.tanh(x @ wv))


# --- wrong -----------------------------------------------------------------------------------------------------------


@wrong("missing_sum", "located", args="f32[4,3,2] f32[2,3,2] f32[2,3,2]")
def grouped_query_last_head_wins():
    """Every query head of a group writes to the same key head; the last stays."""

    def backward(residuals, o_bar):
        inner, k = residuals
        q_bar, k_bar, v_bar = attention_back(*inner, o_bar)
        gather = (len(k), -1, *k.shape[1:])
        return q_bar, k_bar.reshape(gather)[:, -1], v_bar.reshape(gather)[:, -1]

    return by_hand(grouped_attention, grouped_forward, backward)


@wrong("permuted", "wrong_residual", "exchanged", args="f32[4,3,2] f32[2,3,2] f32[2,3,2]")
def grouped_query_heads_interleaved():
    """Neighbouring query heads share a key head; the backward pass sums every other one."""

    def backward(residuals, o_bar):
        inner, k = residuals
        q_bar, k_bar, v_bar = attention_back(*inner, o_bar)
        gather = (-1, *k.shape)
        return q_bar, jnp.sum(k_bar.reshape(gather), 0), jnp.sum(v_bar.reshape(gather), 0)

    return by_hand(grouped_attention, grouped_forward, backward)


@wrong("factor", args="f32[2,4,3] f32[2,4,3] f32[2,4,3] f32[2]>0")
def alibi_slopes_scaled():
    """The bias is added after the scaling by 1/√d, but its cotangent is taken before."""

    def backward(residuals, o_bar):
        q, k, v, slopes = residuals
        far = distance(q.shape[1], q.dtype)
        q_bar, k_bar, v_bar, bias_bar = biased_back(q, k, v, weights(q, k, slopes[:, None, None] * far), o_bar)
        return q_bar, k_bar, v_bar, jnp.sum(bias_bar * rooted(q) * far, (1, 2))

    return by_hand(alibi, keeping(alibi), backward)


@wrong("missing_sum", "located", args="f32[4,3] f32[4,3] f32[4,3] f32[4]")
def key_bias_last_query_wins():
    """A bias for every key, the same for all queries: the last query overwrites what the others left, as in
    flash-sparse-attention before pull request 194."""

    def function(q, k, v, bias):
        return weights(q, k, bias) @ v

    def backward(residuals, o_bar):
        q, k, v, bias = residuals
        *bars, bias_bar = biased_back(q, k, v, weights(q, k, bias), o_bar)
        return *bars, bias_bar[-1]

    return by_hand(function, keeping(function), backward)


@wrong("missing_sum", "located", args="f32[4,3] f32[4,3] f32[4,3] f32[7]")
def relative_bias_set_not_added():
    """Scattered with `set`: of all places that use an entry one is heard."""

    def backward(residuals, o_bar):
        q, k, v, table = residuals
        *bars, bias_bar = biased_back(q, k, v, weights(q, k, table[offsets(len(q))]), o_bar)
        return *bars, jnp.zeros_like(table).at[offsets(len(q))].set(bias_bar)

    return by_hand(relative, keeping(relative), backward)


@wrong("permuted", "located", args="f32[4,3] f32[4,3] f32[4,3] f32[7]")
def relative_bias_reversed():
    """The table is filled from its other end: i - j for j - i."""

    def backward(residuals, o_bar):
        q, k, v, table = residuals
        *bars, bias_bar = biased_back(q, k, v, weights(q, k, table[offsets(len(q))]), o_bar)
        return *bars, jnp.zeros_like(table).at[offsets(len(q)).T].add(bias_bar)

    return by_hand(relative, keeping(relative), backward)


@wrong("sign", "permuted", "local_derivative", args="f32[3,4] f32[3,4] f32[3,4]")
def rotary_turned_the_same_way():
    """The backward pass rotates forward once more: the part with the sine has the wrong sign."""

    def backward(residuals, y_bar):
        x, cos, sin = residuals
        return y_bar * cos + rotate_half(y_bar * sin), y_bar * x, y_bar * rotate_half(x)

    return by_hand(rotary, keeping(rotary), backward)


@wrong("permuted", "local_derivative", "wrong_residual", args="f32[3,4] f32[3,4] f32[3,4]")
def rotary_sine_outside():
    """The sine is multiplied after the half-rotation: right while its halves are equal (paddle pull request 74716)."""

    def backward(residuals, y_bar):
        x, cos, sin = residuals
        return y_bar * cos - rotate_half(y_bar) * sin, y_bar * x, y_bar * rotate_half(x)

    return by_hand(rotary, keeping(rotary), backward)


@wrong("missing_path", "missing_term", args="f32[4,3] f32[5,3] f32[5,2]")
def linear_attention_normaliser_held():
    """Queries and keys are used in the normaliser as well, which is held constant."""

    def backward(residuals, o_bar):
        q, k, v = residuals
        a, b = features(q), features(k)
        scaled = o_bar / (a @ jnp.sum(b, 0))[:, None]
        slope_a, slope_b = feature_slopes(q), feature_slopes(k)
        return scaled @ (b.T @ v).T * slope_a, v @ (a.T @ scaled).T * slope_b, b @ (a.T @ scaled)

    return by_hand(linear_attention, keeping(linear_attention), backward)


@wrong("permuted", "wrong_residual", "missing_sum", args="f32[5,3] f32[5,3] f32[5,2]")
def causal_linear_attention_sums_backwards():
    """Keys and values get a sum over the past where one over the future belongs."""

    def backward(residuals, o_bar):
        q, k, v = residuals
        past = jnp.cumsum(k[:, :, None] * v[:, None, :], axis=0)
        future = jnp.cumsum(q[:, :, None] * o_bar[:, None, :], axis=0)
        return (
            jnp.einsum("ie,ide->id", o_bar, past),
            jnp.einsum("jde,je->jd", future, v),
            jnp.einsum("jde,jd->je", future, k),
        )

    return by_hand(causal_linear, keeping(causal_linear), backward)


@wrong("missing_path", "dropped", "missing_term", args="f32[5,4] f32[4,4] f32[4,4]")
def attention_layer_keys_held():
    """A layer around a kernel that returns nothing for its keys: x loses one of its four roads."""

    def backward(residuals, o_bar):
        q_bar, k_bar, v_bar = attention_back(*residuals, o_bar)
        return q_bar, jnp.zeros_like(k_bar), v_bar

    kernel = by_hand(attention, attention_forward, backward)
    return lambda x, wq, wv: x + kernel(x @ wq, x, jnp.tanh(x @ wv))


@wrong("cancellation", "dtype", args="f32[5,4] f32[6,4] f32[6,3]")
def attention_weights_in_half():
    """Weights and scores' cotangent are cast to float16 before the products, whatever the arguments are."""

    def backward(residuals, o_bar):
        q, k, v, p = residuals
        half = p.astype(jnp.float16).astype(p.dtype)
        scores_bar = (softmax_back(p, o_bar @ v.T) * rooted(q)).astype(jnp.float16).astype(p.dtype)
        return scores_bar @ k, scores_bar.T @ q, half.T @ o_bar

    return by_hand(attention, attention_forward, backward)
