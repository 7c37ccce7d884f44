"""Backward passes that are wrong at values the example has not: opaque, ignored, far out, or in another branch."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import digamma, i0e, i1e, polygamma

from .case import by_hand, right, wrong
from .halves import keeping, pointwise

# --- branches and ranges ---------------------------------------------------------------------------------------------


def slope_of_tanh(x):
    return (1 - jnp.tanh(x / 4) ** 2) / 4


@wrong("values", "located", "factor", "local_derivative", args="f32[6]")
def tanh_between_five_and_six():
    """One of three branches has a coefficient too many."""

    def slope(x):
        far = jnp.abs(x)
        return slope_of_tanh(x) * jnp.where((far > 5) & (far < 6), 1.02, 1).astype(x.dtype)

    return pointwise(lambda x: jnp.tanh(x / 4), slope)


@right(args="f32[6]")
def tanh_in_one_branch():
    return pointwise(lambda x: jnp.tanh(x / 4), slope_of_tanh)


@wrong("values", "local_derivative", "missing_term", args="f32[4]>0.5<4")
def trigamma_leading_term_alone():
    """From ten on the asymptotic series is cut after its first term."""
    return pointwise(digamma, lambda x: jnp.where(x < 10, polygamma(1, x), 1 / x))


@right(args="f32[4]>0.5<4")
def trigamma_everywhere():
    return pointwise(digamma, lambda x: polygamma(1, x))


@wrong("values", "sign", "local_derivative", args="f32[6]")
def scaled_bessel_even_when_far():
    """Beyond eight the odd function's sign is lost."""

    def slope(x):
        one = jnp.where(jnp.abs(x) > 8, jnp.abs(i1e(x)), i1e(x))
        return one - jnp.sign(x) * i0e(x)

    return pointwise(i0e, slope)


@wrong("values", "not_finite", args="f32[6]")
def log_cumulative_sum_through_bare_exponentials():
    """e^x and e^-y each on their own overflow where their product does not."""

    def backward(saved, g):
        (x,) = saved
        return (jnp.exp(x) * jnp.cumsum((g * jnp.exp(-lax.cumlogsumexp(x)))[::-1])[::-1],)

    return by_hand(lambda x: lax.cumlogsumexp(x), keeping(lax.cumlogsumexp), backward)


def huber(x, delta):
    far = jnp.abs(x)
    return jnp.where(far <= delta, x * x / 2, delta * (far - delta / 2))


def huber_case(of_delta):
    def backward(saved, g):
        x, delta = saved
        far = jnp.abs(x)
        return g * jnp.clip(x, -delta, delta), jnp.sum(jnp.where(far > delta, g * of_delta(far, delta), 0))

    return by_hand(huber, keeping(huber), backward)


@wrong("values", "local_derivative", "missing_term", "sign", args="f32[6]>-0.8<0.8 f32[]>=1<=1")
def huber_threshold_heard_once():
    """|x| in place of |x| - δ, beyond the threshold, where the example has nothing: as if δ/2 had been added."""
    return huber_case(lambda far, delta: far)


@right(args="f32[6]>-0.8<0.8 f32[]>=1<=1")
def huber_threshold_learned():
    return huber_case(lambda far, delta: far - delta)


def held_ends(x, y):
    return jnp.interp(x, jnp.linspace(-3, 3, 5).astype(x.dtype), y)


def held_ends_case(heard):
    def backward(saved, g):
        x, y = saved
        knots = jnp.linspace(-3, 3, 5).astype(x.dtype)
        i = jnp.clip(jnp.searchsorted(knots, x, side="right") - 1, 0, 3)
        t = jnp.clip((x - knots[i]) / 1.5, 0, 1)
        inside = (x >= -3) & (x <= 3)
        bar = jnp.where(heard | inside, g, 0)
        return g * inside * (y[i + 1] - y[i]) / 1.5, jnp.zeros_like(y).at[i].add(bar * (1 - t)).at[i + 1].add(bar * t)

    return by_hand(held_ends, keeping(held_ends), backward)


