"""Arguments of other lengths that keep what the example's arrays have in common: short, odd, none, long, set apart.

Equal lengths stay equal, for that is what most functions ask; then those that need not are told apart, so that what
takes one of them for another shows.
"""

import functools
import itertools
from collections.abc import Callable, Iterator

import jax
import numpy as np

from manual_backprop.signature import kind_of

from ..tracing.interpreter import names
from ..tracing.widening import kind
from .kept import kept, stays_square
from .wholes import all_differ, are_offsets, ascends, is_permutation, within

OTHERS = (2, 3, 5, 7, 9, 11, 13, 129)  # lengths of the thorough profile
SMALL = (2, 3)  # less than a window, a shift, a margin, or two of them
# Twice a prime: more than a block of 1024 or 128 holds and no multiple of one, and even beside lengths made odd.
LONG = 1042, 134  # the second where arrays inside of the function would be large
SHORTER, GROWING = 74, names("dot_general conv_general_dilated scan while")  # of 64, where work grows faster
SHORTEST, SLOW = 38, names("triangular_solve cholesky lu qr eigh svd")  # of 32, where it is slow besides
FEW = 7  # binary digits of a length
SHORT = 32  # one more of it costs little
ALIKE = 8  # what rows of four or eight divide
IN_TURN = 3  # lengths that are long, one after the other
ELEMENTS = 2**16  # of an array, or of one inside of the function: longer ones are not tried
TRIES = 40  # of lengths to be told apart


def other_lengths(
    primals, uses, takes: Callable, thorough: bool = False, fixed=frozenset()
) -> Iterator[tuple[str, tuple]]:
    """(words, primals) with lengths of the example replaced wherever they occur, but for those that are fixed.

    takes  whether the function takes arguments of certain shapes
    """
    lengths = _lengths(primals, fixed)
    for length in lengths:
        yield from replaced(primals, uses, {length: 1}, f"length 1 for {length}")
    if len(lengths) > 1:
        yield from replaced(primals, uses, dict.fromkeys(lengths, 1), "length 1 everywhere")
    yield from _small(primals, uses, lengths, takes)
    yield from _odd_and_even(primals, uses, lengths, takes)
    alike = (
        one
        for n in (ALIKE, *lengths)
        for one in replaced(primals, uses, dict.fromkeys((n for n in lengths if n > 1), n), "lengths alike")
    )
    yield from itertools.islice((one for one in alike if takes([np.shape(a) for a in one[1]])), 1)
    if thorough:
        for length in lengths:
            for other in OTHERS:
                if other != length:
                    yield from replaced(primals, uses, {length: other}, f"length {other} for {length}")
    for length in lengths:
        yield from replaced(primals, uses, {length: 0}, f"length 0 for {length}")


def _lengths(primals, fixed=frozenset()):
    return sorted({n for a in primals for n in np.shape(a) if n > 0} - fixed, reverse=True)


def _odd(lengths, known=None):
    return dict(zip(lengths, (n for n in itertools.count(3, 2) if n not in (known or lengths)), strict=False))


def _grown(lengths):
    """Odd lengths, no two of them alike, none of them shorter than it was: a table stays long enough."""
    grown = {}
    for n in sorted(lengths):
        grown[n] = next(odd for odd in itertools.count(max(n | 1, 3), 2) if odd not in grown.values())
    return grown


def _one_more(lengths):
    """Odd lengths, no two of them alike: of a short one that is even one more, so that a block comes after the last."""
    more = {n: n + 1 for n in lengths if n % 2 == 0 and n < SHORT and n + 1 not in lengths}
    return more | _odd([n for n in lengths if n not in more], [*lengths, *more.values()])


def _taken(primals, uses, takes, changed, words):
    return [made for made in replaced(primals, uses, changed, words) if takes([np.shape(a) for a in made[1]])]


def _small(primals, uses, lengths, takes):
    """All lengths small, or else the first that can be, alone; a length that cannot grow is one by its meaning."""
    taken = functools.partial(_taken, primals, uses, takes)
    growing = [n for n in lengths if taken({n: n + 1}, "") or taken({n: 2 * n}, "")]
    for small in SMALL:
        able = [n for n in growing if n > small]
        alone = [({n: small}, f"length {small} for {n}") for n in able]
        together = [(dict.fromkeys(able, small), f"length {small} everywhere")] if able[1:] else []
        made = (taken(changed, words) for changed, words in (*together, *alone))
        yield from next(filter(None, made), [])


