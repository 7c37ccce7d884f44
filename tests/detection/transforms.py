"""State and transformations: wrong on the second call, in another order, under jit, vmap, scan or twice."""

import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .case import by_hand, right, wrong
from .halves import keeping


def cube(x):
    return x**3


def is_traced(x):
    return isinstance(x, jax.core.Tracer)


# --- state -----------------------------------------------------------------------------------------------------------


@wrong("impure", "wrong_residual", args="f32[4]")
def state_last_forward_pass():
    """The residual is an attribute that every forward pass overwrites: two in a row, and the first is lost."""
    held = {}

    def forward(x):
        held["x"] = x
        return cube(x), None

    return by_hand(cube, forward, lambda _, g: (3 * held["x"] ** 2 * g,))


@wrong("impure", "wrong_residual", "raised", args="f32[4]")
def state_stack_of_residuals():
    """Forward passes push and backward passes pop: right if nested, wrong in another order or when called twice."""
    stack = []

    def forward(x):
        stack.append(x)
        return cube(x), None

    return by_hand(cube, forward, lambda _, g: (3 * stack.pop() ** 2 * g,))


@wrong("impure", "wrong_residual", "values", args="f32[4]")
def state_cached_by_shape():
    """What depends on the argument is computed once for every shape and kept."""
    known = {}

    def backward(x, g):
        key = (x.shape, x.dtype)
        if is_traced(x) or is_traced(g):
            return (3 * x**2 * g,)
        return (known.setdefault(key, 3 * x**2) * g,)

    return by_hand(cube, lambda x: (cube(x), x), backward)


@wrong("impure", "factor", args="f32[4]")
def state_counts_its_calls():
    """Every second backward pass is scaled, as if gradients were accumulated over two."""
    calls = itertools.count()
    return by_hand(cube, lambda x: (cube(x), x), lambda x, g: (3 * x**2 * g / (1 + next(calls) % 2),))


@wrong("impure", "local_derivative", args="f32[4]")
def state_random_without_a_key():
    """Noise from NumPy's global generator in the backward pass."""

    def backward(x, g):
        return (3 * x**2 * g * (1 + 0.1 * np.random.standard_normal(x.shape)).astype(x.dtype),)

    return by_hand(cube, lambda x: (cube(x), x), backward)


@wrong("impure", "factor", args="f32[4]")
def state_of_the_clock():
    """A factor that grows with time, as a schedule would have it."""

    def backward(x, g):
        return (3 * x**2 * g * (1 + time.perf_counter() % 1),)

    return by_hand(cube, lambda x: (cube(x), x), backward)


@wrong("impure", "wrong_residual", args="f32[4]")
def state_in_an_array_that_is_reused():
    """The residual is written into one NumPy array that all forward passes share; traced ones keep their own."""
    shared = {}

    def forward(x):
        if is_traced(x):
            return cube(x), x
        buffer = shared.setdefault((x.shape, x.dtype), np.empty(x.shape, x.dtype))
        buffer[...] = x
        return cube(x), buffer

    return by_hand(cube, forward, lambda x, g: (3 * x**2 * g,))


@right(args="f32[4]")
def state_that_does_no_harm():
    """Calls are counted, and nothing depends on the count."""
    calls = itertools.count()

    def backward(x, g):
        next(calls)
        return (3 * x**2 * g,)

    return by_hand(cube, lambda x: (cube(x), x), backward)


# --- jit -------------------------------------------------------------------------------------------------------------


@wrong("transform", "missing_term", args="f32[5]")
def jit_takes_a_short_cut():
    """Traced, the projection is left out, which a check of concrete values had kept."""

    def unit(x):
        return x / jnp.sqrt(jnp.sum(x**2))

    def backward(x, g):
        r = 1 / jnp.sqrt(jnp.sum(x**2))
        if is_traced(g):
            return (g * r,)
        return (g * r - x * r**3 * (x @ g),)

    return by_hand(unit, lambda x: (unit(x), x), backward)


@wrong("transform", "raised", args="f32[5]")
def jit_asks_for_a_number():
    """A branch on a value, which only concrete arrays have."""

    def backward(x, g):
        return (3 * x**2 * g if jnp.any(g != 0) else jnp.zeros_like(x),)

    return by_hand(cube, lambda x: (cube(x), x), backward)


@wrong("transform", "raised", args="f32[5]")
def jit_meets_numpy():
    """The backward pass is written in NumPy, and traced arrays cannot become NumPy's."""

    def backward(x, g):
        return (jnp.asarray(3 * np.square(np.asarray(x)) * np.asarray(g)),)

    return by_hand(cube, lambda x: (cube(x), x), backward)


@right(args="f32[5]")
def jit_through_a_callback():
    """NumPy behind a callback with a stated shape, which has a derivative of its own."""

    def host(x, g):
        return (3 * np.square(x) * g).astype(x.dtype)

    def slope(x, g):
        return jax.pure_callback(host, jax.ShapeDtypeStruct(x.shape, x.dtype), x, g, vmap_method="expand_dims")

    slope = by_hand(slope, keeping(slope), lambda s, u: (6 * s[0] * s[1] * u, 3 * s[0] ** 2 * u))
    return by_hand(cube, lambda x: (cube(x), x), lambda x, g: (slope(x, g),))


# --- vmap and scan ---------------------------------------------------------------------------------------------------


