"""Wrong gradients that were shipped, of functions of single numbers: at zero, at ties, far out, for whole exponents."""

import jax
import jax.numpy as jnp
from jax.scipy.special import digamma, gammainc

from .case import by_hand, right, wrong
from .halves import keeping, pointwise

# --- one argument ----------------------------------------------------------------------------------------------------


@wrong("kink", "values", "located", "local_derivative", args="f32[7]")
def doubling_passes_zero_by():
    """Zero is handed on as it is, for the sake of its sign, and so is its cotangent.  Source: jax issue 37992."""
    return pointwise(lambda x: 2 * x, lambda x: jnp.where(x == 0, 1.0, 2.0).astype(x.dtype))


def bessel(x):
    """The modified Bessel function of order zero."""
    return jnp.exp(jnp.abs(x)) * jax.scipy.special.i0e(x)


@wrong("kink", "values", "located", "local_derivative", args="f32[7]")
def bessel_slope_one_at_zero():
    """The slope of |x| at zero is taken for one.  Source: jax issue 11479."""
    return pointwise(bessel, lambda x: jnp.where(x == 0, 1, jnp.exp(jnp.abs(x)) * jax.scipy.special.i1e(x)))


@right(args="f32[7]")
def bessel_of_order_one():
    """The slope of order zero is the function of order one, which is odd."""
    return pointwise(bessel, lambda x: jnp.exp(jnp.abs(x)) * jax.scipy.special.i1e(x))


@wrong("not_finite", "kink", "values", args="f32[7]")
def absolute_divided():
    """x / |x| is nought over nought at zero.  Source: burn pull 2249."""
    return pointwise(jnp.abs, lambda x: x / jnp.abs(x))


@right(args="f32[7]")
def absolute_by_sign():
    return pointwise(jnp.abs, jnp.sign)


@wrong("wrong_residual", "located", "local_derivative", "value", args="f32[6]")
def quadratic_given_back_its_value():
    """The backward pass runs the forward kernel.  Source: mxnet issue 16938."""
    return pointwise(lambda x: 3 * x**2 + 2 * x + 1, lambda x: 3 * x**2 + 2 * x + 1)


@wrong("wrong_residual", "local_derivative", "located", args="f32[8]")
def tanh_of_what_is_a_tanh_already():
    """The slope is asked for at the activation, which is applied once more.  Source: wvabrinskas/Neuron pull 181."""
    return by_hand(jnp.tanh, lambda x: (jnp.tanh(x), jnp.tanh(x)), lambda y, g: (g * (1 - jnp.tanh(y) ** 2),))


def logistic_likelihood(theta, label):
    """The log likelihood of a label, which is −1 or 1, as a stable function of the signed margin."""
    margin = label * theta
    return jnp.minimum(margin, 0) - jnp.log1p(jnp.exp(-jnp.abs(margin)))


@wrong("sign", "values", "located", "factor", args="f32[9] i32[9]<2")
def likelihood_sign_lost_beyond_the_cutoff():
    """Beyond a margin of five the sign of the label is left out.  Source: stan-dev/math pull 3369 (there: twenty)."""

    def function(theta, y):
        return logistic_likelihood(theta, 2 * y - 1)

    def backward(saved, g):
        theta, y = saved
        signs = (2 * y - 1).astype(theta.dtype)
        margin = signs * theta
        small = jnp.exp(-jnp.abs(margin))
        slope = jnp.where(margin > 0, small, 1) / (1 + small)
        return g * jnp.where(margin > 5, -small, signs * slope), None

    return by_hand(function, keeping(function), backward)


@right(args="f32[9] i32[9]<2")
def likelihood_of_labels():
    def function(theta, y):
        return logistic_likelihood(theta, 2 * y - 1)

    def backward(saved, g):
        theta, y = saved
        signs = (2 * y - 1).astype(theta.dtype)
        return g * signs * jax.nn.sigmoid(-signs * theta), None

    return by_hand(function, keeping(function), backward)


@wrong("not_finite", "values", args="f32[6]")
def log_of_two_exponentials_apart():
    """e^x / (e^x + 1) as it stands.  Source: stan-dev/math issue 1679, whose weights came from differences too."""
    return pointwise(lambda x: jnp.logaddexp(x, 0.0), lambda x: jnp.exp(x) / (jnp.exp(x) + 1))


