"""Linear maps and table lookups."""

from typing import Annotated

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..rule import rule
from ..signature import Lt
from ._sums import sum_to


@rule
def dense(x: Float[Array, "*batch i"], w: Float[Array, "i o"], b: Float[Array, "o"]) -> Float[Array, "*batch o"]:
    r"""Affine map of every row:  y = x w + b.

    Derivative  x̄ = ȳ wᵀ    w̄ = Σ xᵀ ȳ    b̄ = Σ ȳ,   summed over the batch

    >>> print(dense(jnp.ones((1, 2)), jnp.ones((2, 3)), jnp.zeros(3)))
    [[2. 2. 2.]]
    """
    return x @ w + b


@dense.def_forward
def _(x, w, b):
    return x @ w + b, (x, w)


@dense.def_backward
def _(residuals, y_bar):
    x, w = residuals
    return y_bar @ w.T, jnp.einsum("...i,...o->io", x, y_bar), sum_to(w.shape[1:], y_bar)


@rule
def linear(x: Float[Array, "*batch i"], w: Float[Array, "i o"]) -> Float[Array, "*batch o"]:
    r"""Linear map of every row:  y = x w.

    Derivative  x̄ = ȳ wᵀ    w̄ = Σ xᵀ ȳ,   summed over the batch

    >>> print(linear(jnp.ones((1, 2)), jnp.ones((2, 3))))
    [[2. 2. 2.]]
    """
    return x @ w


@linear.def_forward
def _(x, w):
    return x @ w, (x, w)


@linear.def_backward
def _(residuals, y_bar):
    x, w = residuals
    return y_bar @ w.T, jnp.einsum("...i,...o->io", x, y_bar)


@rule
def embedding(
    indices: Annotated[Int[Array, "*batch"], Lt("vocabulary")], table: Float[Array, "vocabulary d"]
) -> Float[Array, "*batch d"]:
    r"""Look up one row of a table for every index:  y_n = table[k_n].

    Derivative  table̅_v = Σ_n [k_n = v] ȳ_n: a row that is read twice collects twice.  Indices have none.

    >>> print(embedding(jnp.array([1, 0]), jnp.array([[1.0], [2.0]])))
    [[2.]
     [1.]]
    """
    return table[indices]


@embedding.def_forward
def _(indices, table):
    return table[indices], (indices, table[:, :0])  # of the table only its height is needed: no column of it is kept


@embedding.def_backward
def _(residuals, y_bar):
    indices, height = residuals
    return None, jnp.zeros((height.shape[0], y_bar.shape[-1]), y_bar.dtype).at[indices].add(y_bar)
