"""Wrong gradients that were shipped, of losses: weights, ignored labels, sums over alignments, smooth corners."""

import jax
import jax.numpy as jnp
from jax import lax

from .case import by_hand, right, wrong
from .halves import keeping
from .softmax import log_softmax, softmax

IGNORED = -100


def negative_log(logits, labels):
    safe = jnp.where(labels == IGNORED, 0, labels)
    each = -jnp.take_along_axis(log_softmax(logits), safe[:, None], 1)[:, 0]
    return jnp.where(labels == IGNORED, 0, each)


def excess(logits, labels):
    """The softmax less the target, whoever counts."""
    return softmax(logits) - (labels[:, None] == jnp.arange(logits.shape[1])).astype(logits.dtype)


# --- labels ----------------------------------------------------------------------------------------------------------


def each_case(count):
    def backward(saved, g):
        logits, labels = saved
        return (g * count(labels)).astype(logits.dtype)[:, None] * excess(logits, labels), None

    return by_hand(negative_log, keeping(negative_log), backward)


@right(args="f32[6,4] i32[6]<4")
def unreduced_cross_entropy_with_ignored_labels():
    return each_case(lambda labels: labels != IGNORED)


@wrong("dropped", "values", "located", "local_derivative", args="f32[6,4] i32[6]<4")
def unreduced_cross_entropy_silent_once_a_label_is_ignored():
    """One ignored label takes the cotangents of all rows away.  Source: linkedin/Liger-Kernel issue 968."""
    return each_case(lambda labels: (labels != IGNORED) & ~jnp.any(labels == IGNORED))


@wrong("values", "located", "missing_term", "local_derivative", args="f32[6,4] i32[6]<4")
def unreduced_cross_entropy_ignored_labels_heard():
    """An ignored row receives its softmax.  Source: the rows of linkedin/Liger-Kernel issue 968."""
    return each_case(jnp.ones_like)


@wrong("dropped", args="f32[6,4] i32[6]<4")
def unreduced_cross_entropy_zero():
    """Without a reduction the kernel writes nothing.  Source: microsoft/DirectML issue 740."""
    return each_case(jnp.zeros_like)


def mean_over_counted(logits, labels):
    return jnp.sum(negative_log(logits, labels)) / jnp.maximum(jnp.sum(labels != IGNORED), 1)


def mean_case(n):
    def backward(saved, g):
        logits, labels = saved
        share = (g * (labels != IGNORED) / n(labels)).astype(logits.dtype)
        return share[:, None] * excess(logits, labels), None

    return by_hand(mean_over_counted, keeping(mean_over_counted), backward)


@right(args="f32[6,4] i32[6]<4")
def cross_entropy_of_what_counts():
    return mean_case(lambda labels: jnp.maximum(jnp.sum(labels != IGNORED), 1))


@wrong("values", "factor", args="f32[6,4] i32[6]<4")
def cross_entropy_over_all_rows():
    """The mean is over the rows that count, the cotangent is divided by all.

    Source: the mean of pytorch pull 63122 and of Oneflow-Inc/oneflow pull 6568.
    """
    return mean_case(len)


def weighted(logits, labels, weights):
    """The mean by the weights of the classes."""
    own = weights[labels]
    each = -jnp.take_along_axis(log_softmax(logits), labels[:, None], 1)[:, 0]
    return jnp.sum(own * each) / jnp.sum(own)


def weighted_case(total):
    def backward(saved, g):
        logits, labels, weights = saved
        own = weights[labels]
        return (g * own / total(own))[:, None] * excess(logits, labels), None, None

    return by_hand(weighted, keeping(weighted), backward)


@right(args="f32[6,4] i32[6]<4 f32[4]>0", argnums=0)
def weighted_cross_entropy():
    return weighted_case(jnp.sum)


@wrong("factor", "local_derivative", args="f32[6,4] i32[6]<4 f32[4]>0", argnums=0)
def weighted_cross_entropy_over_the_rows():
    """Divided by the number of rows, not by the sum of their weights.  Source: pytorch issue 31295."""
    return weighted_case(len)


def chunked(x, w, labels):
    """The cross-entropy of x w, whose gradient is made in the forward pass."""
    return jnp.sum(-jnp.take_along_axis(log_softmax(x @ w), labels[:, None], 1))


def chunked_case(scaled):
    def forward(x, w, labels):
        bar = excess(x @ w, labels)
        return chunked(x, w, labels), (bar @ w.T, x.T @ bar)

    return by_hand(chunked, forward, lambda ready, g: (*(scaled(a, g) for a in ready), None))


@right(args="f32[5,3] f32[3,4] i32[5]<4")
def chunked_cross_entropy():
    return chunked_case(lambda a, g: a * g)


@wrong("ignores_cotangent", args="f32[5,3] f32[3,4] i32[5]<4")
def chunked_cross_entropy_as_saved():
    """What was saved is returned whatever comes in.  Source: pytorch/torchtitan pull 3250, warp-ctc pull 170."""
    return chunked_case(lambda a, g: a)


@wrong("ignores_cotangent", "nonlinear", "located", args="f32[5,3] f32[3,4] i32[5]<4")
def chunked_cross_entropy_weight_as_saved():
    """The weight's gradient alone is not scaled.  Source: pytorch/torchtitan pull 3250."""
    return chunked_case(lambda a, g: a * g if a.shape[0] == 5 else a)


