"""Implicit differentiation: least squares, fixed points, roots."""

import jax.numpy as jnp
from jax import lax

from .case import by_hand, right, wrong
from .halves import keeping

# --- least squares ---------------------------------------------------------------------------------------------------


def least_squares(a, b):
    """The x of least |a x − b|; a is tall."""
    return jnp.linalg.solve(a.T @ a, a.T @ b)


def least_squares_forward(a, b):
    x = least_squares(a, b)
    return x, (a, b, x)


@right(args="f32[7,3] f32[7]")
def least_squares_two_terms():
    """With w = (AᵀA)⁻¹ x̄:  b̄ = A w,  Ā = (b − A x) wᵀ − A w xᵀ.  Source: Golub and Pereyra, 1973."""

    def backward(saved, g):
        a, b, x = saved
        w = jnp.linalg.solve(a.T @ a, g)
        return jnp.outer(b - a @ x, w) - jnp.outer(a @ w, x), a @ w

    return by_hand(least_squares, least_squares_forward, backward)


@wrong("missing_term", "missing_path", args="f32[7,3] f32[7]")
def least_squares_as_if_it_fitted():
    """The term of what remains, b − A x, is left out; right where the fit is exact."""

    def backward(saved, g):
        a, _, x = saved
        w = jnp.linalg.solve(a.T @ a, g)
        return -jnp.outer(a @ w, x), a @ w

    return by_hand(least_squares, least_squares_forward, backward)


def ridge(x, y, penalty):
    """The minimiser of |x w − y|² + penalty |w|²."""
    return jnp.linalg.solve(x.T @ x + penalty * jnp.eye(x.shape[1], dtype=x.dtype), x.T @ y)


def ridge_forward(x, y, penalty):
    w = ridge(x, y, penalty)
    return w, (x, y, penalty, w)


def ridge_adjoint(saved, g):
    x, _, penalty, w = saved
    return jnp.linalg.solve(x.T @ x + penalty * jnp.eye(len(w), dtype=w.dtype), g)


@right(args="f32[6,3] f32[6] f32[]>0")
def ridge_minimiser():
    """From the stationary point xᵀ(x w − y) + penalty w = 0."""

    def backward(saved, g):
        x, y, _, w = saved
        v = ridge_adjoint(saved, g)
        return jnp.outer(y - x @ w, v) - jnp.outer(x @ v, w), x @ v, -v @ w

    return by_hand(ridge, ridge_forward, backward)


@wrong("factor", args="f32[6,3] f32[6] f32[]>0")
def ridge_penalty_twice():
    """The penalty's slope is taken from |w|² and the data's from half the square."""

    def backward(saved, g):
        x, y, _, w = saved
        v = ridge_adjoint(saved, g)
        return jnp.outer(y - x @ w, v) - jnp.outer(x @ v, w), x @ v, -2 * v @ w

    return by_hand(ridge, ridge_forward, backward)


# --- roots and fixed points ------------------------------------------------------------------------------------------


def layer(z, w, x):
    return jnp.tanh(0.5 * w @ z / jnp.sqrt(jnp.sum(w**2)) + x)


def settle(w, x):
    """The fixed point z = layer(z, w, x), iterated until nothing changes much; of no derivative in reverse."""

    def unsettled(carry):
        z, last, n = carry
        return (jnp.max(jnp.abs(z - last)) > jnp.finfo(z.dtype).eps) & (n < 200)

    def step(carry):
        z, _, n = carry
        return layer(z, w, x), z, n + 1

    return lax.while_loop(unsettled, step, (jnp.tanh(x), jnp.zeros_like(x) + jnp.inf, 0))[0]


def unrolled(w, x):
    z = jnp.tanh(x)
    for _ in range(80):
        z = layer(z, w, x)
    return z


def settle_forward(w, x):
    z = settle(w, x)
    return z, (w, x, z)


def slopes(w, x, z):
    """∂ layer / ∂ z, the slope of the tanh, and w scaled as the layer scales it."""
    root = jnp.sqrt(jnp.sum(w**2))
    bend = 1 - z**2
    return bend[:, None] * 0.5 * w / root, bend, root


def layer_bars(w, z, u, bend, root):
    """The cotangents of w and x, for a cotangent u of the layer."""
    v = u * bend
    return 0.5 * (jnp.outer(v, z) / root - w * (v @ w @ z) / root**3), v


@right(args="f32[4,4] f32[4]", truth=unrolled)
def fixed_point_solved():
    """u = (I − J)⁻ᵀ z̄ at the fixed point found anew, so that a second derivative goes the same way."""

    def backward(saved, g):
        w, x = saved
        z = function(w, x)
        jacobian, bend, root = slopes(w, x, z)
        u = jnp.linalg.solve(jnp.eye(len(z), dtype=z.dtype) - jacobian.T, g)
        return layer_bars(w, z, u, bend, root)

    function = by_hand(settle, keeping(settle), backward)
    return function


