"""Derivatives of published packages written anew, right as they are there and wrong in one place: layers and losses."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero

from .case import by_hand, right, wrong
from .halves import keeping

# --- losses ----------------------------------------------------------------------------------------------------------


def one_loss(logits, targets, weight):
    """A cross entropy with a weight on the squared logarithm of its normaliser, and that part on its own."""
    lse = jax.nn.logsumexp(logits, -1)
    extra = weight * lse**2
    return lse * targets.sum(-1) - jnp.sum(targets * logits, -1) + extra, extra


@right(args="f32[4,5] f32[4,5]>0<1 f32[]>0.01<0.1")
def cross_entropy_with_its_extra_part():
    """All three arguments are heard, the weight too, and both outputs.  Source: T5X."""

    def backward(saved, g):
        logits, targets, weight = saved
        lse = jax.nn.logsumexp(logits, -1)
        p, both = jnp.exp(logits - lse[:, None]), g[0] + g[1]
        bar = g[0][:, None] * (p * targets.sum(-1, keepdims=True) - targets) + (both * 2 * weight * lse)[:, None] * p
        return bar, g[0][:, None] * (lse[:, None] - logits), jnp.sum(both * lse**2)

    return by_hand(one_loss, keeping(one_loss), backward)


def smoothed(logits, labels):
    """Smoothed by a tenth, over what is not ignored."""
    counted = labels >= 0
    lse = jax.nn.logsumexp(logits, -1)
    picked = jnp.take_along_axis(logits, jnp.where(counted, labels, 0)[:, None], 1)[:, 0]
    each = 0.9 * (lse - picked) + 0.1 * (lse - logits.mean(-1))
    return jnp.sum(jnp.where(counted, each, 0)) / jnp.maximum(counted.sum(), 1)


def smoothed_case(target):
    def backward(saved, g):
        logits, labels = saved
        counted = labels >= 0
        hot = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
        gap = jnp.where(counted[:, None], jax.nn.softmax(logits) - target(hot), 0)
        return g * gap / jnp.maximum(counted.sum(), 1), None

    return by_hand(smoothed, keeping(smoothed), backward)


@wrong("missing_term", "missing_path", "local_derivative", args="f32[5,7] i32[5]>=-1<7")
def smoothing_forgotten_backward():
    return smoothed_case(lambda hot: hot)


@right(args="f32[5,7] i32[5]>=-1<7")
def smoothing_on_both_ways():
    """Source: Levanter."""
    return smoothed_case(lambda hot: 0.9 * hot + 0.1 / hot.shape[-1])


def blockwise(x, w):
    return jax.nn.logsumexp(x @ w, -1)


def blockwise_case(normaliser):
    def backward(saved, g):
        x, w = saved
        size = 3 if w.shape[1] % 3 == 0 else 1
        blocks = w.reshape(w.shape[0], -1, size).transpose(1, 0, 2)
        lse = blockwise(x, w)

        def step(x_bar, block):
            bar = jnp.exp(x @ block - normaliser(x @ block, lse)[:, None]) * g[:, None]
            return x_bar + bar @ block.T, x.T @ bar

        x_bar, w_bars = lax.scan(step, jnp.zeros_like(x), blocks)
        return x_bar, w_bars.transpose(1, 0, 2).reshape(w.shape)

    return by_hand(blockwise, keeping(blockwise), backward)


@wrong("wrong_residual", "local_derivative", "factor", "values", "counted_twice", args="f32[4,3] f32[3,6]")
def blockwise_normalised_by_each_block():
    """Every block of three has its own normaliser, which adds up to one each time."""
    return blockwise_case(lambda scores, lse: jax.nn.logsumexp(scores, -1))


@right(args="f32[4,3] f32[3,6]")
def blockwise_normalised_by_all():
    return blockwise_case(lambda scores, lse: lse)


# --- attention and experts -------------------------------------------------------------------------------------------


def allowed(q, segments):
    at = jnp.arange(len(q))
    return (segments[:, None] == segments) & (at[:, None] >= at)


def segmented(q, k, v, segments):
    return jax.nn.softmax(jnp.where(allowed(q, segments), 0.5 * q @ k.T, -1e30)) @ v


def segmented_case(mask, scale=0.5):
    def forward(q, k, v, segments):
        s = jnp.where(allowed(q, segments), 0.5 * q @ k.T, -1e30)
        y = jax.nn.softmax(s) @ v
        return y, (q, k, v, segments, y, jax.nn.logsumexp(s, -1))

    def backward(saved, g):
        q, k, v, segments, y, lse = saved
        p = jnp.where(mask(q, segments), jnp.exp(0.5 * q @ k.T - lse[:, None]), 0)
        s_bar = p * (g @ v.T - jnp.sum(y * g, -1, keepdims=True))
        return 0.5 * s_bar @ k, scale * s_bar.T @ q, p.T @ g, None

    return by_hand(segmented, forward, backward)


@wrong("missing_path", "local_derivative", "located", "values", args="f32[6,4] f32[6,4] f32[6,4] i32[6]<3sorted")
def segments_forgotten_backward():
    """The mask of segments is not built again, that of the order is."""
    return segmented_case(lambda q, segments: allowed(q, 0 * segments))


@wrong("factor", args="f32[4,4] f32[4,4] f32[4,4] i32[4]<2sorted")
def segments_scale_missing_in_keys():
    return segmented_case(allowed, scale=1)


@right(args="f32[4,4] f32[4,4] f32[4,4] i32[4]<2sorted")
def segments_of_a_causal_sequence():
    return segmented_case(allowed)


def owners(sizes, rows):
    return jnp.searchsorted(jnp.cumsum(sizes), jnp.arange(rows), side="right")


def by_groups(x, w, sizes):
    """Each group of consecutive rows times its own matrix; rows that are left over give nought."""
    owner = owners(sizes, len(x))
    y = jnp.einsum("mk,mkn->mn", x, w[jnp.minimum(owner, len(w) - 1)])
    return jnp.where((owner < len(w))[:, None], y, 0)


def groups_case(place):
    def backward(saved, g):
        x, w, sizes = saved
        hot = jax.nn.one_hot(place(owners(sizes, len(x)), len(w)), len(w), dtype=x.dtype)
        return jnp.einsum("mn,ekn,me->mk", g, w, hot), jnp.einsum("mk,mn,me->ekn", x, g, hot), None

    return by_hand(by_groups, keeping(by_groups), backward)


@wrong("located", "missing_path", "values", "counted_twice", "local_derivative", args="f32[8,3] f32[3,3,2] i32[3]<3")
def rows_beyond_all_groups_are_heard():
    """What is left over counts as the last group's."""
    return groups_case(lambda owner, n: jnp.minimum(owner, n - 1))


