"""Arguments like the example's: other values and other lengths that keep what the example's arrays have in common.

A function may be right only for arguments of a certain kind: rows that sum to one, a symmetric matrix, a mask of
zeros and ones.  What the example keeps, every trial keeps; what a trial leaves, its definition says by not being
finite.
"""

import dataclasses
import itertools
import math

import numpy as np

from manual_backprop.signature import kind_of

from ..tracing.widening import kind
from .kept import ends, free, is_mask, keeps, kept
from .options import nearby
from .uses import Use
from .wholes import other_integers, other_mask

GIVEN = "as given"


@dataclasses.dataclass(frozen=True, eq=False)
class Trial:
    """The real leaves of the arguments in float64, a cotangent of the float outputs, and words for what they are."""

    primals: tuple
    cotangent: tuple
    words: str
    sparse: bool = False  # a single element of the cotangent is not zero

    @property
    def given(self) -> bool:
        """Whether these are the values of the example."""
        return self.words.startswith(GIVEN)


# --- other values ----------------------------------------------------------------------------------------------------


def _tied(rng, shape, near):
    return rng.choice([-1.5, 0.25, 0.75, 2.0], size=shape)


def _zeros(rng, shape, near):
    return rng.normal(size=shape) * (rng.random(shape) < 0.5)


def _equal_rows(rng, shape, near):
    """All of them; of a square matrix two, which leave it one rank short."""
    made = rng.normal(size=shape)
    if len(shape) > 1 and shape[-1] == shape[-2] > 2:
        made[..., -1, :] = made[..., 0, :]
        return made
    return np.broadcast_to(rng.normal(size=shape[-1:] if len(shape) > 1 else ()), shape)


def _far(rng, shape, near):
    """Rows around a number that is large beside what they differ by, where a variance by two sums cancels."""
    return rng.normal(size=shape) + rng.choice([-1.0, 1.0], (*shape[:-1], 1) if shape else ()) * 2.0**6


def _mixed(rng, shape, near):
    return rng.normal(size=shape) * 2.0 ** rng.integers(-12, 6, size=shape)


