"""How two answers differ, element by element, and whether rounding explains it."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from .allowance import SLACK, least, scale, unit


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


def tells(expected: np.ndarray, allowance: np.ndarray, dtype: str) -> bool:
    """Whether some element is allowed less than the leaf's whole scale, so that to be within it means something."""
    size = scale(expected)
    least_possible = 2 * SLACK * (unit(dtype) * size + least(dtype))
    return not expected.size or bool(np.any(allowance <= max(size, least_possible)))


def discrepancy(got: np.ndarray, expected: np.ndarray, allowance: np.ndarray, dtype: str) -> Discrepancy | None:
    """Hold one leaf against the truth; None where nothing can be said of any element.

    An element says nothing where its truth, or what rounding makes of it, leaves the range of the dtype.  One that
    is not finite though the truth is counts as infinitely wrong.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        judged = np.abs(expected) + allowance <= float(jnp.finfo(dtype).max)
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
