"""What is right at a kink: all that derivatives very close by tend to, and what lies between.

Which of these a derivative takes at the kink itself is a convention, JAX's or another.
"""

import functools
import warnings
from collections.abc import Iterator

import jax
import numpy as np

from .allowance import COPIES, PAIRS, SLACK, least, scale, unit
from .discrepancy import discrepancy
from .trials.kept import is_mask

NEAR = 2.0**-26  # of a coordinate: how far the neighbours are
CLOSER = 2.0**-8  # of that: how far the nearer half of them is
COPIES_MOVED = COPIES - 1
FOCUS = 32  # numbers that are moved furthest, one by one
LEAVES = 8  # arrays that are moved against the others


def neighbours(primals, chosen=(), masks_move: bool = False) -> Iterator[tuple]:
    """Stacks of copies of the primals moved by a very little, far and near by turns; the first copy is not moved.

    All move up, ties move together, then each number its own way, then each array against the others; then each
    `chosen` number moves furthest, so that it comes first, or last, among its equals; then it moves all but alone,
    since what has a slope for every direction, as a norm at zero, has its extremes along the axes.
    """
    rng = np.random.default_rng(1)
    floats = [np.ravel(a) for a in primals if floating(a)]
    flat = np.concatenate([np.zeros(0), *floats])
    distinct, which = np.unique(flat, return_inverse=True)
    rows = [np.ones(flat.size), *(rng.choice([-1.0, 1.0], len(distinct))[which] for _ in range(3))]
    rows += [rng.choice([-1.0, 1.0], flat.size) * rng.uniform(0.25, 1.0, flat.size) for _ in range(8)]
    owner = np.repeat(np.arange(len(floats)), [a.size for a in floats])
    rows += [np.where(owner == i, 1.0, -1.0) for i in range(len(floats))[:LEAVES] if len(floats) > 1]
    furthest = [(index, others) for others in (1.0, CLOSER) for index in chosen]
    for index, others in (*furthest, *[(None, 1.0)] * (-(len(furthest) + len(rows)) % (PAIRS // 2))):
        row = rng.choice([-1.0, 1.0], flat.size) * rng.uniform(0.25, 0.75, flat.size) * others
        row[[] if index is None else index] = 1.0
        rows.append(row)
    for start in range(0, len(rows), PAIRS // 2):
        half = rows[start : start + PAIRS // 2]
        near = [row * CLOSER for row in half]
        moves = np.stack([np.zeros(flat.size), *half, *(-r for r in half), *near, *(-r for r in near)])
        yield _moved(primals, floats, moves, masks_move)


def _moved(primals, floats, moves, masks_move):
    split = iter(np.split(moves, np.cumsum([a.size for a in floats])[:-1], axis=1) if floats else ())

    def one(a):
        if not floating(a):
            return a
        size = scale(a) or 1.0
        if is_mask(a) and not masks_move:
            size, a = 0.0, np.asarray(a)  # of a mask, or of labels, nothing lies beside zero and one
        with np.errstate(invalid="ignore"):
            return a + next(split).reshape(COPIES, *np.shape(a)) * NEAR * (np.maximum(np.abs(a), size) if size else 0.0)

    return tuple(map(one, primals))


def jumps(outputs) -> bool:
    """Whether a function jumps beside a point: at its nearer neighbours it is no closer than at those further away."""
    nearer = np.arange(COPIES) > COPIES // 2
    with np.errstate(invalid="ignore"):
        apart = np.nan_to_num(np.abs(outputs - outputs[0]), nan=0.0)
        near, far = apart[nearer].max(axis=0), apart[~nearer].max(axis=0)
        moved = near > CLOSER * NEAR * np.nan_to_num(np.abs(outputs).max(axis=0))  # beyond the rounding of a sum
        return bool(np.any(moved & (2 * near > far)))


def focus(primals, place, got, truth):
    """Where among all numbers those are whose cotangent is furthest from the truth, a few of them."""
    before = sum(np.size(a) for a in primals[:place] if floating(a))
    with np.errstate(invalid="ignore"):
        off = np.nan_to_num(np.abs(np.ravel(got) - np.ravel(truth)), nan=np.inf)
    return [before + int(i) for i in np.argsort(-off)[:FOCUS] if off[i]]


def between(got, truth, allowance, around, primal, dtype) -> tuple[str, str, dict] | None:
    """The verdict on a cotangent at a kink, by the derivatives around it; None where there is no kink.

    With it comes why, and of a wrong one how far it is from the nearest limit of derivatives, and where.

    Element by element it has to lie between its neighbours' values, and so has its sum over every group of equal
    numbers: at a tie, that all members together have one derivative is no convention.  A truth that its neighbours
    do not tend to is a derivative of no side: autodiff may cut a smooth function into pieces that are not.
    """
    if not np.isfinite(around).all(axis=0).any():
        return None
    with np.errstate(invalid="ignore", over="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a number none of whose neighbours is finite
        return _Sides(got, truth, allowance, around, _ties(primal), dtype).verdict()


class _Sides:
    """A cotangent between its neighbours, element by element.

    settled  where the truth is finite
    lost     where its neighbours do not tend to the truth
    kinked   where they need not tend to one number
    reach    how far beyond them it may be
    """

    def __init__(self, got, truth, allowance, around, ties, dtype):
        self.got, self.truth, self.allowance = got, truth, allowance
        self.around, self.ties, self.dtype = around, ties, dtype
        self.low, self.high = np.nanmin(around, axis=0), np.nanmax(around, axis=0)
        self.spread, self.settled = self.high - self.low, np.isfinite(truth)
        self.rounding = SLACK * (unit(dtype) * np.maximum(scale(self.low), scale(self.high)) + least(dtype))
        reach = np.where(self.settled & np.isfinite(allowance), allowance, self.spread + self.rounding)
        far, near = (_outside(truth, around[rows]) for rows in (~nearer(around), nearer(around)))
        self.lost = self.settled & (near > reach) & (2 * near > far)
        self.apart = as_far_apart(around)
        self.kinked = ~self.settled | ((self.spread > reach) & self.apart) | self.lost
        # On either side the derivative moves, over that distance, by some of its own size: of the jump, very little.
        self.reach = np.where(self.lost, self.rounding + self.spread, reach + np.sqrt(NEAR) * self.spread)
        self.from_truth = np.abs(got - np.where(self.settled, truth, 0))

    @functools.cached_property
    def equal(self):
        """As near to the truth as rounding allows."""
        unknown = ~self.settled & ~np.isfinite(self.around).any(axis=0)
        return unknown | (self.settled & ~self.lost & (self.from_truth <= self.allowance))

    @functools.cached_property
    def fits(self):
        """Between the neighbours, where there is a kink."""
        between = (self.low - self.reach <= self.got) & (self.got <= self.high + self.reach)
        return np.isfinite(self.got) & between & (self.kinked | self.equal)

    @functools.cached_property
    def beyond(self):
        """Where the derivative jumps, and what came is on neither side, nor in between.

        What rounding allows there is the jump itself: the sides say more, and rounding does what is left of it.
        """
        sides = np.maximum(self.high - self.truth, self.truth - self.low)
        left = np.maximum(self.allowance - sides, 0)
        left = np.where(self.allowance < (1 - np.sqrt(NEAR)) * sides, 0, left)
        tight = self.rounding + np.sqrt(NEAR) * self.spread + left
        jump = self.settled & (4 * self.spread >= self.allowance) & (self.spread > self.rounding) & self.apart
        off = self.from_truth > tight
        beyond = jump & off & (_outside(self.got, self.around) > tight)
        for group in self.ties:
            if (jump & off)[group].any() and self.equal[group].all() and not self._together(tight, group):
                beyond |= group & off
        return beyond

    @functools.cached_property
    def far_off(self):
        """Where autodiff is not finite and all sides are: far from them; not finite, where they agree.

        Where they grow, as at the root of zero, there is no limit.
        """
        agree = np.isfinite(self.around).all(axis=0) & ~self.settled & ~_grow(self.around)
        return agree & np.where(np.isfinite(self.got), ~self.fits, SLACK * self.spread <= scale(self.around))

    def verdict(self) -> tuple[str, str, dict] | None:
        """See `between`."""
        if not (self.kinked | self.beyond).any():
            return None
        for where, message in (
            (self.far_off, "autodiff of the definition is not finite here, and this is no limit of derivatives nearby"),
            (self.beyond, "at a kink, and beyond the one-sided derivatives"),
            (
                self.lost & ~self.fits & ~self.equal,
                "as autodiff of the definition has it, but no limit of the derivatives nearby",
            ),
        ):
            if where.any():
                return "wrong", message, self._furthest(where)
        if not (self.fits | self.equal).all():
            return None
        for group in self.ties:
            if self.kinked[group].any() and not self.equal[group].all() and not self._together(self.reach, group):
                return None
        if not self.settled.all():
            return "right", "autodiff of the definition is not finite here; this is a limit of derivatives nearby", {}
        if self.lost.any():
            return "right", "autodiff of the definition is wrong here; this is the limit of the derivatives nearby", {}
        return "right", "a kink: not JAX's choice, but between the one-sided derivatives", {}

    def _together(self, room, group) -> bool:
        """Whether the sum over a group lies between its neighbours' sums, or these say nothing."""
        sums, total = self.around[:, group].sum(axis=1), self.got[group].sum()
        room = room[group].sum()
        return not np.isfinite(sums).all() or bool(sums.min() - room <= total <= sums.max() + room)

    def _furthest(self, where) -> dict:
        """Of these elements the one that is furthest from all limits, what came there, and the limit next to it."""
        limit = np.clip(np.nan_to_num(self.got), self.low, self.high)
        apart = discrepancy(np.where(where, self.got, limit), limit, np.ones_like(limit), self.dtype)
        return vars(apart) | {"ratio": np.inf} if apart and apart.absolute else {"ratio": np.inf}


def _ties(primal):
    """Masks of the numbers that are equal to each other."""
    distinct, counts = np.unique(primal, return_counts=True)
    return [primal == value for value in distinct[counts > 1]]


def nearer(around):
    """Which of the neighbours are the nearer ones."""
    return np.arange(len(around)) % COPIES_MOVED >= COPIES_MOVED // 2


def as_far_apart(around):
    """Where the nearer neighbours are no nearer to each other than those further away, as beside no kink."""
    near, far = (np.ptp(around[rows], axis=0) for rows in (nearer(around), ~nearer(around)))
    return ~(2 * near <= far)


def _grow(around):
    """Where the nearer neighbours' derivatives are larger than those of the same neighbours further away."""
    near, far = (np.abs(around[rows]).max(axis=0) for rows in (nearer(around), ~nearer(around)))
    return near > (1 + np.sqrt(NEAR)) * far + SLACK * unit("float64") * scale(around)


def at_odds(leaves, differentiated, dtype) -> list[tuple[int, str]]:
    """The first of several leaves whose cotangents are no derivative where equal numbers of them move together.

    At a tie of two arguments, that both together have one derivative is no convention, whichever of them receives it.
    leaves  (what came, truth, allowance, the neighbours' cotangents, primal) of each
    """
    chosen = [i for i, c in enumerate(differentiated) if c]
    gots, truths, allowances, arounds, primals = zip(*(leaves[i] for i in chosen), strict=True)
    got, truth, allowance, flat = (
        np.concatenate([np.ravel(np.asarray(a, np.float64)) for a in some])
        for some in (gots, truths, allowances, primals)
    )
    owner = np.repeat(chosen, [np.size(a) for a in primals])
    around = np.concatenate([a.reshape(len(a), -1) for a in arounds], axis=1)
    spread = around.max(axis=0) - around.min(axis=0)
    rounding = SLACK * (unit(dtype) * scale(around) + least(dtype))
    for value in np.unique(flat[spread > allowance]):
        group = flat == value
        sums, total = around[:, group].sum(axis=1), got[group].sum()
        measured = np.where(np.isfinite(allowance), allowance, 0.0)  # it is not, where autodiff is not
        room = (measured + rounding + np.sqrt(NEAR) * spread)[group].sum()
        several = len(np.unique(owner[group])) > 1 and np.isfinite(sums).all() and np.isfinite(total)
        if several and not sums.min() - room <= total <= sums.max() + room:
            place = owner[group][np.argmax(np.abs(got - truth)[group])]
            return [
                (int(place), "at a tie, and what the arguments receive together is no derivative along all of them")
            ]
    return []


def is_no_limit(value, around, dtype) -> bool:
    """Whether some element of a cotangent lies beyond all that its neighbours have."""
    rounding = SLACK * (unit(dtype) * scale(around) + least(dtype))
    with np.errstate(invalid="ignore"):
        return bool(np.any(_outside(value, around) > rounding + np.sqrt(NEAR) * np.ptp(around, axis=0)))


def _outside(value, around):
    """How far a value is from all that lies between its neighbours."""
    return np.maximum(np.maximum(np.nanmin(around, axis=0) - value, value - np.nanmax(around, axis=0)), 0)


def floating(a) -> bool:
    return jax.dtypes.issubdtype(getattr(a, "dtype", np.float64), np.floating)
