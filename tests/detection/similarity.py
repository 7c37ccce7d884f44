"""Losses on pairs and sets: similarity, margins, overlap."""

import jax
import jax.numpy as jnp

from .case import by_hand, right, wrong
from .halves import keeping


def dice(p, target):
    """One minus twice the overlap over the sum of both, smoothed by one."""
    return 1 - (2 * jnp.sum(p * target) + 1) / (jnp.sum(p) + jnp.sum(target) + 1)


def cosine(a, b):
    """The mean of 1 - cos over rows; lengths are kept above 1/1000, so that a row of zeros has the cosine zero."""

    def unit(x):
        square = jnp.sum(x**2, axis=-1, keepdims=True)
        return x / jnp.sqrt(jnp.maximum(square, 1e-6))

    return jnp.mean(1 - jnp.sum(unit(a) * unit(b), axis=-1))


def triplet(anchor, positive, negative, margin):
    near = jnp.sum((anchor - positive) ** 2, axis=-1)
    far = jnp.sum((anchor - negative) ** 2, axis=-1)
    return jnp.sum(jnp.maximum(near - far + margin, 0))


def contrastive(a, b, same):
    """d² for pairs that belong together, max(1 - d, 0)² for those that do not."""
    square = jnp.sum((a - b) ** 2, axis=-1)
    d = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    return jnp.sum(jnp.where(same, square, jnp.maximum(1 - d, 0) ** 2))


def info_nce(a, b, temperature):
    """Row i of a and row i of b belong together; both directions count half."""
    scores = a @ b.T / temperature
    both = jax.nn.log_softmax(scores, axis=1) + jax.nn.log_softmax(scores, axis=0)
    return -jnp.mean(jnp.diagonal(both)) / 2


def unit_with_guard(x):
    square = jnp.sum(x**2, axis=-1, keepdims=True)
    return x / jnp.sqrt(jnp.maximum(square, 1e-6)), square


def cosine_half(u, v, square):
    """The cotangent of x in u(x)·v, up to sign and mean: the part along u is dropped where the length is not held."""
    along = jnp.where(square > 1e-6, jnp.sum(u * v, axis=-1, keepdims=True), 0)
    return (v - u * along) / jnp.sqrt(jnp.maximum(square, 1e-6))


# --- right ------------------------------------------------------------------------------------------------------------


@right(args="f32[4,4]>0<1 f32[4,4]>=0<=1")
def dice_of_two_maps():
    def backward(residuals, loss_bar):
        p, target = residuals
        total = jnp.sum(p) + jnp.sum(target) + 1
        score = (2 * jnp.sum(p * target) + 1) / total
        return loss_bar * (score - 2 * target) / total, loss_bar * (score - 2 * p) / total

    return by_hand(dice, keeping(dice), backward)


@right(args="f32[4,3] f32[4,3]")
def cosine_loss_with_guard():
    def backward(residuals, loss_bar):
        a, b = residuals
        (u, square_a), (v, square_b) = unit_with_guard(a), unit_with_guard(b)
        scale = -loss_bar / len(a)
        return scale * cosine_half(u, v, square_a), scale * cosine_half(v, u, square_b)

    return by_hand(cosine, keeping(cosine), backward)


@right(args="f32[4,3] f32[4,3] f32[4,3] 0.5")
def triplet_where_active():
    """On the margin itself nothing passes: one of the two one-sided derivatives."""

    def backward(margin, residuals, loss_bar):
        anchor, positive, negative = residuals
        gap = jnp.sum((anchor - positive) ** 2 - (anchor - negative) ** 2, axis=-1) + margin
        active = 2 * loss_bar * (gap > 0)[:, None]
        return active * (negative - positive), active * (positive - anchor), active * (anchor - negative)

    return by_hand(triplet, lambda a, p, n, margin: (triplet(a, p, n, margin), (a, p, n)), backward, (3,))


@right(args="f32[5,2] f32[5,2] bool[5]")
def contrastive_zero_at_coincidence():
    """Points that coincide and should not have no direction to flee in: zero."""

    def backward(residuals, loss_bar):
        a, b, same = residuals
        square = jnp.sum((a - b) ** 2, axis=-1)
        push = -2 * jnp.maximum(1 / jnp.sqrt(jnp.where(square > 0, square, 1)) - 1, 0)
        a_bar = loss_bar * jnp.where(same, 2, push)[:, None] * (a - b)
        return a_bar, -a_bar, None

    return by_hand(contrastive, keeping(contrastive), backward)


@right(args="f32[5,3] f32[5,3] 0.5")
def info_nce_both_directions():
    def backward(temperature, residuals, loss_bar):
        a, b = residuals
        scores = a @ b.T / temperature
        softened = jax.nn.softmax(scores, 1) + jax.nn.softmax(scores, 0)
        scores_bar = loss_bar * (softened / 2 - jnp.eye(len(a), dtype=a.dtype)) / len(a) / temperature
        return scores_bar @ b, scores_bar.T @ a

    return by_hand(info_nce, lambda a, b, temperature: (info_nce(a, b, temperature), (a, b)), backward, (2,))


