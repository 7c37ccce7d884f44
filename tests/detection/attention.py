"""Attention: plain, causal, masked, with dropout, with capped scores, in blocks as a kernel does it."""

import math

import jax
import jax.numpy as jnp
from jax import lax

from .case import by_hand, right, wrong
from .halves import keeping


def softmax(scores):
    e = jnp.exp(scores - jnp.max(scores, axis=-1, keepdims=True))
    return e / jnp.sum(e, axis=-1, keepdims=True)


def softmax_back(p, p_bar):
    return p * (p_bar - jnp.sum(p * p_bar, axis=-1, keepdims=True))


def rooted(q):
    return 1 / math.sqrt(q.shape[-1])


def weights(q, k, bias=0):
    return softmax(jnp.einsum("...id,...jd->...ij", q, k) * rooted(q) + bias)


def causal_mask(n, dtype):
    return jnp.where(jnp.tril(jnp.ones((n, n), bool)), 0, jnp.finfo(dtype).min / 2).astype(dtype)


def attention(q, k, v):
    return weights(q, k) @ v


def attention_forward(q, k, v):
    p = weights(q, k)
    return p @ v, (q, k, v, p)


def attention_back(q, k, v, p, o_bar):
    """The three cotangents and that of the scores before scaling."""
    scores_bar = softmax_back(p, o_bar @ v.mT) * rooted(q)
    return scores_bar @ k, scores_bar.mT @ q, p.mT @ o_bar


def causal_forward(q, k, v):
    p = weights(q, k, causal_mask(len(q), q.dtype))
    return p @ v, (q, k, v, p)


def causal_attention(q, k, v):
    return causal_forward(q, k, v)[0]


def flash(q, k, v, block):
    """Attention over blocks of keys, with a running maximum and sum, as a kernel would do it."""
    return flash_sweep(q, k, v, block)[0]


def in_blocks(x, block):
    return jnp.pad(x, ((0, -len(x) % block), (0, 0))).reshape(-1, block, x.shape[-1])


def flash_sweep(q, k, v, block):
    def step(carry, blocks):
        o, m, z = carry
        keys, values, start = blocks
        inside = start + jnp.arange(block) < len(k)
        scores = jnp.where(inside, q @ keys.T * rooted(q), jnp.finfo(q.dtype).min / 2)
        m_new = jnp.maximum(m, jnp.max(scores, axis=-1))
        e = jnp.where(inside, jnp.exp(scores - m_new[:, None]), 0)
        shrink = jnp.exp(m - m_new)
        return (o * shrink[:, None] + e @ values, m_new, z * shrink + jnp.sum(e, -1)), None

    starts = jnp.arange(0, len(k), block)
    row = q[:, 0]
    first = (jnp.zeros_like(row[:, None] * v[0]), jnp.full_like(row, jnp.finfo(q.dtype).min / 2), jnp.zeros_like(row))
    (o, m, z), _ = lax.scan(step, first, (in_blocks(k, block), in_blocks(v, block), starts))
    return o / z[:, None], (m, z)


def flash_forward(q, k, v, block):
    o, sums = flash_sweep(q, k, v, block)
    return o, (q, k, v, o, sums)


def weights_of_block(q, keys, start, sums, length):
    m, z = sums
    inside = start + jnp.arange(len(keys)) < length
    return jnp.exp(jnp.where(inside, q @ keys.T * rooted(q) - m[:, None], -jnp.inf)) / z[:, None]


def flash_back(q, k, v, o, sums, o_bar, block):
    """Blocks of keys again: their cotangents are put together, that of the queries is a sum."""
    delta = jnp.sum(o * o_bar, axis=-1, keepdims=True)

    def step(q_bar, blocks):
        keys, values, start = blocks
        p = weights_of_block(q, keys, start, sums, len(k))
        scores_bar = p * (o_bar @ values.T - delta) * rooted(q)
        return q_bar + scores_bar @ keys, (scores_bar.T @ q, p.T @ o_bar)

    starts = jnp.arange(0, len(k), block)
    q_bar, (k_bar, v_bar) = lax.scan(step, jnp.zeros_like(q), (in_blocks(k, block), in_blocks(v, block), starts))
    return q_bar, k_bar.reshape(-1, k.shape[-1])[: len(k)], v_bar.reshape(-1, v.shape[-1])[: len(v)]


