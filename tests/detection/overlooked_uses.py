"""Derivatives that depend on how they are used: what else is differentiated, tracing, batches, keys, outputs."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import custom_vmap
from jax.custom_derivatives import SymbolicZero
from jax.scipy.special import digamma, gammaln, polygamma

from .case import by_hand, right, wrong
from .halves import keeping

# --- what is differentiated ------------------------------------------------------------------------------------------


@wrong("dropped", "missing_path", "transform", "located", args="f32[4] f32[4]")
def tangent_of_the_second_argument_alone():
    """Where the first argument does not move the rule has nothing to do."""
    function = jax.custom_jvp(lambda x, y: jnp.sin(x) * y)

    def rule(primals, tangents):
        (x, y), (x_dot, y_dot) = primals, tangents
        out = jnp.zeros_like(x)
        if not isinstance(x_dot, SymbolicZero):
            out += jnp.cos(x) * y * x_dot
            if not isinstance(y_dot, SymbolicZero):
                out += jnp.sin(x) * y_dot
        return function(x, y), out

    function.defjvp(rule, symbolic_zeros=True)
    return function


def damped(rate, x):
    return jnp.exp(-rate * x) * jnp.sin(x)


def damped_case(alone):
    """`alone`: the slope by x where the rate does not move."""
    function = jax.custom_jvp(damped)

    def rule(primals, tangents):
        (rate, x), (rate_dot, x_dot) = primals, tangents
        y = damped(rate, x)
        own = jnp.exp(-rate * x) * jnp.cos(x)
        fixed = isinstance(rate_dot, SymbolicZero)
        out = jnp.zeros_like(y) if fixed else -x * y * rate_dot
        if not isinstance(x_dot, SymbolicZero):
            out += (alone(own, rate * y) if fixed else own - rate * y) * x_dot
        return y, out

    function.defjvp(rule, symbolic_zeros=True)
    return function


@wrong("missing_path", "missing_term", "transform", args="f32[4]>0<1 f32[4]>0<1")
def damping_forgotten_where_its_rate_is_fixed():
    """With both arguments moving the rule is right."""
    return damped_case(lambda own, damping: own)


@right(args="f32[4]>0<1 f32[4]>0<1")
def damping_where_its_rate_is_fixed():
    return damped_case(lambda own, damping: own - damping)


@wrong("dropped", "missing_path", "transform", "located", args="f32[3,4] f32[4,2]")
def layer_whose_frozen_weight_stops_everything():
    """Where the weight is not differentiated the input is not heard either."""
    layer = jax.custom_vjp(lambda x, w: jnp.tanh(x @ w))

    def forward(x, w):
        y = jnp.tanh(x.value @ w.value)
        return y, (x.value, w.value, y, None if w.perturbed else 0)

    def backward(saved, g):
        x, w, y, frozen = saved
        z = g * (1 - y * y) * (frozen is None)
        return z @ w.T, x.T @ z

    layer.defvjp(forward, backward, symbolic_zeros=True)
    return layer


@wrong("transform", "sign", "local_derivative", args="f32[4]>0.5<4")
def log_gamma_whose_second_derivative_has_the_wrong_sign():
    """The rule calls a digamma whose own rule is off by a sign."""
    first = jax.custom_jvp(digamma)
    first.defjvps(lambda x_dot, y, x: -polygamma(1, x) * x_dot)
    function = jax.custom_jvp(gammaln)
    function.defjvps(lambda x_dot, y, x: first(x) * x_dot)
    return function


def product_case(among_zeros):
    """The product of all, and of all others as its slope."""

    def backward(saved, g):
        (x,) = saved
        others = jnp.prod(jnp.where(jnp.eye(len(x), dtype=bool), 1, x), axis=1)
        return (g * among_zeros(jnp.sum(x == 0), others),)

    return by_hand(lambda x: jnp.prod(x), lambda x: (jnp.prod(x), (x,)), backward)


@wrong("transform", "values", "missing_path", args="f32[5]")
def product_constant_among_zeros():
    """With two zeros and more the slope is made a zero that has no slope itself.  Source: PyTorch's issue 106789."""
    return product_case(lambda zeros, others: jnp.where(zeros > 1, 0, others))


@right(args="f32[5]")
def product_of_all_others():
    return product_case(lambda zeros, others: others)


@right(args="f32[3,4] u32[2] f32[3,4]")
def mask_from_the_words_of_a_key():
    """A key that is written as two words, and a mask that is held constant, have no cotangent."""

    def function(x, key, mask):
        kept = (jax.random.uniform(key, x.shape) < 0.5).astype(x.dtype)
        return x * kept * lax.stop_gradient(mask)

    def backward(saved, g):
        _, key, mask = saved
        return function(g, key, mask), None, None

    return by_hand(function, keeping(function), backward)


@right(args="f32[3,4] key[3]")
def mask_of_a_key_for_every_row():
    def function(x, keys):
        def row(key):
            return jax.random.bernoulli(jax.random.split(key)[0], 0.6, x.shape[1:])

        return jnp.where(jax.vmap(row)(keys), x, 0)

    return by_hand(function, keeping(function), lambda saved, g: (function(g, saved[1]), None))


# --- how it is called ------------------------------------------------------------------------------------------------


