"""Wrong derivatives of linear algebra, special functions, distributions and differential equations."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import digamma, erf, erfinv, gammaln, log_ndtr, ndtri

from .case import by_hand, right, wrong
from .escaped_space import as_of, through
from .halves import keeping, pointwise

# --- decompositions --------------------------------------------------------------------------------------------------


def square_root(a):
    """The square root of (a aᵀ + 1)."""
    s = a @ a.T + jnp.eye(len(a), dtype=a.dtype)
    values, vectors = jnp.linalg.eigh(s)
    return (vectors * jnp.sqrt(values)) @ vectors.T


def root_case(quotient):
    def backward(saved, g):
        (a,) = saved
        values, u = jnp.linalg.eigh(a @ a.T + jnp.eye(len(a), dtype=a.dtype))
        roots = jnp.sqrt(values)
        inner = u.T @ ((g + g.T) / 2) @ u
        return (2 * u @ (quotient(values, roots) * inner) @ u.T @ a,)

    return by_hand(square_root, keeping(square_root), backward)


@wrong("not_finite", "values", "kink", args="f32[3,4]")
def matrix_root_with_equal_eigenvalues():
    """The quotient of differences is nought over nought where eigenvalues meet."""

    def quotient(values, roots):
        off = (roots[:, None] - roots) / (values[:, None] - values + jnp.eye(len(values)))
        return jnp.where(jnp.eye(len(values)) > 0, 0.5 / roots, off)

    return root_case(quotient)


@wrong("values", "dropped", "kink", "missing_path", "located", args="f32[3,4]")
def matrix_root_zero_between_equal_eigenvalues():
    """Where eigenvalues meet the quotient is set to zero, where it has a limit."""

    def quotient(values, roots):
        gap = values[:, None] - values
        safe = jnp.where(jnp.abs(gap) < 1e-5, 1, gap)
        off = jnp.where(jnp.abs(gap) < 1e-5, 0, (roots[:, None] - roots) / safe)
        return jnp.where(jnp.eye(len(values)) > 0, 0.5 / roots, off)

    return root_case(quotient)


@right(args="f32[3,4]")
def matrix_root_by_the_sum_of_roots():
    return root_case(lambda values, roots: 1 / (roots[:, None] + roots))


@wrong("factor", "local_derivative", "missing_term", "located", "counted_twice", args="f32[3,4]")
def matrix_root_diagonal_twice():
    """On the diagonal 1 / r in place of 1 / 2r."""
    return root_case(lambda values, roots: (1 + jnp.eye(len(roots))) / (roots[:, None] + roots))


def projector(a, b):
    """The part of b that the columns of a span, by QR."""
    q = jnp.linalg.qr(a)[0]
    return q @ (q.T @ b)


@wrong("missing_path", "missing_term", "local_derivative", args="f32[5,3] f32[5]")
def projector_seen_from_one_side():
    """Of the two uses of Q the outer is heard.  Source: QR-based least squares by hand."""

    def other(a, b):
        q = jnp.linalg.qr(a)[0]
        return q @ lax.stop_gradient(q.T @ b) + lax.stop_gradient(q) @ (lax.stop_gradient(q).T @ b)

    return as_of(projector, other)


def pseudo(a, b):
    return jnp.linalg.solve(a.T @ a, a.T @ b)


@wrong("shape", "missing_term", "missing_path", args="f32[4,4] f32[4]")
def pseudoinverse_as_if_square():
    """The cotangent of an inverse, which a pseudoinverse shares while it is square.  Source: pytorch's first pinv."""

    def backward(saved, g):
        a, b = saved
        inverse = jnp.linalg.solve(a.T @ a, a.T)
        return -jnp.outer(inverse.T @ g, inverse @ b), inverse.T @ g

    return by_hand(pseudo, keeping(pseudo), backward)


def powered(a, x):
    """The third power of a matrix, applied."""
    return a @ (a @ (a @ x))


@wrong("factor", "missing_path", "local_derivative", "counted_twice", args="f32[3,3] f32[3]")
def matrix_power_as_of_numbers():
    """3 A² in place of the sum over places.  Source: matrix_power in homemade engines."""
    return through(powered, lambda s, g, bars: (3 * jnp.outer(s[0].T @ s[0].T @ g, s[1]), bars[1]))


def log_volume(a):
    sign, log = jnp.linalg.slogdet(a)
    return sign * log


@wrong("sign", "values", args="f32[4,4]")
def log_volume_sign_forgotten():
    """A⁻ᵀ whatever the sign of the determinant, by which the logarithm is multiplied."""
    return by_hand(log_volume, keeping(log_volume), lambda s, g: (g * jnp.linalg.inv(s[0]).T,))


