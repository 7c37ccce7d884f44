"""Cotangents without any autodiff: central differences along every coordinate, extrapolated to step zero.

Along one coordinate (or direction) let F(h) = ⟨ȳ, f(x + h) − f(x)⟩.  Outputs that the step leaves alone subtract to
nothing, so only the rounding of those that moved counts.  From F at a ladder of steps ±h come three sequences,

    (F(h) − F(−h)) / 2h,  error in h², h⁴, …        F(h) / h  and  −F(−h) / −h,  error in h, h², …

each extrapolated to h = 0 (Richardson), keeping the entry of the tableau that differs least from its neighbours
(Ridders), rounding included.  Where the two one-sided limits do not meet there is a kink, which the central
difference cannot see (it converges to the mean): the gap then is the error, and both sides are handed out.

Source: Ridders, 'Accurate computation of F′(x) and F′(x)F″(x)', 1982.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from manual_backprop.signature import is_leaf

from ..precision import compiled, rounded
from ..programs import side_by_side
from ..tracing.interpreter import equations
from .estimates import Estimate, oracle

COORDINATES = 2048  # perturbed one by one; beyond, a random choice of as many
ELEMENTS = 2**28  # of perturbed primals in all: where arrays are long, fewer coordinates are chosen
BATCH_ELEMENTS = 2**20  # elements of perturbed primals held at a time
STEPS = 9  # steps of the ladder, each RATIO times smaller than the one before
RATIO = 4.0
CLOSE = 2.0**-26  # of a coordinate: a shorter step than the root of eps loses more digits than it leaves
COLUMNS = 5  # of the tableau: higher powers of h only add rounding
ORDER, APART = 6, (2.0**-20, 2.0**-14, 2.0**-8)  # of differences that see nothing but noise, and their relative steps


def domains_of(leaves):
    """(lowest, highest) for every leaf of a tree of `signature.Leaf`, from its constraints.

    >>> from annotated_types import Gt
    >>> from manual_backprop.signature import Leaf
    >>> print(domains_of((Leaf("float", (2,), (Gt(0),)),)))
    ((0.0, inf),)
    """

    def bounds(leaf):
        lowest = [getattr(c, name, None) for c in leaf.domain for name in ("gt", "ge")]
        highest = [getattr(c, name, None) for c in leaf.domain for name in ("lt", "le")]
        return (
            max([float(a) for a in lowest if a is not None], default=-np.inf),
            min([float(a) for a in highest if a is not None], default=np.inf),
        )

    return jax.tree.map(bounds, leaves, is_leaf=is_leaf)


def _rounding(view):
    """Compile (floats, others, room) -> how far rounding may move every output number, as no step leaves the room.

    What is called back does its rounding out of sight, but is not smooth by it: differences of high order between
    points close to each other along a line, which leave next to nothing of a smooth function, show it.  Steps are
    longer where the numbers do not change at all.

    Source: Moré and Wild, 'Estimating computational noise', 2011.
    """
    closed = view.trace(view)
    measure = rounded(closed)
    if not any("callback" in equation.primitive.name for equation in equations(closed)):
        return lambda floats, others, room: measure(floats, others)[1]

    @compiled
    def along(flat, others, steps):
        return side_by_side(lambda step: view(view.cut(flat + step), others), flat)(steps)

    def compute(floats, others, room):
        flat, sigmas = view.flat(floats), measure(floats, others)[1]
        sizes = np.minimum(np.where(flat == 0, view.flat(view.scales(floats)), np.abs(flat)), room)
        steps = np.arange(-ORDER, ORDER + 1)[:, None] * sizes * np.random.default_rng(0).choice([-1, 1], flat.shape)
        seen = [np.zeros(sigma.shape) for sigma in sigmas]
        for apart in reversed(APART):  # the closest that show any have the last word
            noises = map(_noise, along(flat, others, apart * steps))
            seen = [np.where(noise > 0, noise, further) for noise, further in zip(noises, seen, strict=True)]
        return list(map(np.maximum, sigmas, seen))

    return compute


def _noise(rows):
    """The noise of numbers along a line, where one of them is drawn after the other; 0 where it shows none."""
    with np.errstate(all="ignore"):
        table = np.abs(np.diff(np.asarray(rows), ORDER, axis=0)) / math.sqrt(math.comb(2 * ORDER, ORDER))
    return np.where(np.isfinite(table).all(axis=0), np.max(table, axis=0), 0.0)


def _ladder(view, at):
    """Compile (floats, others, cotangents, lines, steps, room) -> F, its rounding, for every line and step.

    `at(flat, line, step)` is the point that lies `step` along a line.
    """
    measure = _rounding(view)

    @compiled
    def climb(flat, others, bars, sigmas, lines, steps):
        def along(line, steps):
            def outputs(step):
                return view(view.cut(at(flat, line, step)), others)

            ys = side_by_side(outputs, flat)(jnp.append(steps, 0.0))  # the point itself last, computed the same way
            total, noise = jnp.zeros(steps.shape), jnp.zeros(steps.shape)
            for y, bar, sigma in zip(ys, bars, sigmas, strict=True):
                moved, axes = y[:-1] - y[-1], tuple(range(1, y.ndim))
                total += jnp.sum(bar * moved, axes)
                # An output that no step moves has at most the slope that the longest step would have shown.
                still = jnp.all(moved == 0, axis=0)
                share = (jnp.abs(steps) / jnp.max(jnp.abs(steps))).reshape(-1, *[1] * len(axes))
                doubt = jnp.where(still, share, 1.0) * 2 * sigma + jnp.finfo(jnp.float64).eps * jnp.abs(moved)
                noise += jnp.sum(jnp.abs(bar) * doubt, axes)
            return total, noise

        return side_by_side(along)(lines, steps)

    def compute(floats, others, cotangents, lines, steps, room):
        sigmas, flat = measure(floats, others, room), view.flat(floats)
        batch = max(1, min(len(lines), BATCH_ELEMENTS // (steps.shape[1] * max(1, flat.size))))
        parts = []
        for start in range(0, len(lines), batch):
            chosen = np.resize(np.arange(start, min(start + batch, len(lines))), batch)  # one shape, one program
            parts.append(jax.device_get(climb(flat, others, cotangents, sigmas, lines[chosen], steps[chosen])))
        return tuple(np.concatenate(part)[: len(lines)] for part in zip(*parts, strict=True))

    return compute


def _steps(reach_left, reach_right, scale, size):
    """The ladder of each line: STEPS to the left, STEPS to the right, as far as the domain reaches.

    A side whose reach is lost in the rounding of a coordinate of this size is closed: its steps are 0.
    """
    shrink = RATIO ** -np.arange(STEPS)
    first = 2.0 ** np.ceil(np.log2(scale)) / 4
    open_left, open_right = (reach > CLOSE * size for reach in (reach_left, reach_right))
    reach = np.minimum(np.where(open_left, reach_left, np.inf), np.where(open_right, reach_right, np.inf))
    ladder = np.minimum(first, reach)[:, None] * shrink
    return ladder * -open_left[:, None].astype(float), ladder * open_right[:, None].astype(float)


def _extrapolate(raw, doubt, ratio):
    """The limit of each row as the step goes to zero, and its error: Richardson's tableau, Ridders' choice."""
    rows = np.arange(len(raw))
    best, error, finest = np.full(len(raw), np.nan), np.full(len(raw), np.inf), np.zeros(len(raw), int)
    values, noise = raw, doubt
    for column in range(1, COLUMNS + 1):
        weight = ratio**column
        coarse, fine = values[:, :-1], values[:, 1:]
        values = fine + (fine - coarse) / (weight - 1)
        noise = (weight * noise[:, 1:] + noise[:, :-1]) / (weight - 1)
        errors = np.maximum(np.abs(values - fine), np.abs(values - coarse)) + noise
        errors = np.where(np.isfinite(errors), errors, np.inf)
        entry = np.argmin(errors, axis=1)
        better = errors[rows, entry] < error
        best, error = np.where(better, values[rows, entry], best), np.where(better, errors[rows, entry], error)
        finest = np.where(better, entry + column, finest)
    # Steps finer than those used must not contradict: beyond rounding they come closer, or nothing is known.
    apart = np.maximum(np.abs(raw - best[:, None]) - doubt, 0)
    finer = np.arange(STEPS) > finest[:, None]
    contradicts = np.any(finer & ~(apart <= (error + apart[rows, finest] / 2)[:, None]), axis=1)
    grows = ~(apart[:, -1] <= apart[:, -2])
    furthest = np.max(np.where(finer, apart, 0), axis=1)
    return best, np.where(contradicts, np.where(grows, np.inf, furthest), error)


def _slopes(left, right, totals, noise):
    """Central and one-sided derivatives, each with its error, from the steps to the left and to the right."""
    with np.errstate(all="ignore"):
        down, up = totals[:, :STEPS], totals[:, STEPS:]
        noise_down, noise_up = noise[:, :STEPS], noise[:, STEPS:]
        width = right - left
        closed = (left == 0) | (right == 0)
        central = np.where(closed, np.nan, (up - down) / width)
        centre, error = _extrapolate(central, (noise_up + noise_down) / width, RATIO**2)
        below, below_error = _extrapolate(down / left, noise_down / -left, RATIO)
        above, above_error = _extrapolate(up / right, noise_up / right, RATIO)
        gap = np.abs(above - below)
        at_bound = closed.any(axis=1)
        for value, doubt in (
            ((above + below) / 2, (above_error + below_error + gap) / 2),  # better where odd powers of h remain
            (np.where(at_bound, below, np.nan), below_error),
            (np.where(at_bound, above, np.nan), above_error),
        ):
            better = (doubt < error) & np.isfinite(value)
            centre, error = np.where(better, value, centre), np.where(better, doubt, error)
        parted = gap > above_error + below_error
        for side, side_error in ((below, below_error), (above, above_error)):
            parted |= np.abs(centre - side) > error + side_error
        error = np.where(parted, error + gap, error)
        # Where neither side settles, kinks lie among the steps, and a central difference that does is chance.
        error = np.where(np.isinf(below_error) & np.isinf(above_error), np.inf, error)
    return (centre, error), (below, below_error), (above, above_error)


@oracle
def richardson(view):
    """Differences along every coordinate, extrapolated.  Beyond COORDINATES, only a random choice of coordinates is
    tried; the others get the value NaN and an infinite error.

    `domains`, a tree of (lowest, highest) for each leaf (see `domains_of`), keeps every step inside; at a bound only
    the other side is used.  Points where f is not finite are passed over.
    """
    climb = _ladder(view, lambda flat, j, step: flat.at[j].add(step))

    def compute(floats, others, cotangents, domains=None, coordinates=COORDINATES, seed=0):
        flat = view.flat(floats)
        scale = np.maximum(np.abs(flat), view.flat(view.scales(floats)))
        lowest, highest = view.bounds(domains)
        lines = np.arange(flat.size)
        coordinates = min(coordinates, max(1, ELEMENTS // (2 * STEPS * max(1, flat.size))))
        if flat.size > coordinates:
            lines = np.sort(np.random.default_rng(seed).choice(flat.size, coordinates, replace=False))
        estimates = [(np.full(flat.size, np.nan), np.full(flat.size, np.inf)) for _ in range(3)]
        if len(lines):
            inside = 0.75  # of the way to a bound, which itself may not belong to the domain
            left, right = _steps(
                (inside * (flat - lowest))[lines], (inside * (highest - flat))[lines], scale[lines], np.abs(flat[lines])
            )
            # The steps as the numbers allow them: x + h − x is h only up to rounding.
            left, right = ((flat[lines, None] + step) - flat[lines, None] for step in (left, right))
            ladders, room = np.concatenate([left, right], axis=1), np.minimum(flat - lowest, highest - flat)
            totals, noise = climb(floats, others, cotangents, lines, ladders, room)
            for (value, error), (found, found_error) in zip(
                estimates, _slopes(left, right, totals, noise), strict=True
            ):
                value[lines], error[lines] = found, found_error
        centre, below, above = (Estimate(*(view.tree(view.cut(a)) for a in pair)) for pair in estimates)
        return Estimate(centre.value, centre.error, below, above)

    return compute


@oracle
def adjoint_differences(view):
    r"""The identity that defines a pullback, for random v:  ⟨J v, ȳ⟩ = ⟨v, x̄⟩, with J v by extrapolated differences.

    adjoint_differences(f)(primals, cotangent, primals_bar=candidate) -> Identity
    """
    climb = _ladder(view, lambda flat, v, step: flat + step * v)

    def compute(floats, others, cotangents, *, primals_bar, directions=4, seed=0, domains=None):
        flat, v = view.flat(floats), view.directions(floats, directions, seed)
        lowest, highest = view.bounds(domains)
        with np.errstate(all="ignore"):
            room = [
                np.min(
                    np.where(sign * v > 0, highest - flat, np.where(v == 0, np.inf, flat - lowest)) / np.abs(v), axis=1
                )
                for sign in (-1, 1)
            ]
            # Powers of two, as all steps are: along a direction of few digits no point is rounded.
            reach = [2 ** np.floor(np.log2(0.75 * side)) for side in room]
        left, right = _steps(*reach, np.ones(directions), np.ones(directions))
        ladders, room = np.concatenate([left, right], axis=1), np.minimum(flat - lowest, highest - flat)
        totals, noise = climb(floats, others, cotangents, v, ladders, room)
        (slope, error), (below, below_error), (above, above_error) = _slopes(left, right, totals, noise)
        # The gaps of several kinks may cancel along one direction; they do not along all.
        gap = np.abs(above - below)
        error = error + np.max(gap, where=gap > above_error + below_error, initial=0.0)
        return view.identity(list(zip(v, slope, error, strict=True)), primals_bar)

    return compute
