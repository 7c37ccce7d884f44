"""Wrong derivatives that show where the example does not lie: near the ends of a range, at marks, where weights end."""

import jax.numpy as jnp
from jax import lax
from jax.scipy.special import digamma, entr, polygamma, xlogy

from .case import by_hand, right, wrong
from .halves import keeping, pointwise

# --- near the end of a range -----------------------------------------------------------------------------------------


@wrong("values", "sign", "local_derivative", "missing_term", "factor", args="f32[6]>0")
def trigamma_of_small_numbers_by_its_pole_alone():
    """Below a thousandth the pole is all that counts, and lacks its square.  Source: the digamma of stan-dev/math."""
    return pointwise(digamma, lambda x: jnp.where(x < 1e-3, 1 / x, polygamma(1, x)))


@right(args="f32[6]>0")
def trigamma_of_small_numbers():
    return pointwise(digamma, lambda x: jnp.where(x < 1e-3, 1 / x**2 + jnp.pi**2 / 6, polygamma(1, x)))


@wrong("values", "local_derivative", "dropped", "not_finite", args="f32[6]>0<1")
def entropy_silent_below_its_threshold():
    """Probabilities below 1e-4 count as nothing backwards, in a sum whose slope grows there."""
    return pointwise(entr, lambda p: jnp.where(p < 1e-4, 0, -jnp.log(jnp.where(p < 1e-4, 1, p)) - 1))


@right(args="f32[6]>0<1")
def entropy_of_probabilities():
    return pointwise(entr, lambda p: -jnp.log(p) - 1)


@wrong("values", "epsilon", "local_derivative", args="f32[6]>0<1")
def logit_clipped_backward_alone():
    """Forward is exact, backward keeps p within a thousandth of either end.  Source: torch.logit's `eps`."""

    def slope(p):
        q = jnp.clip(p, 1e-3, 1 - 1e-3)
        return 1 / (q * (1 - q))

    return pointwise(lambda p: jnp.log(p) - jnp.log1p(-p), slope)


@right(args="f32[6]>0<1")
def logit_not_clipped():
    return pointwise(lambda p: jnp.log(p) - jnp.log1p(-p), lambda p: 1 / (p * (1 - p)))


@wrong("values", "cancellation", "local_derivative", "not_finite", args="f32[5]>0")
def inverse_softplus_through_a_difference():
    """1 / (1 - e^-x) as it stands has no digit left for small x.  Source: tensorflow probability's softplus inverse."""
    return pointwise(
        lambda x: x + jnp.log(-jnp.expm1(-x)),
        lambda x: 1 + jnp.where(x < 1e-2, 0.5, 1 / jnp.expm1(jnp.maximum(x, 1e-2))),
    )


@right(args="f32[5]>0")
def inverse_softplus():
    return pointwise(lambda x: x + jnp.log(-jnp.expm1(-x)), lambda x: -1 / jnp.expm1(-x))


def arc(x):
    return jnp.arccos(jnp.clip(x, -1, 1))


@wrong("values", "kink", "not_finite", "located", args="f32[8]>-1<1")
def arc_cosine_of_what_is_clipped():
    """Beyond the ends the cotangent is infinite times nothing.  Source: kornia issue 4007."""

    def slope(x):
        held = jnp.clip(x, -1, 1)
        return -1 / jnp.sqrt(1 - held**2) * (1 + jnp.sign(1 - jnp.abs(x))) / 2

    return pointwise(lambda x: arc(x * 1.25), lambda x: 1.25 * slope(x * 1.25))


def direction(v):
    """The angle of every row to the first axis, by its clipped cosine; zero where the cosine is one."""
    cosine = v[:, 0] / jnp.sqrt(jnp.sum(v * v, 1) + 1e-12)
    return cosine * jnp.arccos(0.9 * cosine)


@right(args="f32[4,3]")
def direction_by_autodiff_of_parts():
    def backward(saved, g):
        (v,) = saved
        r = jnp.sqrt(jnp.sum(v * v, 1) + 1e-12)
        c = v[:, 0] / r
        slope = jnp.arccos(0.9 * c) - 0.9 * c / jnp.sqrt(1 - (0.9 * c) ** 2)
        unit = jnp.eye(v.shape[1], dtype=v.dtype)[0]
        return ((g * slope)[:, None] * (unit / r[:, None] - v * (v[:, 0] / r**3)[:, None]),)

    return by_hand(direction, keeping(direction), backward)


# --- lone parameters at the values for which there is another formula ------------------------------------------------


def box_cox(x, power):
    still = power == 0
    safe = jnp.where(still, 1, power)
    return jnp.where(still, jnp.log(x), jnp.expm1(safe * jnp.log(x)) / safe)


