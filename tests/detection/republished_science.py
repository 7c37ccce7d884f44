"""Derivatives of published packages written anew, right as they are there and wrong in one place: science."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.lax.linalg import tridiagonal_solve
from jax.scipy.special import ndtr

from .case import by_hand, right, wrong
from .halves import keeping, pointwise
from .overlooked_kinks import by_tangents

# --- equations -------------------------------------------------------------------------------------------------------


def complex_solve_case(adjoint):
    def solve(a, b):
        return jnp.linalg.solve(a, b)

    def backward(saved, g):
        w = solve(adjoint(saved[0]), g)
        return -jnp.outer(w, solve(*saved)), w

    made = by_hand(solve, keeping(solve), backward)
    return lambda a, b: made(a + 3 * jnp.eye(3, dtype=a.dtype), b)


@wrong("wrong_residual", "local_derivative", "permuted", args="c64[3,3] c64[3]")
def complex_solve_by_the_conjugate_transpose():
    return complex_solve_case(lambda a: a.conj().T)


@right(args="c64[3,3] c64[3]")
def complex_solve_by_the_transpose():
    """Source: lineax."""
    return complex_solve_case(lambda a: a.T)


def settled(step, start):
    """Iterated until nothing moves, or three hundred times."""

    def moves(state):
        before, now, count = state
        return (jnp.abs(before - now).max() > jnp.finfo(now.dtype).eps * jnp.abs(now).max()) & (count < 300)

    return lax.while_loop(moves, lambda s: (s[1], step(s[1]), s[2] + 1), (start, step(start), 0))[1]


def settled_case(adjoint):
    def function(w, b):
        return settled(lambda x: jnp.tanh(0.2 * w @ x + b), jnp.zeros_like(b))

    def backward(saved, g):
        w, b = saved
        x = function(w, b)
        slope = 1 - x * x
        u = slope * adjoint(lambda u: g + 0.2 * w.T @ (slope * u), g)
        return 0.2 * jnp.outer(u, x), u

    return by_hand(function, keeping(function), backward)


@wrong("missing_path", "missing_term", "local_derivative", "wrong_residual", args="f32[3,3] f32[3]")
def settled_state_by_one_step():
    """Of the series of the inverse the first two terms."""
    return settled_case(lambda step, g: step(g))


@right(args="f32[3,3] f32[3]")
def settled_state():
    """Source: jaxopt, fax."""
    return settled_case(settled)


def midpoint(theta, y, dt):
    return y + dt * jnp.tanh(theta @ (y + dt / 2 * jnp.tanh(theta @ y)))


def walk(theta, y, dt):
    return lax.scan(lambda y, _: (midpoint(theta, y, dt), y), y, None, length=5)


def walk_case(states):
    def forward(theta, y, dt):
        last, path = walk(theta, y, dt)
        return last, (theta, states(path, last), dt)

    def backward(saved, g):
        theta, path, dt = saved

        def step(bars, y):
            theta_bar, y_bar, dt_bar = jax.vjp(midpoint, theta, y, dt)[1](bars[1])
            return (bars[0] + theta_bar, y_bar, bars[2] + dt_bar), None

        return lax.scan(step, (jnp.zeros_like(theta), g, jnp.zeros_like(dt)), path, reverse=True)[0]

    return by_hand(lambda *a: walk(*a)[0], forward, backward)


@wrong("wrong_residual", "local_derivative", args="f32[3,3] f32[3] f32[]>0.05<0.2")
def walk_back_over_the_later_states():
    """Every step is taken back at its end in place of its start."""
    return walk_case(lambda path, last: jnp.concatenate([path[1:], last[None]]))


@right(args="f32[3,3] f32[3] f32[]>0.05<0.2")
def walk_back_over_its_states():
    """Source: diffrax."""
    return walk_case(lambda path, last: path)


def three_diagonals(low, middle, high, b):
    return tridiagonal_solve(low, middle, high, b[:, None])[:, 0]


def diagonals_case(before):
    def backward(saved, g):
        low, middle, high, b = saved
        x, nothing = three_diagonals(*saved), jnp.zeros_like(b[:1])
        turned = jnp.concatenate([nothing, high[:-1]]), middle, jnp.concatenate([low[1:], nothing])
        w = three_diagonals(*turned, g)
        return -w * before(x), -w * x, -w * jnp.concatenate([x[1:], nothing]), w

    return by_hand(three_diagonals, keeping(three_diagonals), backward)


@wrong("located", "missing_term", args="f32[5] f32[5]>4<5 f32[5] f32[5]")
def three_diagonals_with_a_corner():
    """The first place below the diagonal, which is outside of the matrix, receives something."""
    return diagonals_case(lambda x: jnp.roll(x, 1))


@right(args="f32[5] f32[5]>4<5 f32[5] f32[5]")
def three_diagonals_without_corners():
    return diagonals_case(lambda x: jnp.roll(x, 1).at[0].set(0))


def host_case(back):
    """A matrix that lives on the host, with ones below and next above the diagonal."""

    def on_host(turn, x):
        def product(v):
            v = np.asarray(v)
            return (turn(np.tri(len(v), k=1)) @ v).astype(v.dtype)

        return jax.pure_callback(product, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    def function(x):
        return on_host(lambda a: a, x)

    return by_hand(function, keeping(function), lambda saved, g: (on_host(back, g),))


@wrong("permuted", "local_derivative", args="f32[3]")
def host_matrix_taken_for_symmetric():
    return host_case(lambda a: a)


@right(args="f32[3]")
def host_matrix_transposed():
    """A callback that does not say how it is batched."""
    return host_case(lambda a: a.T)


def host_sum_case(axis):
    def on_host(g):
        g = np.asarray(g)
        return np.flip(np.cumsum(np.flip(g, axis), axis), axis).astype(g.dtype)

    def backward(saved, g):
        return (jax.pure_callback(on_host, jax.ShapeDtypeStruct(g.shape, g.dtype), g, vmap_method="broadcast_all"),)

    return by_hand(lambda x: jnp.cumsum(x), keeping(jnp.cumsum), backward)


@wrong("transform", args="f32[5]")
def host_sum_over_the_batch():
    """Under vmap the host sums over the added axis."""
    return host_sum_case(0)


@right(args="f32[5]")
def host_sum_over_its_own_axis():
    return host_sum_case(-1)


# --- physics and pictures --------------------------------------------------------------------------------------------


def light(density, colour, step):
    depth = density * step
    before = jnp.cumsum(depth, -1) - depth
    return jnp.sum((jnp.exp(-before) * -jnp.expm1(-depth))[..., None] * colour, -2)


def light_case(behind):
    def backward(saved, g):
        density, colour, step = saved
        depth = density * step
        passes = jnp.exp(-(jnp.cumsum(depth, -1) - depth))
        weight, heard = passes * -jnp.expm1(-depth), jnp.sum(colour * g[..., None, :], -1)
        each = weight * heard
        bar = passes * jnp.exp(-depth) * heard - behind(jnp.cumsum(each[..., ::-1], -1)[..., ::-1], each)
        return bar * step, weight[..., None] * g[..., None, :], bar * density

    return by_hand(light, keeping(light), backward)


LIGHT = "f32[2,5]>0<2 f32[2,5,3] f32[2,5]>0<0.5"


@wrong("located", "missing_path", "missing_term", "local_derivative", args=LIGHT)
def light_hidden_by_itself():
    """The sum over what lies behind begins at the sample itself."""
    return light_case(lambda sums, each: sums)


@right(args=LIGHT)
def light_hidden_by_what_is_before():
    return light_case(lambda sums, each: sums - each)


def table(x, knots, values):
    i = jnp.clip(jnp.searchsorted(knots, x, side="right") - 1, 0, len(knots) - 2)
    return i, (x - knots[i]) / (knots[i + 1] - knots[i])


def between(x, knots, values):
    i, t = table(x, knots, values)
    t = jnp.clip(t, 0, 1)
    return values[i] * (1 - t) + values[i + 1] * t


def between_case(inside=lambda t: (t >= 0) & (t <= 1), of_knots=1):
    def backward(saved, g):
        _, knots, values = saved
        i, t = table(*saved)
        held = jnp.clip(t, 0, 1)
        slope = jnp.where(inside(t), g * (values[i + 1] - values[i]) / (knots[i + 1] - knots[i]), 0)
        knots_bar = jnp.zeros_like(knots).at[i].add(-slope * (1 - held)).at[i + 1].add(-slope * held)
        values_bar = jnp.zeros_like(values).at[i].add(g * (1 - held)).at[i + 1].add(g * held)
        return slope, of_knots * knots_bar, values_bar

    return by_hand(between, keeping(between), backward)


@wrong("dropped", args="f32[6]>-1<4 f32[5]>0<3sorteddistinct f32[5]")
def interpolation_knots_held():
    return between_case(of_knots=0)


@wrong(
    "values", "located", "kink", "missing_term", "local_derivative", args="f32[6]>-1<4 f32[5]>0<3sorteddistinct f32[5]"
)
def interpolation_goes_on_to_the_right():
    """Beyond the last knot, where the value is held, the last slope is given."""
    return between_case(inside=lambda t: t >= 0)


@right(args="f32[6]>-1<4 f32[5]>0<3sorteddistinct f32[5]")
def interpolation_of_all_three():
    return between_case()


def arc(x):
    return jnp.arccos(x)


@right(args="f32[6]>-0.95<0.95")
def arccosine_with_a_guarded_slope():
    """Clipped to 1e-7 short of one, in the derivative alone.  Source: Brax."""

    def slope(x):
        inside = jnp.clip(x, -1 + 1e-7, 1 - 1e-7)
        return -1 / jnp.sqrt(1 - inside * inside)

    return pointwise(arc, slope)


def filtered_case(power):
    """A static option comes in by a tuple of names and values, as filtered transformations have it."""

    def function(static, x, w):
        return w * x ** dict(static)["power"]

    def backward(static, saved, g):
        x, w = saved
        n = power(static)
        return g * w * n * x ** (n - 1), g * x ** dict(static)["power"]

    made = by_hand(function, lambda static, x, w: (function(static, x, w), (x, w)), backward, nondiff_argnums=(0,))
    return lambda x, w: made((("power", 3),), x, w)


@wrong("local_derivative", "wrong_residual", args="f32[4]>0.5<1.5 f32[4]")
def static_power_not_read():
    """The square's derivative whatever the option says."""
    return filtered_case(lambda static: 2)


