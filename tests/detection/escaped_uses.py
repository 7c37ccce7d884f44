"""Wrong derivatives given in other ways than as two halves, or wrong in some uses alone, as of one output."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero, linear_call

from .case import by_hand, right, wrong
from .halves import keeping


# --- outputs that are not used ---------------------------------------------------------------------------------------
def polar(x, y):
    return jnp.hypot(x, y), jnp.arctan2(y, x)


def polar_case(of_radius_alone):
    """Cotangents of outputs that nothing is made of are symbols, which a fused backward pass may take short cuts by."""
    made = jax.custom_vjp(polar)

    def forward(x, y):
        return polar(x.value, y.value), (x.value, y.value)

    def backward(saved, gs):
        x, y = saved
        radius = jnp.hypot(x, y)
        of_radius, of_angle = (jnp.zeros_like(x) if isinstance(g, SymbolicZero) else g for g in gs)
        if isinstance(gs[1], SymbolicZero):
            return of_radius_alone(x, y, radius, of_radius)
        turn = of_angle / radius**2
        return of_radius * x / radius - turn * y, of_radius * y / radius + turn * x

    made.defvjp(forward, backward, symbolic_zeros=True)
    return made


@wrong("missing_path", "dropped", "transform", args="f32[5]>0.2<2 f32[5]>0.2<2")
def polar_second_argument_silent_where_the_angle_is_not_used():
    """The short cut for an unused output forgets an argument.  Source: undefined gradients of pytorch."""
    return polar_case(lambda x, y, radius, g: (g * x / radius, jnp.zeros_like(y)))


@right(args="f32[5]>0.2<2 f32[5]>0.2<2")
def polar_of_used_outputs():
    return polar_case(lambda x, y, radius, g: (g * x / radius, g * y / radius))


def shifted(x):
    return jnp.tanh(x), jnp.sum(x * x)


@wrong("missing_path", "dropped", "transform", args="f32[6]")
def nothing_heard_where_the_first_output_is_not_used():
    """Returns early as soon as one cotangent is undefined.  Source: custom autograd functions of several packages."""
    made = jax.custom_vjp(shifted)

    def backward(x, gs):
        if any(isinstance(g, SymbolicZero) for g in gs):
            return (jnp.zeros_like(x),)
        return (gs[0] * (1 - jnp.tanh(x) ** 2) + gs[1] * 2 * x,)

    made.defvjp(lambda x: (shifted(x.value), x.value), backward, symbolic_zeros=True)
    return made


# --- linear maps and solves with a transpose by hand -----------------------------------------------------------------
def smoothing(x, left, right_):
    return left * jnp.roll(x, 1) + right_ * jnp.roll(x, -1)


@wrong("permuted", "local_derivative", "transform", "exchanged", args="f32[6]")
def linear_map_with_itself_for_a_transpose():
    """Said to be symmetric, which it is not: both shifts keep their directions."""
    return lambda x: linear_call(lambda _, x: smoothing(x, 0.7, 0.3), lambda _, g: smoothing(g, 0.7, 0.3), (), x)


@right(args="f32[6]")
def linear_map_with_its_transpose():
    return lambda x: linear_call(lambda _, x: smoothing(x, 0.7, 0.3), lambda _, g: smoothing(g, 0.3, 0.7), (), x)


def solved_with(transpose_solve):
    def function(a, b):
        matrix = a + 4 * jnp.eye(a.shape[0], dtype=a.dtype)
        return lax.custom_linear_solve(
            lambda x: matrix @ x,
            b,
            lambda matvec, b: jnp.linalg.solve(lax.stop_gradient(matrix), b),
            functools.partial(transpose_solve, lax.stop_gradient(matrix)),
        )

    return function


def plainly_solved(a, b):
    return jnp.linalg.solve(a + 4 * jnp.eye(a.shape[0], dtype=a.dtype), b)


@wrong("permuted", "wrong_residual", "local_derivative", "transform", args="f32[4,4] f32[4]", truth=plainly_solved)
def custom_solve_whose_transpose_is_not_turned():
    """`transpose_solve` solves with the matrix as it is, as if it were symmetric."""
    return solved_with(lambda matrix, vecmat, b: jnp.linalg.solve(matrix, b))


@right(args="f32[4,4] f32[4]", truth=plainly_solved)
def custom_solve_with_its_transpose():
    return solved_with(lambda matrix, vecmat, b: jnp.linalg.solve(matrix.T, b))


def cube_root_with(tangent_solve):
    def function(p):
        def found(f, guess):
            return lax.fori_loop(0, 60, lambda _, x: x - f(x) / (3 * x * x + 1), guess)

        return lax.custom_root(lambda x: x**3 + x - p, 0.5 * p, found, tangent_solve)

    return function


def plain_cubic(p):
    """The one real root of x³ + x = p in closed form."""
    half = p / 2
    root = jnp.sqrt(half**2 + 1 / 27)
    return jnp.cbrt(half + root) + jnp.cbrt(half - root)


@wrong("sign", "local_derivative", "transform", "wrong_residual", args="f32[]>0.5<2", truth=plain_cubic)
def root_whose_tangent_is_not_divided():
    """The tangent is multiplied by the slope in place of being divided by it."""
    return cube_root_with(lambda g, y: g(y))


@right(args="f32[]>0.5<2", truth=plain_cubic)
def root_with_its_tangent():
    return cube_root_with(lambda g, y: y / g(jnp.ones_like(y)))


# --- gradients given as a function -----------------------------------------------------------------------------------
@wrong("missing_term", "local_derivative", "missing_path", args="f32[5]")
def norm_squared_over_sum_as_a_custom_gradient():
    """`jax.custom_gradient` whose quotient rule lacks its second term.  Source: ports from tf.custom_gradient."""

    @jax.custom_gradient
    def function(x):
        total = 3 + jnp.sum(jnp.tanh(x))
        return jnp.sum(x * x) / total, lambda g: g * 2 * x / total

    return function


@right(args="f32[5]")
def norm_squared_over_sum_as_a_custom_gradient_with_both_terms():
    @jax.custom_gradient
    def function(x):
        total, squares = 3 + jnp.sum(jnp.tanh(x)), jnp.sum(x * x)
        return squares / total, lambda g: g * (2 * x / total - squares * (1 - jnp.tanh(x) ** 2) / total**2)

    return function


# --- rules for tangents ----------------------------------------------------------------------------------------------
@wrong("missing_path", "transform", "factor", args="f32[4] f32[4]")
def tangents_by_argument_with_one_doubled():
    """`defjvps`, whose rule for the second argument forgets that it is used once."""

    @jax.custom_jvp
    def function(x, y):
        return jnp.sin(x) * y

    function.defjvps(lambda t, out, x, y: jnp.cos(x) * y * t, lambda t, out, x, y: 2 * jnp.sin(x) * t)
    return function


@wrong("wrong_residual", "located", "local_derivative", "transform", "missing_path", args="f32[3] f32[5,3]")
def step_of_a_scan_whose_rule_is_of_the_old_state():
    """The rule of one step, inside of a scan, takes the slope at the state before it."""

    @jax.custom_jvp
    def step(h, x):
        return jnp.tanh(h + x)

    @step.defjvp
    def _(primals, tangents):
        h, x = primals
        out = jnp.tanh(h + x)
        return out, (1 - jnp.tanh(h) ** 2) * (tangents[0] + tangents[1])

    return lambda h, xs: lax.scan(lambda h, x: (step(h, x), None), h, xs)[0]


@wrong("dropped", "missing_path", "transform", args="f32[5] f32[5]")
def tangent_of_an_output_left_out():
    """Two outputs, of which the second's tangent is zero."""

    @jax.custom_jvp
    def function(x, y):
        return x * y, jnp.cos(x - y)

    @function.defjvp
    def _(primals, tangents):
        (x, y), (dx, dy) = primals, tangents
        out = function(x, y)
        return out, (dx * y + x * dy, jnp.zeros_like(out[1]))

    return function


