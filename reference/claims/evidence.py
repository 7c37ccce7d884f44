"""A claim about backpropagation, the evidence that its execution gives, and the verdict.

A claim is a function of a case: it draws shapes and values from it and yields evidence.

    same       two ways to the same numbers, with the rounding that both are allowed
    counted    whole numbers, which agree or do not
    off        a way known to be wrong, which must miss by what the claim predicts, no more and no less
    show       an intermediate value, for the reader
    shapes     what shapes the claim is about
"""

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterable, Iterator

import jax
import numpy as np

from ..allowance import COPIES, SLACK, copies, least, scale, unit
from ..discrepancy import Discrepancy, discrepancy


@dataclasses.dataclass(frozen=True)
class Evidence:
    """One thing that an execution shows.  Of values that are only shown, `expected` is None."""

    kind: str
    what: str
    got: object = None
    expected: object = None
    allowance: object = 0.0

    def judged(self) -> Discrepancy | None:
        """How far the two sides are apart, or None where there is nothing to compare."""
        if self.kind in ("shown", "shapes"):
            return None
        got, expected = np.asarray(self.got, float), np.asarray(self.expected, float)
        if got.shape != expected.shape or not np.isfinite(expected).all():  # a claim without a number holds nothing
            return Discrepancy(math.inf, math.inf, math.inf, math.inf)
        return discrepancy(got, expected, np.broadcast_to(self.allowance, got.shape), "float64")

    def problem(self) -> str | None:
        """What contradicts the claim, if anything."""
        apart = self.judged()
        if apart is None:
            return None
        if apart.ratio > 1:
            if np.shape(self.got) != np.shape(self.expected):
                return f"{self.what}: shape {np.shape(self.got)}, but {np.shape(self.expected)} was predicted"
            if apart.got is None:
                return f"{self.what}: what was predicted is not finite"
            times = f", {apart.ratio:.3g} times what rounding allows" if math.isfinite(apart.ratio) else ""
            return f"{self.what}: {apart.got:.9g} came where {apart.expected:.9g} was predicted{times}"
        if self.kind == "off" and not np.any(np.abs(np.asarray(self.got)) > self.allowance):
            return f"{self.what}: it was to be wrong, but rounding alone explains how little it is off"
        return None


def same(what: str, got, expected, allowance) -> Evidence:
    """Two ways to the same numbers."""
    return Evidence("same", what, got, expected, allowance)


def counted(what: str, got, expected) -> Evidence:
    """Whole numbers, or values that nothing rounds."""
    return Evidence("counted", what, got, expected)


def within(what: str, got: float, low: float, high: float) -> Evidence:
    """A number that lies between two others; `expected` is the nearest that does."""
    return Evidence("counted", what, got, min(max(got, low), high))


def off(what: str, wrong, right, predicted, allowance) -> Evidence:
    """A way that is wrong: `wrong − right` must be what was predicted, and more than rounding."""
    return Evidence("off", what, np.asarray(wrong) - np.asarray(right), predicted, allowance)


def show(what: str, value) -> Evidence:
    """An intermediate value, for the reader."""
    return Evidence("shown", what, value)


def shapes(text: str) -> Evidence:
    """The shapes that a claim is about; the last one told is the one reported."""
    return Evidence("shapes", text)


def rounding(magnitude, steps: float = 1.0):
    """What `steps` roundings of numbers of this magnitude may come to in float64, with the slack of every allowance.

    Source: Higham, 'Accuracy and Stability of Numerical Algorithms', 2002, eqs. 3.5 and 3.13.
    """
    return SLACK * (steps * unit("float64") * np.abs(magnitude) + least("float64"))


def product_rounding(*matrices) -> np.ndarray:
    """The same for a product of matrices, in any order: |A| |B| |C|, a rounding for every term of every sum."""
    total, terms = np.abs(matrices[0]), 0
    for matrix in matrices[1:]:
        terms += np.shape(matrix)[0]
        total = total @ np.abs(matrix)
    return rounding(total, terms + len(matrices))


