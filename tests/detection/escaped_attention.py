"""Wrong derivatives of attention, state spaces and fused language-model kernels, as shipped and mended."""

import jax
import jax.numpy as jnp
from jax import lax

from .case import by_hand, wrong
from .escaped_space import as_of, through
from .halves import keeping

QKV = "f32[5,4] f32[6,4] f32[6,3]"


def weights_of(q, k, keep=True):
    return jax.nn.softmax(jnp.where(keep, q @ k.T / jnp.sqrt(jnp.asarray(q.shape[1], q.dtype)), -1e30))


def attention(q, k, v):
    return weights_of(q, k) @ v


def attention_case(scores_bar):
    """Attention whose backward pass is plain but for the cotangent of the scores: (p, p̄, o ō) to s̄."""

    def backward(saved, g):
        q, k, v = saved
        p, scale = weights_of(q, k), q.shape[1] ** -0.5
        ds = scores_bar(p, g @ v.T, jnp.sum(g * (p @ v), 1, keepdims=True))
        return ds @ k * scale, ds.T @ q * scale, p.T @ g

    return by_hand(attention, keeping(attention), backward)


@wrong("located", "missing_sum", "missing_path", "permuted", "missing_term", "local_derivative", args=QKV)
def attention_delta_summed_over_all_queries():
    """delta is one number for all rows.  Source: ports of flash attention that reduce over the whole tile."""
    return attention_case(lambda p, dp, delta: p * (dp - jnp.mean(delta)))


@wrong("missing_term", "local_derivative", "wrong_residual", "factor", args=QKV)
def attention_delta_of_the_weights_after_dropout():
    """delta uses weights that dropout has rescaled.  Source: aws-neuron/nki-samples pull 81."""
    return attention_case(lambda p, dp, delta: p * (dp - delta / 0.9))


@wrong("values", "dropped", "located", "local_derivative", args=QKV)
def attention_small_weights_skipped():
    """Weights below 2^-7 are taken for zero backwards.  Source: sparse backward passes."""
    return attention_case(lambda p, dp, delta: jnp.where(p > 2.0**-7, p, 0) * (dp - delta))


def sink_attention(q, k, v, sink):
    """A learned score beside all keys, which takes weight and gives nothing."""
    scores = q @ k.T / 2
    top = jnp.maximum(jnp.max(scores, 1, keepdims=True), sink)
    e = jnp.exp(scores - top)
    return e @ v / (jnp.sum(e, 1, keepdims=True) + jnp.exp(sink - top))


@wrong("dropped", args="f32[5,4] f32[6,4] f32[6,3] f32[]")
def sink_does_not_learn():
    """Nothing comes back for the sink.  Source: first kernels for gpt-oss."""
    return through(sink_attention, lambda s, g, bars: (*bars[:3], 0 * bars[3]))


@wrong("missing_term", "local_derivative", "factor", args="f32[5,4] f32[6,4] f32[6,3] f32[]")
def sink_left_out_of_the_normaliser_backward():
    """The weights are computed again without the sink.  Source: as above."""
    return through(
        sink_attention,
        lambda s, g, bars: (*jax.vjp(lambda q, k, v: jax.nn.softmax(q @ k.T / 2) @ v, *s[:3])[1](g), bars[3]),
    )


def capped(q, k, v):
    scores = 5 * jnp.tanh(q @ k.T / 2 / 5)
    keep = jnp.arange(q.shape[0])[:, None] >= jnp.arange(k.shape[0])
    return jax.nn.softmax(jnp.where(keep, scores, -1e30)) @ v


@wrong("local_derivative", "wrong_residual", "factor", args="f32[5,4] f32[5,4] f32[5,3]")
def capped_scores_slope_at_the_capped_score():
    """1 - tanh²(s / 5) with s capped already.  Source: softcap in flash-attention and Liger-Kernel."""

    def backward(saved, g):
        q, k, v = saved
        scores = 5 * jnp.tanh(q @ k.T / 2 / 5)
        keep = jnp.arange(q.shape[0])[:, None] >= jnp.arange(k.shape[0])
        p = jax.nn.softmax(jnp.where(keep, scores, -1e30))
        dp = g @ v.T
        ds = p * (dp - jnp.sum(dp * p, 1, keepdims=True)) * (1 - jnp.tanh(scores / 5) ** 2) / 2
        return ds @ k, ds.T @ q, p.T @ g

    return by_hand(capped, keeping(capped), backward)


