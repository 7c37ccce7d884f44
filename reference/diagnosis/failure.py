"""What is known of a wrong cotangent, and the form of what is said about it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..allowance import SLACK, scale, unit

# What a diagnosis can say.
KINDS = {
    "sign": "minus everywhere",
    "factor": "a constant, a length or an option too many or too few",
    "permuted": "transposed, reversed, shifted, or permuted axes",
    "exchanged": "the cotangents of two leaves",
    "missing_sum": "over a broadcast axis",
    "missing_term": "a mean or a projection was not subtracted; a constant was added",
    "missing_path": "one use of a value held constant",
    "counted_twice": "one use of a value counted twice",
    "local_derivative": "one local derivative is another function than it should be",
    "ignores_cotangent": "as if the cotangent were ones, or only its sum mattered",
    "dropped": "zero everywhere",
    "wrong_residual": "computed at another value: an input for an output, a stale or a later one",
    "epsilon": "in the wrong place or of another size",
    "kink": "wrong at ties, zeros, clip edges alone",
    "located": "wrong at the last element, one row, one parity, one index",
    "shape": "wrong at some shapes alone: length one, batch of one, not divisible by a block, added batch axes",
    "values": "wrong at large, small, negative or otherwise particular values",
    "dtype": "wrong in one dtype alone",
    "cancellation": "digits lost where the truth keeps them",
    "not_finite": "NaN or infinite where the truth is finite",
    "nonlinear": "not linear in the cotangent: clipped, squared, rounded",
    "impure": "depends on what ran before, on a global, on a clock or a random state",
    "transform": "wrong under jit, vmap, scan or a second derivative alone",
    "structure": "shape, dtype or structure of the cotangents; a cotangent for an integer",
    "value": "the forward pass gives another value than the function",
    "raised": "the derivative raises",
}

Judged = Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]]  # by leaf: what came, the truth, the allowance


@dataclasses.dataclass(frozen=True)
class Explanation:
    """One mistake that reproduces a failure: its kind, one sentence, and the line of the user's source, if known."""

    kind: str
    text: str
    where: str | None = None
    vague: bool = False  # it says where something is wrong, or that it is, and hardly what

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"kind {self.kind!r} is none of {', '.join(KINDS)}")

    def __str__(self):
        return f"{self.text} [{self.where}]" if self.where else self.text


@dataclasses.dataclass(frozen=True)
class Failure:
    """A leaf that is wrong at a point, and what helps to find out why; only the first two fields are needed.

    leaf        which cotangent is to be explained
    leaves      every cotangent by name, right or wrong, in the order of the float leaves of `primals`
    primals     where: the arguments as NumPy, with the `names` of the arguments, and the `cotangent` of the output
    dtype       what the derivative under test computed in
    scope       numbers that a wrong factor may equal, by the words for them: options, lengths
    definition  (*primals) -> out, plain, to be traced in float64
    right_in    dtypes in which the same leaf is right at the same point
    at          judges the derivative under test at other primals and another cotangent, for some 10 to 100 ms
    answer      the cotangents of the derivative under test at other arguments by name, not judged, for less
    outputs     of the definition, float ones
    halves      (primals, cotangent) -> (output, the cotangents of `leaves`): the derivative under test, to be traced in
                float64, the cotangent passing through an optimization_barrier between the two halves
    elsewhere   () -> failures of the same leaf at other values and other lengths
    particular  whether the leaf is right at other values of the same lengths
    """

    leaf: str
    leaves: Judged
    primals: tuple = ()
    cotangent: Any = None
    names: tuple[str, ...] = ()
    dtype: str = "float64"
    scope: Mapping[str, float] = dataclasses.field(default_factory=dict)
    definition: Callable | None = None
    right_in: tuple[str, ...] = ()
    at: Callable[[tuple, Any], Judged] | None = None
    answer: Callable | None = None
    outputs: tuple = ()
    halves: Callable | None = None
    elsewhere: Callable[[], tuple["Failure", ...]] = tuple
    particular: bool = False

    @classmethod
    def among(cls, leaf: str, got: Mapping, truths: Mapping, allowances: Mapping, **known) -> "Failure":
        """From cotangents, truths and allowances by name; leaves that have no truth or came malformed are left out."""
        well = [
            name
            for name, truth in truths.items()
            if truth is not None and got.get(name) is not None and np.shape(got[name]) == np.shape(truth)
        ]
        return cls(leaf, {name: (widened(got[name]), truths[name], allowances[name]) for name in well}, **known)

    @property
    def got(self) -> np.ndarray:
        return np.asarray(self.leaves[self.leaf][0])

    @property
    def truth(self) -> np.ndarray:
        return np.asarray(self.leaves[self.leaf][1])

    @property
    def allowance(self) -> np.ndarray:
        return np.asarray(self.leaves[self.leaf][2])

    @property
    def wrong(self) -> np.ndarray:
        """Which elements are wrong."""
        return over(self.got, self.truth, self.allowance) > 1

    def explains(self, candidate, leaf: str | None = None, factor: float = 1.0) -> bool:
        """Whether a candidate for a cotangent reproduces what came, and explains most of its distance from the truth.

        What came may be rounded in its own way and at its own scale, so it is allowed as much again as the truth,
        or times the `factor` by which it was multiplied.
        """
        got, truth, allowance = self.leaves[leaf or self.leaf]
        candidate = np.asarray(candidate)
        if candidate.shape != np.shape(truth) or not np.isfinite(np.where(np.isfinite(truth), candidate, 0)).all():
            return False
        wide = allowance * max(1.0, abs(factor)) + SLACK * unit(self.dtype) * scale(candidate)
        left = most(over(got, candidate, wide))
        return (
            left <= 2 and 4 * left <= most(over(got, truth, allowance)) and most(over(candidate, truth, allowance)) > 1
        )


def widened(array) -> np.ndarray:
    """The same numbers in float64 or complex128."""
    array = np.asarray(array)
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)


def over(got, expected, allowance) -> np.ndarray:
    """The distance over the allowance, elementwise; zero where the expected value or the allowance says nothing."""
    with np.errstate(all="ignore"):
        judged = np.isfinite(expected) & np.isfinite(allowance)
        off = np.where(judged, np.abs(np.asarray(got) - expected), 0.0)
        ratio = np.where(off == 0, 0.0, off / allowance)
    return np.where(np.isnan(ratio), np.inf, ratio)


def most(array) -> float:
    """The largest of non-negative numbers, or zero."""
    return float(np.max(array, initial=0.0))