def nudged(function: Callable, *arrays: np.ndarray) -> np.ndarray:
    """What rounding its inputs does to a function, measured as for every rule: with `SLACK` roundings, in pairs."""
    stack = copies(arrays, "float64")
    values = [np.asarray(function(*(a[i] for a in stack)), float) for i in range(COPIES)]
    spread = np.max([np.abs(value - values[0]) for value in values], axis=0)
    return spread + rounding(scale(values[0]))


@dataclasses.dataclass(frozen=True)
class Result:
    """What executing one claim came to.

    ratio          the largest discrepancy over its allowance; at most 1 where the claim holds
    checks         how many comparisons it stands on
    deviations     of every way that the claim calls wrong: what, predicted and found, at the element furthest off
    """

    number: str
    title: str
    formula: str
    shapes: str
    checks: int
    relative: float
    ulps: float
    ratio: float
    deviations: tuple[dict, ...]
    verdict: str
    message: str | None = None

    def line(self) -> dict:
        """The same as a line of a record."""
        return {"kind": "claim", **dataclasses.asdict(self), "deviations": list(self.deviations)}


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim: its number, its formula in a notation that can be typeset, and the function that executes it."""

    number: str
    formula: str
    function: Callable

    @property
    def title(self) -> str:
        return inspect.getdoc(self.function).splitlines()[0].removesuffix(".")

    @property
    def statement(self) -> str:
        """What stands below the title: the claim in words, and where it comes from."""
        return "\n".join(inspect.getdoc(self.function).splitlines()[1:]).strip()

    def evidence(self, case) -> Iterator[Evidence]:
        """Execute it in a case."""
        with jax.enable_x64(True), jax.default_matmul_precision("highest"):
            yield from self.function(case)

    def execute(self, case) -> Result:
        """Execute it and judge; whatever it raises is a verdict, and the run goes on."""
        try:
            return self.judge(list(self.evidence(case)))
        except Exception as error:
            message = f"{type(error).__name__}: {error}".split("\n")[0]
            return Result(self.number, self.title, self.formula, "", 0, 0.0, 0.0, 0.0, (), "raised", message)

    def judge(self, evidence: Iterable[Evidence]) -> Result:
        """The verdict on what an execution gave."""
        judged = [(piece, apart) for piece in evidence if (apart := piece.judged()) is not None]
        problems = [problem for piece, _ in judged if (problem := piece.problem())]
        told = [piece.what for piece in evidence if piece.kind == "shapes"]
        if not judged:
            problems.append("nothing was compared")
        return Result(
            number=self.number,
            title=self.title,
            formula=self.formula,
            shapes=told[-1] if told else "",
            checks=len(judged),
            relative=max((apart.relative for _, apart in judged), default=0.0),
            ulps=max((apart.ulps for _, apart in judged), default=0.0),
            ratio=max((apart.ratio for _, apart in judged), default=0.0),
            deviations=tuple(_deviation(piece) for piece, _ in judged if piece.kind == "off"),
            verdict="wrong" if problems else "right",
            message=problems[0] if problems else None,
        )


def _deviation(piece):
    """Predicted and found at the element that is furthest off, beside the largest of the allowances."""
    predicted, found = np.atleast_1d(np.asarray(piece.expected, float)), np.atleast_1d(np.asarray(piece.got, float))
    if predicted.shape != found.shape:
        return {"what": piece.what, "predicted": None, "found": None}
    at = np.unravel_index(np.argmax(np.abs(found)), found.shape)
    return {"what": piece.what, "predicted": float(predicted[at]), "found": float(found[at])}


REGISTERED: dict[str, Claim] = {}


def claim(number: str, formula: str) -> Callable:
    """Register a function as the claim of this number."""

    def register(function):
        if number in REGISTERED:
            raise ValueError(f"claim {number} exists already, as {REGISTERED[number].function.__name__}")
        REGISTERED[number] = Claim(number, formula, function)
        return function

    return register


__all__ = [
    "REGISTERED",
    "Claim",
    "Evidence",
    "Result",
    "claim",
    "counted",
    "nudged",
    "off",
    "product_rounding",
    "rounding",
    "same",
    "shapes",
    "show",
    "within",
]
