"""The full Jacobian of a rule at a point, every element written down: small sizes, for the eye and for proof.

A rule in `FORMULAS`, or elementwise, has its tensors from a formula in indices.  Any other is assembled row by row:
row k is what the rule's own backward pass makes of the k-th unit cotangent, and says so in `source`.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..rule import Elementary, Rule
from ..signature import kind_of
from .layouts import Jacobian
from .slopes import SLOPES, sigma


def jacobians(rule: Rule, primals: tuple) -> tuple[Any, tuple[Jacobian | None, ...]]:
    """(output, one Jacobian for each primal), in numerator layout; None where a primal is not floating.

    Where the output or a primal is a tree of arrays, its Jacobian counts it as the one vector of all its numbers.

    >>> from manual_backprop.rules import RULES
    >>> output, (by_x, by_w) = jacobians(RULES["linear"], (np.array([1.0, 2.0]), np.array([[3.0], [4.0]])))
    >>> print(by_x.matrix, by_w)
    [[3. 4.]] 1 by 2×1
    """
    output, residuals = rule.forward(*jax.tree.map(jnp.asarray, primals))
    name = rule.name if isinstance(rule, Elementary) else None
    if name in SLOPES:
        return np.asarray(output), (_elementwise(rule, np.asarray(primals[0])),)
    if name in FORMULAS:
        of_primals, formulas = FORMULAS[name]
        tensors = of_primals(*map(np.asarray, primals), **rule.options)
        return np.asarray(output), tuple(
            None if tensor is None else Jacobian(np.asarray(tensor, float), np.ndim(output), formula=formula)
            for tensor, formula in zip(tensors, formulas, strict=True)
        )
    return jax.tree.map(np.asarray, output), _by_rows(rule, primals, output, residuals)


def _elementwise(rule, x):
    formula, slope = SLOPES[rule.name]
    tensor = np.diag(np.ravel(slope(x, **rule.options))).reshape(x.shape * 2)
    return Jacobian(tensor, x.ndim, formula=f"∂y_i/∂x_k = [i = k] f'(x_i),   f'(x) = {formula}")


def _by_rows(rule, primals, output, residuals):
    leaves, structure = jax.tree.flatten(output)
    size = sum(leaf.size for leaf in leaves)
    rows = np.split(np.eye(size), np.cumsum([leaf.size for leaf in leaves])[:-1], axis=1)
    units = [jnp.asarray(row.reshape(size, *leaf.shape), leaf.dtype) for row, leaf in zip(rows, leaves, strict=True)]
    bars = jax.vmap(lambda *unit: tuple(rule.backward(residuals, structure.unflatten(unit))))(*units)
    output_shape = leaves[0].shape if len(leaves) == 1 else (size,)

    def assembled(primal, bar):
        parts = [part for part in jax.tree.leaves(bar) if part is not None]
        if not parts:
            return None
        matrix = np.concatenate([np.asarray(part, float).reshape(size, -1) for part in parts], axis=1)
        floats = [leaf for leaf in jax.tree.leaves(primal) if kind_of(leaf) == "float"]
        input_shape = np.shape(floats[0]) if len(floats) == 1 else (matrix.shape[1],)
        formula = "row k is the backward pass, by hand, of the k-th unit cotangent"
        tensor = matrix.reshape((*output_shape, *input_shape))
        return Jacobian(tensor, len(output_shape), formula=formula, source="rows")

    return tuple(assembled(primal, bar) for primal, bar in zip(primals, bars, strict=True))


def vector(tree) -> np.ndarray:
    """An array as it is; the floats of a tree of several as one vector."""
    leaves = [np.asarray(leaf, float) for leaf in jax.tree.leaves(tree) if kind_of(leaf) == "float"]
    return leaves[0] if len(leaves) == 1 else np.concatenate([leaf.ravel() for leaf in leaves] or [np.zeros(0)])


# --- formulas --------------------------------------------------------------------------------------------------------


def _per_row(x, of_row: Callable):
    """The Jacobian of a function of every row: rows do not mix, so it has a block for each and zeros between them."""
    rows = x.reshape(-1, x.shape[-1])
    blocks = np.stack([of_row(row) for row in rows]) if len(rows) else np.zeros((0, x.shape[-1], x.shape[-1]))
    tensor = np.einsum("bc,bij->bicj", np.eye(len(rows)), blocks)
    return tensor.reshape(*x.shape[:-1], *blocks.shape[1:2], *x.shape)


def probabilities(row: np.ndarray) -> np.ndarray:
    """softmax of a row:  p_i = e^z_i / Σ_j e^z_j, shifted by the largest.

    >>> print(probabilities(np.array([1.0, 1.0])))
    [0.5 0.5]
    """
    unscaled = np.exp(row - np.max(row, axis=-1, keepdims=True))
    return unscaled / np.sum(unscaled, axis=-1, keepdims=True)


def softmax_jacobian(p: np.ndarray) -> np.ndarray:
    """diag(p) − p pᵀ, where p is the output of softmax:  ∂p_i/∂z_j = p_i ([i = j] − p_j).

    >>> print(softmax_jacobian(np.array([0.5, 0.5])))
    [[ 0.25 -0.25]
     [-0.25  0.25]]
    """
    return np.diag(p) - np.outer(p, p)


def _affine(x, w):
    rows = x.reshape(-1, x.shape[-1])
    outputs = (*x.shape[:-1], w.shape[1])
    by_x = np.einsum("bc,io->boci", np.eye(len(rows)), w).reshape(*outputs, *x.shape)
    by_w = np.einsum("oj,bi->boij", np.eye(w.shape[1]), rows).reshape(*outputs, *w.shape)
    return by_x, by_w, np.tile(np.eye(w.shape[1]), (len(rows), 1)).reshape(*outputs, w.shape[1])


def _error(slope):
    def of_primals(prediction, target, **options):
        by_prediction = slope(prediction - target, **options) / prediction.size
        return by_prediction, -by_prediction

    return of_primals


def _hinge(prediction, target):
    share = -np.heaviside(1 - prediction * target, 0.5) / prediction.size
    return share * target, share * prediction


def _cross_entropy(logits, labels):
    p, examples = probabilities(logits), logits.size // logits.shape[-1]
    by_logits = (labels.sum(axis=-1, keepdims=True) * p - labels) / examples
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return by_logits, (np.log(np.exp(shifted).sum(axis=-1, keepdims=True)) - shifted) / examples


def _integer_cross_entropy(logits, labels):
    one_hot = labels[..., None] == np.arange(logits.shape[-1])
    return (probabilities(logits) - one_hot) / labels.size, None


# name: (the tensors of all primals, their formulas).  b and n count rows of a batch, N all that a loss averages over.
FORMULAS = {
    "dense": (
        lambda x, w, b: _affine(x, w),
        (
            "∂y_bk/∂x_ci = [b = c] w_ik",
            "∂y_bk/∂w_ij = [k = j] x_bi",
            "∂y_bk/∂b_j = [k = j]",
        ),
    ),
    "linear": (lambda x, w: _affine(x, w)[:2], ("∂y_bk/∂x_ci = [b = c] w_ik", "∂y_bk/∂w_ij = [k = j] x_bi")),
    "softmax": (
        lambda x: (_per_row(x, lambda row: softmax_jacobian(probabilities(row))),),
        ("diag(p) − p pᵀ, one block for every row:  ∂p_i/∂x_j = p_i ([i = j] − p_j)",),
    ),
    "log_softmax": (
        lambda x: (_per_row(x, lambda row: np.eye(len(row)) - probabilities(row)),),
        ("I − 1 pᵀ, one block for every row:  ∂y_i/∂x_j = [i = j] − p_j",),
    ),
    "logsumexp": (
        lambda x: (_per_row(x, lambda row: probabilities(row)[None]).reshape(*x.shape[:-1], *x.shape),),
        ("pᵀ, one for every row:  ∂y/∂x_j = p_j",),
    ),
    "squared_error": (_error(lambda e: 2 * e), ("2 (p − t) / N", "−2 (p − t) / N")),
    "huber_loss": (
        _error(lambda e, delta: np.clip(e, -delta, delta)),
        ("min(max(p − t, −δ), δ) / N", "−min(max(p − t, −δ), δ) / N"),
    ),
    "hinge_loss": (_hinge, ("−[p t < 1] t / N", "−[p t < 1] p / N")),
    "sigmoid_binary_cross_entropy": (
        lambda z, t: (((1 - t) * sigma(z) - t * sigma(-z)) / z.size, -z / z.size),
        ("(σ(z) − t) / N", "−z / N"),
    ),
    "softmax_cross_entropy": (_cross_entropy, ("(s p − t) / N,   s = Σ_j t_j", "−log p / N")),
    "softmax_cross_entropy_with_integer_labels": (_integer_cross_entropy, ("(p − [j = label]) / N", "")),
}


def has_formula(rule: Rule) -> bool:
    """Whether a rule's Jacobians are written down from formulas, rather than assembled row by row."""
    return isinstance(rule, Elementary) and (rule.name in SLOPES or rule.name in FORMULAS)


def elements(jacobian: Jacobian) -> int:
    """How many numbers a tensor holds."""
    return math.prod(jacobian.tensor.shape)


__all__ = [
    "FORMULAS",
    "elements",
    "has_formula",
    "jacobians",
    "probabilities",
    "softmax_jacobian",
    "vector",
]