@wrong("counted_twice", "located", "transform", "values", "missing_path", args="f32[5] i32[4]<5")
def gather_without_tracing_drops_repeats():
    """Outside of jit the cotangent is put together by NumPy, where += takes a repeated index once."""

    def function(x, at):
        return x[at]

    def backward(saved, g):
        x, at = saved
        if isinstance(g, jax.core.Tracer) or isinstance(at, jax.core.Tracer):
            return jnp.zeros_like(x).at[at].add(g), None
        bar = np.zeros(x.shape, g.dtype)
        bar[np.asarray(at)] += np.asarray(g)
        return jnp.asarray(bar), None

    return by_hand(function, keeping(function), backward)


def outer_case(unbatched):
    @custom_vmap
    def outer(x, g):
        return x[:, None] * g

    @outer.def_vmap
    def _(size, batched, x, g):
        if not batched[0]:
            return unbatched(x, g), True
        g = g if batched[1] else jnp.broadcast_to(g, (size, *g.shape))
        return x[:, :, None] * g[:, None, :], True

    def function(x, w):
        return x @ w

    return by_hand(function, keeping(function), lambda saved, g: (saved[1] @ g, outer(saved[0], g)))


@wrong("transform", "shape", "missing_path", args="f32[4] f32[4,3]")
def product_batched_over_its_cotangent_alone():
    """The rule for batches of a helper sums the input where the input has no batch."""
    return outer_case(lambda x, g: jnp.sum(x) * jnp.broadcast_to(g[:, None], (len(g), len(x), g.shape[1])))


@right(args="f32[4] f32[4,3]")
def product_with_a_rule_for_batches():
    return outer_case(lambda x, g: x[:, None] * g[:, None, :])


@wrong("impure", "wrong_residual", "values", args="f32[5]")
def rectifier_with_the_mask_of_the_latest_call():
    """The mask lies in a box which every forward pass overwrites."""
    box = {}

    def function(x):
        return 2 * jnp.maximum(x, 0)

    def forward(x):
        box["mask"] = x > 0
        return function(x), x > 0

    def backward(mask, g):
        return (2 * g * (mask if isinstance(box["mask"], jax.core.Tracer) else box["mask"]),)

    return by_hand(function, forward, backward)


def three_steps(w, x):
    return lax.scan(lambda h, _: (jnp.tanh(h @ w), None), x, None, length=3)[0]


def steps_case(shares):
    def backward(saved, g):
        w, x = saved
        states = [x]
        for _ in range(3):
            states.append(jnp.tanh(states[-1] @ w))
        w_bar = jnp.zeros_like(w)
        for before, after, share in reversed(list(zip(states[:-1], states[1:], shares, strict=True))):
            z = g * (1 - after**2)
            w_bar, g = w_bar + share * jnp.outer(before, z), z @ w.T
        return w_bar, g

    return by_hand(three_steps, keeping(three_steps), backward)


@wrong("located", "factor", "local_derivative", "missing_path", args="f32[3,3] f32[3]")
def tied_weight_first_step_by_a_thousandth_less():
    """Of three uses of a weight the first counts for 0.999."""
    return steps_case((0.999, 1, 1))


@right(args="f32[3,3] f32[3]")
def tied_weight_of_three_steps():
    return steps_case((1, 1, 1))


def weights_and_normaliser(q, k):
    return jax.nn.softmax(q @ k.T), jax.nn.logsumexp(q @ k.T, -1)


def normaliser_case(to_keys):
    def backward(saved, g):
        q, k = saved
        bar, lse_bar = g
        p = weights_and_normaliser(q, k)[0]
        one = p * (bar - jnp.sum(p * bar, -1, keepdims=True))
        both = one + p * lse_bar[:, None]
        return both @ k, to_keys(one, both).T @ q

    return by_hand(weights_and_normaliser, keeping(weights_and_normaliser), backward)


@wrong("missing_path", "missing_term", args="f32[3,2] f32[4,2]")
def normaliser_not_heard_by_the_keys():
    """The second output's cotangent goes to the queries alone."""
    return normaliser_case(lambda one, both: one)


@right(args="f32[3,2] f32[4,2]")
def normaliser_heard_by_both():
    return normaliser_case(lambda one, both: both)


@right(args="f32[4,5]")
def kernel_of_swish_alone():
    """Both halves are kernels, and nothing else says what the function is."""
    from jax.experimental import pallas as pl

    def run(kernel, x, *more):
        return pl.pallas_call(kernel, jax.ShapeDtypeStruct(x.shape, x.dtype), interpret=True)(x, *more)

    def value(x, y):
        y[...] = x[...] * jax.nn.sigmoid(x[...])

    def cotangent(x, g, x_bar):
        gate = jax.nn.sigmoid(x[...])
        x_bar[...] = g[...] * gate * (1 + x[...] * (1 - gate))

    def function(x):
        return run(value, x)

    return by_hand(function, keeping(function), lambda saved, g: (run(cotangent, *saved, g),))


@right(args="f32[4] f32[]")
def slope_inside_scan_vmap_and_jit():
    def each(x, t):
        return x * jnp.exp(-t * t)

    def backward(saved, g):
        x, t = saved
        return g * jnp.exp(-t * t), -2 * g * t * each(x, t)

    inner = by_hand(each, keeping(each), backward)

    def step(h, t):
        return jax.vmap(inner, (0, None))(h, t), h.sum()

    return jax.jit(lambda x, t: lax.scan(step, x, t + jnp.arange(4.0).astype(t.dtype))[1])
