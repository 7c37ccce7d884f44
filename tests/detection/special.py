"""Special functions, powers and roundings: where stability and conventions are the point."""

import math

import jax
import jax.numpy as jnp
from jax import lax

from .case import by_hand, right, wrong
from .halves import keeping, pointwise


def sinc(x):
    return jnp.where(x == 0, 1, jnp.sin(x) / jnp.where(x == 0, 1, x))


def log1mexp(x):
    """log(1 - e^{-x}) for positive x."""
    return jnp.where(x < math.log(2), jnp.log(-jnp.expm1(-x)), jnp.log1p(-jnp.exp(-x)))


def xlogy(x, y):
    return jnp.where(x == 0, 0, x * jnp.log(y))


def logit(p):
    return jnp.log(p / (1 - p))


def lambert_w(x):
    """The w with w e^w = x for positive x, by Newton's method in logarithms."""
    return lambert_steps(x, 20)


def lambert_steps(x, steps):

    def step(_, w):
        return w - (w + jnp.log(w) - jnp.log(x)) * w / (1 + w)

    return lax.fori_loop(0, steps, step, jnp.log1p(x))


def smooth_clip(x, low, high):
    return low + jnp.logaddexp(x - low, 0) - jnp.logaddexp(x - high, 0)


def round_to(x, levels):
    return jnp.round(jnp.clip(x, -1, 1) * levels) / levels


def round_straight_through(x, levels):
    """What is meant: the value of the rounding with the derivative of the clipping."""
    clipped = jnp.clip(x, -1, 1)
    return clipped + lax.stop_gradient(round_to(x, levels) - clipped)


def kepler(mean, e):
    """The E with E - e sin E = mean, by as many steps as it takes; reverse mode cannot pass the loop."""

    def step(state):
        eccentric, _, steps = state
        better = eccentric - (eccentric - e * jnp.sin(eccentric) - mean) / (1 - e * jnp.cos(eccentric))
        return better, eccentric, steps + 1

    def goes_on(state):
        eccentric, last, steps = state
        return (steps < 30) & jnp.any(eccentric != last)

    first = mean + e * jnp.sin(mean)
    return lax.while_loop(goes_on, step, (first, first + 1, 0))[0]


def kepler_in_thirty_steps(mean, e):
    def step(_, eccentric):
        return eccentric - (eccentric - e * jnp.sin(eccentric) - mean) / (1 - e * jnp.cos(eccentric))

    return lax.fori_loop(0, 30, step, mean + e * jnp.sin(mean))


def power(x, n):
    return x**n


# --- right ------------------------------------------------------------------------------------------------------------


@right(args="f32[8]")
def sinc_by_its_series():
    """The series near zero, where (cos x - sinc x)/x loses its digits; no branch divides by zero."""

    def slope(x):
        away = jnp.where(jnp.abs(x) < 1, 1, x)
        near = jnp.where(jnp.abs(x) < 1, x, 0)
        series = sum((-1) ** n * 2 * n / math.factorial(2 * n + 1) * near ** (2 * n - 1) for n in range(1, 11))
        return jnp.where(jnp.abs(x) < 1, series, (jnp.cos(away) - jnp.sin(away) / away) / away)

    return pointwise(sinc, slope)


@right(args="f32[9]>0")
def log1mexp_slope():
    """e^{-x} / (1 - e^{-x}), which neither cancels near zero nor overflows."""
    return pointwise(log1mexp, lambda x: jnp.exp(-x) / -jnp.expm1(-x))


@right(args="f32[6]>=0 f32[6]>0")
def xlogy_at_zero():
    """At x = 0 < y the derivative in x is log y, which `where` in the definition hides from autodiff."""

    def backward(residuals, z_bar):
        x, y = residuals
        return z_bar * jnp.log(y), z_bar * x / y

    return by_hand(xlogy, keeping(xlogy), backward)


@right(args="f32[5]>=0")
def square_root_flat_at_zero():
    """The derivative is infinite at zero; the convention there is zero, as of the double `where`."""

    def root(x):
        return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0)

    return pointwise(root, lambda x: jnp.where(x > 0, 0.5 / jnp.sqrt(jnp.where(x > 0, x, 1)), 0))


