"""Layers and losses as published packages differentiate them by hand: saved log-sum-exps, chunks, padding, masks."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from .case import by_hand, right
from .halves import keeping

f32 = jnp.float32


# --- attention -------------------------------------------------------------------------------------------------------


def scores(q, k, causal):
    s = q.astype(f32) @ k.astype(f32).T / q.shape[-1] ** 0.5
    return jnp.where(jnp.tri(*s.shape, dtype=bool), s, -1e30) if causal else s


def attend(causal, q, k, v):
    return (jax.nn.softmax(scores(q, k, causal)) @ v.astype(f32)).astype(q.dtype)


BLOCK = 4


def blocks(a):
    """Rows in blocks, padded with zeros."""
    padded = jnp.pad(a, ((0, -len(a) % BLOCK), (0, 0)))
    return padded.reshape(-1, BLOCK, a.shape[1])


def online_forward(causal, q, k, v):
    """Over blocks of keys with a running maximum and sum; what is kept is the output and one log-sum-exp a row."""
    n = len(q)
    rows, scale = jnp.arange(n)[:, None], q.shape[-1] ** -0.5

    def step(carry, block):
        top, total, out = carry
        i, kb, vb = block
        columns = i * BLOCK + jnp.arange(BLOCK)
        seen = (columns < k.shape[0]) & ((columns <= rows) | (not causal))
        s = jnp.where(seen, q.astype(f32) @ kb.T * scale, -1e30)
        new = jnp.maximum(top, s.max(-1))
        p = jnp.where(seen, jnp.exp(s - new[:, None]), 0)
        shrink = jnp.exp(top - new)
        return (new, total * shrink + p.sum(-1), out * shrink[:, None] + p @ vb), None

    kb, vb = blocks(k.astype(f32)), blocks(v.astype(f32))
    start = jnp.full(n, -1e30, f32), jnp.zeros(n, f32), jnp.zeros((n, v.shape[1]), f32)
    (top, total, out), _ = lax.scan(step, start, (jnp.arange(len(kb)), kb, vb))
    y = (out / total[:, None]).astype(q.dtype)
    return y, (q, k, v, y, top + jnp.log(total))


def online_backward(causal, saved, g):
    """p = exp(s − lse) anew, and the row sums of ȳ ∘ y in place of those of p ∘ p̄.  Source: Dao, 2023."""
    q, k, v, y, lse = saved
    g, scale = g.astype(f32), q.shape[-1] ** -0.5
    p = jnp.exp(scores(q, k, causal) - lse[:, None])
    s_bar = p * (g @ v.astype(f32).T - jnp.sum(g * y, -1, keepdims=True)) * scale
    return (s_bar @ k).astype(q.dtype), (s_bar.T @ q).astype(k.dtype), (p.T @ g).astype(v.dtype)


@right(args="f32[6,4] f32[6,4] f32[6,3]")
def flash_attention_causal():
    """Blocks of four keys, the last of them padded; causal; how many is no argument of the derivative."""
    function = by_hand(attend, online_forward, online_backward, nondiff_argnums=(0,))
    return lambda q, k, v: function(True, q, k, v)


@right(args="bf16[5,4] bf16[7,4] bf16[7,3]")
def flash_attention_in_half_precision():
    """bfloat16 in and out, float32 inside."""
    function = by_hand(attend, online_forward, online_backward, nondiff_argnums=(0,))
    return lambda q, k, v: function(False, q, k, v)


@right(args="f32[3,4] f32[6,4] f32[6,4]")
def attention_of_two_halves_joined():
    """Each half of the keys gives an output and a log-sum-exp, joined by their weights, as around a ring."""

    def part(q, k, v):
        s = scores(q, k, False)
        lse = jax.nn.logsumexp(s, -1)
        return jnp.exp(s - lse[:, None]) @ v, lse

    def function(q, k, v):
        half = len(k) // 2
        (a, la), (b, lb) = part(q, k[:half], v[:half]), part(q, k[half:], v[half:])
        lse = jnp.logaddexp(la, lb)
        return a * jnp.exp(la - lse)[:, None] + b * jnp.exp(lb - lse)[:, None]

    def forward(q, k, v):
        y = function(q, k, v)
        return y, (q, k, v, y, jax.nn.logsumexp(scores(q, k, False), -1))

    return by_hand(function, forward, functools.partial(online_backward, False))


@right(args="f32[7,4] f32[7,4] f32[7,4] i32[7]<3")
def attention_within_segments():
    """Rows see rows of their own segment; the cotangent of the integers is None."""

    def function(q, k, v, segment):
        s = jnp.where(segment[:, None] == segment, q @ k.T, -jnp.inf)
        return jax.nn.softmax(s) @ v

    def backward(saved, g):
        q, k, v, segment = saved
        p = jax.nn.softmax(jnp.where(segment[:, None] == segment, q @ k.T, -jnp.inf))
        p_bar = g @ v.T
        s_bar = p * (p_bar - jnp.sum(p * p_bar, -1, keepdims=True))
        return s_bar @ k, s_bar.T @ q, p.T @ g, None

    return by_hand(function, keeping(function), backward)


@right(args="f32[6,3] f32[6,3] f32[6,2] f32[6]>0")
def linear_attention_with_decay():
    """State s ← e^{−decay} s + k vᵀ, y = q s: the state runs forward for q̄, its cotangent backward for k̄ and v̄."""

    def states(k, v, decay):
        def step(s, now):
            k, v, decay = now
            s = jnp.exp(-decay) * s + jnp.outer(k, v)
            return s, s

        return lax.scan(step, jnp.zeros((k.shape[1], v.shape[1]), k.dtype), (k, v, decay))[1]

    def function(q, k, v, decay):
        return jnp.einsum("td,tde->te", q, states(k, v, decay))

    def backward(saved, g):
        q, k, v, decay = saved
        s = states(k, v, decay)
        before = jnp.concatenate([jnp.zeros_like(s[:1]), s[:-1]])

        def step(s_bar, now):
            q, k, v, decay, before, g = now
            s_bar = s_bar + jnp.outer(q, g)
            shrink = jnp.exp(-decay)
            return shrink * s_bar, (s_bar @ v, k @ s_bar, -shrink * jnp.vdot(s_bar, before))

        rest = lax.scan(step, jnp.zeros_like(s[0]), (q, k, v, decay, before, g), reverse=True)[1]
        return jnp.einsum("te,tde->td", g, s), *rest

    return by_hand(function, keeping(function), backward)


# --- recurrences -----------------------------------------------------------------------------------------------------


def recurrence(a, b):
    """h ← a h + b, by an associative scan."""
    return lax.associative_scan(lambda p, q: (p[0] * q[0], q[0] * p[1] + q[1]), (a, b))[1]


@right(args="f32[7,3]>0<1 f32[7,3]")
def diagonal_recurrence():
    """The cotangent is the same recurrence backward, with the coefficients one step later."""

    def forward(a, b):
        h = recurrence(a, b)
        return h, (a, h)

    def backward(saved, g):
        a, h = saved
        later = jnp.concatenate([a[1:], jnp.zeros_like(a[:1])])
        bar = recurrence(later[::-1], g[::-1])[::-1]
        return bar * jnp.concatenate([jnp.zeros_like(h[:1]), h[:-1]]), bar

    return by_hand(recurrence, forward, backward)


@right(args="f32[6,2] f32[6,2]>0 f32[2,3] f32[6,3] f32[6,3]")
def selective_state_space():
    """h ← e^{δ A} h + δ x B, y = h C with A = −e^a: what is kept are the arguments; states are computed again."""

    def states(x, delta, a, b):
        def step(h, now):
            x, delta, b = now
            h = jnp.exp(-delta[:, None] * jnp.exp(a)) * h + (delta * x)[:, None] * b
            return h, h

        return lax.scan(step, jnp.zeros_like(a), (x, delta, b))[1]

    def function(x, delta, a, b, c):
        return jnp.einsum("tdn,tn->td", states(x, delta, a, b), c)

    def backward(saved, g):
        x, delta, a, b, c = saved
        h = states(x, delta, a, b)
        before = jnp.concatenate([jnp.zeros_like(h[:1]), h[:-1]])
        rate = jnp.exp(a)

        def step(carry, now):
            h_bar, a_bar = carry
            x, delta, b, c, before, g = now
            h_bar = h_bar + g[:, None] * c
            shrink = jnp.exp(-delta[:, None] * rate)
            slope = h_bar * jnp.exp(a - delta[:, None] * rate) * before  # no product of nothing with e^a
            x_bar = delta * (h_bar @ b)
            delta_bar = x * (h_bar @ b) - slope.sum(-1)
            return (shrink * h_bar, a_bar - slope * delta[:, None]), (x_bar, delta_bar, (delta * x) @ h_bar)

        start = jnp.zeros_like(a), jnp.zeros_like(a)
        (_, a_bar), (x_bar, delta_bar, b_bar) = lax.scan(step, start, (x, delta, b, c, before, g), reverse=True)
        return x_bar, delta_bar, a_bar, b_bar, jnp.einsum("td,tdn->tn", g, h)

    return by_hand(function, keeping(function), backward)


# --- losses over a vocabulary ----------------------------------------------------------------------------------------


@right(args="f32[7,4] f32[4,5] i32[7]<5")
def linear_cross_entropy_in_chunks():
    """Three rows of logits at a time, padded; both cotangents are made on the way forward and scaled later."""

    def plain(x, w, labels):
        logits = x @ w
        picked = jnp.take_along_axis(logits, labels[:, None], 1)[:, 0]
        return jnp.mean(jax.nn.logsumexp(logits, -1) - picked)

    def forward(x, w, labels):
        n, chunk, wide = len(x), 3, jnp.promote_types(x.dtype, f32)
        short = -n % chunk
        xs = jnp.pad(x, ((0, short), (0, 0))).reshape(-1, chunk, x.shape[1])
        ls = jnp.pad(labels, (0, short), constant_values=-1).reshape(-1, chunk)

        def step(carry, now):
            loss, w_bar = carry
            x, labels = now
            real = labels >= 0
            logits = (x @ w).astype(wide)
            lse = jax.nn.logsumexp(logits, -1)
            one_hot = jax.nn.one_hot(labels, w.shape[1], dtype=logits.dtype)
            bar = jnp.where(real[:, None], jnp.exp(logits - lse[:, None]) - one_hot, 0) / n
            loss += jnp.sum(jnp.where(real, lse - jnp.sum(one_hot * logits, -1), 0)) / n
            return (loss, w_bar + x.T @ bar.astype(x.dtype)), (bar @ w.T).astype(x.dtype)

        (loss, w_bar), x_bar = lax.scan(step, (jnp.zeros((), wide), jnp.zeros_like(w)), (xs, ls))
        return loss.astype(x.dtype), (x_bar.reshape(-1, x.shape[1])[:n], w_bar)

    return by_hand(plain, forward, lambda saved, g: (g * saved[0], g * saved[1], None))


@right(args="f32[6,5] i32[6]>=-1<5 f32[]>0<1")
def cross_entropy_smoothed_with_z_loss():
    """Label smoothing, a penalty on log² Z and ignored labels −1; the smoothing is no argument of the derivative."""

    def function(logits, labels, z):
        smooth, n = 0.1, logits.shape[-1]
        lse = jax.nn.logsumexp(logits, -1)
        target = (1 - smooth) * jax.nn.one_hot(labels, n, dtype=logits.dtype) + smooth / n
        loss = lse - jnp.sum(target * logits, -1) + z * lse**2
        return jnp.sum(jnp.where(labels >= 0, loss, 0)) / jnp.maximum(jnp.sum(labels >= 0), 1)

    def backward(saved, g):
        logits, labels, z = saved
        smooth, n = 0.1, logits.shape[-1]
        real = (labels >= 0)[:, None]
        g = g / jnp.maximum(jnp.sum(real), 1)
        lse = jax.nn.logsumexp(logits, -1, keepdims=True)
        target = (1 - smooth) * jax.nn.one_hot(labels, n, dtype=logits.dtype) + smooth / n
        bar = (1 + 2 * z * lse) * jnp.exp(logits - lse) - target
        return jnp.where(real, g * bar, 0), None, jnp.sum(jnp.where(real, g * lse**2, 0))

    return by_hand(function, keeping(function), backward)


@right(args="f32[4,6] i32[4]<6 i32[4]<6")
def cross_entropy_split_over_a_vocabulary():
    """Two halves of the vocabulary, each with its maximum and sum, as on two devices."""

    def function(logits, labels, _):
        return jax.nn.logsumexp(logits, -1) - jnp.take_along_axis(logits, labels[:, None], -1)[:, 0]

    def forward(logits, labels, _):
        half = logits.shape[1] // 2
        parts = logits[:, :half], logits[:, half:]
        top = functools.reduce(jnp.maximum, [p.max(-1, initial=-jnp.inf) for p in parts])
        exps = [jnp.exp(p - top[:, None]) for p in parts]
        total = sum(e.sum(-1) for e in exps)
        own = jnp.zeros_like(top)
        for i, p in enumerate(parts):
            local = labels - i * half
            here = (local >= 0) & (local < p.shape[1])
            if p.shape[1]:
                own += jnp.where(here, jnp.take_along_axis(p, jnp.where(here, local, 0)[:, None], -1)[:, 0], 0)
        return jnp.log(total) + top - own, (jnp.concatenate(exps, 1) / total[:, None], labels)

    def backward(saved, g):
        p, labels = saved
        return g[:, None] * p.at[jnp.arange(len(p)), labels].add(-1), None, None

    return by_hand(function, forward, backward)
