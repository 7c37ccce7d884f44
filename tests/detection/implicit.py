"""Linear algebra: solves, inverses, determinants, factorisations and spectra."""

import jax.numpy as jnp
import jax.scipy.linalg as sla

from .case import by_hand, right, wrong
from .halves import keeping


def regular(m):
    """A square matrix that can be inverted, from any one."""
    return m / (1 + jnp.abs(m).sum(1, keepdims=True)) + jnp.eye(len(m), dtype=m.dtype)


def definite(m):
    """A symmetric positive definite matrix from any square one."""
    return m @ m.T / len(m) + jnp.eye(len(m), dtype=m.dtype)


def through(matrix, function):
    """The function of a matrix made from the first argument by plain JAX."""
    return lambda m, *rest: function(matrix(m), *rest)


# --- linear solves and inverses --------------------------------------------------------------------------------------


def solve(a, b):
    return jnp.linalg.solve(a, b)


def solve_forward(a, b):
    x = solve(a, b)
    return x, (a, x)


@right(args="f32[4,4] f32[4]")
def solve_adjoint():
    """b̄ solves the transposed system, Ā = −b̄ xᵀ."""

    def backward(saved, g):
        a, x = saved
        b_bar = solve(a.T, g)
        return -jnp.outer(b_bar, x), b_bar

    return through(regular, by_hand(solve, solve_forward, backward))


@right(args="f32[4,4]>0<1 f32[4]")
def solve_almost_singular():
    """The same with a condition near twenty thousand: right, and far from its last digit in float32."""

    def backward(saved, g):
        a, x = saved
        b_bar = solve(a.T, g)
        return -jnp.outer(b_bar, x), b_bar

    def hilbert(m):
        n = jnp.arange(4, dtype=m.dtype)
        return 1 / (n[:, None] + n + 1) + 1e-6 * m

    return through(hilbert, by_hand(solve, solve_forward, backward))


@wrong("permuted", "local_derivative", args="f32[4,4] f32[4]")
def solve_not_transposed():
    """The cotangent is solved for with the system as it is, not transposed."""

    def backward(saved, g):
        a, x = saved
        b_bar = solve(a, g)
        return -jnp.outer(b_bar, x), b_bar

    return through(regular, by_hand(solve, solve_forward, backward))


@wrong("sign", args="f32[4,4] f32[4]")
def solve_with_a_plus():
    """The matrix's cotangent lacks its minus."""

    def backward(saved, g):
        a, x = saved
        b_bar = solve(a.T, g)
        return jnp.outer(b_bar, x), b_bar

    return through(regular, by_hand(solve, solve_forward, backward))


@wrong("permuted", args="f32[4,4] f32[4]")
def solve_outer_product_transposed():
    """x b̄ᵀ in place of b̄ xᵀ."""

    def shifted(m):
        return m / 4 + 2 * jnp.eye(len(m), dtype=m.dtype)

    def function(m, b):
        return solve(shifted(m), b)

    def backward(saved, g):
        m, x = saved
        b_bar = solve(shifted(m).T, g)
        return -jnp.outer(x, b_bar) / 4, b_bar

    return by_hand(function, lambda m, b: (function(m, b), (m, function(m, b))), backward)


def inverse(a):
    return jnp.linalg.inv(a)


@right(args="f32[3,3]")
def inverse_with_two_transposes():
    """Ā = −Yᵀ Ȳ Yᵀ from the output alone."""

    def backward(y, g):
        return (-y.T @ g @ y.T,)

    return through(regular, by_hand(inverse, lambda a: (inverse(a), inverse(a)), backward))


@wrong("permuted", "local_derivative", args="f32[3,3]")
def inverse_without_transposes():
    """−Y Ȳ Y, which is right for symmetric matrices alone."""

    def backward(y, g):
        return (-y @ g @ y,)

    return through(regular, by_hand(inverse, lambda a: (inverse(a), inverse(a)), backward))


def log_det(a):
    return jnp.linalg.slogdet(a)[1]