def box_cox_case(at_zero):
    def backward(saved, g):
        x, power = saved
        still = power == 0
        safe = jnp.where(still, 1, power)
        log = jnp.log(x)
        e = jnp.exp(safe * log)
        by_power = jnp.where(still, at_zero(log), (safe * log * e - e + 1) / safe**2)
        return g * x ** (power - 1), jnp.sum(g * by_power)

    return by_hand(box_cox, keeping(box_cox), backward)


@wrong("values", "kink", "dropped", "located", args="f32[5]>0.5<3 f32[]>0.3<2")
def box_cox_power_not_heard_at_zero():
    """Where the power is zero the logarithm has none, and the power hears nothing.  Source: ports of SciPy's boxcox."""
    return box_cox_case(lambda log: 0 * log)


@right(args="f32[5]>0.5<3 f32[]>0.3<2")
def box_cox_power():
    return box_cox_case(lambda log: log**2 / 2)


def tempered(x, t):
    """The tempered logarithm: (x^(1-t) - 1) / (1 - t), log x where t is one."""
    whole = t == 1
    s = jnp.where(whole, 1, 1 - t)
    return jnp.where(whole, jnp.log(x), (x**s - 1) / s)


def tempered_case(slope):
    def backward(saved, g):
        x, t = saved
        whole = t == 1
        s = jnp.where(whole, 1, 1 - t)
        by_t = jnp.where(whole, -(jnp.log(x) ** 2) / 2, -(s * xlogy(x**s, x) - x**s + 1) / s**2)
        return g * slope(x, t), jnp.sum(g * by_t)

    return by_hand(tempered, keeping(tempered), backward)


@wrong("values", "kink", "local_derivative", "wrong_residual", "located", "factor", args="f32[5]>0.5<3 f32[]>0.3<0.9")
def tempered_logarithm_slope_of_another_branch():
    """At t = 1 backward takes the branch of t = 0, where the slope is one.  Source: the bi-tempered loss of google."""
    return tempered_case(lambda x, t: jnp.where(t == 1, jnp.ones_like(x), x**-t))


@right(args="f32[5]>0.5<3 f32[]>0.3<0.9")
def tempered_logarithm():
    return tempered_case(lambda x, t: x**-t)


def general_loss(x, alpha):
    """Barron's loss: a square at two, a Cauchy loss at zero, a power in between."""
    square = x * x
    away = jnp.abs(alpha - 2)
    safe = jnp.where((alpha == 0) | (alpha == 2), 1, alpha)
    gap = jnp.where(alpha == 2, 1, away)
    other = gap / safe * ((square / gap + 1) ** (safe / 2) - 1)
    return jnp.where(alpha == 0, jnp.log1p(square / 2), jnp.where(alpha == 2, square / 2, other))


def general_case(of_cauchy):
    def function(x, alpha):
        return general_loss(x, lax.stop_gradient(alpha))

    def backward(saved, g):
        x, alpha = saved
        gap = jnp.where(alpha == 2, 1, jnp.abs(alpha - 2))
        other = x * (x * x / gap + 1) ** (alpha / 2 - 1)
        slope = jnp.where(alpha == 0, of_cauchy(x), jnp.where(alpha == 2, x, other))
        return g * slope, jnp.zeros_like(alpha)

    return by_hand(function, keeping(function), backward)


@wrong("values", "factor", "local_derivative", "located", "kink", args="f32[6] f32[]>0.5<1.5")
def general_loss_cauchy_slope_doubled():
    """At alpha = 0 the slope is 2x / (x² + 1), of another scaling.  Source: the author's general robust loss."""
    return general_case(lambda x: 2 * x / (x * x + 1))


@right(args="f32[6] f32[]>0.5<1.5")
def general_loss_of_every_alpha():
    return general_case(lambda x: 2 * x / (x * x + 2))


def dropped_out(x, noise, rate):
    kept = noise >= rate
    return jnp.where(rate == 1, 0 * x, jnp.where(kept, x, 0) / jnp.where(rate == 1, 1, 1 - rate))


def dropout_case(scale):
    def function(x, noise, rate):
        return dropped_out(x, lax.stop_gradient(noise), lax.stop_gradient(rate))

    def backward(saved, g):
        _, noise, rate = saved
        return g * (noise >= rate) * scale(rate), jnp.zeros_like(noise), jnp.zeros_like(rate)

    return by_hand(function, keeping(function), backward)


@wrong("not_finite", "values", args="f32[6] f32[6]>0<1 f32[]>0.2<0.6")
def dropout_of_everything():
    """At a rate of one the mask of nothing is divided by nothing.  Source: an early dropout of pytorch."""
    return dropout_case(lambda rate: 1 / (1 - rate))


@right(args="f32[6] f32[6]>0<1 f32[]>0.2<0.6")
def dropout_of_any_rate():
    return dropout_case(lambda rate: jnp.where(rate == 1, 0, 1 / jnp.where(rate == 1, 1, 1 - rate)))