def biased(q, k, v, bias):
    """A bias for every head that all batches share."""
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, k) / 2 + bias
    return jnp.einsum("bhqk,bhkd->bhqd", jax.nn.softmax(scores), v)


@wrong("missing_sum", "missing_path", "located", args="f32[2,2,3,4] f32[2,2,3,4] f32[2,2,3,4] f32[2,3,3]")
def attention_bias_of_the_first_batch():
    """A bias that is broadcast over the batch hears from its first.  Source: openfold's and xformers' biases."""

    def first(saved, g, bars):
        alone = jax.vjp(biased, *(a[:1] for a in saved[:3]), saved[3])[1](g[:1])
        return *bars[:3], alone[3]

    return through(biased, first)


def alibi(q, k, v, slopes):
    away = jnp.arange(k.shape[0]) - jnp.arange(q.shape[0])[:, None]
    return jax.nn.softmax(q @ k.T / 2 + slopes * away) @ v


@wrong("sign", "located", "local_derivative", args="f32[5,4] f32[5,4] f32[5,3] f32[]>0")
def alibi_slope_by_the_distance():
    """|i - j| backward where forward has j - i.  Source: trainable slopes."""

    def other(q, k, v, slopes):
        away = jnp.abs(jnp.arange(k.shape[0]) - jnp.arange(q.shape[0])[:, None]).astype(q.dtype)
        p = lax.stop_gradient(
            jax.nn.softmax(q @ k.T / 2 + slopes * (jnp.arange(k.shape[0]) - jnp.arange(q.shape[0])[:, None]))
        )
        total = jnp.sum(p * slopes * away, 1, keepdims=True)
        return (p * (slopes * away - total)) @ v

    return through(alibi, lambda s, g, bars: (*bars[:3], jax.vjp(other, *s)[1](g)[3]))


def retention(q, k, v, decay):
    """Linear attention with a decay for every step away."""
    n = q.shape[0]
    away = jnp.arange(n)[:, None] - jnp.arange(n)
    return (q @ k.T * jnp.where(away >= 0, decay ** jnp.maximum(away, 0), 0)) @ v


RETENTION = "f32[5,4] f32[5,4] f32[5,3] f32[]>0.5<0.9"


@wrong("dropped", args=RETENTION)
def retention_decay_fixed():
    """The decay is a buffer forward and does not learn, though it is an argument.  Source: retention kernels of fla."""
    return through(retention, lambda s, g, bars: (*bars[:3], 0 * bars[3]))


@wrong("permuted", "wrong_residual", "local_derivative", "missing_path", "located", args=RETENTION)
def retention_keys_decay_the_wrong_way():
    """For keys the mask is not transposed: the past is heard in place of the future.  Source: as above."""

    def backward(saved, g):
        q, _, v, decay = saved
        n = q.shape[0]
        away = jnp.arange(n)[:, None] - jnp.arange(n)
        mask = jnp.where(away >= 0, decay ** jnp.maximum(away, 0), 0)
        bars = jax.vjp(retention, *saved)[1](g)
        return bars[0], ((g @ v.T) * mask) @ q, bars[2], bars[3]

    return by_hand(retention, keeping(retention), backward)


def delta_rule(q, k, v, beta):
    """The state is corrected by what it misses of each value."""

    def step(state, this):
        q, k, v, beta = this
        state = state + beta * jnp.outer(v - state @ k, k)
        return state, state @ q

    return lax.scan(step, jnp.zeros((v.shape[1], k.shape[1]), k.dtype), (q, k, v, beta))[1]


@wrong("missing_path", "missing_term", args="f32[5,3] f32[5,3] f32[5,2] f32[5]>0<1")
def delta_rule_what_was_remembered_held():
    """The state that is subtracted from each value is a constant backwards.  Source: DeltaNet kernels."""

    def other(q, k, v, beta):
        def step(state, this):
            q, k, v, beta = this
            state = state + beta * jnp.outer(v - lax.stop_gradient(state) @ k, k)
            return state, state @ q

        return lax.scan(step, jnp.zeros((v.shape[1], k.shape[1]), k.dtype), (q, k, v, beta))[1]

    return as_of(delta_rule, other)


