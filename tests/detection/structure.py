"""Structure: containers in and out, several outputs, integers and keys, static arguments, closures."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .case import by_hand, right, wrong
from .halves import keeping

# --- containers ------------------------------------------------------------------------------------------------------


def affine(params, x):
    return params["scale"] * x + params["offset"]


@right(args="{offset: f32[3], scale: f32[3]} f32[5,3]")
def tree_by_name():
    """A dict in, a dict of the same names back."""

    def backward(saved, g):
        params, x = saved
        return {"scale": (g * x).sum(0), "offset": g.sum(0)}, g * params["scale"]

    return by_hand(affine, keeping(affine), backward)


@wrong("exchanged", args="{offset: f32[3], scale: f32[3]} f32[5,3]")
def tree_in_the_order_of_writing():
    """The leaves are put back in the order in which they were written down, and a dict is flattened by name."""

    def backward(saved, g):
        params, x = saved
        bars = [(g * x).sum(0), g.sum(0)]
        return jax.tree.unflatten(jax.tree.structure(params), bars), g * params["scale"]

    return by_hand(affine, keeping(affine), backward)


@wrong("dropped", args="{offset: f32[3], scale: f32[3]} f32[5,3]")
def tree_with_none_for_a_leaf():
    """None for a leaf that matters, which JAX takes for zero."""

    def backward(saved, g):
        params, x = saved
        return {"scale": (g * x).sum(0), "offset": None}, g * params["scale"]

    return by_hand(affine, keeping(affine), backward)


@wrong("structure", "raised", args="{offset: f32[3], scale: f32[3]} f32[5,3]")
def tree_with_a_leaf_left_out():
    """The dict that comes back lacks a name."""

    def backward(saved, g):
        params, x = saved
        return {"scale": (g * x).sum(0)}, g * params["scale"]

    return by_hand(affine, keeping(affine), backward)


@wrong("missing_sum", "shape", "structure", "raised", args="{offset: f32[3], scale: f32[3]} f32[5,3]")
def tree_not_summed_over_the_batch():
    """The offset is broadcast over the batch and its cotangent keeps the batch; JAX refuses the shape."""

    def backward(saved, g):
        params, x = saved
        return {"scale": (g * x).sum(0), "offset": g}, g * params["scale"]

    return by_hand(affine, keeping(affine), backward)


@wrong("structure", "raised", "shape", args="f32[4,3] f32[3]")
def bias_keeps_its_summed_axis():
    """A sum that keeps the axis: (1, 3) for an argument of three."""
    return by_hand(jnp.add, keeping(jnp.add), lambda _, g: (g, g.sum(0, keepdims=True)))


@wrong("structure", "raised", args="f32[4,3] f32[3] 2")
def one_cotangent_too_few():
    """The exponent is no static argument, and nothing comes back for it."""

    def function(x, b, exponent):
        return x**exponent + b

    return by_hand(function, keeping(function), lambda saved, g: (2 * g * saved[0], g.sum(0)))


@wrong("structure", "dtype", args="f32[3,4] f32[4,2]")
def product_in_a_fixed_half_precision():
    """Backward is computed and returned in bfloat16, whatever came; JAX lets it pass."""

    def backward(saved, g):
        x, w = (v.astype(jnp.bfloat16) for v in saved)
        g = g.astype(jnp.bfloat16)
        return g @ w.T, x.T @ g

    return by_hand(jnp.matmul, keeping(jnp.matmul), backward)


class Moments(NamedTuple):
    mean: jax.Array
    variance: jax.Array


def moments(x):
    mean = x.mean(0)
    return Moments(mean, ((x - mean) ** 2).mean(0))


@right(args="f32[6,2]")
def moments_named():
    """A named tuple out; the variance needs no term for the mean, whose slope there is zero."""

    def backward(saved, g):
        (x,) = saved
        return ((g.mean + 2 * (x - x.mean(0)) * g.variance) / len(x),)

    return by_hand(moments, keeping(moments), backward)


@wrong("missing_path", args="f32[6,2]")
def moments_first_output_alone():
    """The second output's cotangent is not looked at."""

    def backward(saved, g):
        (x,) = saved
        return (jnp.broadcast_to(g.mean / len(x), x.shape),)

    return by_hand(moments, keeping(moments), backward)


@wrong("factor", args="f32[6,2]")
def moments_unbiased_backward():
    """Forward divides by n, the variance's backward by n − 1."""

    def backward(saved, g):
        (x,) = saved
        return (g.mean / len(x) + 2 * (x - x.mean(0)) * g.variance / (len(x) - 1),)

    return by_hand(moments, keeping(moments), backward)


@right(args="f32[5]")
def outputs_of_integers_and_none():
    """Beside the value: where it stands, which has no cotangent, and None."""

    def function(x):
        return {"value": x.max(), "where": x.argmax(), "rest": None}

    def backward(saved, g):
        (x,) = saved
        return (jnp.zeros_like(x).at[x.argmax()].set(g["value"]),)

    return by_hand(function, keeping(function), backward)