def batched(single, whole, backward):
    """A function with a rule for vmap of its own, `whole` of arrays with a batch axis, and a derivative by hand."""
    function = jax.custom_batching.custom_vmap(single)

    @function.def_vmap
    def _(size, has_axis, *arrays):
        pairs = zip(has_axis, arrays, strict=True)
        arrays = [a if has else jnp.broadcast_to(a, (size, *a.shape)) for has, a in pairs]
        return whole(*arrays), True

    return by_hand(function, keeping(function), backward)


def centred(x):
    return x - x.mean()


@wrong("transform", "shape", "missing_term", args="f32[5]")
def vmap_centred_over_the_batch_too():
    """The rule for vmap takes the mean over the batch as well."""
    bar = batched(centred, lambda g: g - g.mean(), lambda _, u: (centred(u),))
    return by_hand(centred, lambda x: (centred(x), None), lambda _, g: (bar(g),))


@right(args="f32[5]")
def vmap_centred_by_rows():
    """The rule for vmap takes each row's own mean."""
    bar = batched(centred, lambda g: g - g.mean(-1, keepdims=True), lambda _, u: (centred(u),))
    return by_hand(centred, lambda x: (centred(x), None), lambda _, g: (bar(g),))


@wrong("transform", "shape", args="f32[4] f32[4,4]")
def vmap_of_the_first_matrix():
    """The rule for vmap takes all examples to have the first one's matrix."""

    def apply(x, w):
        return x @ w

    pull = batched(jnp.matmul, lambda w, g: g @ w[0].T, lambda s, u: (jnp.outer(u, s[1]), u @ s[0]))
    return by_hand(apply, keeping(apply), lambda s, g: (pull(s[1], g), jnp.outer(s[0], g)))


@wrong("transform", "wrong_residual", "local_derivative", args="f32[3] f32[4,3]")
def scan_step_counted_by_python():
    """Backward counts the steps in Python to find its weight: right in a loop, and a scan is traced once."""

    def function(x, w):
        steps = itertools.count()

        def backward(saved, g):
            y, w, _ = saved
            back = len(w) - 1 - next(steps) % len(w)
            inner = g * (1 - jnp.tanh(y * w[back]) ** 2)
            return inner * w[back], jnp.zeros_like(w).at[back].set(inner * y), None

        def tanh_of_step(y, w, t):
            return jnp.tanh(y * w[t])

        layer = by_hand(tanh_of_step, keeping(tanh_of_step), backward)
        return lax.scan(lambda y, t: (layer(y, w, t), None), x, jnp.arange(len(w)))[0]

    return function


# --- a second derivative ---------------------------------------------------------------------------------------------


@wrong("transform", args="f32[5]")
def twice_with_a_stopped_slope():
    """The slope is stopped, so that the second derivative is zero."""
    return by_hand(cube, lambda x: (cube(x), x), lambda x, g: (lax.stop_gradient(3 * x**2) * g,))


@wrong("transform", args="f32[5]")
def twice_with_a_stopped_output():
    """The output is kept behind a stop, and half of the second derivative is lost."""

    def function(x):
        return x * jnp.exp(x)

    def forward(x):
        return function(x), (x, lax.stop_gradient(jnp.exp(x)))

    return by_hand(function, forward, lambda saved, g: ((1 + saved[0]) * saved[1] * g,))


@wrong("transform", "sign", args="f32[5]>0.5")
def twice_through_a_wrong_inner_rule():
    """The slope is another function by hand, whose own derivative has the wrong sign."""
    inverse = by_hand(lambda x: 1 / x, lambda x: (1 / x, x), lambda x, g: (g / x**2,))
    return by_hand(jnp.log, lambda x: (jnp.log(x), x), lambda x, g: (g * inverse(x),))


@right(args="f32[5]>0.5")
def twice_through_an_inner_rule():
    """The slope is another function by hand, with the right derivative."""
    inverse = by_hand(lambda x: 1 / x, lambda x: (1 / x, x), lambda x, g: (-g / x**2,))
    return by_hand(jnp.log, lambda x: (jnp.log(x), x), lambda x, g: (g * inverse(x),))


# --- the cotangent ---------------------------------------------------------------------------------------------------


@wrong("ignores_cotangent", args="f32[6]")
def cotangent_of_ones():
    """The derivative of the sum, whatever comes in."""
    return by_hand(cube, lambda x: (cube(x), x), lambda x, g: (3 * x**2,))


@wrong("ignores_cotangent", args="f32[4,3]")
def cotangent_of_its_mean():
    """Every element hears the cotangent's mean."""
    return by_hand(cube, lambda x: (cube(x), x), lambda x, g: (3 * x**2 * g.mean(),))


@wrong("nonlinear", args="f32[6]")
def cotangent_squared():
    """The cotangent is multiplied in twice."""
    return by_hand(cube, lambda x: (cube(x), x), lambda x, g: (3 * x**2 * g * g,))


@wrong("value", args="f32[6]")
def forward_pass_of_another_function():
    """The forward pass rounds what the function does not; the derivative is that of the function."""
    return by_hand(jnp.exp, lambda x: (1 + x + x**2 / 2, x), lambda x, g: (jnp.exp(x) * g,))


@wrong("epsilon", args="f32[6]")
def epsilon_outside_the_root():
    """x / √(x² + ε), whose slope ε / √(x² + ε)³ has ε / (√x² + ε)³ in its place."""

    def function(x):
        return x * lax.rsqrt(x**2 + 1e-2)

    def backward(x, g):
        return (1e-2 * g / (jnp.abs(x) + 1e-2) ** 3,)

    return by_hand(function, lambda x: (function(x), x), backward)
