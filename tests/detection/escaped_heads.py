"""Wrong derivatives of routers, adapters and fused heads."""

import jax
import jax.numpy as jnp
from jax import lax

from .case import by_hand, right, wrong
from .escaped_space import as_of, through
from .halves import keeping


def routed(x, router, experts):
    """The two best of several experts, their weights normalised among themselves."""
    p = jax.nn.softmax(x @ router)
    top, chosen = lax.top_k(p, 2)
    share = top / jnp.sum(top, 1, keepdims=True)
    out = jnp.einsum("ni,nkio->nko", x, experts[chosen])
    return jnp.einsum("nk,nko->no", share, out)


ROUTED = "f32[5,3] f32[3,4] f32[4,3,2]"


@wrong("missing_path", "missing_term", "local_derivative", args=ROUTED)
def router_renormalisation_held():
    """The sum by which the best weights are divided is held.  Source: Megatron-LM and mixture-of-experts kernels."""

    def other(x, router, experts):
        p = jax.nn.softmax(x @ router)
        top, chosen = lax.top_k(p, 2)
        share = top / lax.stop_gradient(jnp.sum(top, 1, keepdims=True))
        out = jnp.einsum("ni,nkio->nko", x, experts[chosen])
        return jnp.einsum("nk,nko->no", share, out)

    return as_of(routed, other)


@wrong("missing_path", "located", "missing_sum", "values", args=ROUTED)
def second_expert_overwrites():
    """Of two tokens that chose the same expert in second place the last one stays."""

    def change(saved, g, bars):
        x, router, _ = saved
        p = jax.nn.softmax(x @ router)
        top, chosen = lax.top_k(p, 2)
        share = top / jnp.sum(top, 1, keepdims=True)
        each = jnp.einsum("ni,no->nio", x, g)
        total = jnp.zeros_like(saved[2]).at[chosen[:, 0]].add(share[:, 0, None, None] * each)
        second = jnp.zeros_like(saved[2]).at[chosen[:, 1]].set(share[:, 1, None, None] * each)
        return *bars[:2], total + second

    return through(routed, change)


def scaled_direction(x, v, magnitude):
    """A weight as a direction and a magnitude for every column, as in DoRA."""
    norm = jnp.sqrt(jnp.sum(v * v, 0))
    return x @ (v / norm) * magnitude


@wrong("missing_term", "missing_path", args="f32[4,3] f32[3,5] f32[5]>0")
def direction_not_projected():
    """The norm is detached, which the definition does not say.  Source: DoRA in peft, where it is meant."""

    def other(x, v, magnitude):
        norm = lax.stop_gradient(jnp.sqrt(jnp.sum(v * v, 0)))
        return x @ (v / norm) * magnitude

    return as_of(scaled_direction, other)


def linear_loss(x, w, labels):
    """Cross-entropy of a linear head in chunks of two rows, meaned over the rows that count."""
    logits = x @ w
    counted = labels >= 0
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), jnp.maximum(labels, 0)[:, None], 1)[:, 0]
    return -jnp.sum(jnp.where(counted, picked, 0)) / jnp.maximum(counted.sum(), 1)


@wrong("values", "factor", args="f32[6,3] f32[3,5] i32[6]<5")
def chunked_head_divides_by_the_counted_of_each_chunk():
    """Every chunk is divided by its own count, times its share.  Source: fused linear cross-entropy with padding."""

    def backward(saved, g):
        x, w, labels = saved
        counted = (labels >= 0).astype(x.dtype)
        half = -(-len(x) // 2)
        counts = jnp.concatenate(
            [jnp.full(len(part), jnp.maximum(part.sum(), 1)) * 2 for part in (counted[:half], counted[half:])]
        )
        whole = jnp.maximum(counted.sum(), 1)
        even = jnp.where(counted.sum() == len(x), whole, counts)
        gap = jax.nn.softmax(x @ w) - jax.nn.one_hot(labels, w.shape[1], dtype=x.dtype)
        bar = g * gap * (counted / even)[:, None]
        return bar @ w.T, x.T @ bar, None

    return by_hand(linear_loss, keeping(linear_loss), backward)


@right(args="f32[6,3] f32[3,5] i32[6]<5")
def head_divides_by_all_that_count():
    def backward(saved, g):
        x, w, labels = saved
        counted = (labels >= 0).astype(x.dtype)
        gap = jax.nn.softmax(x @ w) - jax.nn.one_hot(labels, w.shape[1], dtype=x.dtype)
        bar = g * gap * counted[:, None] / jnp.maximum(counted.sum(), 1)
        return bar @ w.T, x.T @ bar, None

    return by_hand(linear_loss, keeping(linear_loss), backward)


@wrong("dropped", "located", "wrong_residual", "shape", args="f32[4,6]")
def swiglu_rows_all_written_to_the_first():
    """Every row's cotangent is stored in row 0.  Source: ByteDance-Seed/Triton-distributed pull 185."""

    def swiglu(x):
        gate, up = jnp.split(x, 2, 1)
        return jax.nn.silu(gate) * up

    def change(saved, g, bars):
        return (jnp.zeros_like(bars[0]).at[0].set(bars[0][-1]),)

    return through(swiglu, change)


@wrong("cancellation", "values", "dtype", args="bf16[4,8] i32[4]<8")
def true_class_through_a_rounded_probability():
    """p is rounded to bfloat16 before one is subtracted: nothing is left near one.  Source: Liger-Kernel pull 1329."""

    def loss(x, labels):
        wide = x.astype(jnp.float32)
        return jax.nn.logsumexp(wide, 1) - jnp.take_along_axis(wide, labels[:, None], 1)[:, 0]

    def backward(saved, g):
        x, labels = saved
        p = jax.nn.softmax(x.astype(jnp.float32)).astype(x.dtype)
        onehot = jax.nn.one_hot(labels, x.shape[1], dtype=x.dtype)
        return ((p - onehot) * g[:, None].astype(x.dtype), None)

    return by_hand(loss, keeping(loss), backward)