# --- wrong ------------------------------------------------------------------------------------------------------------


@wrong("epsilon", "local_derivative", "not_finite", args="f32[4,4]>0<1 f32[4,4]>=0<=1")
def dice_smoothing_forgotten():
    """The backward pass does not know the smoothing term of the definition."""

    def backward(residuals, loss_bar):
        p, target = residuals
        total = jnp.sum(p) + jnp.sum(target)
        score = 2 * jnp.sum(p * target) / total
        return loss_bar * (score - 2 * target) / total, loss_bar * (score - 2 * p) / total

    return by_hand(dice, keeping(dice), backward)


@wrong("missing_path", "missing_term", "local_derivative", args="f32[4,3] f32[4,3]")
def cosine_loss_lengths_held():
    """The lengths are held constant: nothing is projected away."""

    def backward(residuals, loss_bar):
        a, b = residuals
        (u, square_a), (v, square_b) = unit_with_guard(a), unit_with_guard(b)
        scale = -loss_bar / len(a)
        return scale * v / jnp.sqrt(jnp.maximum(square_a, 1e-6)), scale * u / jnp.sqrt(jnp.maximum(square_b, 1e-6))

    return by_hand(cosine, keeping(cosine), backward)


@wrong("exchanged", args="f32[4,3] f32[4,3]")
def cosine_loss_exchanged():
    """a gets the cotangent of b."""

    def backward(residuals, loss_bar):
        a, b = residuals
        (u, square_a), (v, square_b) = unit_with_guard(a), unit_with_guard(b)
        scale = -loss_bar / len(a)
        return scale * cosine_half(v, u, square_b), scale * cosine_half(u, v, square_a)

    return by_hand(cosine, keeping(cosine), backward)


@wrong("values", "located", args="f32[4,3] f32[4,3] f32[4,3] 0.5")
def triplet_always_active():
    """Triplets that keep their distance are pulled and pushed all the same."""

    def backward(margin, residuals, loss_bar):
        anchor, positive, negative = residuals
        return (
            2 * loss_bar * (negative - positive),
            2 * loss_bar * (positive - anchor),
            2 * loss_bar * (anchor - negative),
        )

    return by_hand(triplet, lambda a, p, n, margin: (triplet(a, p, n, margin), (a, p, n)), backward, (3,))


@wrong("missing_path", "missing_term", args="f32[4,3] f32[4,3] f32[4,3] 0.5")
def triplet_anchor_used_once():
    """The anchor is in both distances; its use in the second is forgotten."""

    def backward(margin, residuals, loss_bar):
        anchor, positive, negative = residuals
        gap = jnp.sum((anchor - positive) ** 2 - (anchor - negative) ** 2, axis=-1) + margin
        active = 2 * loss_bar * (gap > 0)[:, None]
        return active * (anchor - positive), active * (positive - anchor), active * (anchor - negative)

    return by_hand(triplet, lambda a, p, n, margin: (triplet(a, p, n, margin), (a, p, n)), backward, (3,))


@wrong("not_finite", "values", "kink", args="f32[5,2] f32[5,2] bool[5]")
def contrastive_nan_at_coincidence():
    """Divided by a distance of zero, even where the pair belongs together and the distance has no part in the loss."""

    def backward(residuals, loss_bar):
        a, b, same = residuals
        d = jnp.sqrt(jnp.sum((a - b) ** 2, axis=-1, keepdims=True))
        push = -2 * jnp.maximum(1 - d, 0) * (a - b) / d
        a_bar = loss_bar * (same[:, None] * 2 * (a - b) + ~same[:, None] * push)
        return a_bar, -a_bar, None

    return by_hand(contrastive, keeping(contrastive), backward)


@wrong("missing_path", "missing_term", "wrong_residual", args="f32[5,3] f32[5,3] 0.5")
def info_nce_one_direction():
    """Both directions are in the loss; the cotangent is twice that of the first."""

    def backward(temperature, residuals, loss_bar):
        a, b = residuals
        softened = jax.nn.softmax(a @ b.T / temperature, 1)
        scores_bar = loss_bar * (softened - jnp.eye(len(a), dtype=a.dtype)) / len(a) / temperature
        return scores_bar @ b, scores_bar.T @ a

    return by_hand(info_nce, lambda a, b, temperature: (info_nce(a, b, temperature), (a, b)), backward, (2,))


@wrong("factor", args="f32[5,3] f32[5,3] 0.5")
def info_nce_temperature_forgotten():
    """The scores are divided by the temperature, their cotangent is not."""

    def backward(temperature, residuals, loss_bar):
        a, b = residuals
        scores = a @ b.T / temperature
        softened = jax.nn.softmax(scores, 1) + jax.nn.softmax(scores, 0)
        scores_bar = loss_bar * (softened / 2 - jnp.eye(len(a), dtype=a.dtype)) / len(a)
        return scores_bar @ b, scores_bar.T @ a

    return by_hand(info_nce, lambda a, b, temperature: (info_nce(a, b, temperature), (a, b)), backward, (2,))
