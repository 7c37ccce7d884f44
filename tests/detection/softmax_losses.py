"""Cross-entropies made of the softmax: of labels, smoothed, weighted, distilled."""

import jax
import jax.numpy as jnp

from .case import by_hand, right, wrong
from .halves import keeping
from .softmax import log_softmax, softmax


def one_hot(labels, like):
    return (labels[..., None] == jnp.arange(like.shape[-1])).astype(like.dtype)


def cross_entropies(logits, labels):
    return -jnp.take_along_axis(log_softmax(logits), labels[:, None], axis=-1)[:, 0]


def cross_entropy(logits, labels):
    return jnp.mean(cross_entropies(logits, labels))


def cross_entropy_by(logits, labels, reduction):
    losses = cross_entropies(logits, labels)
    return {"mean": jnp.mean, "sum": jnp.sum, "none": lambda each: each}[reduction](losses)


def valid_cross_entropy(logits, labels):
    """The mean over the rows whose label is not zero, the padding."""
    valid = labels != 0
    return jnp.sum(cross_entropies(logits, labels) * valid) / jnp.maximum(jnp.sum(valid), 1)


def smoothed_cross_entropy(logits, labels):
    """A tenth of the target is spread evenly over all classes."""
    target = 0.9 * one_hot(labels, logits) + 0.1 / logits.shape[-1]
    return -jnp.mean(jnp.sum(target * log_softmax(logits), axis=-1))


def z_loss(logits, labels):
    log_z = jax.nn.logsumexp(logits, axis=-1)
    return jnp.mean(cross_entropies(logits, labels) + 0.1 * log_z**2)


def focal(logits, labels, gamma):
    log_p = -cross_entropies(logits, labels)
    return -jnp.mean((-jnp.expm1(log_p)) ** gamma * log_p)


def distillation(student, teacher, temperature):
    """T² KL(teacher || student) at temperature T."""
    log_s, log_t = log_softmax(student / temperature), log_softmax(teacher / temperature)
    return temperature**2 * jnp.mean(jnp.sum(jnp.exp(log_t) * (log_t - log_s), axis=-1))


def distillation_halves(student, teacher, temperature):
    log_s, log_t = log_softmax(student / temperature), log_softmax(teacher / temperature)
    excess = log_t - log_s
    p = jnp.exp(log_t)
    towards_teacher = p * (excess - jnp.sum(p * excess, -1, keepdims=True))
    return (jnp.exp(log_s) - p) / len(student), towards_teacher / len(student)


# --- right ------------------------------------------------------------------------------------------------------------


@right(args="f32[6,4] i32[6]<4")
def cross_entropy_of_labels():
    def backward(residuals, loss_bar):
        logits, labels = residuals
        return loss_bar * (softmax(logits) - one_hot(labels, logits)) / len(labels), None

    return by_hand(cross_entropy, keeping(cross_entropy), backward)


@right(args="f32[5,3] i32[5]<3 'none'")
def cross_entropy_unreduced():
    def forward(logits, labels, reduction):
        return cross_entropy_by(logits, labels, reduction), (logits, labels)

    def backward(reduction, residuals, losses_bar):
        logits, labels = residuals
        each = losses_bar[:, None] if reduction == "none" else losses_bar
        n = len(labels) if reduction == "mean" else 1
        return each * (softmax(logits) - one_hot(labels, logits)) / n, None

    return by_hand(cross_entropy_by, forward, backward, nondiff_argnums=(2,))


@right(args="f32[7,4] i32[7]<4")
def cross_entropy_without_padding():
    """The mean is over the rows that count; where there are none, the loss and the cotangent are exactly zero."""

    def backward(residuals, loss_bar):
        logits, labels = residuals
        valid = labels != 0
        weight = loss_bar * valid / jnp.maximum(jnp.sum(valid), 1)
        return weight.astype(logits.dtype)[:, None] * (softmax(logits) - one_hot(labels, logits)), None

    return by_hand(valid_cross_entropy, keeping(valid_cross_entropy), backward)


