"""Mistakes that were reported of published packages, each beside its mending: linear algebra and sequences."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.lax.linalg import triangular_solve
from jax.scipy.special import i0e, i1e

from .case import by_hand, right, wrong
from .halves import keeping

# --- linear algebra --------------------------------------------------------------------------------------------------


def thin_svd(a):
    return jnp.linalg.svd(a, full_matrices=False)


def svd_case(outside):
    """`outside`: the part of the cotangent that leaves the spaces of the singular vectors."""

    def backward(saved, g):
        u, s, vt = saved
        u_bar, s_bar, v_bar = g[0], g[1], g[2].T
        equal = jnp.eye(s.size, dtype=bool)
        gaps = jnp.where(equal, 0, 1 / jnp.where(equal, 1, s[None, :] ** 2 - s[:, None] ** 2))
        u_turn, v_turn = u.T @ u_bar, vt @ v_bar
        core = gaps * (u_turn - u_turn.T) * s[None, :] + s[:, None] * (gaps * (v_turn - v_turn.T)) + jnp.diag(s_bar)
        return (u @ core @ vt + outside(u, s, vt, u_bar, v_bar),)

    return by_hand(thin_svd, lambda a: (thin_svd(a), tuple(thin_svd(a))), backward)


@wrong("missing_term", "missing_path", "local_derivative", args="f32[5,3]")
def any_svd_without_the_complement():
    """What is right of square matrices alone, as in autograd once: tall and wide ones lack a term."""
    return svd_case(lambda u, s, vt, u_bar, v_bar: 0)


@right(args="f32[5,3]")
def any_svd_with_both_complements():
    def outside(u, s, vt, u_bar, v_bar):
        return (u_bar - u @ (u.T @ u_bar)) / s @ vt + u / s @ (v_bar - vt.T @ (vt @ v_bar)).T

    return svd_case(outside)


def qr_case(symmetric):
    def function(a):
        return jnp.linalg.qr(a)

    def backward(saved, g):
        q, r = saved
        m = symmetric(r @ g[1].T - g[0].T @ q)
        return (triangular_solve(r, g[0] + q @ m, transpose_a=True),)

    return by_hand(function, lambda a: (function(a), tuple(function(a))), backward)


@wrong("permuted", "local_derivative", args="f32[5,3]")
def qr_copies_the_upper_triangle():
    """The lower triangle is to be copied up, and the upper one was copied down."""
    return qr_case(lambda m: jnp.triu(m, 1) + jnp.triu(m).T)


@right(args="f32[5,3]")
def qr_copies_the_lower_triangle():
    return qr_case(lambda m: jnp.tril(m) + jnp.tril(m, -1).T)


def lyapunov(a, q):
    """x with a x + x aᵀ = q."""
    one = jnp.eye(a.shape[0], dtype=a.dtype)
    a = a + 4 * one
    return jnp.linalg.solve(jnp.kron(a, one) + jnp.kron(one, a), q.reshape(-1)).reshape(q.shape)


def lyapunov_case(adjoint):
    def backward(saved, g):
        a, x = saved
        s = lyapunov(adjoint(a), g)
        return -(s @ x.T + s.T @ x), s

    return by_hand(lyapunov, lambda a, q: (lyapunov(a, q), (a, lyapunov(a, q))), backward)


@wrong("permuted", "local_derivative", "wrong_residual", args="f32[3,3] f32[3,3]")
def lyapunov_adjoint_not_transposed():
    """The equation of the cotangent is solved with the matrix for its transpose."""
    return lyapunov_case(lambda a: a)


@right(args="f32[3,3] f32[3,3]")
def lyapunov_adjoint():
    return lyapunov_case(lambda a: a.T)


def kronecker_case(in_blocks):
    """`in_blocks`: the cotangent by row of a, row of b, column of a, column of b."""

    def function(a, b):
        return jnp.kron(a, b)

    def backward(saved, g):
        a, b = saved
        blocks = in_blocks(g, a, b)
        return jnp.einsum("ikjl,kl->ij", blocks, b), jnp.einsum("ikjl,ij->kl", blocks, a)

    return by_hand(function, keeping(function), backward)


@wrong("permuted", "local_derivative", args="f32[2,3] f32[3,2]")
def kronecker_blocks_read_as_rows():
    """The blocks are taken for one beside the other in memory."""
    return kronecker_case(lambda g, a, b: g.reshape(*a.shape, *b.shape).transpose(0, 2, 1, 3))


@right(args="f32[2,3] f32[3,2]")
def kronecker_blocks():
    return kronecker_case(lambda g, a, b: g.reshape(a.shape[0], b.shape[0], a.shape[1], b.shape[1]))


def cross_case(axis):
    def function(a, b):
        return jnp.cross(a, b)

    def backward(saved, g):
        a, b = saved
        along = dict.fromkeys(("axisa", "axisb", "axisc"), axis(g))
        return jnp.cross(b, g, **along), jnp.cross(g, a, **along)

    return by_hand(function, keeping(function), backward)


@wrong("shape", "permuted", "local_derivative", args="f32[4,3] f32[4,3]")
def cross_product_along_the_first_axis_of_three():
    """Without an axis PyTorch once took the first of length three: wrong of three vectors."""
    return cross_case(lambda g: g.shape.index(3))


@right(args="f32[4,3] f32[4,3]")
def cross_product_along_the_last_axis():
    return cross_case(lambda g: -1)


def optimality(q, a):
    q = q @ q.T + jnp.eye(q.shape[0], dtype=q.dtype)
    return jnp.block([[q, a.T], [a, jnp.zeros((a.shape[0], a.shape[0]), q.dtype)]])


def quadratic_program_case(to_constraint):
    """min x'Qx / 2 + p'x with Ax = b, by the equations of its optimum."""

    def solved(q, p, a, b):
        return jnp.linalg.solve(optimality(q, a), jnp.concatenate([-p, b]))

    def function(q, p, a, b):
        return solved(q, p, a, b)[: p.size]

    def forward(q, p, a, b):
        z = solved(q, p, a, b)
        return z[: p.size], (q, a, z)

    def backward(saved, g):
        q, a, z = saved
        d = jnp.linalg.solve(optimality(q, a), jnp.concatenate([g, jnp.zeros_like(z[g.size :])]))
        x, multiplier, dx, dual = z[: g.size], z[g.size :], d[: g.size], d[g.size :]
        outer = -jnp.outer(dx, x)
        return (outer + outer.T) @ q, -dx, to_constraint(x, multiplier, dx, dual), dual

    return by_hand(function, forward, backward)


@wrong("missing_term", "missing_path", "local_derivative", args="f32[3,3] f32[3] f32[2,3] f32[2]")
def quadratic_program_constraint_heard_once():
    """The multipliers' share of the constraint's cotangent, as OptNet has it, is left out."""
    return quadratic_program_case(lambda x, multiplier, dx, dual: -jnp.outer(dual, x))


@right(args="f32[3,3] f32[3] f32[2,3] f32[2]")
def quadratic_program_constraint():
    return quadratic_program_case(lambda x, multiplier, dx, dual: -jnp.outer(dual, x) - jnp.outer(multiplier, dx))


# --- transforms, differences -----------------------------------------------------------------------------------------


def cosines(n, dtype, first):
    k, i = jnp.arange(n)[:, None], jnp.arange(n)[None]
    table = jnp.cos(jnp.pi * k * (2 * i + 1) / (2 * n)) * jnp.sqrt(2 / n)
    return jnp.where(k == 0, table * first, table).astype(dtype)


def cosine_transform_case(first):
    def function(x):
        return x @ cosines(x.shape[-1], x.dtype, 0.5**0.5).T

    def backward(saved, g):
        return (g @ cosines(g.shape[-1], g.dtype, first),)

    return by_hand(function, lambda x: (function(x), None), backward)


@wrong("factor", "local_derivative", args="f32[2,6]")
def cosine_transform_first_coefficient():
    """The transpose of the orthogonal transform lacks the 1/√2 of the first coefficient."""
    return cosine_transform_case(1)


@right(args="f32[2,6]")
def cosine_transform():
    return cosine_transform_case(0.5**0.5)


def central_differences_case(at_the_ends):
    def function(x):
        return jnp.concatenate([x[:, 1:2] - x[:, :1], (x[:, 2:] - x[:, :-2]) / 2, x[:, -1:] - x[:, -2:-1]], axis=1)

    def backward(saved, g):
        first, last = at_the_ends * g[:, 0], at_the_ends * g[:, -1]
        out = jnp.zeros_like(g).at[:, 2:].add(g[:, 1:-1] / 2).at[:, :-2].add(-g[:, 1:-1] / 2)
        out = out.at[:, 0].add(-first).at[:, 1].add(first)
        return (out.at[:, -1].add(last).at[:, -2].add(-last),)

    return by_hand(function, lambda x: (function(x), None), backward)


@wrong("located", "factor", "local_derivative", args="f32[3,7]")
def central_differences_ends_halved():
    """As in autograd's `gradient` once: the one-sided ends are taken for central ones."""
    return central_differences_case(0.5)


