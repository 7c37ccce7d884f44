"""Differential equations and their adjoints, reversible blocks, transport and projections."""

import jax
import jax.numpy as jnp
from jax import lax

from .case import by_hand, right, wrong
from .halves import keeping

# --- steps of a differential equation  y' = tanh(w y) cos t ----------------------------------------------------------


def field(y, t, w):
    return jnp.tanh(w @ y) * jnp.cos(t)


def field_bars(y, t, w, u):
    """The cotangents of y, t and w for a cotangent u of the field."""
    s = jnp.tanh(w @ y)
    inner = u * jnp.cos(t) * (1 - s**2)
    return w.T @ inner, -jnp.sum(u * s) * jnp.sin(t), jnp.outer(inner, y)


def march(y, w, start, end):
    """Twelve of Euler's steps from one time to another: all states, the first included."""
    h = (end - start) / 12

    def step(y, n):
        new = y + h * field(y, start + n * h, w)
        return new, y

    last, path = lax.scan(step, y, jnp.arange(12))
    return last, path


def euler(y, w, start, end):
    return march(y, w, start, end)[0]


def euler_forward(y, w, start, end):
    last, path = march(y, w, start, end)
    return last, (path, w, start, end)


def euler_backward(path, w, start, end, g):
    """Step by step from the end: the cotangents of y and w, and those of h and of every step's time."""
    h = (end - start) / 12

    def step(carry, inputs):
        u, w_bar = carry
        y, n = inputs
        t = start + n * h
        h_bar = u @ field(y, t, w)
        y_bar, t_bar, w_part = field_bars(y, t, w, h * u)
        return (u + y_bar, w_bar + w_part), (h_bar + n * t_bar, t_bar)

    (y_bar, w_bar), (h_bar, t_bar) = lax.scan(step, (g, jnp.zeros_like(w)), (path, jnp.arange(12)), reverse=True)
    return y_bar, w_bar, h_bar.sum() / 12, t_bar.sum()


@right(args="f32[3] f32[3,3] f32[] f32[]")
def euler_steps_reversed():
    """The transpose of every step; both times are heard through the step's length, the first also by itself."""

    def backward(saved, g):
        y_bar, w_bar, end_bar, shift_bar = euler_backward(*saved, g)
        return y_bar, w_bar, shift_bar - end_bar, end_bar

    return by_hand(euler, euler_forward, backward)


@wrong("sign", "local_derivative", args="f32[3] f32[3,3] f32[] f32[]")
def euler_start_with_a_plus():
    """A later start makes the way shorter, and its minus is forgotten.  Source: torchdiffeq issues 199 and 218."""

    def backward(saved, g):
        y_bar, w_bar, end_bar, shift_bar = euler_backward(*saved, g)
        return y_bar, w_bar, shift_bar + end_bar, end_bar

    return by_hand(euler, euler_forward, backward)


@wrong("dropped", args="f32[3] f32[3,3] f32[] f32[]")
def euler_start_not_heard():
    """The time of the start is given zero.  Source: stan-dev/math issue 1833."""

    def backward(saved, g):
        y_bar, w_bar, end_bar, _ = euler_backward(*saved, g)
        return y_bar, w_bar, jnp.zeros_like(end_bar), end_bar

    return by_hand(euler, euler_forward, backward)


@wrong("wrong_residual", "local_derivative", args="f32[3] f32[3,3] f32[] f32[]")
def euler_path_found_backwards():
    """The path is marched back from its end, as the continuous adjoint does, and Euler's way back is another."""

    def forward(y, w, start, end):
        last = euler(y, w, start, end)
        return last, (last, w, start, end)

    def backward(saved, g):
        last, w, start, end = saved
        h = (end - start) / 12

        def back(y, n):
            y = y - h * field(y, start + (n + 1) * h, w)
            return y, y

        path = lax.scan(back, last, jnp.arange(12), reverse=True)[1]
        y_bar, w_bar, end_bar, shift_bar = euler_backward(path, w, start, end, g)
        return y_bar, w_bar, shift_bar - end_bar, end_bar

    return by_hand(euler, forward, backward)