@right(args="f32[6,5] i32[6]<5")
def cross_entropy_smoothed():
    def backward(residuals, loss_bar):
        logits, labels = residuals
        target = 0.9 * one_hot(labels, logits) + 0.1 / logits.shape[-1]
        return loss_bar * (softmax(logits) - target) / len(labels), None

    return by_hand(smoothed_cross_entropy, keeping(smoothed_cross_entropy), backward)


@right(args="f32[4,6] i32[4]<6")
def cross_entropy_with_z_loss():
    def backward(residuals, loss_bar):
        logits, labels = residuals
        log_z = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
        return loss_bar * ((1 + 0.2 * log_z) * softmax(logits) - one_hot(labels, logits)) / len(labels), None

    return by_hand(z_loss, keeping(z_loss), backward)


@right(args="f32[5,4] i32[5]<4 2.0")
def focal_loss():
    """With p that of the label: dL/dp p = γ (1 - p)^{γ-1} p log p - (1 - p)^γ, times δ - p for every class."""

    def forward(logits, labels, gamma):
        return focal(logits, labels, gamma), (logits, labels)

    def backward(gamma, residuals, loss_bar):
        logits, labels = residuals
        log_p = -cross_entropies(logits, labels)[:, None]
        rest = -jnp.expm1(log_p)
        slope = gamma * rest ** (gamma - 1) * jnp.exp(log_p) * log_p - rest**gamma
        return loss_bar * slope * (one_hot(labels, logits) - softmax(logits)) / len(labels), None

    return by_hand(focal, forward, backward, nondiff_argnums=(2,))


@right(args="f32[4,5] f32[4,5] 3.0")
def distillation_to_both():
    """Student and teacher both get a cotangent."""

    def backward(temperature, residuals, loss_bar):
        to_student, to_teacher = distillation_halves(*residuals, temperature)
        return loss_bar * temperature * to_student, loss_bar * temperature * to_teacher

    def forward(student, teacher, temperature):
        return distillation(student, teacher, temperature), (student, teacher)

    return by_hand(distillation, forward, backward, nondiff_argnums=(2,))


# --- wrong ------------------------------------------------------------------------------------------------------------


@wrong("factor", args="f32[6,4] i32[6]<4")
def cross_entropy_mean_forgotten():
    """The loss is a mean over six rows, its cotangent that of the sum."""

    def backward(residuals, loss_bar):
        logits, labels = residuals
        return loss_bar * (softmax(logits) - one_hot(labels, logits)), None

    return by_hand(cross_entropy, keeping(cross_entropy), backward)


@wrong("factor", args="f32[5,3] i32[5]<3 'sum'")
def cross_entropy_always_a_mean():
    """Divided by the number of rows whatever the reduction is (mended in aprender, pull request 2182)."""

    def forward(logits, labels, reduction):
        return cross_entropy_by(logits, labels, reduction), (logits, labels)

    def backward(reduction, residuals, losses_bar):
        logits, labels = residuals
        each = losses_bar[:, None] if reduction == "none" else losses_bar
        return each * (softmax(logits) - one_hot(labels, logits)) / len(labels), None

    return by_hand(cross_entropy_by, forward, backward, nondiff_argnums=(2,))


@wrong("ignores_cotangent", "located", "wrong_residual", args="f32[5,3] i32[5]<3 'none'")
def cross_entropy_first_cotangent_for_all():
    """Only the first element of the unreduced cotangent is read (the same place in aprender)."""

    def forward(logits, labels, reduction):
        return cross_entropy_by(logits, labels, reduction), (logits, labels)

    def backward(reduction, residuals, losses_bar):
        logits, labels = residuals
        n = len(labels) if reduction == "mean" else 1
        return jnp.ravel(losses_bar)[0] * (softmax(logits) - one_hot(labels, logits)) / n, None

    return by_hand(cross_entropy_by, forward, backward, nondiff_argnums=(2,))


@wrong("ignores_cotangent", args="f32[6,4] i32[6]<4")
def cross_entropy_fused_with_its_gradient():
    """The forward pass computes the gradient and the backward pass returns it, whatever the loss is used for."""

    def forward(logits, labels):
        return cross_entropy(logits, labels), (softmax(logits) - one_hot(labels, logits)) / len(labels)

    return by_hand(cross_entropy, forward, lambda ready, _: (ready, None))


