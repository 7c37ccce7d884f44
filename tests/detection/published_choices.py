"""Dynamic programs, choices, noise, rounding and kernels as published packages differentiate them by hand."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from .case import by_hand, right
from .halves import keeping

# --- dynamic programs ------------------------------------------------------------------------------------------------


@right(args="f32[5,3] f32[3,3] i32[5]<3")
def chain_of_labels():
    """A linear chain's log-likelihood: what is expected by running forward and backward, less what was seen."""

    def forward_scores(x, t):
        def step(alpha, x):
            alpha = jax.nn.logsumexp(alpha[:, None] + t, 0) + x
            return alpha, alpha

        return jnp.concatenate([x[:1], lax.scan(step, x[0], x[1:])[1]])

    def function(x, t, labels):
        seen = jnp.sum(jnp.take_along_axis(x, labels[:, None], 1)) + jnp.sum(t[labels[:-1], labels[1:]])
        return jax.nn.logsumexp(forward_scores(x, t)[-1]) - seen

    def backward(saved, g):
        x, t, labels = saved
        alpha = forward_scores(x, t)

        def step(beta, x):
            beta = jax.nn.logsumexp(t + x + beta, 1)
            return beta, beta

        start = jnp.zeros_like(x[0])
        beta = jnp.concatenate([lax.scan(step, start, x[1:], reverse=True)[1], start[None]])
        total = jax.nn.logsumexp(alpha[-1])
        one = jnp.exp(alpha + beta - total).at[jnp.arange(len(x)), labels].add(-1)
        two = jnp.exp(alpha[:-1, :, None] + t + (x + beta)[1:, None] - total).sum(0)
        return g * one, g * two.at[labels[:-1], labels[1:]].add(-1), None

    return by_hand(function, keeping(function), backward)


@right(args="f32[4,5]")
def soft_time_warping():
    """The smoothed cheapest path through a table of costs: its derivative is how often each place is visited."""

    def soft(*values):
        return -jax.nn.logsumexp(-jnp.stack(values), 0)

    def table(cost):
        n, m = cost.shape
        r = [[jnp.inf] * (m + 1) for _ in range(n + 1)]
        r[0][0] = jnp.zeros((), cost.dtype)
        for i in range(n):
            for j in range(m):
                near = [v for v in (r[i][j], r[i][j + 1], r[i + 1][j]) if not isinstance(v, float)]
                r[i + 1][j + 1] = cost[i, j] + soft(*near)
        return r

    def function(cost):
        return table(cost)[-1][-1]

    def backward(saved, g):
        (cost,) = saved
        n, m = cost.shape
        r, e = table(cost), {(n, m): jnp.ones((), cost.dtype)}
        for i in range(n, 0, -1):
            for j in range(m, 0, -1):
                after = [(i + 1, j), (i, j + 1), (i + 1, j + 1)]
                if (i, j) != (n, m):
                    e[i, j] = sum(
                        e[a] * jnp.exp(r[a[0]][a[1]] - cost[a[0] - 1, a[1] - 1] - r[i][j]) for a in after if a in e
                    )
        return (g * jnp.stack([jnp.stack([e[i, j] for j in range(1, m + 1)]) for i in range(1, n + 1)]),)

    return by_hand(function, keeping(function), backward)


# --- choices, noise and rounding -------------------------------------------------------------------------------------


@right(args="f32[5,6] f32[6,3]")
def gates_of_the_two_largest():
    """A softmax over the two largest scores of a row, which weigh experts."""

    def function(scores, experts):
        top, at = lax.top_k(scores, min(2, scores.shape[-1]))
        return jnp.einsum("tk,tkd->td", jax.nn.softmax(top), experts[at])

    def backward(saved, g):
        scores, experts = saved
        top, at = lax.top_k(scores, min(2, scores.shape[-1]))
        p = jax.nn.softmax(top)
        p_bar = jnp.einsum("td,tkd->tk", g, experts[at])
        top_bar = p * (p_bar - jnp.sum(p * p_bar, -1, keepdims=True))
        rows = jnp.arange(len(scores))[:, None]
        return jnp.zeros_like(scores).at[rows, at].add(top_bar), jnp.zeros_like(experts).at[at].add(
            p[..., None] * g[:, None]
        )

    return by_hand(function, keeping(function), backward)


@right(args="key f32[4,5] f32[]>0")
def softmax_with_noise():
    """Gumbel noise from a key, over a temperature."""

    def function(key, x, t):
        return jax.nn.softmax((x + jax.random.gumbel(key, x.shape, x.dtype)) / t)

    def backward(saved, g):
        key, x, t = saved
        noisy, p = x + jax.random.gumbel(key, x.shape, x.dtype), function(key, x, t)
        bar = p * (g - jnp.sum(p * g, -1, keepdims=True)) / t
        return None, bar, -jnp.sum(bar * noisy) / t

    return by_hand(function, keeping(function), backward)


def rounded_straight_through(x, scale):
    """What is meant by rounding to steps: the rounding is held constant."""
    steps = jnp.clip(x / scale, -7, 7)
    return (steps + lax.stop_gradient(jnp.round(steps) - steps)) * scale


@right(args="f32[8] f32[]>0", truth=rounded_straight_through, argnums=0)
def quantisation_straight_through():
    """The cotangent passes where nothing is cut off."""

    def function(x, scale):
        return jnp.round(jnp.clip(x / scale, -7, 7)) * scale

    def backward(saved, g):
        x, scale = saved
        return jnp.where(jnp.abs(x / scale) <= 7, g, 0), jnp.zeros_like(scale)

    return by_hand(function, keeping(function), backward)


# --- kernels ---------------------------------------------------------------------------------------------------------


def plain_rms(x, w):
    return x * lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * w


@right(args="f32[6,4] f32[4]", truth=plain_rms)
def kernel_of_rms_norm():
    """Both halves are kernels, three rows at a time, run in interpret mode."""

    def spec(shape, moves):
        return pl.BlockSpec(shape, (lambda i: (i, 0)) if moves else (lambda i: (0, 0)))

    def run(kernel, outs, *args):
        n, d = args[0].shape
        rows = 3 if n % 3 == 0 else 1
        ins = [spec(a.shape if k == 1 else (rows, d), k != 1) for k, a in enumerate(args)]
        return pl.pallas_call(
            kernel,
            grid=(n // rows,),
            in_specs=ins,
            out_specs=[spec((rows, s.shape[1]), True) for s in outs],
            out_shape=outs,
            interpret=True,
        )(*args)

    def value(x, w, y):
        y[...] = plain_rms(x[...], w[...])

    def cotangents(x, w, g, x_bar, w_terms):
        root = lax.rsqrt(jnp.mean(x[...] ** 2, -1, keepdims=True) + 1e-6)
        hat, u = x[...] * root, g[...] * w[...]
        x_bar[...] = root * (u - hat * jnp.mean(u * hat, -1, keepdims=True))
        w_terms[...] = g[...] * hat

    def function(x, w):
        return run(value, [jax.ShapeDtypeStruct(x.shape, x.dtype)], x, w[None])[0]

    def backward(saved, g):
        x, w = saved
        like = jax.ShapeDtypeStruct(x.shape, x.dtype)
        x_bar, terms = run(cotangents, [like, like], x, w[None], g)
        return x_bar, terms.sum(0)

    return by_hand(function, keeping(function), backward)
