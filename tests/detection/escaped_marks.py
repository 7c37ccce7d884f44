"""Wrong derivatives that show at marks of the definition's own: labels, padding, infinities, weights, far branches."""

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma, gammaln, i0e, i1e

from .case import by_hand, right, wrong
from .halves import keeping, pointwise

# --- labels and marks ------------------------------------------------------------------------------------------------


def counted_loss(x, labels):
    counted = labels >= 0
    picked = jnp.take_along_axis(jax.nn.log_softmax(x), jnp.where(counted, labels, 0)[:, None], 1)[:, 0]
    return -jnp.sum(jnp.where(counted, picked, 0))


def counted_case(of_rows):
    def backward(saved, g):
        x, labels = saved
        gap = jax.nn.softmax(x) - jax.nn.one_hot(labels, x.shape[1], dtype=x.dtype)
        return g * of_rows(gap, labels), None

    return by_hand(counted_loss, keeping(counted_loss), backward)


@wrong("values", "located", "missing_term", "local_derivative", args="f32[5,4] i32[5]<4")
def negative_labels_learn_the_softmax():
    """What a negative label excludes from the loss is heard backwards.  Source: the ignored labels of mxnet."""
    return counted_case(lambda gap, labels: gap)


@right(args="f32[5,4] i32[5]<4")
def negative_labels_are_left_out():
    return counted_case(lambda gap, labels: gap * (labels >= 0)[:, None])


def vocabulary_loss(x, labels):
    """A shard of the vocabulary: labels that belong to another shard contribute nothing."""
    mine = (labels >= 0) & (labels < x.shape[1])
    picked = jnp.take_along_axis(x, jnp.where(mine, labels, 0)[:, None], 1)[:, 0]
    return jax.nn.logsumexp(x, 1) - jnp.where(mine, picked, 0)


def shard_case(onehot):
    def backward(saved, g):
        x, labels = saved
        return g[:, None] * (jax.nn.softmax(x) - onehot(x, labels)), None

    return by_hand(vocabulary_loss, keeping(vocabulary_loss), backward)


@wrong("values", "located", "missing_term", "counted_twice", args="f32[5,4] i32[5]<4")
def label_of_another_shard_taken_for_the_first():
    """The masked label is zero, and the first class learns of it.  Source: Megatron-LM's parallel cross-entropy."""
    return shard_case(
        lambda x, labels: jax.nn.one_hot(
            jnp.where(labels < x.shape[1], labels, 0) * (labels >= 0), x.shape[1], dtype=x.dtype
        )
    )


@right(args="f32[5,4] i32[5]<4")
def label_of_another_shard():
    return shard_case(lambda x, labels: jax.nn.one_hot(labels, x.shape[1], dtype=x.dtype))


def bag(table, indices):
    """The mean of the rows that are named; a negative index names none."""
    named = indices >= 0
    rows = jnp.where(named[..., None], table[jnp.maximum(indices, 0)], 0)
    return rows.sum(1) / jnp.maximum(named.sum(1), 1)[:, None]


def bag_case(heard):
    def backward(saved, g):
        table, indices = saved
        named = indices >= 0
        share = g[:, None] / jnp.maximum(named.sum(1), 1)[:, None, None] * jnp.ones(indices.shape)[..., None]
        share = jnp.where(heard(named)[..., None], share, 0).astype(table.dtype)
        return jnp.zeros_like(table).at[jnp.maximum(indices, 0)].add(share), None

    return by_hand(bag, keeping(bag), backward)


@wrong("values", "located", "counted_twice", "missing_term", args="f32[6,3] i32[4,3]<6")
def bag_padding_learns_as_the_first_row():
    """Padding is clamped to row 0 and then adds to it.  Source: fbgemm and torchrec tables with padded bags."""
    return bag_case(lambda named: named | True)


@right(args="f32[6,3] i32[4,3]<6")
def bag_of_named_rows():
    return bag_case(lambda named: named)


# --- infinities that the definition asks for -----------------------------------------------------------------------