# --- smooth corners --------------------------------------------------------------------------------------------------


def smooth_l1(x, y):
    gap = jnp.abs(x - y)
    return jnp.where(gap < 0.5, gap**2, gap - 0.25)


def smooth_l1_case(slope):
    return by_hand(smooth_l1, keeping(smooth_l1), lambda s, g: (g * slope(s[0] - s[1]), -g * slope(s[0] - s[1])))


@right(args="f32[9] f32[9]")
def smooth_l1_loss():
    return smooth_l1_case(lambda gap: jnp.where(jnp.abs(gap) < 0.5, 2 * gap, jnp.sign(gap)))


@wrong("local_derivative", "values", "located", args="f32[9] f32[9]")
def smooth_l1_threshold_on_the_signed_gap():
    """Gaps below minus one half count as small.  Source: BobMcDear/attorch issue 13."""
    return smooth_l1_case(lambda gap: jnp.where(gap < 0.5, 2 * gap, jnp.sign(gap)))


# --- alignments ------------------------------------------------------------------------------------------------------

LOST = -1e5  # the logarithm of what cannot happen


def alphas(logp, label):
    """Log sums over the ways to spell one label with blanks (class 0) around, up to each frame."""

    def step(before, row):
        blank, own = row[0], row[label]
        rows = (
            before[0] + blank,
            jnp.logaddexp(before[0], before[1]) + own,
            jnp.logaddexp(before[1], before[2]) + blank,
        )
        return jnp.stack(rows), before

    start = jnp.stack([jnp.zeros_like(logp[0, 0]), *[jnp.full_like(logp[0, 0], LOST)] * 2])
    last, before = lax.scan(step, start, logp)
    return last, before


def alignment(logits, label):
    """Minus the log likelihood of one label, spelt once or several times in a row, among blanks."""
    last, _ = alphas(log_softmax(logits), label)
    return -jnp.logaddexp(last[1], last[2])


def alignment_case(bar):
    """Through the logarithms of the softmax; `bar` combines posteriors and softmax with the cotangent."""

    def backward(saved, g):
        logits, label = saved
        logp = log_softmax(logits)
        last, before = alphas(logp, label)
        total = jnp.logaddexp(last[1], last[2])

        def back(after, row):
            logp, before = row
            blank, own = logp[0], logp[label]
            by_own = jnp.exp(jnp.logaddexp(before[0], before[1]) + own + after[1] - total)
            by_blank = jnp.exp(before[0] + blank + after[0] - total) + jnp.exp(
                jnp.logaddexp(before[1], before[2]) + blank + after[2] - total
            )
            earlier = (
                jnp.logaddexp(blank + after[0], own + after[1]),
                jnp.logaddexp(own + after[1], blank + after[2]),
                blank + after[2],
            )
            return jnp.stack(earlier), jnp.zeros_like(logp).at[0].add(by_blank).at[label].add(by_own)

        end = jnp.stack([jnp.full_like(total, LOST), *[jnp.zeros_like(total)] * 2])
        posteriors = lax.scan(back, end, (logp, before), reverse=True)[1]
        return bar(softmax(logits), posteriors, g), None

    return by_hand(alignment, keeping(alignment), backward)


@right(args="f32[5,3] i32[]<3>0")
def alignments_of_a_label():
    return alignment_case(lambda p, posteriors, g: g * (p - posteriors))


@wrong("ignores_cotangent", "nonlinear", "local_derivative", args="f32[5,3] i32[]<3>0")
def alignments_half_without_the_cotangent():
    """The softmax is multiplied by the cotangent, the posteriors are not.  Source: pytorch issue 11750."""
    return alignment_case(lambda p, posteriors, g: g * p - posteriors)


@wrong("located", "missing_term", "wrong_residual", args="f32[5,3] i32[]<3>0")
def alignments_last_frame_by_a_blank():
    """The last frame counts as a blank whatever may end there.  Source: HawkAaron/warp-transducer issue 55."""
    return alignment_case(
        lambda p, posteriors, g: g * (p - posteriors.at[-1].set(jax.nn.one_hot(0, p.shape[1], dtype=p.dtype)))
    )


def truncated(logits, label, frames):
    """The loss of an utterance with so many frames, and zero where there are too few to spell the label."""
    loss = -jnp.take_along_axis(jnp.cumsum(log_softmax(logits)[:, label]), frames[None] - 1, 0)[0]
    return jnp.where(frames < 2, 0, loss)


@wrong("values", "located", "missing_term", "local_derivative", args="f32[5,3] i32[]<3>0 i32[1]<5>1")
def infeasible_sequences_learn_the_softmax():
    """The loss is zero where nothing can be spelt, its cotangent the softmax.  Source: rwth-i6/returnn issue 1835."""

    def function(logits, label, frames):
        return truncated(logits, label, frames[0])

    def backward(saved, g):
        logits, label, frames = saved
        heard = (jnp.arange(len(logits)) < frames[0])[:, None]
        hot = jax.nn.one_hot(label, logits.shape[1], dtype=logits.dtype) * (frames[0] >= 2)
        return g * heard * (softmax(logits) - hot), None, None

    return by_hand(function, keeping(function), backward)
