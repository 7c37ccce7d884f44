"""Conventions that say where the numbers of a derivative stand: two of them, each of which converts to the other.

    layout     numerator: ∂u/∂v has the axes of u first, then those of v.  A vector by a vector is a matrix with a row
               for every output, and the chain rule reads ∂C/∂x = ∂C/∂a · ∂a/∂x.
               denominator: the axes of v first, so every matrix is transposed and the order reverses.  The gradient
               ∇C = (∂C/∂v)ᵀ is the derivative of a scalar in this layout.
    samples    columns: one sample is a column, Z = W A + b, with W of shape outputs × inputs.
               rows: one sample is a row, Z = A Wᵀ + b, with the weights kept as w = Wᵀ, inputs × outputs.

The numbers are the same in all of them.
"""

import dataclasses
import math
from typing import Literal

import numpy as np

LAYOUTS = ("numerator", "denominator")
SAMPLES = ("columns", "rows")


@dataclasses.dataclass(frozen=True)
class Jacobian:
    """∂u/∂v as a full tensor: the axes of u and of v, in the order that the layout says.

    outputs    how many axes u has
    formula    what each element is, in words of indices
    source     formula: written down from it; rows: one backward pass, written by hand, for every row

    >>> j = Jacobian(np.array([[1.0, 2.0, 3.0]]), outputs=1)
    >>> j.matrix.shape, j.to("denominator").matrix.shape
    ((1, 3), (3, 1))
    """

    tensor: np.ndarray
    outputs: int
    layout: Literal["numerator", "denominator"] = "numerator"
    formula: str = ""
    source: Literal["formula", "rows"] = "formula"

    def to(self, layout: str) -> "Jacobian":
        """The same derivative in a layout."""
        if layout not in LAYOUTS:
            raise ValueError(f"layout is {layout!r}; it is one of {', '.join(LAYOUTS)}")
        if layout == self.layout:
            return self
        leading = self._leading
        axes = (*range(leading, self.tensor.ndim), *range(leading))
        return dataclasses.replace(self, tensor=self.tensor.transpose(axes), layout=layout)

    @property
    def output_shape(self) -> tuple[int, ...]:
        return self._shapes[0]

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self._shapes[1]

    @property
    def matrix(self) -> np.ndarray:
        """The tensor with the axes of u, and those of v, each counted as one: n × (n × m) becomes n × nm.

        The elements keep their order in memory: it is the isomorphism between the matrices n × m and the vectors nm.
        """
        first = math.prod(self.tensor.shape[: self._leading])
        return self.tensor.reshape(first, math.prod(self.tensor.shape[self._leading :]))

    @property
    def _leading(self):
        return self.outputs if self.layout == "numerator" else self.tensor.ndim - self.outputs

    @property
    def _shapes(self):
        first, second = self.tensor.shape[: self._leading], self.tensor.shape[self._leading :]
        return (first, second) if self.layout == "numerator" else (second, first)

    def __str__(self):
        return f"{by(self.output_shape)} by {by(self.input_shape)}"


def by(shape: tuple[int, ...]) -> str:
    """A shape as it is said: 2×3, and 1 for a scalar.

    >>> by((2, 3)), by(())
    ('2×3', '1')
    """
    return "×".join(map(str, shape)) or "1"


def unflatten(row: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The way back of `Jacobian.matrix`: 1 × nm becomes n × m.

    >>> print(unflatten(np.array([[1.0, 2.0, 3.0, 4.0]]), (2, 2)))
    [[1. 2.]
     [3. 4.]]
    """
    return row.reshape(shape)


def turned(samples: np.ndarray, convention: str, to: str) -> np.ndarray:
    """Samples (or weights, which turn with them) from one convention into another: a transposition, or nothing.

    >>> turned(np.ones((2, 3)), "columns", to="rows").shape
    (3, 2)
    """
    for name in (convention, to):
        if name not in SAMPLES:
            raise ValueError(f"samples stand in {name!r}; they stand in {' or '.join(SAMPLES)}")
    return samples if convention == to else samples.T


__all__ = ["LAYOUTS", "SAMPLES", "Jacobian", "by", "turned", "unflatten"]