@wrong("transform", "local_derivative", "missing_term", args="f32[5]")
def softplus_whose_second_derivative_is_of_a_sigmoid_by_hand():
    """The slope is a function by hand as well, whose own slope is σ in place of σ (1 - σ).  Source: nested rules."""

    @jax.custom_jvp
    def sigmoid(x):
        return jax.nn.sigmoid(x)

    sigmoid.defjvps(lambda t, out, x: out * t)

    @jax.custom_jvp
    def softplus(x):
        return jnp.logaddexp(x, 0)

    softplus.defjvps(lambda t, out, x: sigmoid(x) * t)
    return softplus


# --- batches ---------------------------------------------------------------------------------------------------------
@wrong("transform", "missing_sum", "shape", args="f32[4,3] f32[3]")
def weight_shared_by_a_batch_heard_from_its_mean():
    """A helper's rule for batches averages over what it should keep apart.  Source: batching rules of functorch."""

    @jax.custom_batching.custom_vmap
    def dot(g, x):
        return g @ x

    @dot.def_vmap
    def _(size, batched, g, x):
        g = g if batched[0] else jnp.broadcast_to(g, (size, *g.shape))
        x = x if batched[1] else jnp.broadcast_to(x, (size, *x.shape))
        out = jnp.einsum("bi,bij->bj", g, x)
        return jnp.broadcast_to(out.mean(0), out.shape), True

    def backward(saved, g):
        x, w = saved
        return jnp.outer(g, w), dot(g, x)

    return by_hand(lambda x, w: x @ w, keeping(lambda x, w: x @ w), backward)


@wrong("structure", "dtype", "raised", "cancellation", args="bf16[6] f32[6]")
def mixed_product_whose_cotangents_have_one_dtype():
    """A half-precision argument receives single precision.  Source: mixed-precision Functions of apex."""

    def function(x, w):
        return x.astype(jnp.float32) * w

    return by_hand(function, keeping(function), lambda saved, g: (g * saved[1], g * saved[0].astype(jnp.float32)))


@right(args="bf16[6] f32[6]")
def mixed_product():
    def function(x, w):
        return x.astype(jnp.float32) * w

    def backward(saved, g):
        x, w = saved
        return (g * w).astype(x.dtype), (g * x).astype(w.dtype)

    return by_hand(function, keeping(function), backward)


@wrong("cancellation", "dtype", "factor", "values", args="bf16[64,3] bf16[3]")
def weight_accumulated_in_half_precision():
    """The sum over rows is a running sum in bfloat16, which stops growing.  Source: unsloth and apex norm kernels."""

    def function(x, w):
        return x * w

    def backward(saved, g):
        x, w = saved

        def add(total, term):
            return total + term, None

        rows = jnp.tile(g * x, (16, 1))
        return g * w, lax.scan(add, jnp.zeros_like(w), rows)[0] / 16

    return by_hand(function, keeping(function), backward)
