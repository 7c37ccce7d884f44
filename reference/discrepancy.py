"""How two answers differ, element by element, and whether rounding explains it."""

import dataclasses

import numpy as np

from .allowance import scale, unit


@dataclasses.dataclass(frozen=True)
class Discrepancy:
    """The largest difference of a leaf from the truth: absolute, relative to the leaf's scale, over its allowance."""

    absolute: float
    relative: float
    ulps: float
    ratio: float
    index: tuple[int, ...] | None = None
    got: float | None = None
    expected: float | None = None


def discrepancy(got: np.ndarray, expected: np.ndarray, allowance: np.ndarray, dtype: str) -> Discrepancy | None:
    """Hold one leaf against the truth; None where rounding moves every element of it without bound.

    An element says nothing where its truth or its allowance is not finite.  One that is not finite though the truth
    is counts as infinitely wrong.
    """
    judged = np.isfinite(expected) & np.isfinite(allowance)
    if judged.size and not judged.any():
        return None
    if not judged.size:
        return Discrepancy(0.0, 0.0, 0.0, 0.0)
    with np.errstate(invalid="ignore", divide="ignore"):
        off = np.where(judged, np.abs(got - expected), 0)
        off = np.where(np.isnan(off), np.inf, off)
        ratio = np.where(off == 0, 0, off / allowance)
    index = np.unravel_index(np.argmax(ratio), ratio.shape)
    size, absolute = scale(expected), float(np.max(off))
    relative = absolute / size if size else (np.inf if absolute else 0.0)
    return Discrepancy(
        absolute,
        relative,
        relative / (2 * unit(dtype)),
        float(ratio[index]),
        tuple(int(i) for i in index),
        float(got[index]),
        float(expected[index]),
    )