def _odd_and_even(primals, uses, lengths, takes):
    """All lengths odd, then each that is odd in the example even; where they are bound, each as it can be."""
    taken = functools.partial(_taken, primals, uses, takes)
    odd = taken(_one_more(lengths), "odd lengths") or taken(_odd(lengths), "odd lengths")
    yield from odd
    rest = [n for n in lengths if n > 1 and (n % 2 or not odd)]
    for length in rest:  # alone: what is left over where one is cut into the other is seen, too
        others = (length + 1,) if odd else (length + 1, 3 * length)
        made = (taken({length: other}, f"length {other} for {length}") for other in others)
        yield from next(filter(None, made), [])
    if not odd:
        yield from _more_than_one(primals, uses, takes)


def _more_than_one(primals, uses, takes):
    """Two where there is one: in every place, or else in the first of every array, or of those with most axes."""
    shapes, most = [np.shape(a) for a in primals], max(map(np.ndim, primals))
    for deepest, axes, words in (
        (0, most, "length 2 for 1"),
        (0, 1, "length 2 for 1 in front"),
        (most, 1, "length 2 for 1 in front of the arrays with most axes"),
    ):
        grown = [
            tuple(2 if n == 1 and axis < axes and len(shape) >= deepest else n for axis, n in enumerate(shape))
            for shape in shapes
        ]
        if grown != shapes and takes(grown):
            yield from _of_shapes(primals, uses, grown, {}, words)
            return