@right(args="f32[4]>0.5<1.5 f32[4]")
def static_power_read():
    """Source: Equinox."""
    return filtered_case(lambda static: dict(static)["power"])


# --- statistics ------------------------------------------------------------------------------------------------------


def alphas(start, moves, seen, length):
    def step(a, given):
        row, t = given
        b = jnp.where(t < length, jax.nn.logsumexp(a[:, None] + moves, 0) + row, a)
        return b, b

    first = start + seen[0]
    return jnp.concatenate([first[None], lax.scan(step, first, (seen[1:], jnp.arange(1, len(seen))))[1]])


def chain(start, moves, seen, length):
    return jax.nn.logsumexp(alphas(start, moves, seen, length)[-1])


def chain_case(first=lambda likely, start: likely, stops=True):
    def backward(saved, g):
        start, moves, seen, length = saved
        a, n = alphas(*saved), len(seen)
        total = jax.nn.logsumexp(a[-1])

        def step(b, given):
            row, t = given
            before = jax.nn.logsumexp(moves + row + b, 1)
            return jnp.where((t < length) | (not stops), before, b), b

        zero, rest = lax.scan(step, jnp.zeros_like(start), (seen[1:], jnp.arange(1, n)), reverse=True)
        b = jnp.concatenate([zero[None], rest])
        on = (jnp.arange(n) < length)[:, None]
        likely = jnp.exp(a + b - total)
        pairs = jnp.exp(a[:-1, :, None] + moves + (seen + b)[1:, None] - total) * on[1:, :, None]
        return g * first(likely[0], start), g * pairs.sum(0), g * likely * on.at[0].set(True), None

    return by_hand(chain, keeping(chain), backward)


