"""Wrong gradients that were shipped, of attention: windows, unequal lengths, masks, dropout, grouped heads, blocks."""

import jax
import jax.numpy as jnp
from jax import lax

from .attention import attention_back, rooted, softmax, softmax_back
from .case import by_hand, right, wrong
from .halves import keeping

NOTHING = -1e9  # added to a score that is masked


def scores(q, k, allowed):
    return jnp.where(allowed, q @ k.mT * rooted(q), NOTHING)


def masked_case(allowed, back=None):
    """Attention under a mask made from the lengths; the backward pass may have one of its own."""
    back = back or allowed

    def function(q, k, v):
        return softmax(scores(q, k, allowed(len(q), len(k)))) @ v

    def backward(saved, o_bar):
        q, k, v = saved
        p = softmax(scores(q, k, back(len(q), len(k))))
        return attention_back(q, k, v, p, o_bar)

    return by_hand(function, keeping(function), backward)


def places(n, m):
    return jnp.arange(n)[:, None], jnp.arange(m)


def window(n, m):
    """Each query sees itself and two places on either side."""
    i, j = places(n, m)
    return jnp.abs(i - j) <= 2


def causal(n, m):
    """The last query sees all keys, whatever the lengths are."""
    i, j = places(n, m)
    return j <= i + m - n


@right(args="f32[7,3] f32[7,3] f32[7,3]")
def attention_in_a_window():
    return masked_case(window)


@wrong("located", "wrong_residual", "missing_path", "values", args="f32[7,3] f32[7,3] f32[7,3]")
def attention_window_one_short():
    """The backward pass has one place less on the left.  Source: Dao-AILab/flash-attention issue 1133."""

    def shorter(n, m):
        i, j = places(n, m)
        return (j >= i - 1) & (j <= i + 2)

    return masked_case(window, shorter)


@wrong("shape", "located", "wrong_residual", "values", args="f32[8,3] f32[8,3] f32[8,3]")
def attention_window_forgotten_backward():
    """The window is wider than the example and unknown to the backward pass.  Source: ROCm/aiter pull 3742."""

    def wide(n, m):
        i, j = places(n, m)
        return jnp.abs(i - j) <= 16

    return masked_case(wide, lambda n, m: jnp.ones((n, m), bool))


@right(args="f32[5,3] f32[5,3] f32[5,3]")
def attention_causal_at_the_end():
    """A query before all keys sees none of them, and then all alike."""

    def backward(saved, o_bar):
        q, k, v = saved
        allowed = causal(len(q), len(k))
        p = softmax(scores(q, k, allowed))
        bar = jnp.where(allowed, softmax_back(p, o_bar @ v.mT) * rooted(q), 0)
        return bar @ k, bar.mT @ q, p.mT @ o_bar

    def function(q, k, v):
        return softmax(scores(q, k, causal(len(q), len(k)))) @ v

    return by_hand(function, keeping(function), backward)


@wrong("shape", "located", "wrong_residual", "values", args="f32[5,3] f32[5,3] f32[5,3]")
def attention_causal_from_the_start():
    """Forward aligns the mask with the last key, backward with the first; the example has as many queries as keys.

    Source: Dao-AILab/flash-attention pull 436.
    """
    return masked_case(causal, lambda n, m: places(n, m)[1] <= places(n, m)[0])


@wrong("shape", "located", "wrong_residual", "values", args="f32[5,4] f32[6,4] f32[6,4]")
def attention_values_cut_to_the_size_of_keys():
    """The values are read as far as queries are wide; the example has both of one width.

    Source: XunhaoLai/native-sparse-attention-triton issue 27.
    """

    def function(q, k, v):
        return softmax(q @ k.mT * rooted(q)) @ v

    def backward(saved, o_bar):
        q, k, v = saved
        p = softmax(q @ k.mT * rooted(q))
        width = q.shape[-1]
        bar = softmax_back(p, o_bar[..., :width] @ v[..., :width].mT) * rooted(q)
        return bar @ k, bar.mT @ q, p.mT @ o_bar

    return by_hand(function, keeping(function), backward)


def grouped(q, k, v):
    """Heads, places, width: query head h reads key head h mod the number of key heads."""
    times = len(q) // len(k)
    return softmax(q @ jnp.tile(k, (times, 1, 1)).mT * rooted(q)) @ jnp.tile(v, (times, 1, 1))


def grouped_case(collect):
    def backward(saved, o_bar):
        q, k, v = saved
        times = len(q) // len(k)
        many = jnp.tile(k, (times, 1, 1)), jnp.tile(v, (times, 1, 1))
        p = softmax(q @ many[0].mT * rooted(q))
        q_bar, k_bar, v_bar = attention_back(q, *many, p, o_bar)
        return q_bar, collect(k_bar, len(k)), collect(v_bar, len(v))

    return by_hand(grouped, keeping(grouped), backward)


@right(args="f32[4,3,2] f32[2,3,2] f32[2,3,2]")
def grouped_heads_interleaved():
    return grouped_case(lambda bar, heads: bar.reshape(-1, heads, *bar.shape[1:]).sum(0))


@wrong("permuted", "located", "wrong_residual", "values", "missing_path", args="f32[6,3,2] f32[2,3,2] f32[2,3,2]")
def grouped_heads_split_by_the_share():
    """The head is divided by the share where it is divided by the heads.

    Right for as many groups as members.  Source: XunhaoLai/native-sparse-attention-triton issue 27.
    """

    def collect(bar, heads):
        share = len(bar) // heads
        out = jnp.zeros((heads, *bar.shape[1:]), bar.dtype)
        return out.at[jnp.arange(len(bar)) % share].add(bar, mode="drop")

    return grouped_case(collect)


# --- dropout and masks -----------------------------------------------------------------------------------------------


