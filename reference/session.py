"""What all checks of one subject share: its derivative in each dtype and shape, the truth at each trial, the judge.

A cotangent is held against the float64 derivative of the definition and allowed the rounding that is measured there.
Where the definition has a kink, or autodiff of it fails though the limits around it exist, every value that is a
limit of derivatives nearby, or lies between such limits, is right: which one is a convention.
"""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import numpy as np

from .allowance import COPIES, SLACK, Yardstick, scale, unit
from .blame import by_differences
from .discrepancy import discrepancy, tells
from .excuses import excuse, no_slope, usual
from .finding import CannotTell, Finding
from .kinks import at_odds, between, floating, focus, jumps, neighbours
from .local import Local
from .measuring import beside, far_off, measure, steadied, without_cancelling
from .oracles.differences import COORDINATES
from .oracles.estimates import Abstains
from .profiles import Profile
from .pullback import stacked_pullback, to_numpy
from .subject import Subject
from .tracing.interpreter import settles
from .trials import GIVEN, Trial, cotangents
from .trials.kept import is_mask
from .trials.wholes import together, uses

STILL = ((0, 0.0, 0.0),) * COPIES
AT_KINKS = ("truth", "kinks")  # these look around every point
UNTOLD = {"verdict": "abstained", "message": "rounding alone moves the truth by as much as its size at this point"}


@dataclasses.dataclass(frozen=True)
class Failed:
    """A finding that is wrong, with all that is needed to explain and to shrink it."""

    finding: Finding
    trial: Trial
    dtype: str
    answer: tuple
    measured: Yardstick