# --- two arguments ---------------------------------------------------------------------------------------------------


@wrong("kink", "counted_twice", "values", args="f32[6] f32[6]")
def minimum_twice_at_ties():
    """Where both are equal both receive everything.  Source: candle pull 534, oneflow pull 7519."""

    def backward(saved, g):
        a, b = saved
        return g * (a <= b), g * (b <= a)

    return by_hand(jnp.minimum, keeping(jnp.minimum), backward)


@right(args="f32[6] f32[6]")
def minimum_halved_at_ties():
    def backward(saved, g):
        a, b = saved
        share = jnp.where(a == b, 0.5, 1).astype(a.dtype)
        return g * share * (a <= b), g * share * (b <= a)

    return by_hand(jnp.minimum, keeping(jnp.minimum), backward)


@wrong("kink", "counted_twice", "values", args="f32[4,3]")
def column_maxima_to_every_tie():
    """Every element that equals the maximum receives all of it.  Source: mxnet issue 18563."""

    def backward(saved, g):
        (x,) = saved
        return (g * (x == x.max(0)),)

    return by_hand(lambda x: x.max(0), keeping(lambda x: x.max(0)), backward)


@right(args="f32[4,3]")
def column_maxima_shared():
    def backward(saved, g):
        (x,) = saved
        won = (x == x.max(0)).astype(x.dtype)
        return (g * won / won.sum(0),)

    return by_hand(lambda x: x.max(0), keeping(lambda x: x.max(0)), backward)


@wrong("not_finite", "kink", "values", args="f32[8] i32[8]<4")
def whole_power_of_zero():
    """n x^(n-1) where x and n are zero: nought times infinity.  Source: jax issue 18450, ChainRules.jl pull 513."""

    def power(x, n):
        return jnp.where(n == 0, 1, jnp.where(n == 0, 1, x) ** jnp.maximum(n, 1))

    def backward(saved, g):
        x, n = saved
        return g * n * jnp.power(x, (n - 1).astype(x.dtype)), None

    return by_hand(power, keeping(power), backward)


@right(args="f32[8] i32[8]<4")
def whole_power_guarded():
    def power(x, n):
        return jnp.where(n == 0, 1, jnp.where(n == 0, 1, x) ** jnp.maximum(n, 1))

    def backward(saved, g):
        x, n = saved
        return g * jnp.where(n == 0, 0, n * x ** jnp.maximum(n - 1, 0)).astype(x.dtype), None

    return by_hand(power, keeping(power), backward)


@wrong("ignores_cotangent", "wrong_residual", "nonlinear", "located", args="f32[6] f32[6]")
def squared_difference_gives_its_arguments():
    """The arguments themselves are returned.  Source: SciSharp/TensorFlow.NET issue 787."""

    def function(x, y):
        return (x - y) ** 2

    return by_hand(function, keeping(function), lambda saved, g: saved)


@wrong("not_finite", "kink", "values", args="f32[6]")
def exponential_distribution_at_its_start():
    """x^(a-1) through a logarithm: at a = 1 and x = 0 nought times infinity.  Source: tensorflow issue 123578."""

    def cumulative(t):
        return gammainc(1.0, t**2)

    return pointwise(cumulative, lambda t: 2 * t * jnp.exp((1.0 - 1) * jnp.log(t**2) - t**2))


@wrong("missing_path", "located", "dropped", "wrong_residual", args="f32[]>0 i32[6]<9")
def poisson_first_count_alone():
    """One rate and many counts, of which the derivative reads the first.  Source: stan-dev/math issue 1662."""

    def log_mass(rate, counts):
        return jnp.sum(counts * jnp.log(rate) - rate)

    def backward(saved, g):
        rate, counts = saved
        return g * (counts[0] / rate - 1) * len(counts), None

    return by_hand(log_mass, keeping(log_mass), backward)


@right(args="f32[]>0 i32[6]<9")
def poisson_of_many_counts():
    def log_mass(rate, counts):
        return jnp.sum(counts * jnp.log(rate) - rate)

    def backward(saved, g):
        rate, counts = saved
        return g * (counts.sum() / rate - len(counts)), None

    return by_hand(log_mass, keeping(log_mass), backward)