@wrong("values", "dropped", "missing_path", "located", args="f32[5]>-2<2 f32[5]")
def interpolation_end_values_not_heard():
    """Outside the knots the last value is held, and learns nothing of it."""
    return held_ends_case(False)


@right(args="f32[5]>-2<2 f32[5]")
def interpolation_end_values_heard():
    return held_ends_case(True)


# --- counts and masks ------------------------------------------------------------------------------------------------


def mean_of_counted(x, labels):
    counted = labels >= 0
    picked = jnp.take_along_axis(jax.nn.log_softmax(x), jnp.where(counted, labels, 0)[:, None], 1)[:, 0]
    return -jnp.sum(jnp.where(counted, picked, 0)) / jnp.maximum(counted.sum(), 1)


def counted_case(count):
    def backward(saved, g):
        x, labels = saved
        counted = labels >= 0
        gap = jax.nn.softmax(x) - jax.nn.one_hot(labels, x.shape[1], dtype=x.dtype)
        return g * gap * counted[:, None] / count(counted), None

    return by_hand(mean_of_counted, keeping(mean_of_counted), backward)


@wrong("not_finite", "values", args="f32[4,5] i32[4]>=-1<5")
def cross_entropy_when_all_labels_are_ignored():
    """The number of counted labels is guarded forwards alone."""
    return counted_case(lambda counted: counted.sum())


@right(args="f32[4,5] i32[4]>=-1<5")
def cross_entropy_with_a_guarded_count():
    return counted_case(lambda counted: jnp.maximum(counted.sum(), 1))


def mean_of_steps(x, lengths):
    inside = jnp.arange(x.shape[1]) < lengths[:, None]
    return jnp.sum(x * inside, 1) / jnp.maximum(lengths, 1)


def steps_case(count):
    def backward(saved, g):
        x, lengths = saved
        share = jnp.where(jnp.arange(x.shape[1]) < lengths[:, None], 1, 0).astype(x.dtype)
        return share * (g / count(lengths))[:, None], None

    return by_hand(mean_of_steps, keeping(mean_of_steps), backward)


@wrong("not_finite", "values", args="f32[3,5] i32[3]>0<=5")
def mean_over_no_steps():
    """A sequence of length nought gives nought, and a cotangent that is no number."""
    return steps_case(lambda lengths: lengths)


@right(args="f32[3,5] i32[3]>0<=5")
def mean_over_steps():
    return steps_case(lambda lengths: jnp.maximum(lengths, 1))


def rows_of_kept(x, bias):
    kept = bias == 0
    some = kept.any(-1, keepdims=True)
    weights = jnp.where(kept, jnp.exp(x - x.max(-1, keepdims=True)), 0)
    return weights / jnp.where(some, weights.sum(-1, keepdims=True), 1)


def bias_case(weights):
    def function(x, bias):
        return rows_of_kept(x, lax.stop_gradient(bias))

    def backward(saved, g):
        p = weights(*saved)
        return p * (g - jnp.sum(p * g, -1, keepdims=True)), jnp.zeros_like(g)

    softmax = by_hand(function, keeping(function), backward)
    return lambda x, keep: softmax(x, jnp.where(keep, 0, -jnp.inf).astype(x.dtype))


@wrong("not_finite", "values", args="f32[3,4] bool[3,4]")
def softmax_with_an_infinite_bias_on_a_whole_row():
    """The backward pass takes a softmax of nothing but minus infinity."""
    return bias_case(lambda x, bias: jax.nn.softmax(x + bias))


@right(args="f32[3,4] bool[3,4]")
def softmax_with_an_infinite_bias():
    return bias_case(rows_of_kept)


@right(args="f32[3,4]")
def logsumexp_of_rows_without_anything():
    """A row of minus infinities has a sum of nought, whose logarithm moves with none of them."""

    def function(x):
        return jax.nn.logsumexp(x, -1)

    def backward(saved, g):
        (x,) = saved
        y = function(x)[:, None]
        return (g[:, None] * jnp.where(jnp.isfinite(y), jnp.exp(x - jnp.where(jnp.isfinite(y), y, 0)), 0),)

    sums = by_hand(function, keeping(function), backward)
    return lambda x: sums(jnp.concatenate([x, jnp.full_like(x[:1], -jnp.inf)]))


