"""Arguments like the example's: other values and other lengths that keep what the example's arrays have in common.

A function may be right only for arguments of a certain kind: rows that sum to one, a symmetric matrix, a mask of
zeros and ones.  What the example keeps, every trial keeps; what a trial leaves, its definition says by not being
finite.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator

import jax
import numpy as np

from manual_backprop.signature import kind_of

from .widening import kind

OTHERS = (2, 3, 5, 7, 9, 11, 13, 129)  # lengths of the thorough profile
GIVEN = "as given"
LOWEST = 2.0**-8  # above a bound, so that a positive number is not zero


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


# --- what an array keeps ---------------------------------------------------------------------------------------------


def kept(array) -> tuple[str, Callable]:
    """What an array of floats has that a random one has not: words, and the map that gives a random one the same."""
    a = np.asarray(array, np.float64)
    for words, holds, impose in PROPERTIES:
        if a.size and holds(a):
            return words, functools.partial(impose, a)
    return "", lambda x: x


def _rows(a):
    return a.ndim and a.shape[-1] > 1


def _near(a, b):
    """Equal but for the rounding of single precision: the arrays are examples, not answers."""
    return bool(np.all(np.abs(a - b) <= np.finfo(np.float32).eps * 4 * (np.abs(a) + np.abs(b) + b.shape[-1])))


def _square(a):
    return a.ndim >= 2 and a.shape[-1] == a.shape[-2] > 1


def _symmetric(a):
    return _square(a) and _near(a, np.swapaxes(a, -1, -2)) and bool(np.any(a))


def _definite(a):
    return _symmetric(a) and bool(np.all(np.linalg.eigvalsh(a) > 0))


def _triangle(a, side):
    return _square(a) and bool(np.all(side(a) == a)) and bool(np.all(np.diagonal(a, axis1=-2, axis2=-1)))


def _softmax(x):
    e = np.exp(np.clip(x, -30, 30) - np.max(np.clip(x, -30, 30), axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def _positive(a, x):
    low, high = a.min(), a.max()
    moved = np.abs(x) + LOWEST
    return moved * (np.sqrt(low * high) if high < LOWEST or low > 1 / LOWEST else 1.0)


def _unit_rows(x):
    norm = np.linalg.norm(x, axis=-1, keepdims=True)
    first = np.eye(x.shape[-1])[0]
    return np.where(norm > 0, x / np.where(norm > 0, norm, 1), first)


def _diagonal(x, side):
    diagonal = np.eye(x.shape[-1]) * (np.abs(x) + 1)
    return side(x, -1 if side is np.tril else 1) + diagonal


PROPERTIES = (
    ("not finite somewhere: kept as it is", lambda a: not np.isfinite(a).all(), lambda a, x: a),
    ("zeros and ones", lambda a: a.size > 1 and set(np.unique(a)) == {0, 1}, lambda a, x: (x > 0).astype(float)),
    (
        "rows that sum to one",
        lambda a: _rows(a) and bool(np.all(a >= 0)) and _near(a.sum(-1), np.ones(a.shape[:-1] or (1,))[..., :]),
        lambda a, x: _softmax(x),
    ),
    (
        "symmetric, positive definite",
        _definite,
        lambda a, x: (
            x @ np.swapaxes(x, -1, -2) / max(1.0, float(np.max(np.abs(x)))) + np.eye(x.shape[-1]) * a.shape[-1]
        ),
    ),
    ("symmetric", _symmetric, lambda a, x: (x + np.swapaxes(x, -1, -2)) / 2),
    ("lower triangular", lambda a: _triangle(a, np.tril), lambda a, x: _diagonal(x, np.tril)),
    ("upper triangular", lambda a: _triangle(a, np.triu), lambda a, x: _diagonal(x, np.triu)),
    (
        "sorted",
        lambda a: a.ndim and a.shape[-1] > 2 and bool(np.all(np.diff(a) > 0)),
        lambda a, x: np.sort(np.abs(x) + LOWEST if a.min() > 0 else x, axis=-1),
    ),
    (
        "rows of length one",
        lambda a: _rows(a) and _near(np.linalg.norm(a, axis=-1), np.ones(a.shape[:-1] or (1,))),
        lambda a, x: _unit_rows(x),
    ),
    (
        "between zero and one",
        lambda a: bool(np.all((a > 0) & (a < 1))) and a.size > 2,
        lambda a, x: np.clip(1 / (1 + np.exp(-np.clip(x, -30, 30))), LOWEST, 1 - LOWEST),
    ),
    ("positive", lambda a: bool(np.all(a > 0)), _positive),
    ("not negative", lambda a: bool(np.all(a >= 0)) and a.size > 4 and bool(np.any(a)), lambda a, x: np.abs(x)),
    (
        "between minus one and one",
        lambda a: a.size > 7 and bool(np.all(np.abs(a) <= 1)),
        lambda a, x: np.tanh(x) * (1 - LOWEST),
    ),
)


# --- other values ----------------------------------------------------------------------------------------------------


def _tied(rng, shape, near):
    return rng.choice([-1.5, 0.25, 0.75, 2.0], size=shape)


def _zeros(rng, shape, near):
    return rng.normal(size=shape) * (rng.random(shape) < 0.5)


def _equal_rows(rng, shape, near):
    return np.broadcast_to(rng.normal(size=shape[-1:] if len(shape) > 1 else ()), shape)


def _mixed(rng, shape, near):
    return rng.normal(size=shape) * 2.0 ** rng.integers(-12, 6, size=shape)


def _edges(rng, shape, near):
    return np.where(rng.random(shape) < 0.5, rng.choice(near, size=shape), rng.normal(size=shape))


VALUES = {
    "fresh": lambda rng, shape, near: rng.normal(size=shape),
    "ties": _tied,
    "zeros": _zeros,
    "nothing but zeros": lambda rng, shape, near: np.zeros(shape),
    "equal rows": _equal_rows,
    "large": lambda rng, shape, near: rng.normal(size=shape) * 48,  # e^x leaves single precision at 89
    "tiny": lambda rng, shape, near: rng.normal(size=shape) * 2.0**-12,
    "mixed sizes": _mixed,
    "edges": _edges,
}
KINKED = ("ties", "zeros", "nothing but zeros", "equal rows", "edges")


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


def other_values(primals, differentiated, words: str, near=(0.0, 1.0, -1.0), seed: int = 0) -> tuple:
    """Primals of the same shapes, with the values that these words name; each leaf keeps what it has."""
    rng = np.random.default_rng([seed, list(VALUES).index(words)])
    near = np.asarray(sorted({0.0, *near}))
    return tuple(_other(rng, a, chosen, words, near) for a, chosen in zip(primals, differentiated, strict=True))


def _other(rng, a, chosen, words, near):
    if kind(a.dtype) != "float":
        return _whole(rng, a)
    if not chosen:
        return a
    if np.ndim(a) == 0 and a and words not in ("fresh", "mixed sizes"):
        return a  # a lone number is a scale, a temperature, an epsilon
    if np.ndim(a) == 0:
        return np.asarray(a * 2.0 ** rng.uniform(-1, 1)) if a else np.asarray(rng.normal())
    return np.asarray(kept(a)[1](VALUES[words](rng, np.shape(a), near)), np.float64)


def _whole(rng, a):
    """Integers and keys like these: a permutation stays one, what is sorted stays sorted, the range is kept."""
    if kind_of(a) == "key" or not np.size(a):
        return a
    flat = np.ravel(np.asarray(a))
    if flat.size > 1 and np.all(np.diff(flat) >= 0):
        return a
    distinct = len(np.unique(flat)) == flat.size
    drawn = rng.permutation(flat) if distinct and flat.size > 2 else rng.choice(flat, size=flat.size)
    return drawn.reshape(np.shape(a))


# --- other lengths ---------------------------------------------------------------------------------------------------


def other_lengths(primals, differentiated, thorough: bool = False) -> Iterator[tuple[str, tuple]]:
    """(words, primals) with some length of the example replaced wherever it occurs: equal lengths stay equal."""
    lengths = sorted({n for a in primals for n in np.shape(a) if n > 0}, reverse=True)
    for length in lengths:
        yield from _replaced(primals, differentiated, {length: 1}, f"length 1 for {length}")
    if len(lengths) > 1:
        yield from _replaced(primals, differentiated, dict.fromkeys(lengths, 1), "length 1 everywhere")
    odd = dict(zip(lengths, (n for n in itertools.count(3, 2) if n not in lengths), strict=False))
    yield from _replaced(primals, differentiated, odd, "odd lengths")
    if thorough:
        for length in lengths:
            for other in OTHERS:
                if other != length:
                    yield from _replaced(primals, differentiated, {length: other}, f"length {other} for {length}")
    for length in lengths:
        yield from _replaced(primals, differentiated, {length: 0}, f"length 0 for {length}")


def _replaced(primals, differentiated, lengths, words):
    rng = np.random.default_rng(0)
    shapes = [tuple(lengths.get(n, n) for n in np.shape(a)) for a in primals]
    if shapes != [np.shape(a) for a in primals]:
        yield words, tuple(_of_shape(rng, a, shape) for a, shape in zip(primals, shapes, strict=True))


def _of_shape(rng, a, shape):
    if shape == np.shape(a):
        return a
    if kind(a.dtype) == "float":
        return np.asarray(kept(a)[1](rng.normal(size=shape)), np.float64) if _can_keep(a, shape) else _tiled(a, shape)
    if kind_of(a) == "key":
        return jax.random.split(jax.random.key(0), shape)
    return _tiled(np.asarray(a), shape)


def _can_keep(a, shape):
    return np.isfinite(a).all() and np.prod(shape) > 0


def _tiled(a, shape):
    """The array cut or repeated to another shape, so that its values stay in range."""
    for axis, length in enumerate(shape):
        a = np.take(a, np.arange(length) % max(a.shape[axis], 1), axis=axis)
    return a