# --- a reversible block  a' = a + tanh(b),  b' = b + sin(a') ---------------------------------------------------------


def couple(a, b):
    a = a + jnp.tanh(b)
    return a, b + jnp.sin(a)


@right(args="f32[5] f32[5]")
def reversible_block():
    """Nothing is kept but the outputs, from which the inputs are found."""

    def backward(outputs, bars):
        (a, b), (a_bar, b_bar) = outputs, bars
        b = b - jnp.sin(a)
        a_bar = a_bar + b_bar * jnp.cos(a)
        return a_bar, b_bar + a_bar * (1 - jnp.tanh(b) ** 2)

    return by_hand(couple, lambda a, b: (couple(a, b), couple(a, b)), backward)


@wrong("wrong_residual", args="f32[5] f32[5]")
def reversible_block_not_reversed():
    """The slope of the first half is taken at the second output instead of the input found from it."""

    def backward(outputs, bars):
        (a, b), (a_bar, b_bar) = outputs, bars
        a_bar = a_bar + b_bar * jnp.cos(a)
        return a_bar, b_bar + a_bar * (1 - jnp.tanh(b) ** 2)

    return by_hand(couple, lambda a, b: (couple(a, b), couple(a, b)), backward)


# --- entropic transport and the simplex ------------------------------------------------------------------------------


def potentials(cost, rounds):
    """Sinkhorn's two potentials between uniform masses, with entropy of weight one."""
    n, m = cost.shape

    def step(potentials, _):
        f = -jax.nn.logsumexp(potentials[1] - cost, 1) - jnp.log(n)
        return (f, -jax.nn.logsumexp(f[:, None] - cost, 0) - jnp.log(m)), None

    return lax.scan(step, (jnp.zeros_like(cost[:, 0]), jnp.zeros_like(cost[0])), length=rounds)[0]


def transport(cost, rounds=40):
    """The value of the dual, at the potentials after some rounds."""
    f, g = potentials(cost, rounds)
    return f.mean() + g.mean() - jnp.sum(jnp.exp(f[:, None] + g - cost)) + 1


def plan(cost, rounds):
    f, g = potentials(cost, rounds)
    return jnp.exp(f[:, None] + g - cost)


@right(args="f32[4,5]>=0<=1")
def transport_by_its_plan():
    """At the optimum the potentials have no slope to give, and the cost's cotangent is the plan."""

    def function(cost):
        return transport(cost)

    return by_hand(function, lambda cost: (function(cost), cost), lambda cost, u: (u * plan(cost, 40),))


@wrong("missing_path", "missing_term", args="f32[4,5]>=0<=1")
def transport_by_the_plan_held_constant():
    """The cost of the plan itself, whose cotangent is not the plan: the plan moves with the cost as well."""

    def function(cost):
        return jnp.sum(cost * plan(cost, 40))

    return by_hand(function, lambda cost: (function(cost), cost), lambda cost, u: (u * plan(cost, 40),))


def simplex(x):
    """The nearest point of the simplex."""
    s = jnp.sort(x)[::-1]
    n = jnp.arange(1, len(x) + 1)
    held = s * n > jnp.cumsum(s) - 1
    return jnp.maximum(x - (jnp.sum(jnp.where(held, s, 0)) - 1) / held.sum(), 0)


@right(args="f32[6]")
def simplex_projection():
    """The cotangent on the support, without its mean there."""

    def backward(y, g):
        support = y > 0
        return (jnp.where(support, g - jnp.sum(jnp.where(support, g, 0)) / support.sum(), 0),)

    return by_hand(simplex, lambda x: (simplex(x), simplex(x)), backward)


@wrong("missing_term", "values", args="f32[6]")
def simplex_projection_mean_of_all():
    """The mean is taken over all coordinates, not over the support."""

    def backward(y, g):
        return (jnp.where(y > 0, g - g.mean(), 0),)

    return by_hand(simplex, lambda x: (simplex(x), simplex(x)), backward)


@right(args="f32[5]")
def identity_kept_as_it_is():
    """The plainest there is."""
    return by_hand(lambda x: x, keeping(lambda x: x), lambda _, g: (g,))