@right(args="f32[8]>0<1")
def logit_slope():
    return pointwise(logit, lambda p: 1 / (p * (1 - p)))


@right(args="f32[10]")
def log_cosh_slope():
    """The definition is even, kinked in its parts alone: at zero the slope is zero."""
    log_cosh = pointwise(
        lambda x: jnp.abs(x) + jnp.log1p(jnp.exp(-2 * jnp.abs(x))) - math.log(2),
        jnp.tanh,
    )
    return lambda x: log_cosh(x) - 1


@right(args="f32[16]")
def one_minus_cosine_kept():
    """x - sin x: the slope is 2 sin²(x/2), which keeps the digits that 1 - cos x loses near zero."""
    return pointwise(lambda x: x - jnp.sin(x), lambda x: 2 * jnp.sin(x / 2) ** 2)


@right(args="f32[6]>0")
def lambert_w_implicit():
    """From w e^w = x: dw/dx = w / (x (1 + w)); the loop is not differentiated.  The forward pass calls the
    function itself, so that the derivative can be differentiated again."""

    def forward(x):
        w = function(x)
        return w, (x, w)

    def backward(residuals, w_bar):
        x, w = residuals
        return (w_bar * (w / x) / (1 + w),)

    function = by_hand(lambert_w, forward, backward)
    return function


@right(args="f32[5] f32[]>=0<0.8", truth=kepler_in_thirty_steps)
def kepler_implicit():
    """From E - e sin E = M: E_M = 1/(1 - e cos E), E_e = sin E/(1 - e cos E)."""

    def forward(mean, e):
        eccentric = function(mean, e)
        return eccentric, (eccentric, e)

    def backward(residuals, eccentric_bar):
        eccentric, e = residuals
        mean_bar = eccentric_bar / (1 - e * jnp.cos(eccentric))
        return mean_bar, jnp.sum(mean_bar * jnp.sin(eccentric))

    function = by_hand(kepler, forward, backward)
    return function


@right(args="f32[9]")
def smooth_clip_slope():
    """The difference of two sigmoids as one quotient, which does not cancel."""

    def slope(x):
        return jax.nn.sigmoid(x + 1) * jax.nn.sigmoid(2 - x) * -math.expm1(-3)

    return pointwise(lambda x: smooth_clip(x, -1, 2), slope)


@right(args="f32[12] 4", truth=round_straight_through)
def rounding_straight_through():
    """The cotangent passes the rounding unchanged where nothing is clipped: what `truth` says is meant."""

    def backward(levels, x, y_bar):
        return (jnp.where(jnp.abs(x) <= 1, y_bar, 0),)

    return by_hand(round_to, lambda x, levels: (round_to(x, levels), x), backward, nondiff_argnums=(1,))


@right(args="f32[6] i32[6]<4")
def integer_power():
    """n x^{n-1}, with n = 0 taken apart; nothing is returned for the exponents."""

    def backward(residuals, y_bar):
        x, n = residuals
        return jnp.where(n == 0, 0, y_bar * n * x ** jnp.maximum(n - 1, 0)), None

    return by_hand(power, keeping(power), backward)


# --- wrong ------------------------------------------------------------------------------------------------------------


@wrong("cancellation", "values", args="f32[8]")
def sinc_cancels():
    """(cos x - sinc x)/x loses every digit at small x (jax issue 34139)."""

    def slope(x):
        safe = jnp.where(x == 0, 1, x)
        return jnp.where(x == 0, 0, (jnp.cos(x) - jnp.sin(x) / safe) / safe)

    return pointwise(sinc, slope)


@wrong("not_finite", "values", "kink", args="f32[8]")
def sinc_nan_at_zero():
    """Nought over nought at x = 0 alone, where the slope is zero (jax issue 6936)."""
    return pointwise(sinc, lambda x: (x * jnp.cos(x) - jnp.sin(x)) / x**2)