@right(args="f32[3,7]")
def central_differences_one_sided_ends():
    return central_differences_case(1)


# --- sequences and distributions -------------------------------------------------------------------------------------


def joined_case(start):
    def function(a, b):
        return jnp.concatenate([a * a, b], axis=1)

    def backward(saved, g):
        a, b = saved
        n = a.shape[1]
        return 2 * a * g[:, :n], lax.dynamic_slice_in_dim(g, start(n, g.shape[1]), b.shape[1], 1)

    return by_hand(function, keeping(function), backward)


@wrong("shape", "permuted", args="f32[3,4] f32[3,4]")
def joined_second_part_read_from_the_middle():
    """Both parts are taken to be equally long."""
    return joined_case(lambda n, whole: whole // 2)


@right(args="f32[3,4] f32[3,4]")
def joined_second_part_read_where_it_begins():
    return joined_case(lambda n, whole: n)


def reversed_to_its_length(x, n):
    i = jnp.arange(x.shape[1])
    return jnp.take_along_axis(x, jnp.where(i < n[:, None], n[:, None] - 1 - i, i), axis=1)


def sequence_reversal_case(back):
    return by_hand(
        reversed_to_its_length, lambda x, n: (reversed_to_its_length(x, n), n), lambda n, g: (back(g, n), None)
    )


@wrong("permuted", "local_derivative", args="f32[3,6] i32[3]>=1<7")
def sequence_reversal_with_its_padding():
    """As in MXNet's SequenceReverse: the backward pass reverses the padding along."""
    return sequence_reversal_case(lambda g, n: jnp.flip(g, 1))


@right(args="f32[3,6] i32[3]>=1<7")
def sequence_reversal():
    return sequence_reversal_case(reversed_to_its_length)


def kalman_case(to_gain):
    """The likelihood of a series by a filter with one state; `to_gain`: what the next mean says to the gain."""

    def run(y, noise, error):
        def step(state, observed):
            mean, variance = state
            ahead = variance + noise
            total, surprise = ahead + error, observed - 0.9 * mean
            gain = ahead / total
            now = (0.9 * mean + gain * surprise, (1 - gain) * ahead)
            return now, (mean, variance, -0.5 * (surprise * surprise / total + jnp.log(total)))

        return lax.scan(step, (jnp.zeros((), y.dtype), jnp.ones((), y.dtype)), y)[1]

    def function(y, noise, error):
        return run(y, noise, error)[2].sum()

    def forward(y, noise, error):
        means, variances, terms = run(y, noise, error)
        return terms.sum(), (y, noise, error, means, variances)

    def backward(saved, g):
        y, noise, error, means, variances = saved

        def step(bars, at):
            mean_bar, variance_bar, noise_bar, error_bar = bars
            observed, mean, variance = at
            ahead = variance + noise
            total, surprise = ahead + error, observed - 0.9 * mean
            gain = ahead / total
            surprise_bar = mean_bar * gain - g * surprise / total
            gain_bar = to_gain(mean_bar * surprise) - variance_bar * ahead
            total_bar = g * 0.5 * (surprise * surprise / total**2 - 1 / total) - gain_bar * ahead / total**2
            ahead_bar = variance_bar * (1 - gain) + gain_bar / total + total_bar
            before = (0.9 * (mean_bar - surprise_bar), ahead_bar, noise_bar + ahead_bar, error_bar + total_bar)
            return before, surprise_bar

        start = (jnp.zeros((), y.dtype),) * 4
        bars, y_bar = lax.scan(step, start, (y, means, variances), reverse=True)
        return y_bar, bars[2], bars[3]

    return by_hand(function, forward, backward)


@wrong("missing_path", "missing_term", "local_derivative", args="f32[6] f32[]>0.2<2 f32[]>0.2<2")
def kalman_gain_held():
    """The gain does not hear the mean that it makes."""
    return kalman_case(jnp.zeros_like)


@right(args="f32[6] f32[]>0.2<2 f32[]>0.2<2")
def kalman_gain():
    return kalman_case(lambda bar: bar)


def von_mises_case(bessel):
    def function(x, centre, k):
        return k * jnp.cos(x - centre) - k - jnp.log(2 * jnp.pi * i0e(k))

    def backward(saved, g):
        x, centre, k = saved
        x_bar = -g * k * jnp.sin(x - centre)
        return x_bar, -x_bar, g * (jnp.cos(x - centre) - i1e(k) / bessel(k))

    return by_hand(function, keeping(function), backward)


@wrong("local_derivative", "wrong_residual", "factor", args="f32[5] f32[5] f32[5]>0.3<4")
def von_mises_concentration_over_the_unscaled():
    """A Bessel function that is scaled is divided by one that is not."""
    return von_mises_case(lambda k: i0e(k) * jnp.exp(k))


@right(args="f32[5] f32[5] f32[5]>0.3<4")
def von_mises_concentration():
    return von_mises_case(i0e)


def stick_breaking_case(to_what_follows):
    def function(x):
        piece, one = jax.nn.sigmoid(x), jnp.ones_like(x[:, :1])
        return jnp.concatenate([piece, one], 1) * jnp.concatenate([one, jnp.cumprod(1 - piece, axis=1)], 1)

    def backward(saved, g):
        x, y = saved
        piece, bar = jax.nn.sigmoid(x), g * y
        return (bar[:, :-1] * (1 - piece) - piece * to_what_follows(bar[:, 1:]),)

    return by_hand(function, lambda x: (function(x), (x, function(x))), backward)


@wrong("missing_path", "missing_term", "missing_sum", "local_derivative", args="f32[2,4]")
def stick_breaking_next_piece_alone():
    """A longer piece leaves less for all that follow, and the next one alone says so."""
    return stick_breaking_case(lambda bar: bar)


@right(args="f32[2,4]")
def stick_breaking_all_that_follow():
    return stick_breaking_case(lambda bar: lax.cumsum(bar, axis=1, reverse=True))