@right(args="f32[4,4]")
def log_volume_signed():
    return by_hand(
        log_volume,
        keeping(log_volume),
        lambda s, g: (g * jnp.linalg.slogdet(s[0])[0] * jnp.linalg.inv(s[0]).T,),
    )


def circled(c, x):
    """A circulant matrix by its first column, times a vector."""
    n = len(c)
    return c[(jnp.arange(n)[:, None] - jnp.arange(n)) % n] @ x


@wrong("permuted", "located", args="f32[5] f32[5]")
def circulant_column_reversed():
    """The first row's cotangent for the first column's.  Source: Toeplitz layers."""
    return through(circled, lambda s, g, bars: (jnp.roll(bars[0][::-1], 1), bars[1]))


# --- special functions -----------------------------------------------------------------------------------------------


@wrong("factor", "local_derivative", args="f32[6]>-1<1")
def erfinv_without_the_root_of_pi():
    """e^{y²} / 2 without √π."""
    return pointwise(erfinv, lambda x: jnp.exp(erfinv(x) ** 2) / 2)


@wrong("not_finite", "values", "local_derivative", args="f32[6]>0<1")
def normal_quantile_clipped():
    """The quantile is kept within ±3 before its density is taken.  Source: copulas that clip for stability."""
    return pointwise(ndtri, lambda p: jnp.sqrt(2 * jnp.pi) * jnp.exp(jnp.clip(ndtri(p), -3, 3) ** 2 / 2))


@wrong("not_finite", "values", "cancellation", args="f32[6]")
def log_normal_distribution_by_a_quotient():
    """φ / Φ is nought over nought far out on the left.  Source: probit losses."""

    def slope(x):
        return jnp.exp(-x * x / 2) / jnp.sqrt(2 * jnp.pi) / (0.5 * (1 + erf(x / jnp.sqrt(2.0))))

    return pointwise(lambda x: log_ndtr(x), slope)


def log_choose(n, k):
    return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)


@wrong("sign", "missing_term", "local_derivative", args="f32[5]>5<9 f32[5]>0<4")
def log_binomial_coefficient_lower_argument():
    """The road through n - k has its minus lost.  Source: lchoose in stan-dev/math's first versions."""
    return through(log_choose, lambda s, g, bars: (bars[0], g * (-digamma(s[1] + 1) - digamma(s[0] - s[1] + 1))))


def log_student(x, freedom):
    half = (freedom + 1) / 2
    const = gammaln(half) - gammaln(freedom / 2) - jnp.log(freedom * jnp.pi) / 2
    return const - half * jnp.log1p(x * x / freedom)


@wrong("missing_path", "missing_term", "local_derivative", args="f32[5] f32[]>2<6")
def student_freedom_without_its_scale():
    """The degrees of freedom are heard in the constant and the exponent, not in x² / ν."""

    def other(x, freedom):
        half = (freedom + 1) / 2
        const = gammaln(half) - gammaln(freedom / 2) - jnp.log(freedom * jnp.pi) / 2
        return const - half * jnp.log1p(x * x / lax.stop_gradient(freedom))

    return through(log_student, lambda s, g, bars: (bars[0], jax.vjp(other, *s)[1](g)[1]))


def zero_inflated(rate, share, counts):
    """The log likelihood of counts, some of which are zero for another reason."""
    plain = counts * jnp.log(rate) - rate - gammaln(counts + 1.0)
    none = jnp.logaddexp(jnp.log(share), jnp.log1p(-share) - rate)
    return jnp.where(counts == 0, none, jnp.log1p(-share) + plain)


@wrong("values", "located", "missing_path", "local_derivative", "dropped", args="f32[5]>0.5<3 f32[]>0.2<0.6 i32[5]<6>0")
def zero_inflated_rate_at_no_count():
    """Where nothing was counted the rate hears as if it were certain."""
    return through(zero_inflated, lambda s, g, bars: (jnp.where(s[2] == 0, -g, bars[0]), bars[1], None))


def laplace(x, place, scale):
    return -jnp.abs(x - place) / scale - jnp.log(2 * scale)


@wrong("missing_term", "missing_path", "local_derivative", args="f32[6] f32[] f32[]>0.5<2")
def laplace_scale_without_its_normaliser():
    """|x - μ| / b² without the - 1 / b."""
    return through(laplace, lambda s, g, bars: (bars[0], bars[1], jnp.sum(g * jnp.abs(s[0] - s[1]) / s[2] ** 2)))


def matern(x, y, length):
    r = jnp.sqrt(jnp.maximum(jnp.sum((x[:, None] - y) ** 2, -1), 0))
    return (1 + r / length) * jnp.exp(-r / length)


