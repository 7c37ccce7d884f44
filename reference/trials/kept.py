"""What an example array has that a random one has not, and how another array is given the same.

A function may be right only for arguments of a certain kind: rows that sum to one, a symmetric matrix, a mask of zeros
and ones.  An array may be of several kinds at once: distances are symmetric, not negative and zero on the diagonal.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

LOWEST = 2.0**-8  # above a bound, so that a positive number is not zero


class Property(NamedTuple):
    """Words, whether an array has it, what gives it to a random one, like an example, and whether it takes a square."""

    words: str
    holds: Callable
    impose: Callable
    square: bool = False


def kept(array) -> tuple[str, Callable]:
    """What an array of floats has that a random one has not: words, and the map that gives a random one the same.

    >>> words, impose = kept([[0.0, 2.0, 3.0], [2.0, 0.0, 4.0], [3.0, 4.0, 0.0]])
    >>> words, impose(-np.ones((2, 2))).tolist()
    ('not negative, symmetric, zero on the diagonal', [[0.0, 1.0], [1.0, 0.0]])
    """
    a = np.asarray(array, np.float64)
    found = _found(a) if a.size else ()

    def impose(x):
        for one in found:
            x = one.impose(a, x)
        return x

    return ", ".join(one.words for one in found), impose


def keeps(example, array) -> bool:
    """Whether an array has all that an example has."""
    a, b = np.asarray(example, np.float64), np.asarray(array, np.float64)
    return not a.size or all(one.holds(b) for one in _found(a))


def free(array) -> bool:
    """Whether the numbers of an array are bound by nothing, or by a range alone: they may be exchanged one by one."""
    return all(one in RANGES for one in _found(np.asarray(array, np.float64)))


def stays_square(array) -> bool:
    """Whether an array has what square matrices alone have.

    >>> stays_square([[2.0, 1.0], [1.0, 2.0]]), stays_square([[2.0, 1.0], [0.5, 2.0]])
    (True, False)
    """
    return any(one.square for one in _found(np.asarray(array, np.float64)))


def ends(array) -> tuple[float, ...]:
    """The ends of the range of an array that it comes no nearer to than it has to: they may belong to the domain.

    >>> ends([0.5, 2.0, 0.25])
    (0.0,)
    """
    found = _found(np.asarray(array, np.float64))
    return ENDS.get(found[0].words, ()) if len(found) == 1 else ()


def _found(a) -> list[Property]:
    """One that leaves nothing else to say, or a range and every form."""
    return _of_numbers(np.shape(a), a.tobytes())


@functools.lru_cache(64)  # the same examples are asked at every trial
def _of_numbers(shape, numbers):
    a = np.frombuffer(numbers).reshape(shape)
    alone = next((one for one in ALONE if one.holds(a)), None)
    if alone:
        return [alone]
    ranges = next(([one] for one in RANGES if one.holds(a)), [])
    return ranges + [one for one in FORMS if one.holds(a)]


# --- of whole arrays -------------------------------------------------------------------------------------------------


def _near(a, b):
    """Equal but for the rounding of single precision: the arrays are examples, not answers."""
    width = b.shape[-1] if np.ndim(b) else 1
    return bool(np.all(np.abs(a - b) <= np.finfo(np.float32).eps * 4 * (np.abs(a) + np.abs(b) + width)))


def _square(a):
    return a.ndim >= 2 and a.shape[-1] == a.shape[-2] > 1


def _turned(a):
    return np.swapaxes(a, -1, -2)


def _identity(a):
    return _square(a) and bool(np.all(a == np.eye(a.shape[-1])))


def _symmetric(a):
    return _square(a) and _near(a, _turned(a)) and bool(np.any(a))


def is_symmetric(array) -> bool:
    """Whether an array is a symmetric matrix, or several, and not one number or zeros.

    >>> is_symmetric([[2.0, 1.0], [1.0, 2.0]]), is_symmetric([[2.0, 1.0], [0.0, 2.0]])
    (True, False)
    """
    a = np.asarray(array, np.float64)
    return bool(np.isfinite(a).all()) and _symmetric(a)


def _definite(a):
    return _symmetric(a) and bool(np.all(np.linalg.eigvalsh(a) > 0))


def _as_definite(a, x):
    made = x @ _turned(x) / max(1.0, float(np.max(np.abs(x)))) + np.eye(x.shape[-1]) * a.shape[-1]
    root = np.sqrt(np.diagonal(made, axis1=-2, axis2=-1))
    return made / (root[..., :, None] * root[..., None, :]) if _ones_on_the_diagonal(a) else made


def _diagonal(a):
    return np.diagonal(a, axis1=-2, axis2=-1)


def _ones_on_the_diagonal(a):
    return _near(_diagonal(a), np.ones(_diagonal(a).shape))


def _orthogonal(a):
    return _square(a) and _near(a @ _turned(a), np.broadcast_to(np.eye(a.shape[-1]), a.shape))


def _as_orthogonal(a, x):
    q, r = np.linalg.qr(x)
    q = q * np.where(_diagonal(r) < 0, -1.0, 1.0)[..., None, :]
    if np.all(np.linalg.det(a) > 0):  # rotations
        q[..., 0] *= np.sign(np.linalg.det(q))[..., None]
    return q


def _rows(a):
    return a.ndim and a.shape[-1] > 1


def _sums_to_one(a, axis=-1):
    total = a.sum(axis)
    return bool(np.all(a >= 0)) and _near(total, np.ones_like(total))


def _shares(a, x, axis=-1):
    """Softmax; where the example has exact zeros, some numbers are."""
    x = np.clip(x, -30, 30)
    e = np.exp(x - np.max(x, axis=axis, keepdims=True))
    e = np.where((x >= 0) | (e == 1), e, 0) if np.any(a == 0) else e
    return e / e.sum(axis=axis, keepdims=True)


def _signs(a):
    return bool(np.all(np.abs(a) == 1) and np.ptp(a))


def is_mask(a) -> bool:
    """Whether an array is made of zeros and ones, and has some of both."""
    ones, size = np.count_nonzero(np.equal(a, 1)), np.size(a)
    return 0 < ones < size and ones + np.count_nonzero(np.equal(a, 0)) == size


def _log_shares(x):
    x = np.clip(x, -1e4, 1e4)
    x = x - np.max(x, axis=-1, keepdims=True)
    return x - np.log(np.sum(np.exp(x), axis=-1, keepdims=True))


ALONE = (
    Property("not finite somewhere: kept as it is", lambda a: not np.isfinite(a).all(), lambda a, x: x),
    Property("the identity", _identity, lambda a, x: np.broadcast_to(np.eye(x.shape[-1]), x.shape).copy(), True),
    # A mask or padding that masks nothing, or a bias or state at its start, of which zeros and ones say as much.
    Property("zeros", lambda a: a.ndim and not np.any(a), lambda a, x: (x > 0).astype(float)),
    Property("zeros and ones", is_mask, lambda a, x: (x > 0).astype(float)),
    Property("signs", _signs, lambda a, x: np.copysign(1.0, x)),
    Property("symmetric, positive definite", _definite, _as_definite, True),
    Property("orthogonal", _orthogonal, _as_orthogonal, True),
    Property("rows that sum to one", lambda a: _rows(a) and _sums_to_one(a), _shares),
    Property(
        "columns that sum to one",
        lambda a: a.ndim > 1 and a.shape[-2] > 1 and _sums_to_one(a, -2),
        lambda a, x: _shares(a, x, -2),
    ),
    Property(
        "numbers that sum to one",
        lambda a: a.ndim > 1 and a.size > 1 and _sums_to_one(a, None),
        lambda a, x: _shares(a.ravel(), x.ravel()).reshape(x.shape),
    ),
    Property(
        "logarithms of rows that sum to one",
        lambda a: _rows(a) and bool(np.all(a < 0)) and _sums_to_one(np.exp(a)),
        lambda a, x: _log_shares(x),
    ),
)


# --- of every number -------------------------------------------------------------------------------------------------


def _inside(x, low, squeezed):
    """What lies between `low` and one stays, the rest is squeezed in."""
    return np.where((x >= low + LOWEST) & (x <= 1 - LOWEST), x, squeezed)


def _positive(a, x):
    low, high = a.min(), a.max()
    moved = np.maximum(np.abs(x), LOWEST)  # what lies on an edge stays there
    return moved * (np.sqrt(low * high) if high < LOWEST or low > 1 / LOWEST else 1.0)


def _ordered(a):
    """Sorted or falling, from zero on by chance, as a range of whole numbers."""
    return a.ndim == 1 and bool(np.all(np.diff(a) >= 0) or np.all(np.diff(a) <= 0))


RANGES = (
    Property(
        "between zero and one",
        lambda a: bool(np.all((a > 0) & (a < 1))) and a.size > 2,
        lambda a, x: _inside(x, 0, np.clip(1 / (1 + np.exp(-np.clip(x, -30, 30))), LOWEST, 1 - LOWEST)),
    ),
    Property("positive", lambda a: bool(np.all(a > 0)), _positive),
    Property("negative", lambda a: bool(np.all(a < 0)) and a.size > 4, lambda a, x: -_positive(-a, x)),
    Property("not negative", lambda a: a.size > 4 and bool(np.all(a >= 0)) and not _ordered(a), lambda a, x: np.abs(x)),
    Property(
        "not positive", lambda a: a.size > 4 and bool(np.all(a <= 0)) and not _ordered(a), lambda a, x: -np.abs(x)
    ),
    Property(
        "between minus one and one",
        lambda a: a.size > 7 and bool(np.all(np.abs(a) <= 1)),
        lambda a, x: _inside(x, -1, np.tanh(x) * (1 - LOWEST)),
    ),
)


ENDS = {
    "between zero and one": (0.0, 1.0),
    "positive": (0.0,),
    "negative": (0.0,),
    "between minus one and one": (-1.0, 1.0),
}


# --- forms that a range goes with ------------------------------------------------------------------------------------


def _triangle(a, side):
    return _square(a) and bool(np.any(a)) and bool(np.all(side(a) == a))


def _as_triangle(a, x, side):
    """Numbers on the diagonal that are not zero, ones, or zeros, as the example has them."""
    diagonal = _diagonal(a)
    wanted = _diagonal(x)
    wanted = wanted + np.copysign(1.0, wanted) if np.all(diagonal) else wanted if np.any(diagonal) else 0 * wanted
    wanted = np.ones_like(wanted) if np.all(diagonal == 1) else wanted
    return side(x, -1 if side is np.tril else 1) + np.eye(x.shape[-1]) * wanted[..., None]


def _unit_rows(x):
    norm = np.linalg.norm(x, axis=-1, keepdims=True)
    return np.where(norm > 0, x / np.where(norm > 0, norm, 1), np.eye(x.shape[-1])[0])


FORMS = (
    Property("symmetric", _symmetric, lambda a, x: (x + _turned(x)) / 2, True),
    Property(
        "antisymmetric",
        lambda a: _square(a) and bool(np.any(a)) and _near(a, -_turned(a)),
        lambda a, x: np.tril(x, -1) - _turned(np.tril(x, -1)),
        True,
    ),
    Property("lower triangular", lambda a: _triangle(a, np.tril), lambda a, x: _as_triangle(a, x, np.tril), True),
    Property("upper triangular", lambda a: _triangle(a, np.triu), lambda a, x: _as_triangle(a, x, np.triu), True),
    Property(
        "zero on the diagonal",
        lambda a: _square(a) and bool(np.any(a)) and not np.any(_diagonal(a)),
        lambda a, x: x * (1 - np.eye(x.shape[-1])),
        True,
    ),
    Property(
        "sorted",
        lambda a: a.ndim and a.shape[-1] > 2 and bool(np.all(np.diff(a) >= 0) and np.any(np.diff(a))),
        lambda a, x: np.sort(x, axis=-1),
    ),
    Property(
        "falling",
        lambda a: a.ndim and a.shape[-1] > 3 and bool(np.all(np.diff(a) <= 0) and np.any(np.diff(a))),
        lambda a, x: -np.sort(-x, axis=-1),
    ),
    Property(
        "rows of length one",
        lambda a: _rows(a) and _near(np.linalg.norm(a, axis=-1), np.ones(a.shape[:-1])),
        lambda a, x: _unit_rows(x),
    ),
)
