"""Examples that lie on a kink, on a removed point, or on the one value that has a branch of its own."""

import jax
import jax.numpy as jnp
from jax import lax

from .case import by_hand, right, wrong
from .halves import keeping, pointwise


def by_tangents(function, rule):
    """A `jax.custom_jvp` whose tangent is `rule(primals, tangents)`."""
    made = jax.custom_jvp(function)
    made.defjvp(lambda primals, tangents: (function(*primals), rule(primals, tangents)))
    return made


# --- functions of JAX itself -----------------------------------------------------------------------------------------


@right(args="f32[4]>=0<=0")
def relu_of_jax_at_zero():
    return jax.nn.relu


@right(args="f32[4]>=1<=1 f32[4]>=1<=1")
def logaddexp_of_jax_at_ties():
    return jnp.logaddexp


@right(args="f32[4]>=0<=0 f32[4]")
def xlogy_of_jax_at_zero():
    return lambda x, log_y: jax.scipy.special.xlogy(x, jnp.exp(log_y))


@right(args="f32[4]>=0<=0 f32[4]>0.1")
def xlog1py_of_jax_at_zero():
    return jax.scipy.special.xlog1py


@wrong("not_finite", "values", args="f32[3]>1<2")
def spence_of_jax():
    """Not a number beyond one, where it is log z / (1 - z)."""
    return jax.scipy.special.spence


@right(args="f32[4]>=0<=0")
def sinc_of_jax_at_zero():
    return jnp.sinc


# --- zero ------------------------------------------------------------------------------------------------------------


@right(args="f32[4]>=0<=0")
def relu_flat_at_zero():
    """The slope at zero is nought, which lies between those of both sides."""
    return pointwise(lambda x: jnp.maximum(x, 0), lambda x: (x > 0).astype(x.dtype))


@right(args="f32[1]>=0<=0 f32[3]")
def relu_flat_at_one_of_its_zeros():
    relu = pointwise(lambda x: jnp.maximum(x, 0), lambda x: (x > 0).astype(x.dtype))
    return lambda zero, x: relu(jnp.concatenate([zero, x]))


def product_without_nan(x, y):
    return jnp.where(y == 0, 0, x * y)


@right(args="f32[4] f32[4]>=0<=0")
def product_without_nan_by_the_product_rule():
    """The rule of the product holds at y = 0 too.  Source: distrax."""
    return by_tangents(product_without_nan, lambda p, t: p[0] * t[1] + p[1] * t[0])


@wrong("exchanged", args="f32[4] f32[4]>=0<=0")
def product_without_nan_tangents_exchanged():
    return by_tangents(product_without_nan, lambda p, t: p[0] * t[0] + p[1] * t[1])


@right(args="f32[4] f32[4]<0")
def product_with_an_exponential():
    """p x for p = e^l, where x may be infinite if p is nought.  Source: distrax."""

    def of_p(x, p):
        return jnp.where(p == 0, 0, x) * p

    def rule(primals, tangents):
        x, p = primals[0], jnp.exp(primals[1])
        return of_p(tangents[0], p) + of_p(x, p) * tangents[1]

    return by_tangents(lambda x, log_p: of_p(x, jnp.exp(log_p)), rule)


def xlogy(x, y):
    return jnp.where(x != 0, x * jnp.log(y), 0)


@right(args="f32[4] f32[4]>0.1")
def xlogy_of_either_sign():
    """Its slope by x at nought is log y: the point is removed, not a kink."""
    return by_tangents(xlogy, lambda p, t: jnp.log(p[1]) * t[0] + p[0] / p[1] * t[1])


@wrong("values", "dropped", "kink", "located", args="f32[4] f32[4]>0.1")
def xlogy_of_the_positive_alone():
    return by_tangents(xlogy, lambda p, t: jnp.log(p[1]) * t[0] + jnp.where(p[0] > 0, p[0] / p[1], 0) * t[1])


def length(x):
    return jnp.linalg.norm(x, axis=-1)


