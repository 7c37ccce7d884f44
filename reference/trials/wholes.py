"""Integers, booleans and masks like the example's that may be tried.

Indices that the example has once are tried twice, for what is written twice has to add; the last row of a table, or
class, is tried though the example may not have it; a label that the function compares with a constant is tried as that
constant, for padding has to be ignored in both halves, and so is a lone number, which may have a formula of its own
there; a mask is tried with rows that are empty and rows that are full.
What the function makes of these its definition says: where that is not finite, nothing is judged.
"""

import numpy as np

from .uses import Use

FEW = 2**16  # integers of a smaller range are listed


def other_integers(rng, a, words: str, use: Use, lengths=()):
    """Integers like these, for one of the kinds of values: the range is kept, and so is what they are good for.

    A permutation stays one, offsets into an array stay offsets, what ascends ascends, places stay different.
    """
    a = np.asarray(a)
    if not a.size:
        return a
    return _cast(_others(rng, a, words, use, lengths), a)


def _cast(drawn, a):
    info = np.iinfo(a.dtype)
    return np.clip(drawn, info.min, info.max).astype(a.dtype)


def _others(rng, a, words, use, lengths):
    low, high = int(a.min()), int(a.max())
    special = sorted(use.constants)
    if a.size == 1:
        return np.full(a.shape, _lone(rng, low, words, special))
    if is_permutation(a) and a.shape[-1] in lengths:
        return rng.permuted(a, axis=-1)
    if are_offsets(a, lengths):
        inner = np.sort(rng.integers(0, high + 1, size=a.size - 2))
        return np.concatenate([[0], inner, [high]])
    if use.places and all_differ(a):
        return rng.permutation(np.ravel(a)).reshape(a.shape)
    most = max(high, 1) if not (use.lengths or use.places) else high  # what tells things apart tells two
    drawn = _drawn(rng, a, words, _pool(a, low, most), special)
    return np.sort(drawn, axis=-1) if ascends(a) else drawn


def _lone(rng, number, words, special):
    """A count, an index, an exponent: nothing, one, fewer, and what it is compared with."""
    if words == "edges" and special:
        return rng.choice(special)
    fewer = {"zeros": 0, "nothing but zeros": 0, "ties": 1, "mixed sizes": rng.integers(max(number, 0) + 1)}
    return min(fewer.get(words, number), number)


def _pool(a, low, high):
    """What may be drawn: from zero to the largest, and every negative number of the example."""
    rest = np.arange(0 if high - max(low, 0) < FEW else max(low, 0), high + 1) if 0 <= high < FEW else np.unique(a)
    return np.union1d(rest, np.unique(a)) if low < 0 else rest


def _drawn(rng, a, words, pool, special):
    ends = [pool[0], pool[-1], *special]
    if words == "ties":
        return rng.choice(rng.choice(pool, 2), size=a.shape)
    if words == "zeros":
        return np.where(
            rng.random(a.shape) < 0.5, max(pool[0], 0) if pool[0] <= 0 else pool[0], rng.choice(pool, a.shape)
        )
    if words == "nothing but zeros":
        return np.full(a.shape, pool[0])  # zero, or the number that stands for none
    if words == "equal rows":
        return np.full(a.shape, rng.choice(ends[1:]))
    if words == "edges":
        return _half(rng, rng.choice(pool, a.shape), [*rng.permutation(special), pool[0], pool[-1]])
    return rng.choice(pool, a.shape)


def _half(rng, drawn, special):
    """Half of the numbers are special ones, in turn."""
    places = rng.permutation(drawn.size)[: (drawn.size + 1) // 2]
    drawn.reshape(-1)[places] = np.resize(special, places.size)
    return drawn


def is_permutation(a) -> bool:
    """Whether every row holds 0, 1, …, n - 1 in some order, for more than two of them."""
    n = a.shape[-1] if a.ndim else 0
    return n > 2 and bool(np.all(np.sort(a, axis=-1) == np.arange(n)))


def are_offsets(a, lengths) -> bool:
    """Whether these ascend from zero to one of the lengths: where the parts of an array begin and end."""
    return a.ndim == 1 and a.size > 2 and a[0] == 0 and int(a[-1]) in lengths and ascends(a)


def all_differ(a) -> bool:
    """Whether no number is there twice."""
    return len(np.unique(a)) == np.size(a)


def ascends(a) -> bool:
    """Whether every row ascends, and does not merely repeat."""
    wide = np.asarray(a).astype(np.int64) if a.dtype.kind != "u" else np.asarray(a).astype(object)
    steps = np.diff(wide, axis=-1) if a.ndim and a.shape[-1] > 1 else np.zeros(0)
    return bool(steps.size) and bool(np.all(steps >= 0)) and bool(np.any(steps > 0))


def within(a, old: int, new: int):
    """Integers below a length that is replaced by a shorter one, kept below that: labels, indices of rows."""
    inside = np.size(a) and np.min(a) >= 0 and np.max(a) < old
    return a % new if inside and 0 < new <= np.max(a) else a


# --- masks -----------------------------------------------------------------------------------------------------------


def other_mask(rng, a, words: str):
    """A mask of such a shape; rows with a single one, with all ones in front, triangles and symmetry stay."""
    b = np.asarray(a).astype(bool)
    if not b.size or _is_triangle(b):
        return b
    if b.ndim and b.shape[-1] > 1:
        if np.all(b.sum(-1) == 1):
            return np.arange(b.shape[-1]) == rng.integers(b.shape[-1], size=(*b.shape[:-1], 1))
        for turned in (slice(None), slice(None, None, -1)):
            if not (b == b.ravel()[0]).all() and np.all(np.diff(b[..., turned].astype(int), axis=-1) <= 0):
                return _in_front(rng, b, words)[..., turned]
    drawn = _mask(rng, b.shape, words)
    if b.ndim > 1 and b.shape[-1] == b.shape[-2] > 1 and np.array_equal(b, np.swapaxes(b, -1, -2)) and not b.all():
        return drawn | np.swapaxes(drawn, -1, -2)
    return drawn


def _mask(rng, shape, words):
    if words in ("nothing but zeros", "equal rows"):
        return np.full(shape, words == "equal rows")
    drawn = rng.random(shape) < 0.5
    if words in ("zeros", "ties", "edges") and len(shape) > 1:
        kind_of_row = rng.random((*shape[:-1], 1))
        drawn = np.where(kind_of_row < 0.4, False, np.where(kind_of_row > 0.8, True, drawn))
    return drawn


def _in_front(rng, b, words):
    """Rows of ones followed by zeros."""
    n = b.shape[-1]
    most = {"nothing but zeros": 0, "equal rows": n}.get(words)
    counts = rng.integers(n + 1, size=(*b.shape[:-1], 1)) if most is None else most
    return np.broadcast_to(np.arange(n) < counts, b.shape)


def _is_triangle(b):
    square = b.ndim >= 2 and b.shape[-1] == b.shape[-2] > 1
    return square and any(
        np.array_equal(b, np.broadcast_to(half(np.ones(b.shape[-2:], bool)), b.shape)) for half in (np.tril, np.triu)
    )
