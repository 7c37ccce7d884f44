"""Searches: what ends when a number is small enough has no derivative of its own worth asking for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from detection.case import by_hand
from jax import lax

from manual_backprop.reference import check


def conjugate_gradients(a, b):
    """The solution of a x = b for a symmetric, definite a; of any other it is no solution."""

    def body(state):
        x, r, p, size, count = state
        q = a @ p
        step = size / (p @ q)
        r = r - step * q
        left = r @ r
        return x + step * p, r, r + left / size * p, left, count + 1

    def goes_on(state):
        return (state[3] > 1e-12 * (b @ b)) & (state[4] < 200)

    return lax.while_loop(goes_on, body, (jnp.zeros_like(b), b, b, b @ b, 0))[0]


def solving(bar):
    def forward(a, b):
        x = conjugate_gradients(a, b)
        return x, (a, x)

    def backward(saved, g):
        w = conjugate_gradients(saved[0], g)
        return bar(w, saved[1]), w

    return by_hand(conjugate_gradients, forward, backward)


BARS = {
    "as of any matrix": (lambda w, x: -jnp.outer(w, x), True),
    "made symmetric": (lambda w, x: -(jnp.outer(w, x) + jnp.outer(x, w)) / 2, True),
    "twice the symmetric part": (lambda w, x: -(jnp.outer(w, x) + jnp.outer(x, w)), False),
}


@pytest.mark.parametrize("name", BARS)
def test_of_a_search_among_symmetric_matrices_the_derivative_is_one_along_them(name):
    bar, right = BARS[name]
    half = np.random.default_rng(0).normal(size=(4, 4))
    a, b = np.float32(half @ half.T + 2 * np.eye(4)), np.float32([1.0, -0.5, 2.0, 0.25])
    checks = ("value", "truth", "values", "jacobian", "differences", "adjoint_identity", "taylor")
    result = check(solving(bar), a, b, checks=checks, reproduce=False)
    assert result.ok == right, result
    judged = {finding.check for finding in result.findings if finding.verdict != "abstained"}
    assert {"truth", "values", "differences", "taylor"} <= judged


def refined(a):
    """The root of x + x³ = a: searched behind a stopped gradient, and one step of Newton's that hears a."""

    def body(x):
        return x - (x + x**3 - a) / (1 + 3 * x**2)

    def goes_on(x):
        return jnp.max(jnp.abs(x + x**3 - a)) > 1e-6 * jnp.max(1 + jnp.abs(a))

    return body(lax.stop_gradient(lax.while_loop(goes_on, body, jnp.cbrt(a))))


def test_a_search_behind_a_stopped_gradient_is_judged_and_does_not_raise():
    def forward(a):
        x = refined(a)
        return x, x

    function = by_hand(refined, forward, lambda x, g: (g / (1 + 3 * x**2),))
    result = check(function, np.float32([0.5, -2.0, 1.5]), checks=("value", "truth", "second_order"))
    assert result.ok, result
    wrong = by_hand(refined, forward, lambda x, g: (g / (2 + 3 * x**2),))
    assert not check(wrong, np.float32([0.5, -2.0, 1.5]), checks="truth", reproduce=False).ok


def test_a_gamma_variate_is_differentiated_at_its_quantile():
    def drawn(a):
        return jax.random.gamma(jax.random.key(3), a, dtype=a.dtype)

    result = check(drawn, np.array([0.5, 1.5], np.float32), checks="truth", profile="quick")
    assert result.ok, result
    assert {finding.verdict for finding in result.findings} == {"right"}


@pytest.mark.parametrize(("half", "dtype", "ok"), [(0.5, None, True), (0.49, None, False), (0.5, "bfloat16", False)])
def test_a_search_that_stops_early_is_judged_by_what_it_tends_to(half, dtype, ok):
    """x = cos(x) / 2 + a to three digits: x and its derivative at that x are both off by a thousandth."""

    def fixed_point(a):
        def step(state):
            x, _ = state
            return 0.5 * jnp.cos(x) + a, x

        start = jnp.zeros_like(a), jnp.ones_like(a)
        return lax.while_loop(lambda state: jnp.max(jnp.abs(state[0] - state[1])) > 1e-3, step, start)[0]

    def backward(x, g):
        slope = 1 / (1 + half * jnp.sin(x))
        return (g * (slope if dtype is None else slope.astype(dtype).astype(x.dtype)),)

    implicit = by_hand(fixed_point, lambda a: (fixed_point(a),) * 2, backward)
    a = np.array([0.3, -1.2, 0.7, 2.0], np.float32)
    result = check(implicit, a, checks=("truth", "jacobian", "adjoint_identity"), reproduce=False)
    assert result.ok == ok, result


def root(x):
    """The square root by five steps of Newton's method, which are too few for large numbers."""
    return lax.fori_loop(0, 5, lambda _, y: (y + x / y) / 2, jnp.ones_like(x))


def of_root(factor):
    return by_hand(root, lambda x: (y := root(x), y), lambda y, g: (factor * g / y,))


@pytest.mark.parametrize(("factor", "wrong"), [(0.5, set()), (0.25, {"truth", "values"})])
def test_steps_that_are_too_few_elsewhere_are_no_fault_of_the_implicit_derivative(factor, wrong):
    result = check(of_root(factor), np.float32([0.5, 1.5, 0.8, 2.0]), checks=("truth", "values"), reproduce=False)
    assert {finding.check for finding in result.failures} == wrong, result


def fixed_point(w, x):
    """z = tanh(w z + x), iterated until nothing changes; of no derivative in reverse."""

    def unsettled(both):
        return jnp.max(jnp.abs(both[0] - both[1])) > jnp.finfo(x.dtype).eps

    return lax.while_loop(unsettled, lambda both: (jnp.tanh(w * both[0] + x), both[0]), (jnp.tanh(x), x + jnp.inf))[0]


def fixed_point_unrolled(w, x):
    z = jnp.tanh(x)
    for _ in range(20):
        z = jnp.tanh(w * z + x)
    return z


@pytest.mark.parametrize(("terms", "ok"), [(2, False), (60, True)])
def test_a_series_that_ends_too_early_is_wrong_beside_a_search(terms, ok):
    """The loop of the derivative has a number of steps, which is a choice, and not one that a search has made."""

    def backward(saved, g):
        w, z = saved
        slope = 1 - z**2
        u = lax.fori_loop(0, terms, lambda _, u: g + w * slope * u, g)
        return u * slope * z, u * slope

    implicit = by_hand(fixed_point, lambda w, x: (z := fixed_point(w, x), (w, z)), backward)
    w, x = np.float32([0.2, -0.1, 0.15]), np.float32([0.2, -0.3, 0.5])
    result = check(implicit, w, x, truth=fixed_point_unrolled, checks=("truth",), reproduce=False)
    assert result.ok == ok, result