@wrong("wrong_residual", "local_derivative", "missing_path", args="f32[3] f32[3,3] f32[6,3] i32[]>0<=6")
def chain_start_by_its_prior():
    """What was expected before anything was seen."""
    return chain_case(first=lambda likely, start: jnp.exp(start))


@wrong("values", "missing_path", "local_derivative", "located", args="f32[3] f32[3,3] f32[6,3] i32[]>0<=6")
def chain_that_does_not_stop_backward():
    """The backward messages pass through what lies beyond the end."""
    return chain_case(stops=False)


@right(args="f32[3] f32[3,3] f32[6,3] i32[]>0<=6")
def chain_of_its_length():
    """Source: dynamax."""
    return chain_case()


def mixture(x, mean, spread):
    return jnp.mean(ndtr((x - mean) / spread))


def quantile(p, mean, spread):
    def halve(_, ends):
        middle = sum(ends) / 2
        below = mixture(middle, mean, spread) < p
        return jnp.where(below, middle, ends[0]), jnp.where(below, ends[1], middle)

    return sum(lax.fori_loop(0, 60, halve, (jnp.min(mean - 10 * spread), jnp.max(mean + 10 * spread)))) / 2


def quantile_case(of_spread):
    def rule(primals, tangents):
        x = quantile(*primals)
        density = jax.grad(mixture)(x, *primals[1:])
        moved = jax.jvp(lambda *a: mixture(x, *a), primals[1:], (tangents[1], of_spread * tangents[2]))[1]
        return (tangents[0] - moved) / density

    return by_tangents(quantile, rule)


@wrong("dropped", args="f32[]>0.2<0.8 f32[3] f32[3]>0.5<1")
def quantile_spread_held():
    """A search has no derivative to compare with; the spreads are left out of the equation that it solves."""
    return quantile_case(0)


@right(args="f32[]>0.2<0.8 f32[3] f32[3]>0.5<1")
def quantile_of_a_mixture():
    """Source: TensorFlow Probability, NumPyro."""
    return quantile_case(1)