@right(args="f32[8,3] f32[3,3,2] i32[3]<3")
def rows_of_groups_alone_are_heard():
    """Source: megablox."""
    return groups_case(lambda owner, n: owner)


def put(x, order):
    return x[order]


def put_case(back):
    return by_hand(put, keeping(put), lambda saved, g: (back(g, saved[1]), None))


@wrong("permuted", args="f32[5,3] i32[5]<5distinct")
def permutation_not_inverted():
    return put_case(lambda g, order: g[order])


@right(args="f32[5,3] i32[5]<5distinct")
def permutation_inverted():
    """Source: MaxText."""
    return put_case(lambda g, order: g[jnp.argsort(order)])


# --- layers ----------------------------------------------------------------------------------------------------------


def offset_norm(x, w):
    wide = x.astype(jnp.float32)
    root = lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + 1e-6)
    return (wide * root * (1 + w.astype(jnp.float32))).astype(x.dtype)


def offset_norm_case(weight):
    def backward(saved, g):
        x, w = (part.astype(jnp.float32) for part in saved)
        root = lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)
        u, hat = g.astype(jnp.float32) * weight(w), x * root
        x_bar = root * (u - hat * jnp.mean(u * hat, -1, keepdims=True))
        w_bar = jnp.sum(g.astype(jnp.float32) * hat, tuple(range(x.ndim - 1)))
        return x_bar.astype(saved[0].dtype), w_bar.astype(saved[1].dtype)

    return by_hand(offset_norm, keeping(offset_norm), backward)


@wrong("missing_term", "wrong_residual", "missing_path", "local_derivative", args="bf16[2,3,8] bf16[8]")
def offset_of_the_weight_forgotten():
    """w in place of 1 + w."""
    return offset_norm_case(lambda w: w)


@right(args="bf16[2,3,8] bf16[8]")
def offset_of_the_weight_kept():
    """Source: Gemma."""
    return offset_norm_case(lambda w: 1 + w)


def gated(x, gate, up):
    return jax.nn.silu(x @ gate) * (x @ up)


def gated_case(slope_at):
    def backward(saved, g):
        x, gate, up = saved
        a, b = x @ gate, x @ up
        s = jax.nn.sigmoid(a)
        a_bar, b_bar = g * b * s * (1 + slope_at(a, b) * (1 - s)), g * a * s
        return a_bar @ gate.T + b_bar @ up.T, x.T @ a_bar, x.T @ b_bar

    made = jax.custom_vjp(gated)
    made.defvjp(keeping(gated), backward, optimize_remat=True)
    return made


@wrong("wrong_residual", "local_derivative", "exchanged", args="f32[3,4] f32[4,5] f32[4,5]")
def gate_slope_at_the_other_branch():
    """Of two residuals the wrong one."""
    return gated_case(lambda a, b: b)


@right(args="f32[3,4] f32[4,5] f32[4,5]")
def gate_that_may_be_thrown_away():
    """Source: Tokamax."""
    return gated_case(lambda a, b: a)


def dense(p, x):
    return jnp.tanh(x @ p["kernel"] + p["bias"]) * p["scale"]


def dense_case(collect):
    def backward(saved, g):
        p, x = saved
        axes = tuple(range(x.ndim - 1))
        h = jnp.tanh(x @ p["kernel"] + p["bias"])
        z = g * p["scale"] * (1 - h * h)
        bars = {"kernel": jnp.einsum("...i,...o->io", x, z), "bias": collect(z, axes), "scale": jnp.sum(g * h, axes)}
        return bars, z @ p["kernel"].T

    return by_hand(dense, keeping(dense), backward)