@right(args="f32[3,4] f32[3,2]>=0<=0")
def mean_of_what_is_not_zero():
    """Zeros count as padding, and are heard as if they did not."""

    def function(x):
        return x.sum(-1) / jnp.maximum(jnp.sum(x != 0, -1), 1)

    def backward(saved, g):
        (x,) = saved
        return (jnp.broadcast_to((g / jnp.maximum(jnp.sum(x != 0, -1), 1))[:, None], x.shape),)

    mean = by_hand(function, keeping(function), backward)
    return lambda x, padding: mean(jnp.concatenate([x, padding], -1))


# --- a zero or a one among factors -----------------------------------------------------------------------------------


def passed(alpha):
    return jnp.concatenate([jnp.ones_like(alpha[:1]), jnp.cumprod(1 - alpha)[:-1]])


@wrong("values", "kink", "missing_path", "located", args="f32[6]>0.1<0.9 f32[6]")
def rendering_behind_an_opaque_sample():
    """What lies behind is divided by a transparency of nought, which is guarded by 1e-10."""

    def function(alpha, colour):
        return jnp.sum(passed(alpha) * alpha * colour)

    def backward(saved, g):
        alpha, colour = saved
        light = passed(alpha)
        seen = light * alpha * colour
        behind = seen.sum() - jnp.cumsum(seen)
        return g * (light * colour - behind / jnp.maximum(1 - alpha, 1e-10)), g * light * alpha

    return by_hand(function, keeping(function), backward)


@wrong("values", "kink", "located", args="f32[5]")
def product_of_two_zeros():
    """With one zero its own factor is the product of the others; with two there is none."""

    def backward(saved, g):
        (x,) = saved
        others = jnp.prod(jnp.where(x == 0, 1, x))
        return (g * jnp.where((x == 0).any(), jnp.where(x == 0, others, 0), others / jnp.where(x == 0, 1, x)),)

    return by_hand(lambda x: jnp.prod(x), keeping(jnp.prod), backward)


def power_case(log):
    def backward(saved, g):
        x, y = saved
        return g * y * x ** (y - 1), g * x**y * log(x)

    return by_hand(lambda x, y: x**y, keeping(lambda x, y: x**y), backward)


@wrong("not_finite", "values", args="f32[5]>0.1<0.9 f32[5]>1.5<3")
def power_of_zero_by_its_exponent():
    """x^y log x at x = 0 is nought times infinity."""
    return power_case(jnp.log)


@right(args="f32[5]>0.1<0.9 f32[5]>1.5<3")
def power_of_zero_guarded():
    return power_case(lambda x: jnp.where(x > 0, jnp.log(jnp.where(x > 0, x, 1)), 0))


def unit(x, least):
    square = jnp.sum(x * x, -1, keepdims=True)
    length = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)
    return x / jnp.maximum(length, least), length


def unit_case(scale):
    def backward(saved, g):
        (x,) = saved
        length = unit(x, 1e-6)[1]
        towards = x / jnp.maximum(length, 1e-30) * scale(length)
        return ((g - towards * jnp.sum(g * towards, -1, keepdims=True)) / jnp.maximum(length, 1e-6),)

    return by_hand(lambda x: unit(x, 1e-6)[0], keeping(lambda x: unit(x, 1e-6)[0]), backward)


@wrong("values", "epsilon", "missing_term", "kink", args="f32[3,4]")
def unit_rows_projected_below_the_guard():
    """Rows shorter than 1e-6 are divided by a constant, and projected as the others are."""
    return unit_case(jnp.ones_like)


@right(args="f32[3,4]")
def unit_rows_projected_above_the_guard():
    return unit_case(lambda length: (length > 1e-6).astype(length.dtype))