@wrong("sign", args="f32[9]>0")
def log1mexp_sign():
    """The slope of log(1 - e^x) at -x, without the minus of the inner function."""
    return pointwise(log1mexp, lambda x: jnp.exp(-x) / jnp.expm1(-x))


@wrong("factor", args="f32[9]")
def erf_half():
    """1/√π where 2/√π belongs."""
    return pointwise(lax.erf, lambda x: jnp.exp(-(x**2)) / math.sqrt(math.pi))


@wrong("ignores_cotangent", args="f32[8]>0<1")
def logit_for_a_sum():
    """Written for the gradient of the sum: the cotangent is taken for one."""
    return by_hand(logit, lambda p: (logit(p), p), lambda p, _: (1 / (p * (1 - p)),))


@wrong("nonlinear", "values", args="f32[12] 4", truth=round_straight_through)
def rounding_clips_its_cotangent():
    """Straight through, but the cotangent is clipped to [-1, 1] on its way."""

    def backward(levels, x, y_bar):
        return (jnp.where(jnp.abs(x) <= 1, jnp.clip(y_bar, -1, 1), 0),)

    return by_hand(round_to, lambda x, levels: (round_to(x, levels), x), backward, nondiff_argnums=(1,))


@wrong("values", "local_derivative", args="f32[12] 4", truth=round_straight_through)
def rounding_passes_outside():
    """Straight through even where the value is clipped, which `truth` does not mean."""

    def backward(levels, x, y_bar):
        return (y_bar,)

    return by_hand(round_to, lambda x, levels: (round_to(x, levels), x), backward, nondiff_argnums=(1,))


@wrong("dropped", args="f32[12] 4", truth=round_straight_through)
def rounding_stops_everything():
    """What autodiff makes of the rounding: zero everywhere, and nothing is learned."""

    def backward(levels, _, y_bar):
        return (jnp.zeros_like(y_bar),)

    return by_hand(round_to, lambda x, levels: (round_to(x, levels), None), backward, nondiff_argnums=(1,))


@wrong("not_finite", "values", "kink", "raised", args="f32[6] i32[6]<4")
def integer_power_of_zero():
    """n x^n / x is nought over nought at x = 0."""

    def backward(residuals, y_bar):
        x, n = residuals
        return y_bar * n * x**n / x, None

    return by_hand(power, keeping(power), backward)


@wrong("transform", args="f32[6]")
def cube_second_order_lost():
    """The slope is kept behind a stop_gradient: right once, zero when differentiated twice (pytorch issue 58509)."""
    return by_hand(
        lambda x: x**3,
        lambda x: (x**3, lax.stop_gradient(3 * x**2)),
        lambda slope, y_bar: (slope * y_bar,),
    )


@wrong("transform", "values", args="f32[6]>0")
def lambert_w_coarse_under_jit():
    """One step of Newton's method is thought enough where the cotangent is traced."""

    def backward(x, w_bar):
        w = lambert_steps(x, 1 if isinstance(w_bar, jax.core.Tracer) else 20)
        return (w_bar * w / (x * (1 + w)),)

    return by_hand(lambert_w, lambda x: (lambert_w(x), x), backward)


@wrong("local_derivative", "wrong_residual", "values", args="f32[5] f32[]>=0<0.8", truth=kepler_in_thirty_steps)
def kepler_at_the_mean_anomaly():
    """The denominator is taken at the mean anomaly instead of the eccentric one: right at e = 0."""

    def forward(mean, e):
        return kepler(mean, e), (mean, e)

    def backward(residuals, eccentric_bar):
        mean, e = residuals
        mean_bar = eccentric_bar / (1 - e * jnp.cos(mean))
        return mean_bar, jnp.sum(mean_bar * jnp.sin(mean))

    return by_hand(kepler, forward, backward)


@wrong("structure", "dtype", args="f32[10]")
def cotangent_in_half():
    """The cotangent comes back in float16, whatever the argument is."""
    return by_hand(jnp.sin, lambda x: (jnp.sin(x), x), lambda x, y_bar: ((y_bar * jnp.cos(x)).astype(jnp.float16),))
