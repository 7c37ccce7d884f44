"""The smallest arguments at which a derivative is still wrong: shorter lengths, fewer cotangents, simpler numbers.

Greedy: a step that leaves the cotangent wrong is kept.  Other values reuse the compiled programs; every new shape has
to be compiled, most of all to measure what rounding may do there, so all lengths are cut at once if that goes, and
nothing is measured where what came is right beyond doubt.
"""

import copy
import dataclasses
import itertools
import math
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ..finding import CannotTell
from ..judge import Failed
from ..session import Session
from ..tracing.widening import kind
from ..trials import Trial
from ..trials.kept import keeps, kept
from .replay import Case, shows
from .ways import Way

SECONDS = 10.0
SHORT = (1, 2, 3)  # lengths that are tried first; then a half
TOGETHER = (2, 1, 3)  # for all lengths at once: much is no longer wrong where there is one of everything


def reduce(session: Session, failed: Failed, seconds: float = SECONDS, way: Way | None = None, outer=None) -> Failed:
    """The smallest failure found in this time that starts from this one, of the same leaf if there is one.

    way     how the derivative is called; the plainest in which it is wrong, if left out
    outer   of a second derivative, the case of the first: its lengths stay

    One that no call by itself shows stays as it is.
    """
    case = Case(session, failed, outer)
    way = way or shows(case)
    return failed if way is None else _Search(session, failed, case, way, seconds).run()