def shorter(primals, uses, takes: Callable) -> Iterator[tuple]:
    """Primals of which no length is long, as the function takes them: equal lengths stay equal, others apart."""
    lengths = [n for n in _lengths(primals) if n > 2 * ALIKE]
    known = {n for a in primals for n in np.shape(a)} - {*lengths}
    apart = dict(zip(reversed(lengths), (n for n in itertools.count(ALIKE, ALIKE) if n not in known), strict=False))
    halved = {n: n // 2 ** max(0, n.bit_length() - FEW) for n in lengths}  # as blocks ask that divide them
    for changed in (apart, halved):
        for _, made in replaced(primals, uses, changed, ""):
            if takes([np.shape(a) for a in made]):
                yield made


def longer(primals, uses, primitives, small: Callable, fixed=frozenset()) -> Iterator[tuple[str, tuple]]:
    """The greatest lengths, one after the other, longer than most blocks, beside odd ones.

    primitives  what the function is made of
    small       whether the function takes certain arguments, and stays small at them
    """
    found, lengths = set(primitives), _lengths(primals, fixed)
    tried = (SHORTEST,) if SLOW & found else (SHORTER,) if GROWING & found else LONG
    for long in [n for n in lengths if 1 < n < tried[0]][:IN_TURN]:
        made = (
            one
            for length in tried
            for others in (_grown(lengths), _odd(lengths))
            for one in replaced(primals, uses, others | {long: length}, f"length {length} for {long}")
        )
        yield from itertools.islice((one for one in made if small(one[1])), 1)


def set_apart(primals, called, uses, takes: Callable) -> Iterator[tuple[str, tuple]]:
    """Lengths that are equal in the example and need not be, each replaced by one of its own: longer, then shorter.

    called  the names of the arguments
    takes   whether the function takes arguments of certain shapes
    """
    shapes, moved = [np.shape(a) for a in primals], []
    square = [(i, np.ndim(a)) for i, a in enumerate(primals) if kind(a.dtype) == "float" and stays_square(a)]
    known = {n for shape in shapes for n in shape}
    fresh = (n for n in itertools.count(max(known, default=0) + 1) if n % 2)
    tries = iter(range(TRIES))
    for length in sorted(known, reverse=True):
        spots = [(i, axis) for i, shape in enumerate(shapes) for axis, n in enumerate(shape) if n == length]
        for size in range(1, len(spots) // 2 + 1) if length > 1 else ():
            for chosen in itertools.combinations(spots, size):
                if any(((i, axes - 2) in chosen) != ((i, axes - 1) in chosen) for i, axes in square):
                    continue
                if not set(chosen) <= set(spots) or len(spots) < 2 * size or next(tries, None) is None:
                    continue
                for other in (next(fresh), 2 * length):  # twice as long, where the one has to divide the other
                    changed = [
                        tuple(other if (i, axis) in chosen else n for axis, n in enumerate(shape))
                        for i, shape in enumerate(shapes)
                    ]
                    if takes(changed):
                        shapes, spots = changed, [spot for spot in spots if spot not in chosen]
                        moved += [f"{other} for {length} in {called[i]}" for i, _ in chosen]
                        break
    shorter = [
        tuple(n if n == m else max(n // 2, 1) for n, m in zip(np.shape(a), shape, strict=True))
        for a, shape in zip(primals, shapes, strict=True)
    ]
    halves = [f"half of it in {called[i]}" for i, a in enumerate(primals) if shorter[i] != np.shape(a)]
    for words, changed in ((moved, shapes), (halves, shorter)):
        if words and (changed is shapes or takes(changed)):
            yield from _of_shapes(primals, uses, changed, {}, f"length {', '.join(words)}")


def replaced(primals, uses, lengths, words):
    """(words, primals) with each length replaced wherever it occurs, if that changes anything and can be."""
    shapes = [tuple(lengths.get(n, n) for n in np.shape(a)) for a in primals]
    if shapes != [np.shape(a) for a in primals]:
        known = {n: lengths.get(n, n) for a in primals if kind(a.dtype) == "float" for n in np.shape(a)}
        yield from _of_shapes(primals, uses, shapes, known, words)


def _of_shapes(primals, uses, shapes, lengths, words):
    """(words, primals) of other shapes, if there are such of all."""
    rng = np.random.default_rng(0)
    made = [_of_shape(rng, a, shape, lengths, use) for a, shape, use in zip(primals, shapes, uses, strict=True)]
    if all(a is not None for a in made):
        yield words, tuple(made)


def _of_shape(rng, a, shape, lengths, use):
    """An array like this of another shape; None where there is none.  `lengths` are those before and after."""
    if kind_of(a) == "integer":
        return _whole_of_shape(rng, np.asarray(a), shape, lengths, use)
    if shape == np.shape(a):
        return a
    if kind(a.dtype) == "float":
        return np.asarray(kept(a)[1](rng.normal(size=shape)), np.float64) if _can_keep(a, shape) else _tiled(a, shape)
    if kind_of(a) == "key":
        return jax.random.split(jax.random.key(0), shape)
    return _tiled(np.asarray(a), shape)


def _whole_of_shape(rng, a, shape, lengths, use):
    """Integers that stay in range: labels of fewer classes, indices of fewer rows, places that differ."""
    if shape != a.shape and is_permutation(a):
        return rng.permuted(np.broadcast_to(np.arange(shape[-1], dtype=a.dtype), shape), axis=-1)
    if are_offsets(a, lengths):
        last = lengths[int(a[-1])]
        inner = np.sort(rng.integers(0, last + 1, size=max(shape[0] - 2, 0)))
        return np.concatenate([[0], inner, [last]]).astype(a.dtype) if shape[0] > 1 else None
    told = [n for n in use.lengths if n in lengths]  # of what it is an index; else the next length may be its range
    before = min((n for n in told or lengths if a.size and n > np.max(a)), default=None)
    after = lengths.get(before)
    if use.places and all_differ(a) and a.size > 1 and (shape != a.shape or (after and after <= np.max(a))):
        room = after or int(np.max(a)) + 1
        size = int(np.prod(shape))
        return rng.choice(room, size, replace=False).reshape(shape).astype(a.dtype) if size <= room else None
    tiled = a if shape == a.shape else _tiled(a, shape)
    tiled = np.sort(tiled, axis=-1) if ascends(a) else tiled
    return tiled if before is None else within(tiled, before, after)


def _can_keep(a, shape):
    return np.isfinite(a).all() and np.prod(shape) > 0


def _tiled(a, shape):
    """The array cut or repeated to another shape, so that its values stay in range."""
    for axis, length in enumerate(shape):
        a = np.take(a, np.arange(length) % max(a.shape[axis], 1), axis=axis)
    return a