@wrong("factor", args="{kernel: f32[4,3], bias: f32[3], scale: f32[3]} f32[2,5,4]")
def bias_of_a_tree_averaged():
    return dense_case(lambda z, axes: z.mean(axes))


@right(args="{kernel: f32[4,3], bias: f32[3], scale: f32[3]} f32[2,5,4]")
def bias_of_a_tree_summed():
    return dense_case(lambda z, axes: z.sum(axes))


def short(x, w, b):
    """A causal convolution of every channel on its own, then silu."""
    k = len(w)
    padded = jnp.pad(x, ((k - 1, 0), (0, 0)))
    return sum(padded[i : i + len(x)] * w[i] for i in range(k)) + b


def short_case(first):
    def function(x, w, b):
        return jax.nn.silu(short(x, w, b))

    def backward(saved, g):
        x, w, _ = saved
        h, k, n = short(*saved), len(w), len(x)
        s = jax.nn.sigmoid(h)
        z = g * s * (1 + h * (1 - s))
        after = jnp.pad(z, ((0, k - 1), (0, 0)))
        before = jnp.pad(x, ((k - 1, 0), (0, 0)))
        x_bar = sum(after[k - 1 - i : k - 1 - i + n] * w[i] for i in range(k))
        w_bar = jnp.stack([jnp.sum((before[i : i + n] * z)[first:], 0) for i in range(k)])
        return x_bar, w_bar, z.sum(0)

    return by_hand(function, keeping(function), backward)


@wrong("missing_path", "located", "missing_term", args="f32[6,2] f32[4,2] f32[2]")
def short_convolution_without_its_first_place():
    """The kernel's cotangent leaves the first place out."""
    return short_case(1)


@right(args="f32[6,2] f32[4,2] f32[2]")
def short_convolution():
    """Source: Mamba."""
    return short_case(0)


def shifted_gelu(x, b):
    return jax.nn.gelu(x + b, approximate=True)


def shifted_case(collect):
    def backward(saved, g):
        h, k = sum(saved), float(np.sqrt(2 / np.pi))
        t = jnp.tanh(k * (h + 0.044715 * h**3))
        bar = g * ((1 + t) / 2 + h * (1 - t * t) * k * (1 + 3 * 0.044715 * h * h) / 2)
        return bar, collect(bar)

    return by_hand(shifted_gelu, keeping(shifted_gelu), backward)


@wrong("missing_sum", "missing_path", args="f32[3,4,5] f32[1,1,5]")
def bias_summed_over_the_leading_axis():
    """Of the second of two broadcast axes the first place is taken."""
    return shifted_case(lambda bar: bar[:, :1].sum(0, keepdims=True))


@right(args="f32[3,4,5] f32[1,1,5]")
def bias_summed_over_both_axes():
    return shifted_case(lambda bar: bar.sum((0, 1), keepdims=True))


def scaled_integers(x, q, scale):
    return (x @ q.astype(x.dtype)) * scale


def integers_case(of_scale):
    def backward(saved, g):
        x, q, scale = saved
        nothing = np.zeros(q.shape, jax.dtypes.float0)
        return (g * scale) @ q.T.astype(g.dtype), nothing, of_scale(jnp.sum(g * (x @ q.astype(x.dtype)), 0))

    return by_hand(scaled_integers, keeping(scaled_integers), backward)


@wrong("dropped", "missing_path", args="f32[3,4] i8[4,5] f32[5]>0<0.1")
def scale_of_integers_held():
    return integers_case(lambda bar: None)


@right(args="f32[3,4] i8[4,5] f32[5]>0<0.1")
def scale_of_integers_learned():
    """Source: Qwix."""
    return integers_case(lambda bar: bar)


def view_case(flag):
    def view(points, matrix):
        return points @ matrix[:3, :3].T + matrix[:3, 3]

    def forward(points, matrix):
        return view(points.value, matrix.value), (points.value, matrix.value, 0 if flag(points, matrix) else None)

    def backward(saved, g):
        points, matrix, heard = saved
        if isinstance(g, SymbolicZero):
            g = jnp.zeros(g.aval.shape, g.aval.dtype)
        bar = jnp.zeros_like(matrix)
        if heard is not None:
            bar = bar.at[:3, :3].set(g.T @ points).at[:3, 3].set(g.sum(0))
        return g @ matrix[:3, :3], bar

    made = jax.custom_vjp(view)
    made.defvjp(forward, backward, symbolic_zeros=True)
    return made


@wrong("dropped", "missing_path", "transform", args="f32[5,3] f32[4,4]")
def view_heard_if_the_points_are():
    """Whether the matrix is differentiated is read from the points."""
    return view_case(lambda points, matrix: points.perturbed)


@right(args="f32[5,3] f32[4,4]")
def view_heard_if_it_is_asked_for():
    return view_case(lambda points, matrix: matrix.perturbed)