class Session:
    """One subject under a profile."""

    def __init__(self, subject: Subject, profile: Profile, seed: int = 0):
        self.subject, self.profile, self.seed = subject, profile, seed
        self.failed: list[Failed] = []
        # whether autodiff of the definition does not apply, or was found out, and differences decide
        self.by_differences = subject.outside is not None
        self._asked, self._steady = False, set()
        self.inner: Session | None = None  # the derivative as a subject of its own, once it was differentiated
        self.outside: list[str] = []  # words of trials where the definition is not finite
        self.tried: set[tuple[str, str]] = set()  # (check, dtype) of all that was judged
        self._locals, self._measured, self._answers, self._around = {}, {}, {}, {}
        self._smooth, self.kinked = set(), set()  # where nothing kinks; (trial, dtype) where something does

    # --- what is compared --------------------------------------------------------------------------------------------

    def local(self, primals, dtype: str) -> Local:
        """The subject at the shapes of these primals, in this dtype."""
        key = dtype, tuple(np.shape(a) for a in primals)
        if key not in self._locals:
            self._locals[key] = Local(self.subject, primals, dtype)
        return self._locals[key]

    def trial(self, primals, words: str, seed: int = 0, sparse: bool = False) -> Trial:
        """A trial at these primals with a cotangent of its own."""
        rng = np.random.default_rng([self.seed, seed, 1])  # [0, 0] would be what default_rng(0) gives: an example
        rounded = self.subject.real_cast(primals, self.subject.dtype)
        return Trial(rounded, cotangents(rng, self.local(primals, self.subject.dtype).outputs, sparse), words, sparse)

    @functools.cached_property
    def example(self) -> list[Trial]:
        """The example's own values, under several cotangents."""
        words = [GIVEN, f"{GIVEN}, one element of the cotangent", *[GIVEN] * self.profile.cotangents]
        return [self.trial(self.subject.example, words[i], i, i == 1) for i in range(self.profile.cotangents)]

    @functools.cached_property
    def by_hand(self):
        """The equations of the derivative by hand at the example; None where it cannot be traced."""
        try:
            return self.local(self.subject.example, self.subject.dtype).by_hand[0]
        except Exception:  # which is said elsewhere
            return None

    @functools.cached_property
    def searches(self) -> bool:
        """Whether the definition or the derivative by hand has a loop that ends when a number is small enough."""
        return settles(self.local(self.subject.example, self.subject.dtype).equations) or settles(self.by_hand)

    @functools.cached_property
    def uses(self) -> list:
        """What the definition, and the derivative by hand, do with each leaf: an integer, or a lone number."""
        found = uses(self.local(self.subject.example, self.subject.dtype).equations)
        return together(found, uses(self.by_hand, bounds=False)) if self.by_hand else found

    def rounded(self, trial: Trial, dtype: str) -> Trial:
        """The trial as the dtype sees it."""
        primals = self.subject.real_cast(trial.primals, dtype)
        outputs = self.local(primals, dtype).outputs
        cotangent = tuple(
            np.asarray(np.asarray(c).astype(o.dtype), np.float64) for c, o in zip(trial.cotangent, outputs, strict=True)
        )
        return dataclasses.replace(trial, primals=primals, cotangent=cotangent)

    def answer(self, trial: Trial, dtype: str):
        """(outputs, cotangents) by hand, compiled."""
        if (key := (id(trial), dtype)) not in self._answers:
            self._answers[key] = trial, self.local(trial.primals, dtype).hand(trial.primals, trial.cotangent)
        return self._answers[key][1]

    def measured(self, trial: Trial, dtype: str) -> Yardstick:
        """The truth at a trial and what rounding may do to it."""
        if (key := (id(trial), dtype)) not in self._measured:
            at = self.rounded(trial, dtype)
            try:
                self._measured[key] = trial, self.measure(at, dtype)
            except CannotTell:
                raise
            except Exception as error:  # whatever it is, it says nothing of the derivative by hand
                raise CannotTell(f"the definition does not run in float64: {error}".split("\n")[0]) from error
        return self._measured[key][1]

    def leaves_domain(self, trial: Trial) -> bool:
        """Whether the definition is not finite at a trial."""
        return not all(np.isfinite(out).all() for out in self.measured(trial, self.subject.dtype).truth[0])

    def measure(self, trial: Trial, dtype: str) -> Yardstick:
        """The same of a trial that is rounded already, not kept.

        A function that is given in another dtype runs in float64 to show what rounding hides; series, steps and
        constants that were cut where that dtype ends are not held against it.
        """
        found = measure(self.local(trial.primals, dtype), trial, dtype, self.by_differences)
        own = self.subject.dtype
        if dtype != "float64" or own == dtype:
            return found
        bars = zip(found.truth[1], found.allowance[1], strict=True)
        eased = tuple(
            None if truth is None else allowance + SLACK * unit(own) * np.abs(truth) for truth, allowance in bars
        )
        return Yardstick(found.truth, (found.allowance[0], eased))

    def look_around(self, trial: Trial, dtype: str, chosen=(), masks_move: bool = False):
        """(cotangents at points close by, stacked along a new first axis: see `neighbours`; whether it jumps there)."""
        key = id(trial), dtype, chosen, masks_move
        if key not in self._around:
            at, found = self.rounded(trial, dtype), (None, False)
            if self.local(at.primals, dtype).reverse:
                found = self._beside(at, dtype, neighbours(at.primals, chosen, masks_move))
            self._around = {key: (trial, found)}  # the last is kept
        return self._around[key][1]

    def _beside(self, at, dtype, stacks):
        stack = jax.tree.map(lambda a: np.stack([a] * COPIES) if floating(a) else a, at.cotangent)
        with jax.enable_x64(True), jax.default_matmul_precision("highest"):
            program = stacked_pullback(self.local(at.primals, dtype), STILL)
            batches = [to_numpy(program(moved, stack)) for moved in stacks]
        around = jax.tree.map(lambda *parts: np.concatenate([part[1:] for part in parts]), *(b for _, b in batches))
        return around, any(jumps(out) for outs, _ in batches for out in outs)

    # --- the judge ---------------------------------------------------------------------------------------------------

    def judge(self, check: str, trial: Trial, dtype: str, answer, outputs=True, remember=True) -> Iterator[Finding]:
        """Every leaf of an answer against the truth; a trial outside of the domain is counted, and not judged.

        What is wrong is remembered, to be explained.
        """
        self.tried.add((check, dtype))
        findings = list(self._judged(check, trial, dtype, answer, outputs, remember))
        if any(f.message == UNTOLD["message"] for f in findings) and self._told_by_differences(trial, dtype, answer):
            findings = list(self._judged(check, trial, dtype, answer, outputs, remember))
        if any(f.verdict == "wrong" for f in findings) and self._steadied(trial, dtype):
            self.failed = [
                f for f in self.failed if f.trial is not trial or f.dtype != dtype or f.finding.check != check
            ]
            findings = list(self._judged(check, trial, dtype, answer, outputs, remember))
        if any(f.verdict == "wrong" for f in findings) and self._autodiff_is_at_fault(trial, dtype, answer):
            self._measured.clear()
            self.failed = [failed for failed in self.failed if failed.trial is not trial]
            findings = list(self._judged(check, trial, dtype, answer, outputs, remember))
        yield from findings

    def _autodiff_is_at_fault(self, trial, dtype, answer) -> bool:
        """Whether differences contradict autodiff of the definition somewhere, and agree with what came by hand there.

        Asked once, at the first failure; a definition with stop_gradient means what its autodiff says, unless that
        would contradict differences without the stop as well.
        """
        if self._asked or self.by_differences:
            return False
        self._asked = True
        local, at, yardstick = self.local(trial.primals, dtype), self.rounded(trial, dtype), self.measured(trial, dtype)
        estimate = self.differences(at, dtype)
        if estimate is None:
            return False
        free = estimate.value
        if local.stops_gradient:
            free = local.unstopped(at.primals, at.cotangent) or free
        at_fault, meant = False, local.stops_gradient
        for i, chosen in enumerate(self.subject.differentiated):
            if chosen and not malformed(answer[1][i], self._like(i, trial, dtype)):
                about = yardstick.truth[1][i], estimate.value[i], SLACK * estimate.error[i] + yardstick.allowance[1][i]
                contradicted, bound = by_differences(answer[1][i], *about, free[i], local.unit, self.searches)
                at_fault, meant = at_fault or contradicted, meant and bound
        self.by_differences = at_fault and not meant
        return self.by_differences

    def _steadied(self, trial, dtype) -> bool:
        """Measure a trial with maxima held constant too: where that is the same function, its rounding is allowed."""
        local, at, before = self.local(trial.primals, dtype), self.rounded(trial, dtype), self.measured(trial, dtype)
        if local.steady is None or not local.reverse or (id(trial), dtype) in self._steady:
            return False
        self._steady.add((id(trial), dtype))
        self._measured[id(trial), dtype] = trial, steadied(local, at, dtype, before)
        return True

    def _told_by_differences(self, trial, dtype, answer) -> bool:
        """Measure a trial by differences where rounding leaves autodiff no digit, if they contradict what came."""
        local, at, before = self.local(trial.primals, dtype), self.rounded(trial, dtype), self.measured(trial, dtype)
        usually = [c and usual(self, trial, dtype, i) for i, c in enumerate(self.subject.differentiated)]
        otherwise = local.stops_gradient or self.searches or self.by_differences
        if otherwise or not far_off(local.unit, before, usually, answer[1]):
            return False
        found = [self.differences(point, dtype) for point in beside(at, local.unit)]
        if None in found or self.function_fails(trial, dtype, answer):
            return False
        told = without_cancelling(local.unit, before, found, usually, answer[1])
        self._measured[id(trial), dtype] = trial, told
        return any(a is not b for a, b in zip(told.truth[1], before.truth[1], strict=True))

    def _judged(self, check, trial, dtype, answer, outputs, remember) -> Iterator[Finding]:
        yardstick, local = self.measured(trial, dtype), self.local(trial.primals, dtype)
        truth_out, truth_bars = yardstick.truth
        if not all(np.isfinite(leaf).all() for leaf in truth_out):
            self.outside.append(trial.words)
            return
        if self.searches and not self._finds(trial, dtype):
            self.outside.append(f"{trial.words}: a search does not end there")
            return
        names = [*self.subject.output_names(len(truth_out)), *self.subject.names]
        got = [*answer[0], *answer[1]]
        truths, allowances = [*truth_out, *truth_bars], [*yardstick.allowance[0], *yardstick.allowance[1]]

        def note(finding):
            if remember:
                self.failed.append(Failed(finding, trial, dtype, answer, yardstick))
            return finding

        by_convention = None
        for i, name in enumerate(names):
            is_output, place = i < len(truth_out), i - len(truth_out)
            if (is_output and not outputs) or (not is_output and not self.subject.differentiated[place]):
                continue
            make = functools.partial(Finding, str(self.subject), check, name, dtype, example=trial.words)
            like = local.outputs[i] if is_output else self._like(place, trial, dtype)
            if fault := malformed(got[i], like):
                yield note(make(verdict="wrong", ratio=np.inf, message=fault, fault="structure"))
                continue
            value, truth, allowance = np.asarray(got[i], np.float64), truths[i], allowances[i]
            if not np.any(truth):  # what cancels is as exact as what went in
                into = trial.primals if is_output else trial.cotangent
                allowance = allowance + SLACK * unit(local.unit) * max(map(scale, filter(floating, into)), default=0.0)
            apart = discrepancy(value, truth, allowance, local.unit)
            settled = np.isfinite(truth).all()
            fits = settled and apart is not None and apart.ratio <= 1
            if fits and (is_output or check not in AT_KINKS):
                yield make("right", **vars(apart)) if tells(truth, allowance, local.unit) else make(**UNTOLD)
                continue
            if settled and apart is None:
                yield make(**UNTOLD)
                continue
            if not is_output:
                around, verdict = self._at_a_kink(trial, dtype, place, value, fits)
                if verdict and verdict[0] == "right":
                    yield make("right", **(vars(apart) if fits else {}), message=None if fits else verdict[1])
                    by_convention = by_convention if fits else around
                    continue
                if verdict and (fits or (not settled and not self.function_fails(trial, dtype, answer))):
                    yield note(make("wrong", **verdict[2], message=verdict[1], fault="kink"))
                    continue
            if fits:
                yield make("right", **vars(apart))
                continue
            if not settled and not is_output and (said := no_slope(self, trial, dtype, place, value, answer)):
                yield note(make("wrong", **(vars(apart) if apart else {}) | said))
            elif not settled and apart is None:
                yield make("abstained", message="the definition's derivative is not finite here, nor around it")
            elif self.function_fails(trial, dtype, answer):
                self.outside.append(trial.words)
                yield make("abstained", message=f"the function itself is off, or leaves the range of {dtype}, here")
            elif apart is None or apart.ratio <= 1:
                yield make("right", **(vars(apart) if apart else {}))
            elif verdict := excuse(self, trial, dtype, None if is_output else place, value, apart):
                yield make(verdict[0], **vars(apart), message=verdict[1])
            else:
                yield note(make("wrong", **vars(apart)))
        if by_convention:
            leaves = zip(answer[1], truth_bars, yardstick.allowance[1], by_convention, trial.primals, strict=True)
            for place, message in at_odds(list(leaves), self.subject.differentiated, local.unit):
                odd = str(self.subject), check, self.subject.names[place], dtype, "wrong"
                yield note(Finding(*odd, ratio=np.inf, message=message, fault="kink", example=trial.words))

    def _at_a_kink(self, trial, dtype, place, value, fits):
        """The cotangents around a point, and the verdict on one of them by these; None where nothing kinks.

        Where one fits, no number is moved for its own sake first; what is smooth under one cotangent is so for all.
        """
        yardstick, primal = self.measured(trial, dtype), trial.primals[place]
        truth, allowance = yardstick.truth[1][place], yardstick.allowance[1][place]
        here = place, dtype, *(hash(a.tobytes()) for a in trial.primals if floating(a))
        if fits and here in self._smooth:
            return None, None

        def seen(far, masks_move=False):
            moved = () if far is None else focus(trial.primals, place, far, truth)
            around, jumping = self.look_around(trial, dtype, tuple(moved), masks_move)
            verdict = around and between(value, truth, allowance, around[place], primal, self._unit(trial, dtype))
            told = fits or not np.isfinite(truth).all()  # by autodiff, or by nobody; beside a jump is another function
            return around, None if told and jumping and verdict and verdict[0] == "wrong" else verdict

        around, verdict = seen(None if fits else value)
        if fits and verdict and verdict[0] == "wrong":
            around, verdict = seen(np.median(around[place], axis=0))
            verdict = None if verdict and self._is_the_slope(trial, dtype, place, value, allowance) else verdict
        accepted = fits or (verdict and verdict[0] == "right")
        if not accepted and any(map(is_mask, filter(floating, trial.primals))):
            others, other = seen(value, masks_move=True)  # what looks like a mask may be numbers
            around, verdict = (others, other) if other and other[0] == "right" else (around, verdict)
        if fits and not verdict:
            self._smooth.add(here)
        if verdict and verdict[0] == "right":
            self.kinked.add((id(trial), dtype))
        return around, verdict

    def _is_the_slope(self, trial, dtype, place, value, allowance) -> bool:
        """Whether it is the slope along every single number, though not where all of them move."""
        found = self.differences(self.rounded(trial, dtype), dtype)
        if found is None:
            return False
        half = np.sqrt(unit(self._unit(trial, dtype))) * scale(found.value[place])
        close = np.minimum(SLACK * found.error[place] + allowance, half)  # at a kink either is as large as the jump
        return bool(np.all(np.abs(value - found.value[place]) <= close))

    def differences(self, at, dtype):
        """The cotangents at a rounded trial by differences along every number; None where that cannot be done."""
        if sum(a.size for a in at.primals if floating(a)) > COORDINATES:
            return None
        try:
            return self.local(at.primals, dtype).oracle("richardson")(at.primals, at.cotangent)
        except (Abstains, TypeError, ValueError, NotImplementedError):
            return None

    def _finds(self, trial, dtype) -> bool:
        """Whether what searches finds something there; of the derivative by hand it is asked at other values alone."""
        at, local = self.rounded(trial, dtype), self.local(trial.primals, dtype)
        return local.settles_at(at.primals) and (trial.given or local.settles_at(at.primals, at.cotangent))

    def _unit(self, trial, dtype) -> str:
        return self.local(trial.primals, dtype).unit

    def _like(self, i, trial, dtype):
        return self.subject.cast(trial.primals, dtype)[i]

    def function_fails(self, trial, dtype, answer) -> bool:
        """Whether the function is off or not finite in the dtype itself, as a primal and as a forward pass."""
        if not self._off(answer[0], trial, dtype):
            return False
        local = self.local(trial.primals, dtype)
        with local.precision(), jax.default_matmul_precision("highest"), np.errstate(all="ignore"):
            return self._off(local.primal(*self.subject.cast(trial.primals, dtype)), trial, dtype)

    def _off(self, outputs, trial, dtype) -> bool:
        yardstick, coarsest = self.measured(trial, dtype), self.local(trial.primals, dtype).unit
        # Beside a truth it is the function that is wrong; but a search that stops is as exact as it was made for.
        believed = self.subject.truth is None or (not trial.given and settles(self.by_hand))
        for value, truth, allowance in zip(outputs, yardstick.truth[0], yardstick.allowance[0], strict=True):
            apart = discrepancy(np.asarray(value, np.float64), truth, allowance, coarsest)
            if (apart and apart.ratio > 1 and believed) or not np.isfinite(np.asarray(value, np.float64)).all():
                return True
        return False


def malformed(bar, like) -> str | None:
    """What is wrong with the form of an output or a cotangent, if anything."""
    if bar is None:
        return "None came back for a float argument; return zeros where the derivative vanishes"
    if np.shape(bar) != np.shape(like):
        return f"the shape is {np.shape(bar)}, {np.shape(like)} was expected"
    if str(bar.dtype) != str(like.dtype):
        return f"the dtype is {bar.dtype}, {like.dtype} was expected"
    return None