@wrong("factor", "values", args="f32[7,4] i32[7]<4")
def cross_entropy_counts_padding():
    """Divided by all rows where the loss is divided by those that count: wrong as soon as one is padding."""

    def backward(residuals, loss_bar):
        logits, labels = residuals
        weight = (loss_bar * (labels != 0) / len(labels)).astype(logits.dtype)
        return weight[:, None] * (softmax(logits) - one_hot(labels, logits)), None

    return by_hand(valid_cross_entropy, keeping(valid_cross_entropy), backward)


@wrong("values", "located", "not_finite", args="f32[7,4] i32[7]<4")
def cross_entropy_padding_learns():
    """The one-hot part is masked at padded rows, the softmax part is not (the trap of pytorch issue 73205)."""

    def backward(residuals, loss_bar):
        logits, labels = residuals
        valid = (labels != 0).astype(logits.dtype)
        n = jnp.maximum(jnp.sum(valid), 1)
        return loss_bar / n * (softmax(logits) - valid[:, None] * one_hot(labels, logits)), None

    return by_hand(valid_cross_entropy, keeping(valid_cross_entropy), backward)


@wrong("local_derivative", "missing_term", "wrong_residual", args="f32[6,5] i32[6]<5")
def cross_entropy_smoothing_by_the_others():
    """The definition spreads the tenth over all classes, the backward pass over the others only."""

    def backward(residuals, loss_bar):
        logits, labels = residuals
        hot = one_hot(labels, logits)
        target = 0.9 * hot + 0.1 * (1 - hot) / (logits.shape[-1] - 1)
        return loss_bar * (softmax(logits) - target) / len(labels), None

    return by_hand(smoothed_cross_entropy, keeping(smoothed_cross_entropy), backward)


@wrong("missing_path", "missing_term", args="f32[4,6] i32[4]<6")
def z_loss_left_out():
    """The second use of the normaliser has no part in the cotangent."""

    def backward(residuals, loss_bar):
        logits, labels = residuals
        return loss_bar * (softmax(logits) - one_hot(labels, logits)) / len(labels), None

    return by_hand(z_loss, keeping(z_loss), backward)


@wrong("missing_path", "missing_term", "local_derivative", args="f32[5,4] i32[5]<4 2.0")
def focal_weight_held():
    """The modulating factor (1 - p)^γ is held constant."""

    def forward(logits, labels, gamma):
        return focal(logits, labels, gamma), (logits, labels)

    def backward(gamma, residuals, loss_bar):
        logits, labels = residuals
        rest = -jnp.expm1(-cross_entropies(logits, labels))[:, None]
        return loss_bar * rest**gamma * (softmax(logits) - one_hot(labels, logits)) / len(labels), None

    return by_hand(focal, forward, backward, nondiff_argnums=(2,))


@wrong("factor", args="f32[4,5] f32[4,5] 3.0")
def distillation_temperature_squared():
    """The factor T² of the loss without the 1/T of its logits."""

    def backward(temperature, residuals, loss_bar):
        to_student, to_teacher = distillation_halves(*residuals, temperature)
        return loss_bar * temperature**2 * to_student, loss_bar * temperature**2 * to_teacher

    def forward(student, teacher, temperature):
        return distillation(student, teacher, temperature), (student, teacher)

    return by_hand(distillation, forward, backward, nondiff_argnums=(2,))


@wrong("dropped", args="f32[4,5] f32[4,5] 3.0")
def distillation_teacher_frozen():
    """The teacher's cotangent is zero, though nothing in the definition stops it."""

    def backward(temperature, residuals, loss_bar):
        to_student, to_teacher = distillation_halves(*residuals, temperature)
        return loss_bar * temperature * to_student, jnp.zeros_like(to_teacher)

    def forward(student, teacher, temperature):
        return distillation(student, teacher, temperature), (student, teacher)

    return by_hand(distillation, forward, backward, nondiff_argnums=(2,))
