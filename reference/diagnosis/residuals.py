"""Mistakes in what the backward pass is computed from: another primal, another cotangent, another constant."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from manual_backprop.signature import kind_of

from ..allowance import unit
from . import arrays
from .bench import Bench
from .failure import Explanation
from .graph import wide
from .local import pointwise

DIAGONAL = 64  # elements of an output whose Jacobian is computed
ORDERS = 60  # of the cotangent
NARROW = ("bfloat16", "float16", "float32", "int8")


def ignored(bench: Bench):
    """The gradient for a cotangent of ones, or for its mean, its sum, one of its places."""
    return _for_another(bench, _constant)


def other_cotangent(bench: Bench):
    """The gradient for another cotangent of the output."""
    return _for_another(bench, _bent)


def diagonal(bench: Bench):
    """Every element of the output counts for the same element of a primal alone."""
    bars = jax.tree.leaves(bench.cotangent)
    sizes = [wide(a).size for a in bars]
    if len(bars) != 1 or not 1 < sizes[0] <= DIAGONAL or wide(bars[0]).shape != np.shape(bench.failure.truth):
        return None
    place = list(bench.failure.leaves).index(bench.failure.leaf)
    bar = wide(bars[0])
    found = np.zeros(bar.size)
    for i in range(bar.size):
        one = (np.arange(bar.size) == i).reshape(bar.shape) * bar
        found[i] = bench.graph.gradient(bench.primals, one)[place].ravel()[i]
    if bench.failure.explains(found.reshape(bar.shape)):
        text = (
            f"the diagonal of the Jacobian alone: each element of the output counts for its own of {bench.failure.leaf}"
        )
        return Explanation("missing_path", text)
    return None


def untransposed(bench: Bench):
    """The cotangent through the Jacobian itself, where its transpose is due."""
    bars = jax.tree.leaves(bench.cotangent)
    place = list(bench.failure.leaves).index(bench.failure.leaf)
    if len(bars) != 1 or wide(bars[0]).shape != np.shape(bench.failure.truth):
        return None
    if bench.failure.explains(bench.graph.push(bench.primals, place, wide(bars[0]))):
        return Explanation("permuted", "the cotangent goes through the Jacobian itself in place of its transpose")
    return None


def _for_another(bench: Bench, cotangents):
    leaves, structure = jax.tree.flatten(bench.cotangent)
    leaves = [wide(leaf) for leaf in leaves]

    def explains(other):
        return bench.reproduces(bench.graph.gradient(bench.primals, structure.unflatten(other)))

    for kind, text, change in cotangents(leaves, unit(bench.failure.dtype)):
        with np.errstate(all="ignore"):
            other = [np.asarray(change(leaf)) for leaf in leaves]
        if [a.shape for a in other] != [a.shape for a in leaves]:
            continue
        if all(np.array_equal(a, b) for a, b in zip(other, leaves, strict=True)):
            continue
        if found := explains(other):
            return Explanation(kind, text + found.alone)
    for i in range(len(leaves)) if len(leaves) > 1 and cotangents is _constant else ():
        for words, own in (
            (f"the cotangent of output {i} is not used", 0.0),
            (f"the cotangent of output {i} alone is used", 1.0),
        ):
            changed = [a * (own if i == j else 1 - own) for j, a in enumerate(leaves)]
            if found := explains(changed):
                return Explanation("missing_path", words + found.alone)
    return None


def _constant(leaves, u):
    """Kind, words and the change, simplest first."""
    yield "ignores_cotangent", "the cotangent is ignored: this is the gradient for a cotangent of ones", np.ones_like
    for name, f in (("mean", np.mean), ("sum", np.sum)):
        text = f"the {name} of the cotangent stands for the cotangent"
        yield "ignores_cotangent", text, lambda a, f=f: np.full_like(a, f(a))
    yield "ignores_cotangent", "its first element stands for the cotangent", lambda a: np.full_like(a, a.ravel()[0])
    axes = range(min((a.ndim for a in leaves), default=0))
    for axis in axes:
        for name, f in (("mean", np.mean), ("sum", np.sum)):
            text = f"the {name} of the cotangent over axis {axis} stands for the cotangent"

            def along(a, f=f, axis=axis):
                return np.broadcast_to(f(a, axis, keepdims=True), a.shape)

            yield "ignores_cotangent", text, along
        for place in (0, -1):
            text = f"the {'last' if place else 'first'} place of the cotangent along axis {axis} stands for all"

            def one(a, place=place, axis=axis):
                return np.broadcast_to(np.take(a, [place], axis), a.shape)

            yield "ignores_cotangent", text, one


def _bent(leaves, u):
    """The same for what is not linear, or another order."""
    norm = np.sqrt(sum(np.sum(np.abs(a) ** 2) for a in leaves))
    yield "nonlinear", "the cotangent is normalised to length one", lambda a: a / norm
    yield "nonlinear", "the cotangent is divided by its largest element", lambda a: a / np.max(np.abs(a), initial=0)
    for name, f in (("absolute value", np.abs), ("square", np.square), ("sign", np.sign)):
        yield "nonlinear", f"the {name} of the cotangent stands for the cotangent", f
    for low, high in ((-1, 1), (0, np.inf), (-np.inf, 0), (-10, 10), (-0.5, 0.5), (-0.1, 0.1), (-5, 5), (-2, 2)):
        text = f"the cotangent is clipped to [{low}, {high}]"
        yield "nonlinear", text, lambda a, low=low, high=high: np.clip(a.real, low, high)
    for dtype in NARROW:
        if dtype == "int8" or jnp.finfo(dtype).eps > 2 * u:
            text = f"the cotangent is rounded to {'whole numbers' if dtype == 'int8' else dtype}"
            yield "nonlinear", text, (np.round if dtype == "int8" else lambda a, d=dtype: _rounded(a, d))
    if len(leaves) == 1:
        for text, other in itertools.islice(arrays.orders(leaves[0]), ORDERS):
            yield "permuted", f"the cotangent is {text}", lambda a, other=other: other


def _rounded(a, dtype):
    return np.asarray(a.real).astype(jnp.dtype(dtype)).astype(np.float64)


def other_primal(bench: Bench):
    """The gradient where one primal is replaced: by the output, another primal, nothing, or a rounded copy."""
    failure = bench.failure
    leaves, structure = jax.tree.flatten(bench.primals)
    names = _leaf_names(failure)
    floats = [i for i, leaf in enumerate(leaves) if hasattr(leaf, "dtype") and kind_of(leaf) == "float"]
    own = {i: np.asarray(leaves[i], np.float64) for i in floats}
    changes = [change for i in floats for change in _instead(bench, names, own, i)]
    changes += [
        (f"the residuals {names[i]} and {names[j]} are exchanged", {i: own[j], j: own[i]})
        for i, j in itertools.combinations(floats, 2)
        if own[i].shape == own[j].shape
    ]
    for i, leaf in enumerate(leaves):
        if hasattr(leaf, "dtype") and kind_of(leaf) in ("integer", "boolean"):
            changes += [
                (f"another {names[i]}: {text}", {i: value}) for text, value in _other_integers(np.asarray(leaf))
            ]
    for text, change in changes:
        other = structure.unflatten([change.get(k, leaf) for k, leaf in enumerate(leaves)])
        with np.errstate(all="ignore"):
            found = bench.reproduces(bench.graph.gradient(other, bench.cotangent))
        if found:
            kind = "dtype" if "rounded" in text else "permuted" if "transposed" in text else "wrong_residual"
            return Explanation(kind, f"the derivative is computed at another value: {text}{found.alone}")
    return None


def _instead(bench, names, own, i):
    """What may stand in the place of one primal, with words for it."""
    mine, name = own[i], names[i]
    outs, bars = bench.values[2], [wide(a) for a in jax.tree.leaves(bench.cotangent)]
    others = {names[j]: a for j, a in own.items() if j != i}
    others |= {"the output" if len(outs) == 1 else f"output {k}": out for k, out in enumerate(outs)}
    others |= {"the output's cotangent": bars[0]} if len(bars) == 1 else {}
    changes = [(f"{other} in place of {name}", a) for other, a in others.items()]
    changes += [(f"minus {name} in place of it", -mine), (f"|{name}| in place of {name}", np.abs(mine))]
    changes += _stale(name, mine) + _narrow(bench.failure, name, mine)
    changes += [(f"{name} transposed", mine.T)] if mine.ndim == 2 else []
    if mine.size > 1 and not pointwise(bench):
        changes += [(f"{name} taken for {value:g}", np.full_like(mine, value)) for value in (0.0, 1.0)]
    for text, value in changes:
        value = np.asarray(value)
        if value.shape == mine.shape and value.dtype.kind == "f" and not np.array_equal(value, mine):
            yield text, {i: value}


def _other_integers(own):
    """Labels, indices, lengths and masks that are off by one, reversed or ignored."""
    if own.dtype == bool:
        changes = [("its opposite", ~own), ("true everywhere", np.ones_like(own))]
    else:
        top = own.max(initial=0)
        changes = [("it plus one", np.minimum(own + 1, top)), ("it less one", np.maximum(own - 1, 0))]
        changes += [("zeros", np.zeros_like(own))]
    changes += [(f"it shifted by {s}", np.roll(own, s)) for s in (1, -1) if own.size > 1]
    changes += (
        [("it reversed", own[::-1]), ("its order, or the inverse of it", np.argsort(own, axis=-1))] if own.ndim else []
    )
    return [(text, v.astype(own.dtype)) for text, v in changes if not np.array_equal(v, own)]


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