def capped(q, k, v):
    """The scores pass 5 tanh(·/5) before the softmax."""
    return softmax(5 * jnp.tanh(q @ k.T * rooted(q) / 5)) @ v


def dropped_attention(q, k, v, key):
    p = weights(q, k)
    return jnp.where(jax.random.bernoulli(key, 0.8, p.shape), p / 0.8, 0) @ v


def masked_attention(q, k, v, mask):
    """Positions that the mask takes away get no weight; a query without any left gives zero."""
    scores = jnp.where(mask, q @ k.T * rooted(q), jnp.finfo(q.dtype).min / 2)
    return softmax(scores) * mask @ v


# --- right -----------------------------------------------------------------------------------------------------------


@right(args="f32[5,4] f32[6,4] f32[6,3]")
def attention_from_its_weights():
    return by_hand(attention, attention_forward, lambda residuals, o_bar: attention_back(*residuals, o_bar))


@right(args="f32[2,3,4] (f32[2,5,4], f32[2,5,4])")
def cross_attention_computed_again():
    """Keys and values come as a pair; the weights are computed again in the backward pass."""

    def function(q, memory):
        return attention(q, *memory)

    def backward(residuals, o_bar):
        q, (k, v) = residuals
        q_bar, k_bar, v_bar = attention_back(q, k, v, weights(q, k), o_bar)
        return q_bar, (k_bar, v_bar)

    return by_hand(function, keeping(function), backward)


@right(args="f32[6,4] f32[6,4] f32[6,4]")
def causal_attention_from_its_weights():
    """The weights are zero where the mask is, so the mask is not needed again."""
    return by_hand(causal_attention, causal_forward, lambda residuals, o_bar: attention_back(*residuals, o_bar))


@right(args="f32[4,8] f32[8,8] f32[8,8] 4")
def flash_attention():
    """The output, and the maximum and the sum of every row are kept, but no weights."""

    def backward(block, residuals, o_bar):
        return flash_back(*residuals, o_bar, block)

    return by_hand(flash, flash_forward, backward, nondiff_argnums=(3,))


@right(args="f32[3,4] f32[7,4] f32[7,2] 3")
def flash_attention_with_a_rest():
    """Seven keys in blocks of three against plain attention: the last block is padded, and masked in both halves."""

    def definition(q, k, v, block):
        return attention(q, k, v)

    def backward(block, residuals, o_bar):
        return flash_back(*residuals, o_bar, block)

    return by_hand(definition, flash_forward, backward, nondiff_argnums=(3,))


@right(args="f32[4,3] f32[5,3] f32[5,3]")
def attention_with_capped_scores():
    def backward(residuals, o_bar):
        q, k, v = residuals
        t = jnp.tanh(q @ k.T * rooted(q) / 5)
        p = softmax(5 * t)
        scores_bar = softmax_back(p, o_bar @ v.T) * (1 - t) * (1 + t) * rooted(q)
        return scores_bar @ k, scores_bar.T @ q, p.T @ o_bar

    return by_hand(capped, keeping(capped), backward)


@right(args="f32[4,3] f32[5,3] f32[5,3] key")
def attention_with_dropout():
    """The mask is drawn again from the key."""

    def backward(residuals, o_bar):
        q, k, v, key = residuals
        p = weights(q, k)
        kept = jax.random.bernoulli(key, 0.8, p.shape)
        scores_bar = softmax_back(p, jnp.where(kept, o_bar @ v.T / 0.8, 0)) * rooted(q)
        return scores_bar @ k, scores_bar.T @ q, jnp.where(kept, p / 0.8, 0).T @ o_bar, None

    return by_hand(dropped_attention, keeping(dropped_attention), backward)


