"""What would mend the backward pass as it is written: one value in it negated, turned, left out or replaced.

The derivative under test is a traced program that runs forwards, so a change of a value needs no derivation: what is
added where the backward pass uses it gives the cotangents that would have come.  A change that makes them right, here
and for another cotangent, is said, with the line in which the value is used.
"""

import dataclasses
import functools
import itertools

import jax
import numpy as np

from . import arrays, numbers, places
from .backward import SUMS, USES, Change, Written, is_float
from .bench import NUMBERS
from .failure import Explanation, Failure, most, over
from .graph import ROWS

ORDERS = 60  # of one value


class Repairs:
    """The changes that make a backward pass right."""

    def __init__(self, failure: Failure):
        self.failure = failure

    @functools.cached_property
    def written(self) -> Written | None:
        if self.failure.halves is None or self.failure.at is None or not np.any(self.failure.truth):
            return None
        try:
            written = Written(self.failure)
        except Exception:  # what runs inside may refuse to be traced in float64
            return None
        return written if 0 < len(written.sites) <= USES else None

    def simple(self):
        """A value left out, negated, doubled or turned."""
        found = self._found(_simple)
        return found and found[0]

    def replaced(self):
        """Another value in its place."""
        return self._replaced[0] if self._replaced else None

    def several(self):
        """The same, where several leaves are mended at once."""
        return self.replaced() if self._replaced and self._replaced[1] > 1 else None

    @functools.cached_property
    def _replaced(self):
        return self._found(_others)

    def _found(self, changes):
        if self.written is None:
            return None
        written, failure = self.written, self.failure
        some = list(itertools.islice(changes(written), NUMBERS // max(1, written.width)))
        if not some:
            return None
        with np.errstate(all="ignore"):
            stacks = written.bars(some, written.values, failure)
            found = [i for i in range(len(some)) if _mended(failure, [a[i] for a in stacks])]
            return _confirmed(written, [some[i] for i in found[:ROWS]]) if found else None


def _mended(failure, bars) -> int:
    """How many wrong leaves are right with these; 0 where the one in question is not, or a right one no longer is."""
    mended = 0 if failure.wrong.any() else 1  # what is right has to stay so
    for (name, (got, truth, allowance)), bar in zip(failure.leaves.items(), bars, strict=True):
        right = np.isfinite(bar).all() and most(over(bar, truth, allowance)) <= 1
        was = most(over(got, truth, allowance)) <= 1
        if not right and (was or name == failure.leaf):
            return 0
        mended += right and not was
    return mended


def _confirmed(written, changes):
    """The change that mends most, elsewhere as well, and how many leaves: for another cotangent, and other primals."""
    failure, rng = written.failure, np.random.default_rng(3)
    cotangent = jax.tree.map(
        lambda a: np.asarray(rng.standard_normal(np.shape(a)), a.dtype) if is_float(a) else a, failure.cotangent
    )
    here = dataclasses.replace(failure, cotangent=cotangent, leaves=failure.at(failure.primals, cotangent))
    values = written.at(here)
    stacks = written.bars(changes, values, here)
    counts = [_mended(here, [a[i] for a in stacks]) for i in range(len(changes))]
    for other, _ in places.asked(failure):
        if any(counts):
            stacks = written.bars(changes, written.at(other), other)
            counts = [count * bool(_mended(other, [a[i] for a in stacks])) for i, count in enumerate(counts)]
    if not max(counts):
        return None
    change = max(zip(counts, changes, strict=True), key=lambda pair: (pair[0], pair[1].site.line is not None))[1]
    line, kind = change.site.line, change.kind
    both = change.site.keys[0], change.other
    if change.other and written.guarded(written.origin(change.site)):
        kind = "epsilon"
    elif change.other and not any(np.array_equal(values[key], written.values[key]) for key in both):
        kind = written.step(change.site)  # both come of the cotangent
    return Explanation(kind, f"the backward pass would be right {change.text}", line and str(line)), max(counts)


def _simple(written: Written):
    """Changes of one value, simplest first."""
    for site in written.sites:
        if site.primitive == "mul" or (site.primitive == "div" and site.keys[0][1]):
            mask = {0, 1} == {n for key in site.keys for n in np.unique(written.values[key])}
            kind, what = ("missing_path", "the mask in ") if mask else ("local_derivative", "")
            yield Change(site, kind, f"without {what}{site.named}", lambda v, k: np.ones_like(v[k]))
        if site.primitive in SUMS:
            yield Change(site, "missing_term", f"without {site.named}", lambda v, k: np.zeros_like(v[k]))
    for site in written.sites:
        yield Change(site, "sign", f"with minus {site.named}", lambda v, k: -v[k])
    for site in written.sites:
        for text, factor in (("twice", 2.0), ("half", 0.5)):
            yield Change(site, "factor", f"with {text} {site.named}", lambda v, k, c=factor: c * v[k])
    for site in reversed(written.sites):  # what a sum is times a length, what it sums is as well
        for text, length in _lengths(written.failure):
            yield Change(site, "factor", f"with {site.named} times {text}", lambda v, k, c=length: c * v[k])
            yield Change(site, "factor", f"with {site.named} over {text}", lambda v, k, c=length: v[k] / c)
    for site in written.sites:
        yield from _along_others(written, site)
    for site in written.sites:
        own = written.values[site.keys[0]]
        for i, (text, other) in enumerate(itertools.islice(arrays.orders(own), ORDERS)):
            if not np.array_equal(other, own) and "zeros" not in text:
                yield Change(site, "permuted", f"with {site.named} {text}", functools.partial(_order, i))


def _along_others(written, site):
    """A sum, mean or maximum that is taken along another axis, where it is combined with what it was taken of."""
    if not (found := written.combined(site)):
        return
    path, combine = found
    for k in (0, 1):
        if not (reduced := written.reduced(written.maker((path, k)))) or len(reduced[1]) != 1:
            continue
        at, (axis,), factor = reduced
        named, reduce = written.reduction(at)
        taken, own = written.values.get((at, 0)), [written.values.get((path, k)) for k in (0, 1)]
        if taken is None or any(a is None for a in own) or taken.shape != written.values[site.keys[0]].shape:
            continue
        for other, length in enumerate(taken.shape):
            by = factor * taken.shape[axis] / length if factor != 1 else 1.0  # a mean

            def along(values, _, k=k, at=at, other=other, by=by, reduce=reduce):
                operands = [values[path, 0], values[path, 1]]
                operands[k] = reduce(values[at, 0], other, keepdims=True) * by
                return combine(*operands)

            if other != axis:
                text = f"with {named} over axis {other} in place of axis {axis}"
                yield Change(site, "permuted", text, along)


def _lengths(failure):
    """Words and number of every length: of a mean for a sum, and a sum for a mean."""
    axes = ((text, n) for (_, axis), (text, n) in numbers.lengths(failure).items() if axis != "size" and n > 2)
    return {n: (text, n) for text, n in reversed(list(axes))}.values()


def _others(written: Written):
    for site in written.sites:
        made = written.origin(site)
        for text, other in written.before(site):
            if text == site.named:
                text = f"with {text} as it is the {written.time(other)} time in place of the {written.time(made)}"
            else:
                text = f"with {text} in place of {site.named}"
            yield Change(site, "wrong_residual", text, lambda v, _, other=other: v[other], other)


def _order(i, values, key):
    return next(itertools.islice(arrays.orders(values[key]), i, None))[1]