def lengths():
    def rule(primals, tangents):
        y = length(*primals)
        return jnp.where(y == 0, 0, jnp.sum(primals[0] * tangents[0], -1) / jnp.where(y == 0, 1, y))

    return by_tangents(length, rule)


@right(args="f32[2,3]>=0<=0")
def lengths_of_nothing():
    """At zero the subgradient nought.  Source: ott."""
    return lengths()


@right(args="f32[1,3]>=0<=0 f32[1,3]")
def lengths_of_one_zero_row():
    made = lengths()
    return lambda zero, x: made(jnp.concatenate([zero, x]))


@wrong("not_finite", "kink", "values", args="c64[8]")
def magnitude_of_zero():
    """conj(z) / |z| is nought over nought."""
    return pointwise(lambda z: jnp.abs(z), lambda z: jnp.conj(z) / jnp.abs(z))


def magnitudes(a, z):
    return jnp.abs(a @ z)


@right(args="c64[3,4] c64[4]")
def magnitudes_of_a_product():
    def backward(saved, g):
        a, z = saved
        y = a @ z
        size = jnp.abs(y)
        bar = jnp.where(size == 0, 0, jnp.conj(y) / jnp.where(size == 0, 1, size)) * g
        return jnp.outer(bar, z), bar @ a

    return by_hand(magnitudes, keeping(magnitudes), backward)


def lambert(z):
    """The w with w e^w = z, by Halley's steps."""

    def step(_, w):
        gap = w - z / jnp.exp(w)
        return w - gap / (w + 1 - (w + 2) * gap / (2 * w + 2))

    return lax.fori_loop(0, 12, step, jnp.log1p(z))


@wrong("kink", "values", "dropped", args="f32[4]>=0")
def lambert_flat_at_zero():
    """w / z (1 + w) is one at nought, and not nought."""

    def slope(z):
        w = lambert(z)
        return jnp.where(z == 0, 0, w / (jnp.where(z == 0, 1, z) * (1 + w)))

    return pointwise(lambert, slope)


@wrong("transform", "kink", "values", args="f32[4]>=0<=0")
def lambert_with_a_constant_slope_at_zero():
    """The slope is right; its own derivative at nought, which is -2, is that of a constant.

    Source: TensorFlow Probability.
    """

    def slope(z):
        w = lambert(z)
        return jnp.where(z == 0, 1, w / (jnp.where(z == 0, 1, z) * (1 + w)))

    return pointwise(lambert, slope)


@right(args="f32[4]>=0<=0")
def lambert_at_zero():
    """1 / e^w (1 + w), of which no point is removed."""

    def slope(z):
        w = lambert(z)
        return jnp.exp(-w) / (1 + w)

    return pointwise(lambert, slope)


def soft_step(x):
    return jnp.where(x > 0, jnp.exp(-1 / jnp.where(x > 0, x, 1)), 0)


@wrong("not_finite", "kink", "values", args="f32[4]")
def soft_step_divided_before_it_is_chosen():
    """Nought over nought at zero, times a tangent, in the branch that is not taken."""
    return by_tangents(soft_step, lambda p, t: jnp.where(p[0] > 0, soft_step(p[0]) / p[0] ** 2 * t[0], 0))


@right(args="f32[4]>=0<=0")
def soft_step_chosen_before_it_is_divided():
    """Source: e3nn."""

    def rule(primals, tangents):
        safe = jnp.where(primals[0] > 0, primals[0], 1)
        return jnp.where(primals[0] > 0, soft_step(safe) / safe**2, 0) * tangents[0]

    return by_tangents(soft_step, rule)


def near_sinc(x):
    away = jnp.where(x > 1e-4, x, 1)
    return jnp.where(x > 1e-4, jnp.sin(away) / away, 1 - x**2 / 6 + x**4 / 120)


def near_sinc_case(third):
    def slope(x):
        away = jnp.where(x > 1e-4, x, 1)
        return jnp.where(x > 1e-4, (jnp.cos(away) - jnp.sin(away) / away) / away, third * x / 3 + x**3 / 30)

    return pointwise(near_sinc, slope)