@right(args="f32[4,4]")
def log_det_inverse():
    """The transposed inverse."""

    def backward(a, g):
        return (g * jnp.linalg.inv(a).T,)

    return through(regular, by_hand(log_det, lambda a: (log_det(a), a), backward))


@wrong("ignores_cotangent", args="f32[4,4]")
def log_det_always_of_one():
    """The inverse, whatever the cotangent: made for a loss that ends here."""

    def backward(a, _):
        return (jnp.linalg.inv(a).T,)

    return through(regular, by_hand(log_det, lambda a: (log_det(a), a), backward))


def cofactors(a):
    """Of three rows: each is the cross product of the other two."""
    return jnp.stack([jnp.cross(a[1], a[2]), jnp.cross(a[2], a[0]), jnp.cross(a[0], a[1])])


def det(a):
    return a[0] @ jnp.cross(a[1], a[2])


@right(args="f32[3,3]")
def determinant_by_cofactors():
    """Finite for singular matrices too."""
    return by_hand(det, keeping(det), lambda saved, g: (g * cofactors(saved[0]),))


@wrong("not_finite", "values", args="f32[3,3]")
def determinant_times_inverse():
    """det A · A⁻ᵀ: not a number where the matrix is singular, as for equal rows or zeros."""
    return by_hand(det, keeping(det), lambda saved, g: (g * det(saved[0]) * jnp.linalg.inv(saved[0]).T,))


# --- triangular and Cholesky factors ----------------------------------------------------------------------------------


def forward_substitution(m, b):
    """Solve with the lower triangle, whatever stands above it."""
    return sla.solve_triangular(m, b, lower=True)


@right(args="f32[4,4] f32[4,2]")
def triangular_solve_lower():
    """What is never read receives zero."""

    def backward(saved, g):
        a, x = saved
        b_bar = sla.solve_triangular(a, g, lower=True, trans=1)
        return -jnp.tril(b_bar @ x.T), b_bar

    def forward(a, b):
        x = forward_substitution(a, b)
        return x, (a, x)

    return through(regular, by_hand(forward_substitution, forward, backward))


@wrong("located", "missing_term", args="f32[4,4] f32[4,2]")
def triangular_solve_full():
    """The part above the diagonal, which is never read, receives a cotangent too."""

    def backward(saved, g):
        a, x = saved
        b_bar = sla.solve_triangular(a, g, lower=True, trans=1)
        return -b_bar @ x.T, b_bar

    def forward(a, b):
        x = forward_substitution(a, b)
        return x, (a, x)

    return through(regular, by_hand(forward_substitution, forward, backward))


def cholesky(a):
    return jnp.linalg.cholesky(a)


def cholesky_bar(low, g, halved):
    """L⁻ᵀ Φ(Lᵀ L̄) L⁻¹, made symmetric; Φ is the lower triangle with its diagonal halved."""
    middle = jnp.tril(low.T @ g)
    middle = middle - jnp.diag(jnp.diag(middle)) / 2 if halved else middle
    half = sla.solve_triangular(low, middle.T, lower=True, trans=1)
    return sla.solve_triangular(low, half.T, lower=True, trans=1)


@right(args="f32[3,3]")
def cholesky_symmetric():
    """Made symmetric at the end.  Source: Murray, arXiv 1602.07527, equation 10."""

    def backward(low, g):
        s = cholesky_bar(low, g, halved=True)
        return ((s + s.T) / 2,)

    return through(definite, by_hand(cholesky, lambda a: (cholesky(a), cholesky(a)), backward))


@wrong("local_derivative", "factor", "missing_term", args="f32[3,3]")
def cholesky_diagonal_not_halved():
    """Φ keeps the whole diagonal."""

    def backward(low, g):
        s = cholesky_bar(low, g, halved=False)
        return ((s + s.T) / 2,)

    return through(definite, by_hand(cholesky, lambda a: (cholesky(a), cholesky(a)), backward))


