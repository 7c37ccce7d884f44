"""Derivatives in the ways that published packages write them, where a checker could take the way for a mistake."""

import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from .case import by_hand, right, wrong

# --- a primitive of its own, with a rule for each transformation -----------------------------------------------------


def weighed():
    """Rows times constant weights as a primitive that takes several rows under vmap, and never several weights."""
    primitive = Primitive("weighed")
    primitive.def_impl(jnp.multiply)
    primitive.def_abstract_eval(lambda x, weights: x.update())
    mlir.register_lowering(primitive, mlir.lower_fun(jnp.multiply, multiple_results=False))

    def several(arguments, axes):
        if axes[1] is not None:
            raise NotImplementedError("vmap over the weights is not supported")
        return primitive.bind(jnp.moveaxis(arguments[0], axes[0], 0), arguments[1]), 0

    ad.primitive_jvps[primitive] = lambda primals, dots: (primitive.bind(*primals), primitive.bind(dots[0], primals[1]))
    ad.primitive_transposes[primitive] = lambda bar, x, weights: (primitive.bind(bar, weights), None)
    batching.primitive_batchers[primitive] = several
    return lambda x: jnp.sin(primitive.bind(x, weights_of(x)))


def weights_of(x):
    return jnp.linspace(0.5, 2, x.shape[-1], dtype=x.dtype)


@right(args="f32[3,4]")
def primitive_without_a_batch_of_weights():
    """Its rule for vmap refuses what only a checker would map.  Source: s2fft."""
    return weighed()


@wrong("missing_path", "local_derivative", "factor", "wrong_residual", args="f32[3,4]")
def primitive_without_a_batch_of_weights_and_a_slope_without_them():
    """The weights are left out of the backward pass."""
    function = weighed()
    return by_hand(function, lambda x: (function(x), x), lambda x, y_bar: (y_bar * jnp.cos(x * weights_of(x)),))


# --- a search that carries whether it is done, as a boolean ----------------------------------------------------------


def fixed_point(a):
    """x = cos(x) / 2 + a.  Whether it is close enough is found in a step, and the next one is asked that alone."""

    def step(state):
        x, _, count = state
        new = 0.5 * jnp.cos(x) + a
        return new, jnp.max(jnp.abs(new - x)) < 1e-6, count + 1

    return lax.while_loop(lambda state: ~state[1] & (state[2] < 256), step, (jnp.zeros_like(a), False, 0))[0]


def fixed_point_case(slope):
    def forward(a):
        x = fixed_point(a)
        return x, x

    return by_hand(fixed_point, forward, lambda x, y_bar: (y_bar * slope(x),))


@right(args="f32[4]")
def fixed_point_that_carries_whether_it_is_done():
    """By the theorem of implicit functions.  Source: optimistix, equinox."""
    return fixed_point_case(lambda x: 1 / (1 + 0.5 * jnp.sin(x)))


@wrong("sign", "missing_term", "local_derivative", "factor", args="f32[4]")
def fixed_point_that_carries_whether_it_is_done_and_turns_the_sine():
    """Divided by 1 − sin(x) / 2."""
    return fixed_point_case(lambda x: 1 / (1 - 0.5 * jnp.sin(x)))