@right(args="f32[4,3] f32[5,3] f32[5,3] bool[4,5]")
def masked_attention_with_empty_rows():
    """Queries without any place left give zero and get zero."""

    def backward(residuals, o_bar):
        q, k, v, mask = residuals
        p = softmax(jnp.where(mask, q @ k.T * rooted(q), jnp.finfo(q.dtype).min / 2)) * mask
        return *attention_back(q, k, v, p, o_bar), None

    return by_hand(masked_attention, keeping(masked_attention), backward)


# --- wrong -----------------------------------------------------------------------------------------------------------


@wrong("factor", args="f32[5,4] f32[6,4] f32[6,3]")
def attention_scale_missing_in_queries():
    """1/√d is in the cotangent of the keys but not in that of the queries."""

    def backward(residuals, o_bar):
        _, k, v, p = residuals
        _, k_bar, v_bar = attention_back(*residuals, o_bar)
        return softmax_back(p, o_bar @ v.T) @ k, k_bar, v_bar

    return by_hand(attention, attention_forward, backward)


@wrong("factor", args="f32[5,4] f32[6,4] f32[6,3]")
def attention_scale_twice_in_keys():
    """The kept queries are scaled already, and the scores' cotangent once more."""

    def backward(residuals, o_bar):
        q_bar, k_bar, v_bar = attention_back(*residuals, o_bar)
        return q_bar, rooted(residuals[0]) * k_bar, v_bar

    return by_hand(attention, attention_forward, backward)


@wrong("exchanged", args="f32[5,4] f32[5,4] f32[5,4]")
def attention_queries_and_keys_exchanged():
    """The cotangents of queries and keys are returned in each other's place."""

    def backward(residuals, o_bar):
        q_bar, k_bar, v_bar = attention_back(*residuals, o_bar)
        return k_bar, q_bar, v_bar

    return by_hand(attention, attention_forward, backward)


@wrong("missing_term", "missing_path", args="f32[5,4] f32[6,4] f32[6,3]")
def attention_delta_forgotten():
    """The row sum that flash attention calls delta is not subtracted."""

    def backward(residuals, o_bar):
        q, k, v, p = residuals
        scores_bar = p * (o_bar @ v.T) * rooted(q)
        return scores_bar @ k, scores_bar.T @ q, p.T @ o_bar

    return by_hand(attention, attention_forward, backward)


@wrong("permuted", args="f32[5,4] f32[5,4] f32[5,4]")
def attention_values_not_transposed():
    """P ō instead of Pᵀ ō: the shapes agree when there are as many keys as queries."""

    def backward(residuals, o_bar):
        q_bar, k_bar, _ = attention_back(*residuals, o_bar)
        return q_bar, k_bar, residuals[3] @ o_bar

    return by_hand(attention, attention_forward, backward)


@wrong("nonlinear", "values", args="f32[5,4] f32[6,4] f32[6,3]")
def attention_scores_cotangent_clipped():
    """The cotangent of the scores is clipped to [-1/20, 1/20] for stability."""

    def backward(residuals, o_bar):
        q, k, v, p = residuals
        scores_bar = jnp.clip(softmax_back(p, o_bar @ v.T), -0.05, 0.05) * rooted(q)
        return scores_bar @ k, scores_bar.T @ q, p.T @ o_bar

    return by_hand(attention, attention_forward, backward)


@wrong("wrong_residual", "located", "local_derivative", args="f32[6,4] f32[6,4] f32[6,4]")
def causal_mask_strict_backward():
    """Computed again with j < i where the forward pass has j <= i: the diagonal is lost."""

    def backward(residuals, o_bar):
        q, k, v = residuals
        p = weights(q, k, causal_mask(len(q), q.dtype))
        return attention_back(q, k, v, jnp.tril(p, -1), o_bar)

    return by_hand(causal_attention, keeping(causal_attention), backward)


