"""One answer held against the truth at one trial, leaf by leaf.

A cotangent is held against the float64 derivative of the definition and allowed the rounding that is measured there.
Where the definition has a kink, or autodiff of it fails though the limits around it exist, every value that is a
limit of derivatives nearby, or lies between such limits, is right: which one is a convention.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from .allowance import SLACK, Yardstick, scale, unit
from .blame import by_differences
from .discrepancy import Discrepancy, discrepancy, tells
from .excuses import OUTERMOST, excuse, no_slope, usual
from .finding import Finding
from .kinks import at_odds, between, floating, focus, is_no_limit
from .measuring import barely, beside, far_off, steadied, without_cancelling
from .trials import Trial
from .trials.kept import is_mask

AT_KINKS = ("truth", "kinks")  # these look around every point
OUTPUTS = 64  # that are asked one by one
COTANGENTS = 8  # under which autodiff may turn out to be no limit
UNTOLD = {"verdict": "abstained", "message": "rounding alone moves the truth by as much as its size at this point"}


@dataclasses.dataclass(frozen=True)
class Failed:
    """A finding that is wrong, with all that is needed to explain and to shrink it."""

    finding: Finding
    trial: Trial
    dtype: str
    answer: tuple
    measured: Yardstick


@dataclasses.dataclass(frozen=True)
class Leaf:
    """An output, or the cotangent of an argument: what came, what it has to be like, the truth and the allowance."""

    name: str
    place: int | None  # among the arguments; None of an output
    got: Any
    like: Any
    truth: np.ndarray
    allowance: np.ndarray

    @property
    def value(self) -> np.ndarray:
        return np.asarray(self.got, np.float64)

    @functools.cached_property
    def malformed(self) -> str | None:
        """What is wrong with its form, if anything."""
        return malformed(self.got, self.like)

    def apart(self, dtype: str) -> Discrepancy | None:
        return discrepancy(self.value, self.truth, self.allowance, dtype)


class Judgement:
    """An answer, (outputs, cotangents), that a check got at a trial in a dtype.

    answer    None for what the derivative by hand gives
    outputs   whether these are judged too
    remember  whether what is wrong is kept in the session, to be explained
    once      whether nothing else is asked there, so that what most answers do not need is measured for the rest alone
    """

    def __init__(self, session, check: str, trial: Trial, dtype: str, answer, outputs, remember, once):
        self.session, self.subject, self.local = session, session.subject, session.local(trial.primals, dtype)
        self.check, self.trial, self.dtype, self._answer = check, trial, dtype, answer
        self.outputs, self.remember, self.once = outputs, remember, once

    def findings(self) -> list[Finding]:
        """One of every leaf; what is wrong is kept in the session, unless it turns out that the truth was none."""
        if self.once and (found := self._surely_right()):
            return found
        found = list(self._judged())
        if any(f.message == UNTOLD["message"] for f in found) and self._told_by_differences():
            found = list(self._judged())
        if _any_wrong(found) and self._steadied():
            self._forget(lambda failed: failed.dtype == self.dtype and failed.finding.check == self.check)
            found = list(self._judged())
        if _any_wrong(found) and self._autodiff_is_at_fault():
            self.session.measure_anew()
            self._forget(lambda failed: True)
            found = list(self._judged())
        return found

    def _forget(self, which):
        failed = self.session.failed
        self.session.failed = [f for f in failed if f.trial is not self.trial or not which(f)]

    @property
    def answer(self):
        return self._answer or self.session.answer(self.trial, self.dtype)

    @property
    def _measured(self) -> Yardstick:
        return self.session.measured(self.trial, self.dtype)

    @property
    def _at(self) -> Trial:
        return self.session.rounded(self.trial, self.dtype)

    def _leaves(self, yardstick) -> Iterator[Leaf]:
        (outs, bars), (of_outs, of_bars) = yardstick.truth, yardstick.allowance
        if self.outputs:
            names = self.subject.output_names(len(outs))
            yield from map(Leaf, names, [None] * len(outs), self.answer[0], self.local.outputs, outs, of_outs)
        likes = self.subject.cast(self.trial.primals, self.dtype)
        places = range(len(bars))
        for leaf in map(Leaf, self.subject.names, places, self.answer[1], likes, bars, of_bars):
            if self.subject.differentiated[leaf.place]:
                yield leaf

    def _make(self, leaf: str, verdict: str, **said) -> Finding:
        return Finding(str(self.subject), self.check, leaf, self.dtype, verdict, example=self.trial.words, **said)

    def _wrong(self, leaf: str, **said) -> Finding:
        finding = self._make(leaf, "wrong", **said)
        if self.remember:
            self.session.failed.append(Failed(finding, self.trial, self.dtype, self.answer, self._measured))
        return finding

    # --- leaf by leaf ------------------------------------------------------------------------------------------------

    def _surely_right(self) -> list[Finding]:
        """What the truth alone says, where everything is within the least that is ever allowed; else nothing."""
        session, found = self.session, []
        yardstick = None if session.by_differences or session.searches else barely(self.local, self._at)
        for leaf in self._leaves(yardstick) if yardstick else ():
            apart = None if leaf.malformed else leaf.apart(self.local.unit)
            if apart is None or apart.ratio > 1:
                return []
            found.append(self._make(leaf.name, "right", **vars(apart)))
        return found

    def _judged(self) -> Iterator[Finding]:
        yardstick, session = self._measured, self.session
        if not all(np.isfinite(out).all() for out in yardstick.truth[0]):
            session.outside.append(self.trial.words)
            if self.outputs and self.trial.given:
                yield from self._of_infinities(yardstick)
            return
        if session.searches and not session.finds(self.trial, self.dtype):
            session.outside.append(f"{self.trial.words}: a search does not end there")
            return
        by_convention = None
        for leaf in self._leaves(yardstick):
            finding, around = self._of(leaf)
            by_convention = by_convention if around is None else around
            yield finding
        if by_convention:
            yield from self._at_odds(by_convention)

    def _of_infinities(self, yardstick: Yardstick) -> Iterator[Finding]:
        """Outputs that are infinite by the definition, and in the dtype itself, but not where it is differentiated."""
        answers, truths = self.answer[0], yardstick.truth[0]
        if all(np.array_equal(a, out) for a, out in zip(answers, truths, strict=True) if np.isinf(out).any()):
            return
        names, plain = self.subject.output_names(len(truths)), self.local.plainly(self.trial.primals)
        for name, got, own, out in zip(names, answers, plain, truths, strict=True):
            there = np.isinf(out) & (np.asarray(own, np.float64) == out)
            if np.any(there & (np.asarray(got, np.float64) != out)):
                message = "infinite by the function itself, and another value where it is differentiated"
                yield self._wrong(name, ratio=np.inf, message=message, fault="value")

    def _of(self, leaf: Leaf):
        """The finding on one leaf; and the cotangents around the point, where it is right by another convention."""
        if leaf.malformed and not self._merely_wider(leaf):
            return self._wrong(leaf.name, ratio=np.inf, message=leaf.malformed, fault="structure"), None
        if not np.any(leaf.truth):  # what cancels is as exact as what went in
            into = self.trial.primals if leaf.place is None else self.trial.cotangent
            size = max(map(scale, filter(floating, into)), default=0.0)
            leaf = dataclasses.replace(leaf, allowance=leaf.allowance + SLACK * unit(self.local.unit) * size)
        apart, settled = leaf.apart(self.local.unit), np.isfinite(leaf.truth).all()
        fits = settled and apart is not None and apart.ratio <= 1
        if fits and (leaf.place is None or self.check not in AT_KINKS or self.session.is_large):
            told = tells(leaf.truth, leaf.allowance, self.local.unit)
            return self._make(leaf.name, "right", **vars(apart)) if told else self._make(leaf.name, **UNTOLD), None
        if settled and apart is None:
            return self._make(leaf.name, **UNTOLD), None
        if leaf.place is not None:
            around, verdict = self._at_a_kink(leaf, fits)
            if verdict and verdict[0] == "right":
                said = vars(apart) if fits else {"message": verdict[1]}
                return self._make(leaf.name, "right", **said), None if fits else around
            if verdict and not settled and self._at_an_end(leaf):
                message = "neither autodiff of the definition nor this is finite at the end of a range"
                return self._make(leaf.name, "abstained", message=message), None
            if verdict and (fits or (not settled and not self._function_fails())):
                return self._wrong(leaf.name, **verdict[2], message=verdict[1], fault="kink"), None
        if fits:
            return self._make(leaf.name, "right", **vars(apart)), None
        return self._of_what_is_off(leaf, apart, settled), None

    def _at_an_end(self, leaf: Leaf) -> bool:
        """Whether it is no more finite than autodiff, at values that need not belong to the domain."""
        at_fault = ~np.isfinite(leaf.value)
        return self.trial.words in OUTERMOST and bool(at_fault.any()) and not np.isfinite(leaf.truth[at_fault]).any()

    def _merely_wider(self, leaf: Leaf) -> bool:
        """Whether a cotangent in a dtype that nobody gave has only more digits than it need, as of a constant."""
        if self.dtype == self.subject.dtype or leaf.got is None or np.shape(leaf.got) != np.shape(leaf.like):
            return False
        return jnp.promote_types(leaf.got.dtype, leaf.like.dtype) == leaf.got.dtype

    def _of_what_is_off(self, leaf: Leaf, apart, settled) -> Finding:
        of_point = self.session, self.trial, self.dtype
        off = vars(apart) if apart else {}
        asked = not settled and leaf.place is not None
        if asked and (said := no_slope(*of_point, leaf.place, leaf.value, self.answer)):
            return self._wrong(leaf.name, **off | said)
        if not settled and apart is None:
            message = "the definition's derivative is not finite here, nor around it"
            return self._make(leaf.name, "abstained", message=message)
        if self._function_fails():
            self.session.outside.append(self.trial.words)
            message = f"the function itself is off, or leaves the range of {self.dtype}, here"
            return self._make(leaf.name, "abstained", message=message)
        if apart is None or apart.ratio <= 1:
            return self._make(leaf.name, "right", **off)
        if verdict := excuse(*of_point, leaf.place, leaf.value, apart):
            return self._make(leaf.name, verdict[0], **off, message=verdict[1])
        return self._wrong(leaf.name, **off)

    def _function_fails(self) -> bool:
        return self.session.function_fails(self.trial, self.dtype, self.answer)

    # --- kinks -------------------------------------------------------------------------------------------------------

    def _at_a_kink(self, leaf: Leaf, fits: bool):
        """The cotangents around a point, and the verdict on one of them by these; None where nothing kinks.

        Where one fits, no number is moved for its own sake first; what is smooth under one cotangent is so for all.
        """
        session, primals = self.session, self.trial.primals
        here = leaf.place, self.dtype, *(hash(a.tobytes()) for a in primals if floating(a))
        if fits and here in session.smooth:
            return None, None

        def seen(far, masks_move=False):
            moved = () if far is None or session.is_large else focus(primals, leaf.place, far, leaf.truth)
            around, jumping = session.look_around(self.trial, self.dtype, tuple(moved), masks_move)
            of_leaf = leaf.value, leaf.truth, leaf.allowance
            verdict = around and between(*of_leaf, around[leaf.place], primals[leaf.place], self.local.unit)
            told = fits or not np.isfinite(leaf.truth).all()  # by autodiff, or by nobody
            beyond = told and jumping and verdict and verdict[0] == "wrong"  # beside a jump is another function
            return around, None if beyond else verdict

        around, verdict = seen(None if fits else leaf.value)
        if fits and verdict and verdict[0] == "wrong":
            around, verdict = seen(np.median(around[leaf.place], axis=0))
            verdict = None if verdict and self._is_the_slope(leaf) else verdict
        if verdict and verdict[0] == "wrong" and self._by_outputs(leaf):
            verdict = "right", "a kink of several outputs, each between the one-sided derivatives of its own"
        accepted = fits or (verdict and verdict[0] == "right")
        if not accepted and any(map(is_mask, filter(floating, primals))):
            others, other = seen(leaf.value, masks_move=True)  # what looks like a mask may be numbers
            around, verdict = (others, other) if other and other[0] == "right" else (around, verdict)
        if fits and not verdict:
            session.smooth.add(here)
        if verdict and verdict[0] == "right":
            session.kinked.add((id(self.trial), self.dtype))
        return around, verdict

    def _by_outputs(self, leaf: Leaf) -> bool:
        """Whether of every output alone it is right, where autodiff as well is no limit of all of them together.

        Each has taken a side of its own, as hats that meet at a knot do: one at its top, two at their feet.
        """
        flat = np.concatenate([np.zeros(0), *map(np.ravel, self.trial.cotangent)])
        heard = np.flatnonzero(flat)
        if not 1 < len(heard) <= OUTPUTS or not self._autodiff_is_no_limit(leaf):
            return False
        alone = (self._under(np.where(np.arange(flat.size) == i, flat, 0.0)) for i in heard)
        findings = (finding for one in alone for finding in one._judged())
        return not any(finding.leaf == leaf.name and finding.verdict == "wrong" for finding in findings)

    def _under(self, flat) -> "Judgement":
        """The same of other cotangents, one after the other in one row, and nothing of it kept."""
        ends = np.cumsum([a.size for a in self.trial.cotangent])[:-1]
        parts = zip(np.split(flat, ends), self.trial.cotangent, strict=True)
        trial = dataclasses.replace(self.trial, cotangent=tuple(part.reshape(np.shape(a)) for part, a in parts))
        trial = dataclasses.replace(trial, sparse=np.count_nonzero(flat) == 1)
        return Judgement(self.session, self.check, trial, self.dtype, None, False, False, False)

    def _autodiff_is_no_limit(self, leaf: Leaf) -> bool:
        """Whether under some cotangent autodiff's own answer lies beyond all around it."""
        rng = np.random.default_rng(0)
        for one in (self._under(rng.normal(size=sum(map(np.size, self.trial.cotangent)))) for _ in range(COTANGENTS)):
            truth, (around, _) = one._measured.truth[1][leaf.place], self.session.look_around(one.trial, self.dtype)
            if around and is_no_limit(truth, around[leaf.place], self.local.unit):
                return True
        return False

    def _is_the_slope(self, leaf: Leaf) -> bool:
        """Whether it is the slope along every single number, though not where all of them move."""
        found = self.session.differences(self._at, self.dtype)
        if found is None:
            return False
        slope, error = found.value[leaf.place], found.error[leaf.place]
        half = np.sqrt(unit(self.local.unit)) * scale(slope)
        close = np.minimum(SLACK * error + leaf.allowance, half)  # at a kink either is as large as the jump
        return bool(np.all(np.abs(leaf.value - slope) <= close))

    def _at_odds(self, around) -> Iterator[Finding]:
        """What is right of each argument, and of all together is no derivative."""
        (_, bars), (_, allowances) = self._measured.truth, self._measured.allowance
        leaves = zip(self.answer[1], bars, allowances, around, self.trial.primals, strict=True)
        for place, message in at_odds(list(leaves), self.subject.differentiated, self.local.unit):
            yield self._wrong(self.subject.names[place], ratio=np.inf, message=message, fault="kink")

    # --- another truth -----------------------------------------------------------------------------------------------

    def _steadied(self) -> bool:
        """Measure a trial with maxima held constant too: where that is the same function, its rounding is allowed."""
        key = id(self.trial), self.dtype
        if self.local.steady is None or not self.local.reverse or key in self.session.steady:
            return False
        self.session.steady.add(key)
        self.session.told(self.trial, self.dtype, steadied(self.local, self._at, self.dtype, self._measured))
        return True

    def _told_by_differences(self) -> bool:
        """Measure a trial by differences where rounding leaves autodiff no digit, if they contradict what came."""
        session, unit_of, before = self.session, self.local.unit, self._measured
        if self.local.stops_gradient or session.searches or session.by_differences:
            return False
        chosen = enumerate(self.subject.differentiated)
        usually = [c and usual(session, self.trial, self.dtype, i) for i, c in chosen]
        if not far_off(unit_of, before, usually, self.answer[1]):
            return False
        found = [session.differences(point, self.dtype) for point in beside(self._at, unit_of)]
        if None in found or self._function_fails():
            return False
        told = without_cancelling(unit_of, before, found, usually, self.answer[1])
        session.told(self.trial, self.dtype, told)
        return any(a is not b for a, b in zip(told.truth[1], before.truth[1], strict=True))

    def _autodiff_is_at_fault(self) -> bool:
        """Whether differences contradict autodiff of the definition somewhere, and agree with what came by hand there.

        Asked once, at the first failure; a definition with stop_gradient means what its autodiff says, unless that
        would contradict differences without the stop as well.
        """
        session, local, at = self.session, self.local, self._at
        if session.asked or session.by_differences:
            return False
        session.asked = True
        yardstick, estimate = self._measured, session.differences(at, self.dtype)
        if estimate is None:
            return False
        free = estimate.value
        if local.stops_gradient:
            free = local.unstopped(at.primals, at.cotangent) or free
        at_fault, meant = False, local.stops_gradient
        for leaf in self._leaves(yardstick):
            if leaf.place is not None and not leaf.malformed:
                slope, error = estimate.value[leaf.place], estimate.error[leaf.place]
                about = leaf.truth, slope, SLACK * error + leaf.allowance
                contradicted, bound = by_differences(leaf.got, *about, free[leaf.place], local.unit, session.searches)
                at_fault, meant = at_fault or contradicted, meant and bound
        session.by_differences = at_fault and not meant
        return session.by_differences


def _any_wrong(findings) -> bool:
    return any(finding.verdict == "wrong" for finding in findings)


def malformed(bar, like) -> str | None:
    """What is wrong with the form of an output or a cotangent, if anything."""
    if bar is None:
        return "None came back for a float argument; return zeros where the derivative vanishes"
    if np.shape(bar) != np.shape(like):
        return f"the shape is {np.shape(bar)}, {np.shape(like)} was expected"
    if str(bar.dtype) != str(like.dtype):
        return f"the dtype is {bar.dtype}, {like.dtype} was expected"
    return None