@right(args="({w: f32[2,3], unused: f32[4]}, [f32[3], None]) f32[2]")
def tree_with_an_unused_leaf():
    """A leaf that is never read: its cotangent is zero, exactly."""

    def function(params, x):
        weights, (bias, _) = params
        return x @ weights["w"] + bias

    def backward(saved, g):
        (weights, _), x = saved
        bars = {"w": jnp.outer(x, g), "unused": jnp.zeros_like(weights["unused"])}
        return (bars, [g, None]), weights["w"] @ g

    return by_hand(function, keeping(function), backward)


def tied(w, x):
    """One weight that encodes and decodes."""
    return jnp.tanh(x @ w) @ w.T


@right(args="f32[3,2] f32[4,3]")
def tied_weight():
    """Both uses of the weight are heard."""

    def backward(saved, g):
        w, x = saved
        code = jnp.tanh(x @ w)
        inner = g @ w * (1 - code**2)
        return x.T @ inner + g.T @ code, inner @ w.T

    return by_hand(tied, keeping(tied), backward)


@wrong("missing_path", args="f32[3,2] f32[4,3]")
def tied_weight_decoder_alone():
    """The weight's use in the encoder is overwritten by that in the decoder."""

    def backward(saved, g):
        w, x = saved
        code = jnp.tanh(x @ w)
        inner = g @ w * (1 - code**2)
        return g.T @ code, inner @ w.T

    return by_hand(tied, keeping(tied), backward)


# --- integers, keys, static arguments, closures ----------------------------------------------------------------------


@right(args="f32[4] i32[4]<5")
def power_of_integers():
    """An integer array's cotangent of JAX's own empty dtype; zero to the power of zero has slope zero."""

    def function(x, n):
        return x**n

    def backward(saved, g):
        x, n = saved
        slope = jnp.where(n == 0, 0, n * x ** jnp.maximum(n - 1, 0))
        return (g * slope).astype(x.dtype), np.zeros(n.shape, jax.dtypes.float0)

    return by_hand(function, keeping(function), backward)


def noisy(x, key):
    """Multiplied by noise of mean one."""
    return x * jax.random.exponential(key, x.shape, x.dtype)


@right(args="f32[6] key")
def noise_drawn_again():
    """The same key gives the same noise, so nothing but the key is kept; another dtype draws other noise."""

    def backward(key, g):
        return noisy(g, key), None

    return by_hand(noisy, lambda x, key: (noisy(x, key), key), backward)


@wrong("wrong_residual", "local_derivative", args="f32[6] key")
def noise_drawn_from_another_key():
    """The key is split before it is kept, and backward draws other noise."""

    def backward(key, g):
        return noisy(g, key), None

    return by_hand(noisy, lambda x, key: (noisy(x, key), jax.random.split(key)[0]), backward)


def reduced(x, how):
    return x.mean() if how == "mean" else x.sum()


@right(args="f32[7] 'mean'")
def static_reduction():
    """The option decides the factor."""

    def backward(how, x, g):
        return (jnp.full_like(x, g / x.size if how == "mean" else g),)

    return by_hand(reduced, lambda x, how: (reduced(x, how), x), backward, nondiff_argnums=(1,))


@wrong("factor", args="f32[7] 'mean'")
def static_reduction_misspelt():
    """Backward asks for another spelling of the option and always sums."""

    def backward(how, x, g):
        return (jnp.full_like(x, g / x.size if how == "average" else g),)

    return by_hand(reduced, lambda x, how: (reduced(x, how), x), backward, nondiff_argnums=(1,))


@right(args="f32[5]")
def closure_over_a_constant():
    """The weights belong to the function and need no cotangent."""
    weights = np.array([1, -2, 0.5, 3, 0])

    def function(x):
        return jnp.tanh(x * weights.astype(x.dtype))

    return by_hand(
        function,
        lambda x: (function(x), function(x)),
        lambda y, g: (g * (1 - y**2) * weights.astype(g.dtype),),
    )


@right(args="f32[3] f32[4,3]")
def closure_converted():
    """A function that closes over what is differentiated, its constants made arguments by hand."""

    def integrate(f, x, *constants):
        return f(x, *constants) / 2 + f(2 * x, *constants) / 4

    def forward(f, x, *constants):
        return integrate(f, x, *constants), (x, constants)

    def backward(f, saved, g):
        x, constants = saved
        _, at_one = jax.vjp(f, x, *constants)
        _, at_two = jax.vjp(f, 2 * x, *constants)
        (x1, *c1), (x2, *c2) = at_one(g / 2), at_two(g / 4)
        return x1 + 2 * x2, *(a + b for a, b in zip(c1, c2, strict=True))

    inner = by_hand(integrate, forward, backward, nondiff_argnums=(0,))

    def function(w, x):
        converted, constants = jax.closure_convert(lambda row: jnp.sin(row @ w), x)
        return inner(converted, x, *constants)

    return function


@wrong("dropped", "missing_path", args="f32[3] f32[3]", truth=jnp.multiply)
def closure_over_what_is_asked_for():
    """The weight is stopped before the function closes over it, since JAX refuses it otherwise."""

    def function(w, x):
        w = jax.lax.stop_gradient(w)
        inner = by_hand(lambda x: x * w, lambda x: (x * w, None), lambda _, g: (g * w,))
        return inner(x)

    return function