@wrong("not_finite", "values", "kink", args="f32[4,2] f32[5,2] f32[]>0.5<2")
def matern_where_points_meet():
    """The root's slope at zero is infinite, times a slope of zero.  Source: gpytorch's and GPflow's kernels."""
    return as_of(matern, matern)


@right(args="f32[4,2] f32[5,2] f32[]>0.5<2")
def matern_by_its_own_slope():
    def backward(saved, g):
        x, y, length = saved
        gap = x[:, None] - y
        r = jnp.sqrt(jnp.sum(gap**2, -1))
        pull = -(g * jnp.exp(-r / length) / length**2)[..., None] * gap
        return pull.sum(1), -pull.sum(0), jnp.sum(g * r**2 / length**3 * jnp.exp(-r / length))

    return by_hand(matern, keeping(matern), backward)


# --- dynamics --------------------------------------------------------------------------------------------------------


def swung(theta, times):
    """A pendulum by the midpoint rule between given times."""

    def slope(y):
        return jnp.stack([y[1], -theta * jnp.sin(y[0])])

    def step(y, h):
        return y + h * slope(y + h / 2 * slope(y)), None

    return lax.scan(step, jnp.ones(2, theta.dtype), jnp.diff(times))[0]


@wrong("dropped", "missing_path", args="f32[]>0.5<2 f32[5]>0<1sorted")
def times_do_not_hear():
    """The times of a solution receive nothing.  Source: torchdiffeq and diffrax issues about gradients of ts."""
    return through(swung, lambda s, g, bars: (bars[0], 0 * bars[1]))


@wrong("missing_path", "located", "sign", args="f32[]>0.5<2 f32[5]>0<1sorted")
def last_time_alone_hears():
    """The end of the interval is heard, no time in between."""
    return through(swung, lambda s, g, bars: (bars[0], bars[1] * (jnp.arange(len(s[1])) == len(s[1]) - 1)))


def transported(cost, a, b):
    """Eight rounds of Sinkhorn in logarithms; the transported cost."""

    def step(fg, _):
        _, h = fg
        f = jnp.log(a) - jax.nn.logsumexp(h - cost, 1)
        return (f, jnp.log(b) - jax.nn.logsumexp(f[:, None] - cost, 0)), None

    zeros = jnp.zeros_like(cost[:, 0]), jnp.zeros_like(cost[0])
    (f, h), _ = lax.scan(step, zeros, None, length=8)
    return jnp.sum(jnp.exp(f[:, None] + h - cost) * cost)


@wrong("missing_path", "missing_term", args="f32[4,5]>0<2 f32[4]>0<1 f32[5]>0<1")
def sinkhorn_potentials_held():
    """The envelope theorem, for a cost that it does not hold for.  Source: ott and geomloss comparisons."""

    def other(cost, a, b):
        def step(fg, _):
            _, h = fg
            f = jnp.log(a) - jax.nn.logsumexp(h - cost, 1)
            return (f, jnp.log(b) - jax.nn.logsumexp(f[:, None] - cost, 0)), None

        zeros = jnp.zeros_like(cost[:, 0]), jnp.zeros_like(cost[0])
        (f, h), _ = lax.scan(step, zeros, None, length=8)
        return jnp.sum(jnp.exp(lax.stop_gradient(f)[:, None] + lax.stop_gradient(h) - cost) * cost)

    return as_of(transported, other)


def filtered(x, b, a):
    """A filter with two recursive taps."""

    def step(state, x):
        one, two = state
        y = b * x - a[0] * one - a[1] * two
        return (y, one), y

    zero = jnp.zeros((), x.dtype)
    return lax.scan(step, (zero, zero), x)[1]


@wrong("sign", "factor", args="f32[8] f32[] f32[2]>-0.5<0.5")
def recursive_taps_sign():
    """The recursive taps enter with a minus, which is lost.  Source: torchaudio's lfilter."""
    return through(filtered, lambda s, g, bars: (*bars[:2], -bars[2]))


@wrong("located", "wrong_residual", "permuted", "local_derivative", args="f32[8] f32[] f32[2]>-0.5<0.5")
def recursive_taps_one_sample_late():
    """The taps see outputs one step earlier than they should.  Source: as above."""

    def change(saved, g, bars):
        x, b, a = saved
        y = filtered(x, b, a)
        back = filtered(g[::-1], jnp.ones_like(b), a)[::-1]
        late = [jnp.concatenate([jnp.zeros_like(y[:k]), y[: len(y) - k]]) for k in (2, 3)]
        return *bars[:2], -jnp.stack([jnp.sum(back * one) for one in late])

    return through(filtered, change)