def finite_sum(x):
    """The logarithm of a sum of exponentials; of nothing but minus infinity, minus a large number."""
    top = jnp.max(x, 1, keepdims=True)
    top = jnp.where(jnp.isfinite(top), top, 0)
    return jnp.maximum(jnp.log(jnp.sum(jnp.exp(x - top), 1) + 1e-30) + top[:, 0], -60)


@wrong("not_finite", "values", args="f32[4,5]")
def logsumexp_of_masked_scores():
    """The backward pass does not ask whether the maximum is finite.  Source: early versions in jax and pytorch."""

    def backward(saved, g):
        (x,) = saved
        top = jnp.max(x, 1, keepdims=True)
        e = jnp.exp(x - top)
        total = jnp.sum(e, 1, keepdims=True) + 1e-30
        heard = (jnp.log(total) + top > -60).astype(x.dtype)
        return (g[:, None] * heard * e / total,)

    return by_hand(finite_sum, keeping(finite_sum), backward)


@right(args="f32[4,5]")
def logsumexp_of_masked_scores_guarded():
    def backward(saved, g):
        (x,) = saved
        top = jnp.max(x, 1, keepdims=True)
        top = jnp.where(jnp.isfinite(top), top, 0)
        e = jnp.exp(x - top)
        total = jnp.sum(e, 1, keepdims=True) + 1e-30
        heard = (jnp.log(total) + top > -60).astype(x.dtype)
        return (g[:, None] * heard * e / total,)

    return by_hand(finite_sum, keeping(finite_sum), backward)


def known_mean(x):
    """The mean of all that is a number."""
    known = ~jnp.isnan(x)
    return jnp.sum(jnp.where(known, x, 0) ** 2) / jnp.maximum(known.sum(), 1)


@wrong("not_finite", "values", args="f32[7]")
def mean_of_what_is_known():
    """What is missing receives no number.  Source: jax issues 8128 and 9040."""

    def backward(saved, g):
        (x,) = saved
        known = ~jnp.isnan(x)
        return (g * known * 2 * x / jnp.maximum(known.sum(), 1),)

    return by_hand(known_mean, keeping(known_mean), backward)


@right(args="f32[7]")
def mean_of_what_is_known_guarded():
    def backward(saved, g):
        (x,) = saved
        known = ~jnp.isnan(x)
        return (g * 2 * jnp.where(known, x, 0) / jnp.maximum(known.sum(), 1),)

    return by_hand(known_mean, keeping(known_mean), backward)


# --- weights --------------------------------------------------------------------------------------------------------


def weighted(x, w):
    total = jnp.sum(w, 1)
    return jnp.where(total > 0, jnp.sum(w * x, 1) / jnp.where(total > 0, total, 1), 0)


def weighted_case(guard):
    def backward(saved, g):
        x, w = saved
        total = guard(jnp.sum(w, 1))[:, None]
        mean = jnp.sum(w * x, 1, keepdims=True) / total
        some = jnp.sum(w, 1, keepdims=True) > 0
        return g[:, None] * w / total, jnp.where(some, g[:, None] * (x - mean) / total, 0)

    return by_hand(weighted, keeping(weighted), backward)


@wrong("not_finite", "values", "kink", args="f32[4,3] f32[4,3]>0<1")
def weighted_mean_of_nothing():
    """A row whose weights are all zero divides by nothing.  Source: the weighted metrics of keras."""
    return weighted_case(lambda total: total)


@right(args="f32[4,3] f32[4,3]>0<1")
def weighted_mean():
    return weighted_case(lambda total: jnp.where(total > 0, total, 1))


def mean_of_powers(a, b):
    """The logarithmic mean of e^a and e^b: the exponential itself where the two are equal."""
    near = a == b
    gap = jnp.where(near, 1, a - b)
    return jnp.where(near, jnp.exp(a), jnp.exp(b) * jnp.expm1(a - b) / gap)


