"""What all checks of one subject share: its derivative in each dtype and shape, and the truth at each trial."""

import dataclasses
import functools

import jax
import numpy as np

from .allowance import COPIES, SLACK, Yardstick, unit
from .discrepancy import discrepancy
from .finding import CannotTell
from .judge import Failed, Judgement
from .kinks import floating, jumps, neighbours
from .local import Local
from .measuring import measure
from .oracles.differences import COORDINATES
from .oracles.estimates import Abstains
from .profiles import Profile
from .pullback import stacked_pullback, to_numpy
from .subject import Subject
from .tracing.interpreter import equations, repeats, settles
from .trials import GIVEN, Trial, cotangents
from .trials.bounds import beyond_the_end
from .trials.lengths import shorter
from .trials.uses import together, uses

LARGE = 2**16  # numbers in an example: the truth at it is a matter of seconds, and all that is tried beside it is not
STILL = ((0, 0.0, 0.0),) * COPIES


class Session:
    """One subject under a profile.

    where  words for what is special about its example
    """

    def __init__(self, subject: Subject, profile: Profile, seed: int = 0, where: str = ""):
        self.subject, self.profile, self.seed, self.where = subject, profile, seed, where
        self.failed: list[Failed] = []
        # whether autodiff of the definition does not apply, or was found out, and differences decide
        self.by_differences = subject.outside is not None
        self.asked, self.steady = False, set()  # whether differences were; what was measured with maxima held constant
        self.inner: Session | None = None  # the derivative as a subject of its own, once it was differentiated
        self.variants: list[Session] = []  # the same subject with another option each
        self.outside: list[str] = []  # words of trials where the definition is not finite
        self.tried: set[tuple[str, str]] = set()  # (check, dtype) of all that was judged
        self._locals, self._measured, self._answers, self._around = {}, {}, {}, {}
        self.smooth, self.kinked = set(), set()  # where nothing kinks; (trial, dtype) where something does

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
    def repeats(self) -> bool:
        """Whether one of them has a loop of a number of steps that all do the same."""
        return repeats(self.local(self.subject.example, self.subject.dtype).equations) or repeats(self.by_hand)

    @functools.cached_property
    def is_kernel(self) -> bool:
        """Whether the definition is, or has in it, a kernel of Pallas."""
        traced = equations(self.local(self.subject.example, self.subject.dtype).equations)
        return any(equation.primitive.name == "pallas_call" for equation in traced)

    @functools.cached_property
    def uses(self) -> list:
        """What the definition, and the derivative by hand, do with each leaf: an integer, or a lone number."""
        found = uses(self.local(self.subject.example, self.subject.dtype).equations)
        return together(found, uses(self.by_hand, bounds=False)) if self.by_hand else found

    def traced(self, shapes, function=None):
        """The equations of the function, or of another that takes the same, at arguments of these shapes."""
        cast = self.subject.cast(self.subject.example, self.subject.dtype)
        return jax.make_jaxpr(function or self.subject)(
            *(jax.ShapeDtypeStruct(shape, a.dtype) for shape, a in zip(shapes, cast, strict=True))
        )

    def takes(self, shapes) -> bool:
        """Whether the function takes arguments of these shapes, and no index of its own lies beyond their ends."""
        try:
            with self.local(self.subject.example, self.subject.dtype).precision():
                return not beyond_the_end(self.traced(shapes))
        except Exception:  # whatever a function says of lengths that it does not take
            return False

    @property
    def is_large(self) -> bool:
        """Whether the example has so many numbers that not everything is tried at it."""
        return sum(np.size(a) for a in self.subject.example) > LARGE

    @functools.cached_property
    def in_little(self) -> "Session":
        """The same at shorter lengths, where the example is large and the function takes them; else itself."""
        primals = next(shorter(self.subject.example, self.uses, self.takes), None) if self.is_large else None
        return Session(self.subject.at(primals), self.profile, self.seed, "at shorter lengths") if primals else self

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

    def told(self, trial: Trial, dtype: str, measured: Yardstick) -> None:
        """Something else is the truth at a trial, or is allowed around it."""
        self._measured[id(trial), dtype] = trial, measured

    def measure_anew(self) -> None:
        """Whatever was measured: the road to the truth is another."""
        self._measured.clear()

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

    def judge(self, check: str, trial: Trial, dtype: str, answer=None, outputs=True, remember=True, once=False):
        """Every leaf of an answer against the truth; a trial outside of the domain is counted, and not judged.

        What is wrong is remembered, to be explained.  See `Judgement`.
        """
        self.tried.add((check, dtype))
        yield from Judgement(self, check, trial, dtype, answer, outputs, remember, once).findings()

    def differences(self, at, dtype):
        """The cotangents at a rounded trial by differences along every number; None where that cannot be done."""
        if sum(a.size for a in at.primals if floating(a)) > COORDINATES:
            return None
        try:
            return self.local(at.primals, dtype).oracle("richardson")(at.primals, at.cotangent)
        except (Abstains, TypeError, ValueError, NotImplementedError):
            return None

    def finds(self, trial, dtype) -> bool:
        """Whether what searches finds something there; of the derivative by hand it is asked at other values alone."""
        at, local = self.rounded(trial, dtype), self.local(trial.primals, dtype)
        return local.settles_at(at.primals) and (trial.given or local.settles_at(at.primals, at.cotangent))

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