@wrong("located", "factor", args="f32[3,3]")
def cholesky_counts_the_triangle_twice():
    """S + Sᵀ − diag S: off the diagonal twice what a full matrix should receive.  Source: pytorch issue 137284."""

    def backward(low, g):
        s = cholesky_bar(low, g, halved=True)
        return (s + s.T - jnp.diag(jnp.diag(s)),)

    return through(definite, by_hand(cholesky, lambda a: (cholesky(a), cholesky(a)), backward))


# --- symmetric spectra -----------------------------------------------------------------------------------------------


def symmetric(m):
    return (m + m.T) / 2


def largest(a):
    return jnp.linalg.eigvalsh(a)[-1]


@right(args="f32[4,4]")
def largest_eigenvalue():
    """The outer product of its vector with itself."""

    def forward(a):
        values, vectors = jnp.linalg.eigh(a)
        return values[-1], vectors[:, -1]

    return through(symmetric, by_hand(largest, forward, lambda v, g: (g * jnp.outer(v, v),)))


@wrong("located", "wrong_residual", args="f32[4,4]")
def largest_eigenvalue_of_the_first_vector():
    """Values ascend, and the vector is taken from the other end."""

    def forward(a):
        values, vectors = jnp.linalg.eigh(a)
        return values[-1], vectors[:, 0]

    return through(symmetric, by_hand(largest, forward, lambda v, g: (g * jnp.outer(v, v),)))


def exponential(a):
    """Of a symmetric matrix."""
    values, vectors = jnp.linalg.eigh(a)
    return vectors * jnp.exp(values) @ vectors.T


def series(m):
    """The same without a spectrum: squared eight times from a series."""
    a = symmetric(m) / 256
    y = term = jnp.eye(len(a), dtype=a.dtype)
    for n in range(1, 12):
        term = term @ a / n
        y = y + term
    for _ in range(8):
        y = y @ y
    return y


def exponential_forward(a):
    values, vectors = jnp.linalg.eigh(a)
    return vectors * jnp.exp(values) @ vectors.T, (values, vectors)


def divided(values):
    """(exp λᵢ − exp λⱼ) / (λᵢ − λⱼ), and exp λ where they are equal."""
    above, gap = jnp.maximum(values[:, None], values), jnp.abs(values[:, None] - values)
    same = gap == 0
    slope = jnp.where(same, 1, -jnp.expm1(-gap) / jnp.where(same, 1, gap))
    return jnp.exp(above) * slope


@right(args="f32[4,4]", truth=series)
def matrix_exponential_divided_differences():
    """Daleckii and Krein's divided differences, finite for equal eigenvalues where autodiff of eigh is not."""

    def backward(saved, g):
        values, vectors = saved
        return (vectors @ (divided(values) * (vectors.T @ g @ vectors)) @ vectors.T,)

    return through(symmetric, by_hand(exponential, exponential_forward, backward))


@wrong("not_finite", "values", args="f32[4,4]", truth=series)
def matrix_exponential_not_finite_at_equal_eigenvalues():
    """The quotient as it stands off the diagonal: not a number for zeros or equal elements.

    Source: the spectra of jax issues 669, 2311 and 8732.
    """

    def backward(saved, g):
        values, vectors = saved
        e = jnp.exp(values)
        gaps = jnp.where(jnp.eye(len(e), dtype=bool), e, (e[:, None] - e) / (values[:, None] - values))
        return (vectors @ (gaps * (vectors.T @ g @ vectors)) @ vectors.T,)

    return through(symmetric, by_hand(exponential, exponential_forward, backward))


@wrong("missing_path", "missing_term", "local_derivative", args="f32[4,4]", truth=series)
def matrix_exponential_of_the_eigenvalues_alone():
    """The vectors are taken for constants, so that only the diagonal in their basis is heard."""

    def backward(saved, g):
        values, vectors = saved
        diagonal = jnp.diag(jnp.exp(values) * jnp.diag(vectors.T @ g @ vectors))
        return (vectors @ diagonal @ vectors.T,)

    return through(symmetric, by_hand(exponential, exponential_forward, backward))
