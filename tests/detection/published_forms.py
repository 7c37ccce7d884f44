"""The forms in which published packages write derivatives: callbacks, linear solves, roots, trees, symbolic zeros."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero

from .case import by_hand, right
from .halves import keeping

# --- forward mode ----------------------------------------------------------------------------------------------------


@right(args="f32[4,5]")
def softmax_by_tangents():
    """The axis is no argument of the derivative; reverse mode is made of it by transposition."""

    @functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
    def function(x, axis):
        e = jnp.exp(x - jnp.max(x, axis, keepdims=True))
        return e / e.sum(axis, keepdims=True)

    @function.defjvp
    def _(axis, primals, tangents):
        y, (dot,) = function(primals[0], axis), tangents
        return y, y * (dot - jnp.sum(y * dot, axis, keepdims=True))

    return lambda x: function(x, -1)


@right(args="f32[5] f32[5]")
def product_with_symbolic_zeros():
    """A tangent that is known to be zero is not multiplied."""
    function = jax.custom_jvp(lambda x, y: jnp.sin(x) * y)

    def tangents(primals, dots):
        x, y = primals
        terms = [
            slope * dot
            for slope, dot in zip((jnp.cos(x) * y, jnp.sin(x)), dots, strict=True)
            if not isinstance(dot, SymbolicZero)
        ]
        return function(x, y), sum(terms, jnp.zeros_like(x))

    function.defjvp(tangents, symbolic_zeros=True)
    return function


@right(args="f32[6] i32[6]<3 f32[3]")
def gather_with_float0():
    """The integers' cotangent is an array of JAX's own dtype of nothing."""

    def function(x, i, table):
        return x * table[i]

    def backward(saved, g):
        x, i, table = saved
        return g * table[i], np.zeros(i.shape, jax.dtypes.float0), jnp.zeros_like(table).at[i].add(g * x)

    return by_hand(function, keeping(function), backward)


# --- reverse mode ----------------------------------------------------------------------------------------------------


@right(args="f32[4,3] f32[3]")
def cotangents_where_something_moves():
    """With symbolic zeros: the backward pass is told what is perturbed."""
    function = jax.custom_vjp(lambda x, w: jnp.tanh(x * w))

    def forward(x, w):
        y = jnp.tanh(x.value * w.value)
        return y, (x.value if w.perturbed else None, w.value if x.perturbed else None, y)

    def backward(saved, g):
        x, w, y = saved
        if isinstance(g, SymbolicZero):
            g = jnp.zeros(g.shape, g.dtype)
        u = g * (1 - y * y)
        return None if w is None else u * w, None if x is None else jnp.sum(u * x, 0)

    function.defvjp(forward, backward, symbolic_zeros=True)
    return function


@right(args="f32[4,3]")
def forward_pass_that_may_be_thrown_away():
    """With optimize_remat the value is computed apart from what is kept."""
    function = jax.custom_vjp(lambda x: x * jax.nn.sigmoid(x))

    def backward(x, g):
        s = jax.nn.sigmoid(x)
        return (g * s * (1 + x * (1 - s)),)

    function.defvjp(lambda x: (x * jax.nn.sigmoid(x), x), backward, optimize_remat=True)
    return function


@right(args="f32[4] f32[4,3] f32[3] f32[2,4]")
def gated_layer_with_a_tree_of_parameters():
    """Parameters, residuals and cotangents are trees; two names share one helper."""

    def plain(params, x):
        h = x @ params["w"] + params["bias"]["in"]
        return jax.nn.silu(h)[:, :3] * params["scale"][:3]

    def forward(params, x):
        h = x @ params["w"] + params["bias"]["in"]
        return plain(params, x), {"params": params, "x": x, "more": (h,)}

    def backward(saved, g):
        params, (h,) = saved["params"], saved["more"]
        s = jax.nn.sigmoid(h)
        u = g * params["scale"][:3] * s * (1 + h * (1 - s))
        scale = jnp.zeros_like(params["scale"]).at[:3].set(jnp.sum(g * h * s, 0))
        tree = {"w": saved["x"].T @ u, "bias": {"in": u.sum(0)}, "scale": scale}
        return tree, u @ params["w"].T

    layer = by_hand(plain, forward, backward)
    return lambda scale, w, bias, x: layer({"w": w, "bias": {"in": bias}, "scale": scale}, x)


@right(args="f32[5]")
def function_computed_on_the_host():
    """The value is NumPy's, through a callback; differences alone can tell."""

    def function(x):
        like = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.pure_callback(np.arctan, like, x, vmap_method="expand_dims")

    return by_hand(function, lambda x: (function(x), x), lambda x, g: (g / (1 + x * x),))