class _Search:
    def __init__(self, session, failed, case, way, seconds):
        self.session, self.best, self.case, self.way = session, failed, case, way
        self.plain, self.eager = case.is_plain(way), way.name == "eager"
        self.deadline = time.monotonic() + seconds

    def run(self) -> Failed:
        self.try_trial(self.best.trial)  # the same point, judged plainly: what follows starts from its own finding
        for step in ((self.lengths,) if self.case.outer is None else ()) + (self.whole, self.cotangents, self.numbers):
            step()
        return self.best

    def over(self) -> bool:
        return time.monotonic() > self.deadline

    def try_trial(self, trial: Trial) -> bool:
        """Keep a trial at which the cotangent is still wrong."""
        if self.over():
            return False
        found = self.failures(trial) if self.plain else self.called(trial)
        same = [failed for failed in found if failed.finding.leaf == self.best.finding.leaf]
        if not found:
            return False
        self.best = (same or found)[0]
        return True

    def called(self, trial) -> list[Failed]:
        """The failure at a trial, where the way of calling it still shows one."""
        dtype, nothing = self.best.dtype, ((None,) * len(trial.cotangent), (None,) * len(trial.primals))
        try:
            measured = None if self.case.raises else self.session.measure(self.session.rounded(trial, dtype), dtype)
            failed = dataclasses.replace(self.best, trial=trial, answer=nothing, measured=measured)
            finding = dataclasses.replace(failed.finding, index=None, example=trial.words)
            failed = dataclasses.replace(failed, finding=finding)
            fails = Case(self.session, failed, self.case.outer, self.case.spaces).fails(self.way)
        except Exception:  # the function does not take these arguments
            return []
        return [failed] if fails else []

    def failures(self, trial) -> list[Failed]:
        """What is wrong at a trial; nothing where the function refuses it."""
        scratch = copy.copy(self.session)  # what is compiled is shared, what is found and measured here is not kept
        scratch.failed, scratch.outside, scratch._measured, scratch._answers = [], [], {}, {}
        before, dtype = self.best.finding, self.best.dtype
        outputs = before.leaf in self.session.subject.output_names(len(trial.cotangent))
        try:
            answer = scratch.local(trial.primals, dtype).hand(trial.primals, trial.cotangent, eager=self.eager)
        except Exception:  # the function does not take these arguments
            return [dataclasses.replace(self.best, trial=trial)] if self.case.raises else []
        if self.case.raises:
            return []
        try:  # most that is tried is right
            list(scratch.judge(before.check, trial, dtype, answer, outputs=outputs, once=before.fault != "kink"))
        except CannotTell:
            return []
        # Where a number stands beside a number, no division of zero by zero may take its place.
        return [f for f in scratch.failed if not _is_number(before) or _is_number(f.finding)]

    # --- lengths -----------------------------------------------------------------------------------------------------

    def lengths(self):
        """All lengths at once by one, two or three, each then by less; where that does not go, one after the other."""
        base, time_is_up = self.best, self.deadline
        self.deadline -= (self.deadline - time.monotonic()) / 3  # what is left is for the numbers
        lengths = sorted({n for a in base.trial.primals for n in np.shape(a) if n > 1}, reverse=True)
        given = dict.fromkeys(lengths)
        for short in TOGETHER:
            every = {n: min(n, short) for n in lengths}
            if all(given[n] is None or given[n] > every[n] for n in lengths) and self.resized(base, every):
                given = every
        for n in lengths:
            short, found = SHORT, True
            while found and not self.over():
                most = given[n] or n
                for shorter in sorted({m for m in (*short, most // 2) if 0 < m < most}):
                    ways = [{n: shorter}] if given[n] else [{n: shorter}, self.multiples(n, shorter, lengths)]
                    tried = (way for way in ways if self.resized(base, {k: m or k for k, m in (given | way).items()}))
                    given |= (found := next(tried, {}))
                    if found:
                        break
                else:
                    found = False
                short = ()
        self.deadline = time_is_up

    def multiples(self, length, shorter, lengths) -> dict:
        """A length with those that are multiples of it."""
        return {n: n // length * shorter for n in lengths if n % length == 0}

    def resized(self, base, lengths) -> bool:
        """Try the arguments that this began with at other lengths: cut around what is wrong, or with new numbers."""
        trial, rng = base.trial, np.random.default_rng(0)
        starts = {n: min(self.worst(base, n), n - m) for n, m in lengths.items()}
        for start in ({}, starts, None) if any(starts.values()) else ({}, None):
            primals = tuple(_within(_cut(a, lengths, start, rng), lengths) for a in trial.primals)
            if all(np.shape(a) == np.shape(b) for a, b in zip(primals, self.best.trial.primals, strict=True)):
                return False
            try:
                for dtype in {self.session.subject.dtype, self.best.dtype}:
                    self.session.local(primals, dtype)
            except Exception:  # the function does not take arguments of these shapes
                return False
            words = f"{trial.words.removesuffix(', cut')}, cut"
            if any(self.try_trial(one) for one in self.with_cotangents(trial, primals, words, lengths, start)):
                return True
        return False

    def with_cotangents(self, trial, primals, words, lengths, start):
        """These arguments under the cotangent that was given, cut as they are, and under a new one."""
        outputs = [o.shape for o in self.session.local(primals, self.session.subject.dtype).outputs]
        cut = tuple(_cut(c, lengths, start or {}, None) for c in trial.cotangent)
        if [np.shape(c) for c in cut] == outputs and any(map(np.any, cut)):
            yield Trial(self.session.subject.real_cast(primals, self.session.subject.dtype), cut, words, trial.sparse)
        yield self.session.trial(primals, words)

    def worst(self, failed, length) -> int:
        """Where along an axis of this length the cotangent is wrong."""
        index, names = failed.finding.index, self.session.subject.names
        if index is None or failed.finding.leaf not in names:
            return 0
        shape = np.shape(failed.trial.primals[names.index(failed.finding.leaf)])
        return next((i for i, n in zip(index, shape, strict=True) if n == length), 0)

    # --- all at once --------------------------------------------------------------------------------------------------

    def whole(self):
        """Arguments of ones, and one element of the cotangent, where what is wrong is: of many numbers, most go."""
        for place, chosen in enumerate(self.session.subject.differentiated):
            if chosen:
                self.try_numbers(place, np.arange(np.size(self.best.trial.primals[place])), np.ones_like)
        trial, at = self.best.trial, self.best.finding.index
        if len(trial.cotangent) == 1 and at is not None and self.best.finding.leaf in self.session.subject.names:
            place = self.session.subject.names.index(self.best.finding.leaf)
            if np.shape(trial.cotangent[0]) == np.shape(trial.primals[place]):
                alone = np.zeros_like(trial.cotangent[0])
                alone[at] = 1.0
                self.try_trial(dataclasses.replace(trial, cotangent=(alone,)))

    # --- cotangents --------------------------------------------------------------------------------------------------

    def cotangents(self):
        """As few elements of the cotangent as go, each of them 1 if that does."""

        def with_flat(flat):
            parts = _parted(flat, self.best.trial.cotangent)
            return dataclasses.replace(self.best.trial, cotangent=parts)

        flat = _joined(self.best.trial.cotangent)
        where = self.fewer(flat, lambda flat: self.try_trial(with_flat(flat)))
        for simple in SIMPLEST:
            flat = _joined(self.best.trial.cotangent)
            block = np.flatnonzero(_rank(simple(flat)) < _rank(flat))
            block = block[np.isin(block, where)]
            if block.size and not self.try_trial(with_flat(_replaced(flat, block, simple))) and block.size > 1:
                for i in block:
                    if self.over():
                        return
                    flat = _joined(self.best.trial.cotangent)
                    self.try_trial(with_flat(_replaced(flat, [i], simple)))

    def fewer(self, flat, keep: Callable) -> np.ndarray:
        """Set ever smaller blocks of elements to zero, as long as that is kept; the places that are left."""
        where = np.flatnonzero(flat)
        parts = 2
        while len(where) > 1 and not self.over():
            blocks = np.array_split(where, min(parts, len(where)))
            for block in blocks:
                if self.over():
                    return where
                alone = np.where(np.isin(np.arange(flat.size), block), flat, 0)
                rest = np.where(np.isin(np.arange(flat.size), block), 0, flat)
                if next((flat := less for less in (alone, rest) if keep(less)), None) is not None:
                    where, parts = np.flatnonzero(flat), 2
                    break
            else:
                if parts >= len(where):
                    break
                parts *= 2
        return where

    # --- numbers -----------------------------------------------------------------------------------------------------

    def numbers(self):
        """Simpler numbers, all of an argument at once, then by bisection; what an argument keeps stays kept."""
        for place, chosen in enumerate(self.session.subject.differentiated):
            primal = self.best.trial.primals[place]
            if kind(primal.dtype) == "float" and (chosen or np.size(primal) > 1):
                self.simpler(place)

    def simpler(self, place):
        for simple in SIMPLER:
            pending = [np.arange(np.size(self.best.trial.primals[place]))]
            while pending and not self.over():
                flat = np.ravel(self.best.trial.primals[place])
                block = pending.pop()
                block = block[(_rank(simple(flat)) < _rank(flat))[block]]
                if block.size and not self.try_numbers(place, block, simple) and block.size > 1:
                    pending += np.array_split(block, 2)

    def try_numbers(self, place, block, simple) -> bool:
        primals = list(self.best.trial.primals)
        flat, before = np.ravel(primals[place]), primals[place]
        primals[place] = _replaced(flat, block, simple).reshape(np.shape(before))
        if not keeps(before, primals[place]):
            return False
        return self.try_trial(dataclasses.replace(self.best.trial, primals=tuple(primals)))


def _is_number(finding):
    return finding.got is not None and math.isfinite(finding.got) and math.isfinite(finding.expected)


SIMPLEST = (
    np.ones_like,
    lambda a: np.full_like(a, 2.0),
    lambda a: np.copysign(1.0, a),
    lambda a: np.round(a * 4) / 4,
)
SIMPLER = (
    np.ones_like,
    np.zeros_like,
    lambda a: np.copysign(1.0, a),
    lambda a: np.round(np.clip(a, -9, 9)) + 0.0,  # no negative zero
    lambda a: np.round(a * 2) / 2,
    lambda a: np.round(a * 4) / 4,
    lambda a: np.round(a * 16) / 16,
)


def _rank(a) -> np.ndarray:
    """How simple numbers are: one, zero, minus one, small and whole, halves, quarters, sixteenths, the rest."""
    whole = [a * n == np.round(a * n) for n in (1, 2, 4, 16)]
    return np.select([a == 1, a == 0, a == -1, whole[0] & (np.abs(a) < 10), *whole[1:]], range(7), 7)


def _replaced(flat, block, simple):
    """Numbers, simpler in one block."""
    flat = flat.copy()
    flat[block] = simple(flat)[block]
    return flat


def _joined(arrays) -> np.ndarray:
    return np.concatenate([np.zeros(0), *(np.ravel(a) for a in arrays)])


def _parted(flat, like) -> tuple:
    sizes = list(itertools.accumulate(np.size(a) for a in like))
    return tuple(p.reshape(np.shape(a)) for p, a in zip(np.split(flat, sizes[:-1]), like, strict=True))


def _cut(a, lengths, starts, rng):
    """An array with lengths replaced: what stands there from the starts on, or new numbers; what it keeps stays."""
    shape = tuple(lengths.get(n, n) for n in np.shape(a))
    if shape == np.shape(a):
        return a
    first = [min((starts or {}).get(n, 0), n - m) for n, m in zip(np.shape(a), shape, strict=True)]
    corner = tuple(slice(i, i + m) for i, m in zip(first, shape, strict=True))
    if kind(a.dtype) != "float":
        return a[corner]
    piece = np.asarray(a)[corner]
    if rng is None:
        return piece
    words, impose = kept(a)
    if starts is None:
        return np.asarray(impose(rng.normal(size=shape)), np.float64)
    return piece if not words or kept(piece)[0] == words else np.asarray(impose(piece), np.float64)


def _within(a, lengths):
    """Indices into an axis that was cut stay inside of it."""
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) or kind(a.dtype) == "float" or a.dtype == bool or not np.size(a):
        return a
    a = np.asarray(a)
    above = [n for n in lengths if a.max() < n]
    length = min(above, default=0)
    shorter = lengths.get(length, 0)
    if not shorter or not shorter <= a.max():
        return a
    return np.minimum(a, shorter - 1) if np.all(np.diff(np.ravel(a)) >= 0) else a % shorter