def _edges(rng, shape, near):
    """Half of the numbers on edges, or more if edges are many: each as often as any other, those next to zero first."""
    drawn = rng.normal(size=shape).reshape(-1)
    places = rng.permutation(drawn.size)[: max((drawn.size + 1) // 2, len(near))]
    drawn[places] = np.resize(near[np.argsort(np.abs(near), kind="stable")], places.size)
    return drawn.reshape(shape)


def _spread(rng, shape):
    """Normal, one number of each of as many strata: of a few numbers, too, some are far out to either side."""
    strata = np.sort(rng.normal(size=STRATUM * math.prod(shape))).reshape(-1, STRATUM)
    return rng.permutation(strata[np.arange(len(strata)), rng.integers(STRATUM, size=len(strata))]).reshape(shape)


def _one_of_each_row(rng, shape, near):
    """All others zero: a quaternion that turns nothing, a point on an axis."""
    made = np.zeros(shape)
    if made.size:
        rows = made.reshape(-1, shape[-1])
        rows[np.arange(len(rows)), rng.integers(shape[-1], size=len(rows))] = rng.normal(size=len(rows))
    return made


def _between_edges(rng, shape, near):
    """Midway between neighbouring edges, where a branch lies that is seldom entered."""
    return rng.choice((near[1:] + near[:-1]) / 2 if near.size > 1 else near, shape) + rng.normal(size=shape) * 2.0**-12


def _minute(rng, shape, near):
    """Below the smallest number that the function knows, as an epsilon."""
    return rng.normal(size=shape) * np.min(np.abs(near), where=near != 0, initial=1.0) / 16


def _infinite_row(made):
    made.reshape(-1, made.shape[-1] if made.ndim > 1 else max(made.size, 1))[:1] = -np.inf
    return made


VALUES = {
    "fresh": lambda rng, shape, near: rng.normal(size=shape),
    "ties": _tied,
    "zeros": _zeros,
    "one number in each row": _one_of_each_row,
    "nothing but zeros": lambda rng, shape, near: np.zeros(shape),
    "equal rows": _equal_rows,
    "alike": lambda rng, shape, near: rng.normal(size=shape),  # arguments of one shape: see `_alike`
    "wide": lambda rng, shape, near: _spread(rng, shape) * 12,  # where approximations for large numbers set in
    "large": lambda rng, shape, near: _spread(rng, shape) * 64,  # e^x leaves single precision at 89
    "huge": lambda rng, shape, near: _spread(rng, shape) * 2.0**10,  # and double precision at 710
    "tiny": lambda rng, shape, near: rng.normal(size=shape) * 2.0**-12,
    "mixed sizes": _mixed,
    "minute": _minute,
    "between edges": _between_edges,
    "edges": _edges,
    "nothing but edges": lambda rng, shape, near: rng.choice(near, shape),
    "ends": lambda rng, shape, near: rng.normal(size=shape),  # and some of its range: see `_at_the_ends`
    "near ends": lambda rng, shape, near: rng.normal(size=shape),
    "marks": lambda rng, shape, near: rng.normal(size=shape),  # beside lone numbers that the function asks for
    "infinities": lambda rng, shape, near: np.where(rng.random(shape) < 0.3, -np.inf, rng.normal(size=shape)),
    "infinite rows": lambda rng, shape, near: _infinite_row(rng.normal(size=shape)),
    "missing": lambda rng, shape, near: np.where(rng.random(shape) < 0.3, np.nan, rng.normal(size=shape)),
    "far from zero": _far,
}
AT_EDGES = ("edges", "nothing but edges", "ends", "marks")
KINKED = ("ties", "zeros", "one number in each row", "nothing but zeros", "equal rows", "alike", *AT_EDGES)
STRATUM = 8  # numbers drawn, of which one is taken
CLOSER = 2.0**-12  # how far arguments are apart that are nearly the same
CLOSEST, CLOSE = 20, 8  # powers of two between which the distances to an end lie


def cotangents(rng: np.random.Generator, outputs, sparse: bool = False) -> tuple:
    """Normal, never constant; sparse: one element, so that an error in one element stands alone."""

    def one(aval):
        if not sparse:
            return rng.normal(size=aval.shape)
        flat = np.zeros(int(np.prod(aval.shape)))
        if flat.size:
            flat[rng.integers(flat.size)] = 1 + rng.random()
        return flat.reshape(aval.shape)

    return tuple(map(one, outputs))


def other_values(
    primals, differentiated, words: str, near=(0.0, 1.0, -1.0), seed: int = 0, uses=None, only: int = -1
) -> tuple:
    """Primals of the same shapes, with the values that these words name; each leaf keeps what it has.

    uses  what the function does with each leaf, where that is an integer or a lone number: see `uses`
    only  the one leaf that has such values, the others fresh ones; all, if negative; of marks, which one
    """
    rng = np.random.default_rng([seed, list(VALUES).index(words), 3 + only])  # not what default_rng(seed) gives
    near = np.asarray(sorted({0.0, *near}))
    lengths = {n for a in primals if kind(a.dtype) == "float" for n in np.shape(a)}
    uses = uses or [Use()] * len(primals)

    def other(i, a, chosen, use):
        named = words if only in (-1, i) or words == "marks" else "fresh"
        if words == "marks" and (chosen or kind_of(a) == "integer") and marks(a, use):
            return np.asarray(marks(a, use)[only % len(marks(a, use))]).astype(a.dtype)
        if kind_of(a) == "integer":
            return other_integers(rng, a, named, use, lengths)
        if kind_of(a) == "boolean":
            return other_mask(rng, a, named)
        return _other(rng, a, chosen, named, near) if kind(a.dtype) == "float" else a

    drawn = list(map(other, itertools.count(), primals, differentiated, uses))
    if words == "alike":
        _alike(rng, primals, drawn, partners(primals, differentiated))
    return _in_order(primals, drawn, differentiated)


def partners(primals, differentiated) -> list[tuple[int, int]]:
    """Arrays of one shape that nothing but a range binds: each with the first of them."""
    first: dict[tuple, int] = {}
    arrays = (i for i, a in enumerate(primals) if differentiated[i] and np.ndim(a) and free(a))
    found = ((first.setdefault(np.shape(primals[i]), i), i) for i in arrays)
    return [(i, j) for i, j in found if i != j]


def _alike(rng, examples, drawn, pairs):
    """By rows: the same, nearly the same, the opposite, as far as the range of both goes."""
    for i, j in pairs:
        impose = kept(examples[j])[1]
        common = np.asarray(impose(drawn[i]), np.float64)
        drawn[i] = common if keeps(examples[i], common) else drawn[i]
        shape = (*np.shape(common)[:-1], 1) if np.ndim(common) > 1 else np.shape(common)
        near = rng.choice([0.0, CLOSER], shape) * rng.normal(size=np.shape(common))
        drawn[j] = np.asarray(impose(drawn[i] * rng.choice([-1, 1, 1], shape) * (1 + near)), np.float64)


def batch(primals, differentiated, uses, seed: int = 0, alone: bool = False) -> tuple[list[tuple], tuple]:
    """(lanes, axes): primals like these, as many as none of their axes is long, and which of them differ.

    Every array has a batch axis, or `alone` those with most axes, whose parameters the others are; what has no axes
    has none, as `jax.vmap` says it.
    """
    lengths = {n for a in primals for n in np.shape(a)}
    many = next(n for n in itertools.count(2) if n not in lengths)
    least = max(map(np.ndim, primals)) if alone else 1
    axes = tuple(0 if np.ndim(a) >= least and kind_of(a) != "key" else None for a in primals)
    drawn = (other_values(primals, differentiated, "fresh", seed=seed + i, uses=uses) for i in range(1, many))
    others = [tuple(a if axis is None else b for a, b, axis in zip(primals, lane, axes, strict=True)) for lane in drawn]
    return [tuple(primals), *others], axes


def with_rows_of(example, primals, outputs) -> tuple:
    """The primals, with the example's rows wherever an output is not finite in that row, of the first axis."""
    bad: dict[int, np.ndarray] = {}
    for out in outputs:
        if np.ndim(out):
            rows = ~np.isfinite(out).reshape(len(out), -1).all(axis=1)
            bad[len(out)] = bad.get(len(out), False) | rows

    def one(a, b):
        rows = bad.get(np.shape(a)[0]) if np.ndim(a) and kind(a.dtype) == "float" else None
        return a if rows is None else np.where(rows.reshape(-1, *[1] * (np.ndim(a) - 1)), b, a)

    return tuple(map(one, primals, example))


def with_its_own_integers(primals, example) -> tuple:
    """The primals, with the integers and masks of the example, among them masks that mask nothing."""
    return tuple(
        b if kind(a.dtype) != "float" or is_mask(b) or (np.size(b) > 1 and not np.any(b)) else a
        for a, b in zip(primals, example, strict=True)
    )


def _other(rng, a, chosen, words, near):
    if is_mask(a) and kept(a)[0] != "the identity":
        return other_mask(rng, a, words).astype(np.float64)
    if not chosen:
        return a
    if np.ndim(a) == 0:
        return _lone(rng, a, words)
    made = np.asarray(kept(a)[1](VALUES[words](rng, np.shape(a), near)), np.float64)
    return _at_the_ends(rng, made, ends(a), a, words) if words in ("ends", "near ends") else made


def _at_the_ends(rng, made, ends, example, words):
    """Half of the numbers, and of one row all, at the ends of their range, or so near that other formulas set in."""
    places = rng.permutation(made.size)[: (made.size + 1) // 2] if ends else []
    away = 2.0 ** -rng.uniform(CLOSE, CLOSEST, len(places)) if words == "near ends" else 0.0
    at = np.resize(ends, len(places))
    made.reshape(-1)[places] = at + np.where(at > np.median(example), -away, away)
    if ends and made.ndim > 1 and words == "ends":
        made.reshape(-1, made.shape[-1])[:1] = ends[0]
    return made


def marks(a, use) -> tuple[float, ...]:
    """The numbers that a function compares a lone one with: for these it may have another formula."""
    lone = np.ndim(a) == 0 and kind_of(a) in ("float", "integer")
    return tuple(sorted(number for number in use.constants if number != a)) if lone else ()


def _lone(rng, a, words):
    """A lone number is a scale, a temperature, a probability, an epsilon."""
    if words not in ("fresh", "mixed sizes"):
        return a
    return np.asarray(nearby(a, rng, 1 if words == "fresh" else 4) * (1 if a or words == "fresh" else -1))


def _in_order(examples, drawn, chosen) -> tuple:
    """What is above what in the example stays so, number by number: bounds, corners of a box, times."""
    for _, i, j in itertools.product(range(2), range(len(drawn)), range(len(drawn))):
        if chosen[i] and chosen[j] and _below(examples[i], examples[j]):
            drawn[i], drawn[j] = np.minimum(drawn[i], drawn[j]), np.maximum(drawn[i], drawn[j])
    return tuple(drawn)


def _below(a, b):
    if np.shape(a) != np.shape(b) or (np.ndim(a) > 0 and (np.size(a) < 3 or not (free(a) and free(b)))):
        return False
    return bool(np.max(a) < np.min(b) or (np.size(a) > 4 and np.all(a < b)))