@right(args="f32[4] f32[4]")
def layer_closed_over_its_parameters():
    """What a function closes over is made an argument of its derivative."""

    def steps(function, x, *consts):
        return lax.fori_loop(0, 3, lambda _, x: function(x, *consts), x)

    made = jax.custom_vjp(steps, nondiff_argnums=(0,))

    def forward(function, x, *consts):
        def step(x, _):
            return function(x, *consts), x

        y, kept = lax.scan(step, x, None, length=3)
        return y, (kept, consts)

    def backward(function, saved, g):
        kept, consts = saved

        def step(carry, x):
            g, totals = carry
            bar, *more = jax.vjp(function, x, *consts)[1](g)
            return (bar, [t + m for t, m in zip(totals, more, strict=True)]), None

        (g, totals), _ = lax.scan(step, (g, [jnp.zeros_like(c) for c in consts]), kept, reverse=True)
        return g, *totals

    made.defvjp(forward, backward)

    def function(x, w):
        step, consts = jax.closure_convert(lambda x: jnp.sin(x * w), x)
        return made(step, x, *consts)

    return function


# --- solves, roots, projections --------------------------------------------------------------------------------------


@right(args="f32[4,4] f32[4]")
def linear_solve_by_conjugate_gradients():
    """`lax.custom_linear_solve` around a loop that stops at a tolerance."""

    def function(m, b):
        a = m @ m.T / len(m) + jnp.eye(len(m), dtype=m.dtype)

        def solve(matvec, b):
            return jax.scipy.sparse.linalg.cg(matvec, b, maxiter=50)[0]

        return lax.custom_linear_solve(lambda v: a @ v, b, solve, symmetric=True)

    return function


@right(args="f32[5]>0.5 f32[5]")
def root_by_bisection():
    """`lax.custom_root`: z³ + p z = q."""

    def function(p, q):
        def solve(f, _):
            reach = lax.stop_gradient(1 + jnp.abs(q) / p)

            def halve(_, interval):
                low, high = interval
                middle = (low + high) / 2
                above = f(middle) < 0
                return jnp.where(above, middle, low), jnp.where(above, high, middle)

            return sum(lax.fori_loop(0, 60, halve, (-reach, reach))) / 2

        return lax.custom_root(
            lambda z: z**3 + p * z - q, jnp.zeros_like(q), solve, lambda g, y: y / g(jnp.ones_like(y))
        )

    return function


@right(args="f32[6]")
def projection_onto_the_simplex():
    """By sorting; the derivative subtracts the mean over what stays positive."""

    def function(x):
        if not x.size:
            return x
        u = jnp.sort(x)[::-1]
        sums = (jnp.cumsum(u) - 1) / jnp.arange(1, len(x) + 1)
        return jnp.maximum(x - sums[jnp.sum(u > sums) - 1], 0)

    def backward(y, g):
        inside = y > 0
        return (jnp.where(inside, g - jnp.sum(jnp.where(inside, g, 0)) / jnp.maximum(jnp.sum(inside), 1), 0),)

    return by_hand(function, lambda x: (function(x), function(x)), backward)


@right(args="f32[3,4] f32[3]>0 f32[4]>0")
def transport_of_least_entropy_cost():
    """Sinkhorn's value: its derivative for the costs is the plan.  Source: Cuturi, 2013."""

    def potentials(cost, a, b):
        def step(both, _):
            f, _ = both
            g = jnp.log(b) - jax.nn.logsumexp(f[:, None] - cost, 0)
            return (jnp.log(a) - jax.nn.logsumexp(g - cost, 1), g), None

        return lax.scan(step, (jnp.zeros_like(a), jnp.zeros_like(b)), None, length=200)[0]

    def function(cost, a, b):
        f, g = potentials(cost, a, b)
        return jnp.sum(a * f) + jnp.sum(b * g) - jnp.sum(jnp.exp(f[:, None] + g - cost))

    def backward(saved, bar):
        cost, a, b = saved
        f, g = potentials(cost, a, b)
        return bar * jnp.exp(f[:, None] + g - cost), bar * f, bar * g

    made = by_hand(function, keeping(function), backward)

    def shares(w):
        return (w / (1 + w) + 1) / jnp.sum(w / (1 + w) + 1)

    return lambda cost, a, b: made(jnp.tanh(cost), shares(a), shares(b))