@right(args="f32[4,4] f32[4]")
def fixed_point_iterated():
    """u = z̄ + Jᵀ u iterated as the forward pass was; no truth is given and JAX cannot differentiate the loop."""

    def backward(saved, g):
        w, x, z = saved
        jacobian, bend, root = slopes(w, x, z)
        u = lax.fori_loop(0, 100, lambda _, u: g + jacobian.T @ u, g)
        return layer_bars(w, z, u, bend, root)

    return by_hand(settle, settle_forward, backward)


@wrong("missing_path", "missing_term", args="f32[4,4] f32[4]", truth=unrolled)
def fixed_point_one_layer():
    """One layer backward, as if the state that went in were a constant."""

    def backward(saved, g):
        w, x, z = saved
        _, bend, root = slopes(w, x, z)
        return layer_bars(w, z, g, bend, root)

    return by_hand(settle, settle_forward, backward)


@wrong("permuted", "local_derivative", args="f32[4,4] f32[4]")
def fixed_point_not_transposed():
    """The adjoint is solved with the Jacobian as it is; no truth is given."""

    def backward(saved, g):
        w, x, z = saved
        jacobian, bend, root = slopes(w, x, z)
        u = jnp.linalg.solve(jnp.eye(len(z), dtype=z.dtype) - jacobian, g)
        return layer_bars(w, z, u, bend, root)

    return by_hand(settle, settle_forward, backward)


@wrong("missing_term", "missing_path", args="f32[4,4] f32[4]", truth=unrolled)
def fixed_point_series_cut_short():
    """Three terms of the Neumann series, taken for all."""

    def backward(saved, g):
        w, x, z = saved
        jacobian, bend, root = slopes(w, x, z)
        u = lax.fori_loop(0, 3, lambda _, u: g + jacobian.T @ u, g)
        return layer_bars(w, z, u, bend, root)

    return by_hand(settle, settle_forward, backward)


def bisect(p, q):
    """The root of z³ + p z = q for positive p, by halving an interval: autodiff of it says zero."""

    def halve(_, interval):
        low, high = interval
        middle = (low + high) / 2
        above = middle**3 + p * middle > q
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    reach = lax.stop_gradient(1 + jnp.abs(q) / p)
    return sum(lax.fori_loop(0, 80, halve, (-reach, reach))) / 2


def polished(p, q):
    """The same with two steps of Newton's method, which autodiff can follow twice."""
    z = lax.stop_gradient(bisect(p, q))
    for _ in range(2):
        z = z - (z**3 + p * z - q) / (3 * z**2 + p)
    return z


def bisect_forward(p, q):
    z = bisect(p, q)
    return z, (p, z)


@right(args="f32[5]>0.5 f32[5]", truth=polished)
def bisected_root():
    """z̄ / (3 z² + p), times −z for p, at the root found anew; autodiff of the bisection itself says zero."""

    def backward(saved, g):
        p, q = saved
        z = function(p, q)
        u = g / (3 * z**2 + p)
        return -u * z, u

    function = by_hand(bisect, keeping(bisect), backward)
    return function


@wrong("transform", args="f32[5]>0.5 f32[5]", truth=polished)
def bisected_root_whose_slope_is_constant():
    """The root is kept from the bisection, through which nothing is heard: a wrong second derivative.

    Source: jaxopt issue 141.
    """

    def backward(saved, g):
        p, z = saved
        u = g / (3 * z**2 + p)
        return -u * z, u

    return by_hand(bisect, bisect_forward, backward)


@right(args="f32[5]>0.5 f32[5]")
def bisected_root_judged_by_differences():
    """The same without a truth: only differences can tell that it is right and autodiff of the function wrong."""

    def backward(saved, g):
        p, q = saved
        z = function(p, q)
        u = g / (3 * z**2 + p)
        return -u * z, u

    function = by_hand(bisect, keeping(bisect), backward)
    return function


@wrong("sign", args="f32[5]>0.5 f32[5]", truth=polished)
def bisected_root_without_minus():
    """The implicit function theorem without its minus, for p alone."""

    def backward(saved, g):
        p, z = saved
        u = g / (3 * z**2 + p)
        return u * z, u

    return by_hand(bisect, bisect_forward, backward)


@wrong("dropped", args="f32[5]>0.5 f32[5]", truth=polished)
def bisected_root_by_autodiff():
    """No derivative by hand at all: autodiff of the interval's halving, which is zero."""
    return bisect