@wrong("wrong_residual", "located", "local_derivative", "missing_path", args="f32[6,4] f32[6,4] f32[6,4] False")
def causal_backward_always():
    """An option `causal`, heard in the forward pass alone (the symptom of triton issue 5660)."""

    def function(q, k, v, causal):
        return (causal_attention if causal else attention)(q, k, v)

    def forward(q, k, v, causal):
        return function(q, k, v, causal), causal_forward(q, k, v)[1]

    def backward(causal, residuals, o_bar):
        return attention_back(*residuals, o_bar)

    return by_hand(function, forward, backward, nondiff_argnums=(3,))


@wrong("shape", "located", "dropped", "missing_path", args="f32[3,4] f32[7,4] f32[7,2] 3")
def flash_last_block_dropped():
    """The backward pass visits 7 // 3 blocks: the last key and value get nothing, the queries too little."""

    def backward(block, residuals, o_bar):
        q, k, v, o, sums = residuals
        whole = len(k) // block * block
        q_bar, k_bar, v_bar = flash_back(q, k[:whole], v[:whole], o, sums, o_bar, block)
        rest = ((0, len(k) - whole), (0, 0))
        return q_bar, jnp.pad(k_bar, rest), jnp.pad(v_bar, rest)

    return by_hand(flash, flash_forward, backward, nondiff_argnums=(3,))


@wrong("wrong_residual", "values", "not_finite", "local_derivative", args="f32[4,8] f32[8,8] f32[8,8] 4")
def flash_normaliser_of_the_first_block():
    """Maximum and sum are kept before the last block has been added."""

    def forward(q, k, v, block):
        o, (_, stale) = flash(q, k, v, block), flash_sweep(q, k[:block], v[:block], block)
        return o, (q, k, v, o, stale)

    def backward(block, residuals, o_bar):
        return flash_back(*residuals, o_bar, block)

    return by_hand(flash, forward, backward, nondiff_argnums=(3,))


@wrong("wrong_residual", "missing_term", "local_derivative", "nonlinear", args="f32[4,8] f32[8,8] f32[8,8] 4")
def flash_delta_of_the_cotangent():
    """delta is Σ ō² instead of Σ o ō."""

    def backward(block, residuals, o_bar):
        q, k, v, _, sums = residuals
        return flash_back(q, k, v, o_bar, sums, o_bar, block)

    return by_hand(flash, flash_forward, backward, nondiff_argnums=(3,))


@wrong("local_derivative", "missing_term", args="f32[4,3] f32[5,3] f32[5,3]")
def capped_scores_slope_forgotten():
    """The cap is applied to the scores, its slope not to their cotangent."""

    def backward(residuals, o_bar):
        q, k, v = residuals
        return attention_back(q, k, v, softmax(5 * jnp.tanh(q @ k.T * rooted(q) / 5)), o_bar)

    return by_hand(capped, keeping(capped), backward)


@wrong("wrong_residual", "missing_term", "local_derivative", args="f32[4,3] f32[5,3] f32[5,3] key")
def attention_dropout_forgotten_backward():
    """The backward pass knows nothing of the dropout."""

    def backward(residuals, o_bar):
        q, k, v, _ = residuals
        return *attention_back(q, k, v, weights(q, k), o_bar), None

    return by_hand(dropped_attention, keeping(dropped_attention), backward)


@wrong("not_finite", "values", args="f32[4,3] f32[5,3] f32[5,3] bool[4,5]")
def masked_attention_nan():
    """Minus infinity under the mask: a query with nothing left divides zero by zero in the backward pass."""

    def backward(residuals, o_bar):
        q, k, v, mask = residuals
        scores = jnp.where(mask, q @ k.T * rooted(q), -jnp.inf)
        e = jnp.exp(scores - jnp.max(scores, -1, keepdims=True))
        return *attention_back(q, k, v, e / jnp.sum(e, -1, keepdims=True), o_bar), None

    return by_hand(masked_attention, keeping(masked_attention), backward)