@wrong("sign", "values", "located", "local_derivative", args="f32[4]>=0<0.0001")
def near_sinc_series_with_the_wrong_sign():
    """Below 1e-4 a series, whose first term has the wrong sign."""
    return near_sinc_case(1)


@right(args="f32[4]>=0<0.0001")
def near_sinc_by_its_series():
    return near_sinc_case(-1)


# --- ties and the one value ------------------------------------------------------------------------------------------


@wrong("kink", "dropped", "missing_path", "values", args="f32[6] f32[6]")
def maximum_to_neither_at_ties():
    def backward(saved, g):
        x, y = saved
        return g * (x > y), g * (y > x)

    return by_hand(lambda x, y: jnp.maximum(x, y), keeping(jnp.maximum), backward)


def power_law(alpha, low, high):
    """The logarithm of the integral of x^α between two ends, with its own form at α = -1."""
    other = alpha != -1
    a = jnp.where(other, 1 + alpha, 1)
    return jnp.where(other, jnp.log((high**a - low**a) / a), jnp.log(jnp.log(high / low)))


def power_law_case(ends):
    def rule(primals, tangents):
        alpha, low, high = primals
        other = alpha != -1
        a = jnp.where(other, 1 + alpha, 1)
        one, two = (jnp.log(jnp.where(end > 0, end, 1)) for end in (low, high))  # 0ᵃ log 0 is zero
        by_alpha = jnp.where(
            other, (high**a * two - low**a * one) / a - (high**a - low**a) / a**2, (two**2 - one**2) / 2
        )
        at_low, at_high = ends(low, alpha), ends(high, alpha)
        total = by_alpha * tangents[0] - at_low * tangents[1] + at_high * tangents[2]
        return total / jnp.exp(power_law(*primals))

    return by_tangents(power_law, rule)


@wrong("values", "kink", "local_derivative", "located", "factor", args="f32[3]>=-1<=-1 f32[3]>0.2<0.8 f32[3]>1.5<3")
def power_law_ends_at_minus_one():
    """At α = -1 the density at both ends is taken for one."""
    return power_law_case(lambda x, alpha: jnp.where(alpha != -1, x**alpha, 1))


@right(args="f32[3]>=-1<=-1 f32[3]>0.2<0.8 f32[3]>1.5<3")
def power_law_at_minus_one():
    """Source: NumPyro."""
    return power_law_case(lambda x, alpha: x**alpha)


def monotone(y):
    """The non-decreasing numbers nearest to y, by the least and greatest means."""
    n = len(y)
    sums = jnp.concatenate([jnp.zeros_like(y[:1]), jnp.cumsum(y)])
    at = jnp.arange(n)
    means = (sums[1:] - sums[:-1, None]) / jnp.maximum(at - at[:, None] + 1, 1).astype(y.dtype)
    valid = (at >= at[:, None])[:, None, :] & (at[:, None] <= at)
    least = jnp.where(valid, means, jnp.inf).min(-1)
    return jnp.where(at <= at[:, None], least, -jnp.inf).max(-1)


def monotone_case(share):
    def backward(saved, g):
        y = monotone(*saved)
        return (share((y[:, None] == y).astype(y.dtype)) @ g,)

    return by_hand(monotone, keeping(monotone), backward)


@wrong("missing_term", "factor", "counted_twice", "values", "located", "local_derivative", args="f32[6]")
def monotone_sum_of_a_block():
    """What is pooled has a mean, whose cotangents are averaged too."""
    return monotone_case(lambda same: same)


@right(args="f32[6]")
def monotone_mean_of_a_block():
    """Source: ott, jaxopt."""
    return monotone_case(lambda same: same / same.sum(1, keepdims=True))


@right(args="f32[6]")
def steps_of_a_quarter_straight_through():
    """Clipped, then rounded to quarters; the definition holds the rounding constant."""

    def function(x):
        inside = jnp.clip(x, -1, 1)
        return inside + lax.stop_gradient(jnp.round(inside * 4) / 4 - inside)

    return pointwise(function, lambda x: (jnp.abs(x) <= 1).astype(x.dtype))
