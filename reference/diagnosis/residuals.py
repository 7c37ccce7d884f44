"""Mistakes in what the backward pass is computed from: another primal, another cotangent, another constant."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from manual_backprop.signature import kind_of

from ..allowance import unit
from .failure import Explanation, Failure
from .graph import Graph
from .paths import together

NARROW = ("bfloat16", "float16", "float32", "int8")


def other_cotangent(failure: Failure, graph: Graph):
    """The gradient for another cotangent of the output."""
    leaves, structure = jax.tree.flatten(failure.cotangent)
    wide = [np.asarray(leaf).astype(np.result_type(leaf, np.float64)) for leaf in leaves]
    for kind, text, change in _cotangents(wide, unit(failure.dtype)):
        with np.errstate(all="ignore"):
            other = [np.asarray(change(leaf)) for leaf in wide]
        if [a.shape for a in other] != [a.shape for a in wide]:
            continue
        if all(np.array_equal(a, b) for a, b in zip(other, wide, strict=True)):
            continue
        candidate = graph.gradient(failure.primals, structure.unflatten(other))
        if alone := _reproduced(failure, candidate):
            return Explanation(kind, text + alone[0])
    if len(wide) > 1:
        for i in range(len(wide)):
            without = [np.zeros_like(a) if i == j else a for j, a in enumerate(wide)]
            alone = _reproduced(failure, graph.gradient(failure.primals, structure.unflatten(without)))
            if alone:
                return Explanation("missing_path", f"the cotangent of output {i} is not used{alone[0]}")
    return None


def _cotangents(leaves, u):
    """Kind, words and the change, simplest first."""
    yield "ignores_cotangent", "the cotangent is ignored: this is the gradient for a cotangent of ones", np.ones_like
    for name, f in (("mean", np.mean), ("sum", np.sum)):
        text = f"the {name} of the cotangent stands for the cotangent"
        yield "ignores_cotangent", text, lambda a, f=f: np.full_like(a, f(a))
    yield "ignores_cotangent", "its first element stands for the cotangent", lambda a: np.full_like(a, a.ravel()[0])
    for axis in range(max((a.ndim for a in leaves), default=0)):
        for name, f in (("mean", np.mean), ("sum", np.sum)):
            text = f"the {name} of the cotangent over axis {axis} stands for the cotangent"
            yield (
                "ignores_cotangent",
                text,
                lambda a, f=f, axis=axis: np.broadcast_to(f(a, axis, keepdims=True), a.shape),
            )
        take = f"the first place of the cotangent along axis {axis} stands for all"
        yield "ignores_cotangent", take, lambda a, axis=axis: np.broadcast_to(np.take(a, [0], axis), a.shape)
    for name, f in (("absolute value", np.abs), ("square", np.square), ("sign", np.sign)):
        yield "nonlinear", f"the {name} of the cotangent stands for the cotangent", f
    for low, high in ((-1, 1), (0, np.inf), (-np.inf, 0), (-10, 10), (-0.5, 0.5), (-0.1, 0.1), (-5, 5), (-2, 2)):
        text = f"the cotangent is clipped to [{low}, {high}]"
        yield "nonlinear", text, lambda a, low=low, high=high: np.clip(a.real, low, high)
    for dtype in NARROW:
        if dtype == "int8" or jnp.finfo(dtype).eps > 2 * u:
            text = f"the cotangent is rounded to {'whole numbers' if dtype == 'int8' else dtype}"
            yield "nonlinear", text, (np.round if dtype == "int8" else lambda a, d=dtype: _rounded(a, d))
    for axis in range(max((a.ndim for a in leaves), default=0)):
        text = f"the cotangent is reversed along axis {axis}"
        yield "permuted", text, lambda a, axis=axis: np.flip(a, axis)
        for shift in (1, -1):
            text = f"the cotangent is shifted by one place along axis {axis}"
            yield "permuted", text, lambda a, axis=axis, shift=shift: np.roll(a, shift, axis)
    yield "permuted", "the cotangent is transposed", lambda a: np.swapaxes(a, -1, -2) if a.ndim > 1 else a
    yield "permuted", "the cotangent is laid out in the wrong order", lambda a: a.T.reshape(a.shape)


def _rounded(a, dtype):
    return np.asarray(a.real).astype(jnp.dtype(dtype)).astype(np.float64)


def _reproduced(failure, candidate) -> tuple[str] | None:
    stacks = [np.asarray(leaf)[None] for leaf in candidate]
    return next(((alone,) for leaves, alone in together(failure) if leaves.explained(stacks)), None)


def other_primal(failure: Failure, graph: Graph):
    """The gradient where one primal is replaced: by the output, another primal, nothing, or a rounded copy."""
    leaves, structure = jax.tree.flatten(failure.primals)
    names = _leaf_names(failure)
    floats = [i for i, leaf in enumerate(leaves) if hasattr(leaf, "dtype") and kind_of(leaf) == "float"]
    wide = {i: np.asarray(leaves[i], np.float64) for i in floats}
    _, outs = graph.values(failure.primals)
    others = {names[i]: a for i, a in wide.items()}
    others |= {"the output" if len(outs) == 1 else f"output {k}": out for k, out in enumerate(outs)}
    bars = jax.tree.leaves(failure.cotangent)
    others |= {"the output's cotangent": bars[0]} if len(bars) == 1 else {}
    for i, own in wide.items():
        changes = [(f"{name} in place of {names[i]}", a) for name, a in others.items() if a is not own]
        changes += [(f"{names[i]} taken for {value:g}", np.full_like(own, value)) for value in (0.0, 1.0)]
        changes += [(f"minus {names[i]} in place of {names[i]}", -own), (f"|{names[i]}|", np.abs(own))]
        changes += _stale(names[i], own) + _narrow(failure, names[i], own)
        changes += [(f"{names[i]} transposed", own.T)] if own.ndim == 2 else []
        for text, value in changes:
            value = np.asarray(value)
            if value.shape != own.shape or value.dtype.kind != "f" or np.array_equal(value, own):
                continue
            other = structure.unflatten([value if j == i else leaf for j, leaf in enumerate(leaves)])
            if alone := _reproduced(failure, graph.gradient(other, failure.cotangent)):
                return Explanation("wrong_residual", f"the derivative is computed at another value: {text}{alone[0]}")
    for i, j in itertools.combinations(floats, 2):
        if wide[i].shape == wide[j].shape:
            swap = {i: wide[j], j: wide[i]}
            other = structure.unflatten([swap.get(k, leaf) for k, leaf in enumerate(leaves)])
            if alone := _reproduced(failure, graph.gradient(other, failure.cotangent)):
                text = f"the residuals {names[i]} and {names[j]} are exchanged"
                return Explanation("wrong_residual", text + alone[0])
    return _other_integers(failure, graph, leaves, structure, names)


def _other_integers(failure, graph, leaves, structure, names):
    """Labels, indices, lengths and masks that are off by one, reversed or ignored."""
    for i, leaf in enumerate(leaves):
        if not hasattr(leaf, "dtype") or kind_of(leaf) not in ("integer", "boolean"):
            continue
        own = np.asarray(leaf)
        if own.dtype == bool:
            changes = [("its opposite", ~own), ("true everywhere", np.ones_like(own))]
        else:
            top = own.max(initial=0)
            changes = [("it plus one", np.minimum(own + 1, top)), ("it less one", np.maximum(own - 1, 0))]
            changes += [("zeros", np.zeros_like(own))]
        changes += [(f"it shifted by {s}", np.roll(own, s)) for s in (1, -1) if own.size > 1]
        changes += [("it reversed", own[::-1])] if own.ndim else []
        for text, value in changes:
            if np.array_equal(value, own):
                continue
            other = structure.unflatten([value.astype(own.dtype) if j == i else a for j, a in enumerate(leaves)])
            if alone := _reproduced(failure, graph.gradient(other, failure.cotangent)):
                return Explanation("wrong_residual", f"computed with another {names[i]}: {text}{alone[0]}")
    return None


def _stale(name, own):
    found = []
    for axis, length in enumerate(own.shape):
        for shift in (1, -1) if length > 1 else ():
            found.append((f"{name} shifted by one place along axis {axis}", np.roll(own, shift, axis)))
    return found


def _narrow(failure, name, own):
    return [
        (f"{name} rounded to {dtype}", _rounded(own, dtype))
        for dtype in NARROW[:3]
        if jnp.finfo(dtype).eps > 2 * unit(failure.dtype)
    ]


def _leaf_names(failure) -> list[str]:
    names = [*failure.names, *(f"primal {i}" for i in range(len(failure.names), len(failure.primals)))]
    return [
        name + jax.tree_util.keystr(path)
        for name, primal in zip(names, failure.primals, strict=False)
        for path, _ in jax.tree_util.tree_leaves_with_path(primal)
    ]


# --- constants -------------------------------------------------------------------------------------------------------

SMALL = 1e-2  # a constant below is a guard against division by zero, an epsilon


def other_constant(failure: Failure, graph: Graph):
    """The gradient of the definition with one of its constants changed, or taken from another place."""
    places = list(graph.literals)
    if not places:
        return None
    values = np.asarray([graph.literals[place] for place in places])
    rows, told = [], []
    for k, value in enumerate(values):
        same = np.flatnonzero(values == value)
        for other in _instead(value, values):
            for which in [same] if len(same) == 1 else [same, [k]]:
                row = values.copy()
                row[which] = other
                rows.append(row)
                told.append((value, other))
    if not rows or len(rows) > 4096:
        return None
    stacks = graph.with_literals(np.asarray(rows), failure.primals, failure.cotangent)
    for leaves, alone in together(failure):
        for i in leaves.explained(stacks):
            value, other = told[i]
            kind = "epsilon" if 0 < abs(value) < SMALL or 0 < abs(other) < SMALL else "local_derivative"
            text = f"the derivative of the definition with {other:.6g} in place of its constant {value:.6g}"
            return Explanation(kind, text + alone)
    return None


def _instead(value, values):
    near = [0.0, 10 * value, value / 10, 100 * value, value / 100, 2 * value, value / 2, -value, value**2, 1.0]
    near += [np.sqrt(abs(value)), 1e-3 * value, 1e3 * value, value + 1, value - 1, *values.tolist()]
    near += [10.0**-k for k in range(3, 13)] if abs(value) < SMALL else []
    near += [1 / value] if value else []
    return [other for other in dict.fromkeys(map(float, near)) if other != value and np.isfinite(other)]