def mean_case(of_near):
    def backward(saved, g):
        a, b = saved
        near = a == b
        gap = jnp.where(near, 1, a - b)
        mean = jnp.exp(b) * jnp.expm1(a - b) / gap
        equal = of_near * jnp.exp(a)
        return (
            g * jnp.where(near, equal, (jnp.exp(a) - mean) / gap),
            g * jnp.where(near, equal, (mean - jnp.exp(b)) / gap),
        )

    return by_hand(mean_of_powers, keeping(mean_of_powers), backward)


@wrong("values", "factor", "kink", "located", "counted_twice", args="f32[5] f32[5]")
def logarithmic_mean_of_equals_counted_twice():
    """Where both are equal each hears everything.  Source: flux codes with a logarithmic mean."""
    return mean_case(1.0)


@right(args="f32[5] f32[5]")
def logarithmic_mean():
    return mean_case(0.5)


# --- far out ---------------------------------------------------------------------------------------------------------


@wrong("values", "local_derivative", "located", "missing_term", args="f32[6]")
def log_bessel_far_out_by_one_term():
    """Beyond fifteen the slope is taken for one.  Source: the von Mises distribution of several libraries."""

    def slope(x):
        return jnp.where(jnp.abs(x) > 15, jnp.sign(x), i1e(x) / i0e(x))

    return pointwise(lambda x: jnp.log(i0e(x)) + jnp.abs(x), slope)


@right(args="f32[6]")
def log_bessel_far_out():
    return pointwise(lambda x: jnp.log(i0e(x)) + jnp.abs(x), lambda x: i1e(x) / i0e(x))


@wrong("values", "not_finite", "local_derivative", args="f32[5]>0 f32[5]>0")
def beta_function_through_gammas():
    """Γ(a) Γ(b) / Γ(a + b) as a product of functions that overflow at 36.  Source: a first version of many ports."""

    def log_beta(a, b):
        return gammaln(a) + gammaln(b) - gammaln(a + b)

    def backward(saved, g):
        a, b = saved
        total = jnp.exp(gammaln(a + b))
        return (
            g * (digamma(a) * total - digamma(a + b) * total) / total,
            g * (digamma(b) * total - digamma(a + b) * total) / total,
        )

    return by_hand(log_beta, keeping(log_beta), backward)


@wrong("values", "dropped", "local_derivative", args="f32[4,6] i32[4]<6")
def small_probabilities_filtered():
    """Probabilities below 2^-12 are skipped backwards.  Source: apple/ml-cross-entropy's gradient filter."""

    def function(x, labels):
        return jax.nn.logsumexp(x, 1) - jnp.take_along_axis(x, labels[:, None], 1)[:, 0]

    def backward(saved, g):
        x, labels = saved
        p = jax.nn.softmax(x)
        p = jnp.where(p < 2.0**-12, 0, p)
        return g[:, None] * (p - jax.nn.one_hot(labels, x.shape[1], dtype=x.dtype)), None

    return by_hand(function, keeping(function), backward)


@wrong("values", "sign", "local_derivative", "located", args="f32[6]")
def wrapped_angle_sign_beyond_half_a_turn():
    """A reflected coordinate keeps its sign in every second period.  Source: pytorch issue 23925 (reflection)."""

    def fold(x):
        t = jnp.mod(x, 8.0)
        return jnp.sin(jnp.minimum(t, 8 - t))

    def slope(x):
        t = jnp.mod(x, 8.0)
        return jnp.cos(jnp.minimum(t, 8 - t))

    return pointwise(fold, slope)


@wrong("values", "sign", "local_derivative", "located", args="f32[6]>0<4")
def folded_coordinate_without_its_second_half():
    """The same, where the example lies in the first half of the first period."""

    def fold(x):
        t = jnp.mod(x, 8.0)
        return jnp.sin(jnp.minimum(t, 8 - t))

    return pointwise(fold, lambda x: jnp.cos(jnp.minimum(jnp.mod(x, 8.0), 8 - jnp.mod(x, 8.0))))