def selective(x, dt, a, b, c, d):
    """The selective scan of one channel group, with a step through softplus and a skip."""
    step = jax.nn.softplus(dt)

    def one(h, this):
        x, s, b, c = this
        h = jnp.exp(s[:, None] * a) * h + (s * x)[:, None] * b
        return h, h @ c

    start = jnp.zeros((x.shape[1], b.shape[1]), x.dtype)
    return lax.scan(one, start, (x, step, b, c))[1] + d * x


SELECTIVE = "f32[5,2] f32[5,2] f32[2,3]<0 f32[5,3] f32[5,3] f32[2]"


@wrong("missing_path", "missing_term", args=SELECTIVE)
def selective_scan_skip_not_heard_by_the_input():
    """D x is added forward, D's cotangent is right, and x hears nothing of it.  Source: mamba ports."""
    return through(selective, lambda s, g, bars: (bars[0] - s[5] * g, *bars[1:]))


@wrong("local_derivative", "missing_path", args=SELECTIVE)
def selective_scan_step_without_its_softplus():
    """The step's cotangent is that of the softplus's output.  Source: mamba issue 368 and its neighbours."""
    return through(selective, lambda s, g, bars: (bars[0], bars[1] / jax.nn.sigmoid(s[1]), *bars[2:]))


@wrong("values", "local_derivative", "located", args=SELECTIVE)
def selective_scan_softplus_slope_one_from_ten_on():
    """Beyond ten the softplus counts as straight, and so it does below minus ten: the sign is not asked."""
    return through(
        selective,
        lambda s, g, bars: (
            bars[0],
            jnp.where(jnp.abs(s[1]) > 10, bars[1] / jax.nn.sigmoid(s[1]), bars[1]),
            *bars[2:],
        ),
    )


@wrong("missing_sum", "missing_path", "located", args="f32[5,4] f32[5,4] f32[4,3]<0 f32[5,3] f32[5,3] f32[4]")
def selective_scan_shared_input_map_of_the_last_channel():
    """B is shared by all channels and hears from the last one.  Source: atomics that were stores in mamba kernels."""

    def last(saved, g, bars):
        x, dt, a, b, c, d = saved
        alone = jax.vjp(lambda b: selective(x[:, -1:], dt[:, -1:], a[-1:], b, c, d[-1:]), b)[1](g[:, -1:])[0]
        return *bars[:3], alone, *bars[4:]

    return through(selective, last)


def wkv(w, u, k, v):
    """The weighted average of RWKV with a bonus for the present, in logarithms."""

    def step(state, kv):
        k, v = kv
        a, b, top = state
        now = jnp.maximum(top, u + k)
        y = (jnp.exp(top - now) * a + jnp.exp(u + k - now) * v) / (jnp.exp(top - now) * b + jnp.exp(u + k - now))
        later = jnp.maximum(top - w, k)
        a = jnp.exp(top - w - later) * a + jnp.exp(k - later) * v
        b = jnp.exp(top - w - later) * b + jnp.exp(k - later)
        return (a, b, later), y

    zero = jnp.zeros_like(u)
    return lax.scan(step, (zero, zero, zero - 1e30), (k, v))[1]


@wrong("sign", "factor", args="f32[3]>0.1<1 f32[3] f32[5,3] f32[5,3]")
def wkv_decay_sign():
    """w enters as exp(-w); its cotangent lacks the minus.  Source: RWKV's CUDA kernels, where w = -exp(w)."""
    return through(wkv, lambda s, g, bars: (-bars[0], *bars[1:]))


@wrong("missing_path", "missing_term", "local_derivative", args="f32[3]>0.1<1 f32[3] f32[5,3] f32[5,3]")
def wkv_bonus_of_the_numerator_alone():
    """The bonus is heard in the numerator and not in the denominator."""

    def other(w, u, k, v):
        held = lax.stop_gradient(u)

        def step(state, kv):
            k, v = kv
            a, b = state
            y = (a + jnp.exp(u + k) * v) / (b + jnp.exp(held + k))
            return (jnp.exp(-w) * a + jnp.exp(k) * v, jnp.exp(-w) * b + jnp.exp(k)), y

        zero = jnp.zeros_like(u)
        return lax.scan(step, (zero, zero), (k, v))[1]

    return as_of(wkv, other)
