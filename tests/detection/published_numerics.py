"""Special functions and matrices as published packages differentiate them by hand."""

import math

import jax
import jax.numpy as jnp
import jax.scipy.linalg as sla
import jax.scipy.special as sp
from jax import lax

from .case import by_hand, right
from .halves import keeping


def forward_mode(function, tangents):
    """A `jax.custom_jvp` of a function and (primals, tangents, output) -> tangent."""
    made = jax.custom_jvp(function)

    @made.defjvp
    def _(primals, dots):
        y = made(*primals)
        return y, tangents(primals, dots, y)

    return made


# --- safe at the ends of a domain ------------------------------------------------------------------------------------


@right(args="f32[3,4]")
def safe_norm():
    """Zero, not 0/0, at zero."""

    def function(x):
        square = jnp.sum(x**2, -1)
        return jnp.where(square == 0, 0, jnp.sqrt(jnp.where(square == 0, 1, square)))

    def backward(saved, g):
        x, y = saved
        return ((g / jnp.where(y == 0, 1, y))[:, None] * x,)

    return by_hand(function, lambda x: (function(x), (x, function(x))), backward)


@right(args="f32[6]>0 f32[6]>0")
def log_add_and_log_subtract():
    """Both by exponentials of differences from the output, which is what is kept."""

    def subtract(p, _):
        return p + jnp.log(-jnp.expm1(-0.5 - 0 * p))

    add = forward_mode(
        jnp.logaddexp, lambda primals, dots, y: sum(jnp.exp(p - y) * d for p, d in zip(primals, dots, strict=True))
    )
    return lambda p, q: add(p, q) + subtract(q, p)


@right(args="f32[7]>0")
def log1mexp():
    """log(1 − e^{−x}): 1 / (eˣ − 1)."""

    def function(x):
        small = x < math.log(2)
        return jnp.where(small, jnp.log(-jnp.expm1(-jnp.where(small, x, 1))), jnp.log1p(-jnp.exp(-x)))

    return forward_mode(function, lambda primals, dots, _: dots[0] / jnp.expm1(primals[0]))


@right(args="f32[6] f32[6]>0")
def x_log_y():
    """Zero for x = 0, where the derivative for x is log y all the same."""

    def function(x, y):
        return jnp.where(x == 0, 0, x * jnp.log(jnp.where(x == 0, 1, y)))

    return forward_mode(function, lambda p, d, _: d[0] * jnp.log(p[1]) + d[1] * p[0] / p[1])


@right(args="f32[6]>0 f32[6]>0")
def log_beta():
    """Digammas."""

    def function(a, b):
        return sp.gammaln(a) + sp.gammaln(b) - sp.gammaln(a + b)

    def backward(saved, g):
        a, b = saved
        both = sp.digamma(a + b)
        return g * (sp.digamma(a) - both), g * (sp.digamma(b) - both)

    return by_hand(function, keeping(function), backward)


@right(args="f32[6] f32[6] f32[6]>0")
def von_mises_log_density():
    """I₁/I₀ by the scaled functions."""

    def function(x, mean, k):
        return k * (jnp.cos(x - mean) - 1) - math.log(2 * math.pi) - jnp.log(sp.i0e(k))

    def backward(saved, g):
        x, mean, k = saved
        bar = -g * k * jnp.sin(x - mean)
        return bar, -bar, g * (jnp.cos(x - mean) - sp.i1e(k) / sp.i0e(k))

    return by_hand(function, keeping(function), backward)


@right(args="f32[6]>0")
def lambert_function():
    """w e^w = x by Halley's method until it has settled: w' = e^{−w} / (1 + w)."""

    def function(x):
        def step(state):
            w, _ = state
            e = jnp.exp(w)
            f = w * e - x
            new = w - f / (e * (w + 1) - (w + 2) * f / (2 * w + 2))
            return new, jnp.max(jnp.abs(new - w), initial=0)

        start = jnp.where(x > 3, jnp.log(jnp.maximum(x, 3)) - jnp.log(jnp.log(jnp.maximum(x, 3))), x / (1 + x))
        return lax.while_loop(lambda s: s[1] > 1e-6, step, (start, jnp.asarray(1.0, x.dtype)))[0]

    return forward_mode(function, lambda p, d, w: d[0] * jnp.exp(-w) / (1 + w))


# --- matrices --------------------------------------------------------------------------------------------------------


def definite(m):
    return m @ m.T / len(m) + jnp.eye(len(m), dtype=m.dtype)


@right(args="f32[4,4]")
def matrix_square_root():
    """Of a definite matrix: Ȳ in the basis of the vectors over √λᵢ + √λⱼ."""

    def plain(a):
        y, z = a, jnp.eye(len(a), dtype=a.dtype)
        norm = lax.stop_gradient(jnp.linalg.norm(a))
        y = y / norm
        for _ in range(24):
            t = (3 * jnp.eye(len(a), dtype=a.dtype) - z @ y) / 2
            y, z = y @ t, t @ z
        return y * jnp.sqrt(norm)

    def forward(a):
        return plain(a), jnp.linalg.eigh(a)

    def backward(saved, g):
        values, u = saved
        root = jnp.sqrt(values)
        return (u @ (u.T @ g @ u / (root[:, None] + root)) @ u.T,)

    function = by_hand(plain, forward, backward)
    return lambda m: function(definite(m))


@right(args="f32[5,3]")
def singular_values():
    """U diag(ḡ) Vᵀ."""

    def function(a):
        return jnp.linalg.svd(a, compute_uv=False)

    def forward(a):
        u, s, vt = jnp.linalg.svd(a, full_matrices=False)
        return s, (u, vt)

    return by_hand(function, forward, lambda saved, g: ((saved[0] * g) @ saved[1],))


@right(args="f32[5,5]")
def cholesky_in_blocks():
    """By columns of two in the forward pass, whole in the backward pass."""

    def function(a):
        a, low = (a + a.T) / 2, jnp.zeros_like(a)
        for i in range(0, len(a), 2):
            j = min(i + 2, len(a))
            rest = a[i:, i:j] - low[i:, :i] @ low[i:j, :i].T
            corner = jnp.linalg.cholesky(rest[: j - i])
            low = low.at[i:j, i:j].set(corner)
            low = low.at[j:, i:j].set(sla.solve_triangular(corner, rest[j - i :].T, lower=True).T)
        return low

    def backward(low, g):
        middle = jnp.tril(low.T @ g)
        middle = middle - jnp.diag(jnp.diag(middle)) / 2
        half = sla.solve_triangular(low, middle.T, lower=True, trans=1)
        s = sla.solve_triangular(low, half.T, lower=True, trans=1)
        return ((s + s.T) / 2,)

    factor = by_hand(function, lambda a: (function(a), function(a)), backward)
    return lambda m: factor(definite(m))


@right(args="f32[4,4] f32[4,2]")
def definite_solve_with_a_log_determinant():
    """Two outputs of one factor: x̄ and a scalar's cotangent meet in Ā."""

    def function(m, b):
        low = jnp.linalg.cholesky(definite(m))
        return sla.cho_solve((low, True), b), 2 * jnp.sum(jnp.log(jnp.diag(low)))

    def backward(saved, bars):
        m, b = saved
        g, scalar = bars
        low = jnp.linalg.cholesky(definite(m)), True
        x, w = sla.cho_solve(low, b), sla.cho_solve(low, g)
        a_bar = scalar * sla.cho_solve(low, jnp.eye(len(m), dtype=m.dtype)) - w @ x.T
        return (a_bar + a_bar.T) @ m / len(m), w

    return by_hand(function, keeping(function), backward)
