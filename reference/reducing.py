"""The smallest arguments at which a derivative is still wrong: shorter lengths, fewer cotangents, simpler numbers.

Greedy: a step that leaves the cotangent wrong is kept.  Other values reuse the compiled programs; every new shape
costs two compilations, so lengths are cut first, each by as much as goes.
"""

import copy
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from .replay import shows
from .session import CannotTell, Failed, Session
from .trials import PROPERTIES, Trial, kept
from .widening import kind

SECONDS = 10.0
SHORT = (1, 2, 3)  # lengths that are tried first; then a half


def reduce(session: Session, failed: Failed, seconds: float = SECONDS) -> Failed:
    """The smallest failure found in this time that starts from this one, of the same leaf if there is one.

    One that a plain call does not show (it is wrong under vmap alone) stays as it is.
    """
    way = shows(session, failed)
    return failed if way is None else _Search(session, failed, way, seconds).run()


class _Search:
    def __init__(self, session, failed, way, seconds):
        self.session, self.best, self.eager = session, failed, way == "eager"
        self.deadline = time.monotonic() + seconds

    def run(self) -> Failed:
        self.try_trial(self.best.trial)  # the same point, judged plainly: what follows starts from its own finding
        for step in (self.lengths, self.cotangents, self.numbers):
            step()
        return self.best

    def over(self) -> bool:
        return time.monotonic() > self.deadline

    def try_trial(self, trial: Trial) -> bool:
        """Keep a trial at which the cotangent is still wrong."""
        if self.over():
            return False
        found = self.failures(trial)
        same = [failed for failed in found if failed.finding.leaf == self.best.finding.leaf]
        if not found:
            return False
        self.best = (same or found)[0]
        return True

    def failures(self, trial) -> list[Failed]:
        """What is wrong at a trial; nothing where the function refuses it."""
        scratch = copy.copy(self.session)  # what is compiled is shared, what is found and measured here is not kept
        scratch.failed, scratch.outside, scratch._measured, scratch._answers = [], [], {}, {}
        before, dtype = self.best.finding, self.best.dtype
        try:
            answer = scratch.local(trial.primals, dtype).hand(trial.primals, trial.cotangent, eager=self.eager)
        except Exception:  # the function does not take these arguments
            return []
        outputs = before.leaf in self.session.subject.output_names(len(trial.cotangent))
        try:
            list(scratch.judge(before.check, trial, dtype, answer, outputs=outputs))
        except CannotTell:
            return []
        return scratch.failed

    # --- lengths -----------------------------------------------------------------------------------------------------

    def lengths(self):
        """Every length, longest first, by the shortest that still fails; equal lengths stay equal."""
        done = False
        while not done and not self.over():
            done = True
            primals = self.best.trial.primals
            lengths = sorted({n for a in primals for n in np.shape(a) if n > 1}, reverse=True)
            for length, shorter in ((n, m) for n in lengths for m in sorted({*SHORT, n // 2}) if 0 < m < n):
                if self.over() or any(self.try_trial(trial) for trial in self.cut(length, shorter)):
                    done = self.over()
                    break

    def cut(self, length, shorter) -> Iterator[Trial]:
        """Trials with a length replaced wherever it occurs, alone or with its multiples: cut, or with new numbers."""
        trial, worst = self.best.trial, self.worst(length)
        lengths = {n for a in trial.primals for n in np.shape(a)}
        alone, multiples = {length: shorter}, {n: n // length * shorter for n in lengths if n and n % length == 0}
        ways = itertools.product((*{0: 0, min(worst, length - shorter): 0}, None), (alone, multiples))
        rng = np.random.default_rng(0)
        for start, replaced in ways:
            if replaced is multiples and multiples == alone:
                continue
            primals = tuple(_within(_cut(a, replaced, start, rng), length, shorter) for a in trial.primals)
            try:
                for dtype in (self.session.subject.dtype, self.best.dtype):
                    self.session.local(primals, dtype)
            except Exception:  # the function does not take arguments of these shapes
                continue
            yield self.session.trial(primals, f"{trial.words.removesuffix(', cut')}, cut")

    def worst(self, length) -> int:
        """Where along an axis of this length the cotangent is wrong."""
        index, names = self.best.finding.index, self.session.subject.names
        if index is None or self.best.finding.leaf not in names:
            return 0
        shape = np.shape(self.best.trial.primals[names.index(self.best.finding.leaf)])
        return next((i for i, n in zip(index, shape, strict=True) if n == length), 0)

    # --- cotangents --------------------------------------------------------------------------------------------------

    def cotangents(self):
        """As few elements of the cotangent as go, each of them 1 if that does."""

        def with_flat(flat):
            parts = _parted(flat, self.best.trial.cotangent)
            return dataclasses.replace(self.best.trial, cotangent=parts)

        flat = _joined(self.best.trial.cotangent)
        where = self.fewer(flat, lambda flat: self.try_trial(with_flat(flat)))
        flat = _joined(self.best.trial.cotangent)
        ones = np.where(np.isin(np.arange(flat.size), where), 1.0, flat)
        if not self.try_trial(with_flat(ones)):
            for i in where:
                flat = _joined(self.best.trial.cotangent)
                self.try_trial(with_flat(np.where(np.arange(flat.size) == i, 1.0, flat)))

    def fewer(self, flat, keep: Callable) -> np.ndarray:
        """Set ever smaller blocks of elements to zero, as long as that is kept; the places that are left."""
        where = np.flatnonzero(flat)
        parts = 2
        while len(where) > 1 and not self.over():
            blocks = np.array_split(where, min(parts, len(where)))
            for block in blocks:
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
        flat, before = np.ravel(primals[place]).copy(), primals[place]
        flat[block] = simple(flat)[block]
        primals[place] = flat.reshape(np.shape(before))
        words, _ = kept(before)
        if not next((holds(primals[place]) for named, holds, _ in PROPERTIES if named == words), True):
            return False
        return self.try_trial(dataclasses.replace(self.best.trial, primals=tuple(primals)))


SIMPLER = (
    np.ones_like,
    np.zeros_like,
    lambda a: np.copysign(1.0, a),
    lambda a: np.round(np.clip(a, -9, 9)),
    lambda a: np.round(a * 2) / 2,
    lambda a: np.round(a * 4) / 4,
    lambda a: np.round(a * 16) / 16,
)


def _rank(a) -> np.ndarray:
    """How simple numbers are: one, zero, minus one, small and whole, halves, quarters, sixteenths, the rest."""
    whole = [a * n == np.round(a * n) for n in (1, 2, 4, 16)]
    return np.select([a == 1, a == 0, a == -1, whole[0] & (np.abs(a) < 10), *whole[1:]], range(7), 7)


def _joined(arrays) -> np.ndarray:
    return np.concatenate([np.zeros(0), *(np.ravel(a) for a in arrays)])


def _parted(flat, like) -> tuple:
    sizes = list(itertools.accumulate(np.size(a) for a in like))
    return tuple(p.reshape(np.shape(a)) for p, a in zip(np.split(flat, sizes[:-1]), like, strict=True))


def _cut(a, lengths, start, rng):
    """An array with lengths replaced: what stands there from `start` on, or new numbers; what it keeps stays kept."""
    shape = tuple(lengths.get(n, n) for n in np.shape(a))
    if shape == np.shape(a):
        return a
    corner = tuple(slice(first := min(start or 0, n - m), first + m) for n, m in zip(np.shape(a), shape, strict=True))
    if kind(a.dtype) != "float":
        return a[corner]
    words, impose = kept(a)
    if start is None:
        return np.asarray(impose(rng.normal(size=shape)), np.float64)
    piece = np.asarray(a)[corner]
    return piece if not words or kept(piece)[0] == words else np.asarray(impose(piece), np.float64)


def _within(a, length, shorter):
    """Indices into an axis that was cut stay inside of it."""
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) or kind(a.dtype) == "float" or a.dtype == bool or not np.size(a):
        return a
    a = np.asarray(a)
    if not shorter <= a.max() < length:
        return a
    return np.minimum(a, shorter - 1) if np.all(np.diff(np.ravel(a)) >= 0) else a % shorter