def dropped(q, k, v, key):
    p = softmax(q @ k.mT * rooted(q))
    return jnp.where(jax.random.bernoulli(key, 0.8, p.shape), p / 0.8, 0) @ v


def dropped_case(back):
    def backward(saved, o_bar):
        q, k, v, key = saved
        p = softmax(q @ k.mT * rooted(q))
        kept = jax.random.bernoulli(key, 0.8, p.shape)
        p_bar, delta = back(jnp.where(kept, p / 0.8, 0), kept, o_bar, v)
        bar = p * (p_bar - delta) * rooted(q)
        return bar @ k, bar.mT @ q, jnp.where(kept, p / 0.8, 0).mT @ o_bar, None

    return by_hand(dropped, keeping(dropped), backward)


@right(args="f32[5,3] f32[6,3] f32[6,3] key")
def attention_dropout_in_the_sum():
    """Σ o ō is the row sum after dropout too, for the output holds what dropout left."""

    def back(left, kept, o_bar, v):
        return jnp.where(kept, o_bar @ v.mT / 0.8, 0), jnp.sum((left @ v) * o_bar, -1, keepdims=True)

    return dropped_case(back)


@wrong("local_derivative", "located", "missing_term", "factor", args="f32[5,3] f32[6,3] f32[6,3] key")
def attention_dropout_scales_by_the_rate():
    """The kept weights' cotangents are multiplied by the rate.  Source: NVIDIA/apex pull 816."""

    def back(left, kept, o_bar, v):
        return jnp.where(kept, o_bar @ v.mT * 0.2, 0), jnp.sum((left @ v) * o_bar, -1, keepdims=True)

    return dropped_case(back)


@wrong("local_derivative", "located", "missing_term", "not_finite", args="f32[4,3] f32[5,3] f32[5,3] bool[4,5]")
def attention_masked_rows_not_a_number():
    """A query that may see nothing gets nothing, and NaN on the way back.  Source: pytorch issue 178251."""

    def weights(q, k, mask):
        return jnp.exp(q @ k.mT * rooted(q)) * mask

    def function(q, k, v, mask):
        e = weights(q, k, mask)
        total = e.sum(-1, keepdims=True)
        return e / jnp.where(total > 0, total, 1) @ v

    def backward(saved, o_bar):
        q, k, v, mask = saved
        e = weights(q, k, mask)
        p = e / e.sum(-1, keepdims=True)
        return *attention_back(q, k, v, p, o_bar), None

    return by_hand(function, keeping(function), backward)


@wrong(
    "local_derivative", "located", "missing_term", "values", "wrong_residual", args="f32[4,3] f32[5,3] f32[5,3] bool[5]"
)
def attention_padded_keys_learn():
    """Keys that are padding get no weight and still a cotangent, made from scores that nobody masked.

    Source: flagos-ai/FlagAttention issue 25.
    """

    def function(q, k, v, mask):
        return softmax(jnp.where(mask, q @ k.mT * rooted(q), NOTHING)) @ v

    def backward(saved, o_bar):
        q, k, v, _ = saved
        p = softmax(q @ k.mT * rooted(q))
        return *attention_back(q, k, v, p, o_bar), None

    return by_hand(function, keeping(function), backward)


# --- linear attention and scans --------------------------------------------------------------------------------------


def decayed(q, k, v, gate):
    """A state of outer products k vᵀ, decayed by a gate if there is one, read by q."""

    def step(state, row):
        q, k, v, decay = row
        state = state * decay + jnp.outer(k, v)
        return state, q @ state

    start = jnp.zeros((k.shape[-1], v.shape[-1]), q.dtype)
    return lax.scan(step, start, (q, k, v, jnp.ones(len(q), q.dtype) if gate is None else gate))[1]


def decayed_case(value_bar):
    def backward(gate, saved, o_bar):
        q, k, v = saved
        lower = jnp.tril(jnp.ones((len(q), len(q)), q.dtype))
        s = lower * (q @ k.T)
        s_bar = lower * (o_bar @ v.T)
        return s_bar @ k, s_bar.T @ q, value_bar(s, q @ k.T, o_bar)

    return by_hand(decayed, lambda q, k, v, gate: (decayed(q, k, v, gate), (q, k, v)), backward, (3,))


@right(args="f32[5,3] f32[5,3] f32[5,2] None")
def linear_attention_without_a_gate():
    return decayed_case(lambda s, full, o_bar: s.T @ o_bar)


@wrong("located", "wrong_residual", "missing_term", "values", args="f32[5,3] f32[5,3] f32[5,2] None")
def linear_attention_ungated_values_see_the_future():
    """Where there is no gate, the branch that masked the scores is not taken.

    Source: fla-org/flash-linear-attention pulls 6 and 863.
    """
    return decayed_case(lambda s, full, o_bar: full.T @ o_bar)


def blocked(q, k, v, block):
    return softmax(q @ k.mT * rooted(q)) @ v


@wrong("shape", "located", "missing_path", "values", args="f32[8,3] f32[8,3] f32[8,3] 16")
def attention_keys_of_the_first_block():
    """Backward visits one block of sixteen keys, which holds the whole example.

    Source: the block sizes of jax pull 25647.
    """

    def forward(q, k, v, block):
        return blocked(q, k, v, block), (q, k, v)

    def backward(block, saved, o_bar):
        q, k, v = saved
        p = softmax(q @ k.mT * rooted(q))
        q_bar, k_bar, v_bar = attention_back(q, k, v, p, o_bar)
        near = (jnp.arange(len(k)) < block)[:, None]
        return q_bar, jnp.where(near, k_bar, 0), jnp.where(near, v_bar, 0)

    return by_hand(blocked, forward, backward, nondiff_argnums=(3,))