def log_beta(a, b):
    return jax.lax.lgamma(a) + jax.lax.lgamma(b) - jax.lax.lgamma(a + b)


@wrong("nonlinear", "missing_path", "ignores_cotangent", "local_derivative", args="f32[5]>0 f32[5]>0")
def log_beta_second_part_without_the_cotangent():
    """The cotangent multiplies the first part of a sum and not the second.  Source: stan-dev/math issue 1569."""

    def backward(saved, g):
        a, b = saved
        return g * digamma(a) - digamma(a + b), g * digamma(b) - digamma(a + b)

    return by_hand(log_beta, keeping(log_beta), backward)


@right(args="f32[5]>0 f32[5]>0")
def log_beta_by_digammas():
    def backward(saved, g):
        a, b = saved
        return g * (digamma(a) - digamma(a + b)), g * (digamma(b) - digamma(a + b))

    return by_hand(log_beta, keeping(log_beta), backward)


# --- distances -------------------------------------------------------------------------------------------------------


def distances(x, y, p):
    """All distances between the rows of x and of y, in the p-norm; zero where two rows are the same."""
    gap = jnp.abs(x[:, None] - y)
    total = jnp.sum(gap**p, -1)
    return jnp.where(total > 0, jnp.where(total > 0, total, 1) ** (1 / p), 0)


def distances_case(slopes):
    def backward(p, saved, g):
        x, y = saved
        each = slopes(x[:, None] - y, distances(x, y, p)[..., None], p) * g[..., None]
        return each.sum(1), -each.sum(0)

    def forward(x, y, p):
        return distances(x, y, p), (x, y)

    return by_hand(distances, forward, backward, nondiff_argnums=(2,))


@wrong("local_derivative", "located", args="f32[4,3] f32[5,3] 3.0")
def distances_always_euclidean():
    """The derivative of p = 2 whatever p is.  Source: FlagGems issue 5023."""
    return distances_case(lambda gap, d, p: jnp.where(d > 0, gap / jnp.where(d > 0, d, 1), 0))


@wrong("not_finite", "kink", "values", args="f32[4,3] f32[5,3] 2.0")
def distances_nan_where_rows_meet():
    """Divided by a distance of zero.  Source: pytorch issue 37154."""
    return distances_case(lambda gap, d, p: jnp.sign(gap) * jnp.abs(gap) ** (p - 1) / d ** (p - 1))


@right(args="f32[4,3] f32[5,3] 3.0")
def distances_of_any_norm():
    def slopes(gap, d, p):
        return jnp.where(d > 0, jnp.sign(gap) * (jnp.abs(gap) / jnp.where(d > 0, d, 1)) ** (p - 1), 0)

    return distances_case(slopes)


# --- probabilities ---------------------------------------------------------------------------------------------------


def covariance(a):
    return a @ a.T + jnp.eye(len(a), dtype=a.dtype)


def gaussian(x, a):
    """The log density of x, without its constant, for the covariance A Aᵀ + 1."""
    s = covariance(a)
    return -(x @ jnp.linalg.solve(s, x) + jnp.linalg.slogdet(s)[1]) / 2


def gaussian_case(bars):
    def backward(saved, g):
        x, a = saved
        inverse = jnp.linalg.inv(covariance(a))
        s_bar = bars(inverse, inverse @ x) / 2
        return -g * inverse @ x, g * (s_bar + s_bar.T) @ a

    return by_hand(gaussian, keeping(gaussian), backward)


@wrong("sign", "counted_twice", "located", args="f32[3] f32[3,3]")
def gaussian_covariance_sign():
    """The covariance's cotangent has the wrong sign.  Source: HIPS/autograd pull 412."""
    return gaussian_case(lambda inverse, w: inverse - jnp.outer(w, w))


@wrong("missing_path", "missing_term", "located", args="f32[3] f32[3,3]")
def gaussian_without_its_determinant():
    """The determinant is read from a factor that counts as constant: half of the derivative is lost.

    Source: GaussianMarkovRandomFields.jl pull 193.
    """
    return gaussian_case(lambda inverse, w: jnp.outer(w, w))


@right(args="f32[3] f32[3,3]")
def gaussian_of_both():
    return gaussian_case(lambda inverse, w: jnp.outer(w, w) - inverse)
