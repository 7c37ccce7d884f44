"""Mistakes in passing a cotangent through one equation: in another order, not summed, through the wrong transpose."""

import itertools
import time

import jax
import numpy as np

from ..tracing.interpreter import bind, names
from . import arrays, words
from .bench import Bench
from .derivatives import forms
from .failure import Explanation
from .graph import Use, exactly
from .local import POINTWISE, arguments, rounds

LINEAR = names(
    "dot_general conv_general_dilated cumsum reduce_sum gather scatter-add scatter scatter_add dynamic_slice rev "
    "dynamic_update_slice slice pad concatenate triangular_solve reduce_window_sum fft transpose cumlogsumexp "
    "cumprod cummax reduce_max sort reduce_window_max_p reduce_window select_and_gather_add add_any"
)
MOVING = names(
    "broadcast_in_dim gather dynamic_slice slice pad concatenate reshape transpose rev squeeze expand_dims tile"
)
BILINEAR = names("dot_general conv_general_dilated triangular_solve mul")
AXES = 5


def summed(bench: Bench):
    """A value was spread over new places, so that their cotangents add up; taken is one, the mean or the largest."""
    changes, told = [], []
    for use in bench.graph.free:
        for text, other in _unsummed(use, bench):
            changes.append((use, other))
            told.append(text)
    return _first(bench, changes, told, lambda text: "factor" if "the mean" in text else "missing_sum")


def _unsummed(use: Use, bench: Bench):
    """What may have been taken for the sum over the places that a value was spread to."""
    _, bars, _ = bench.values
    bar, out = bars.get((use.path, use.operand)), bars.get((use.path, "y"))
    if bar is None or out is None or out.size <= bar.size:
        return
    if use.primitive in MOVING:
        yield from _spread(use, bench, bar, out)
        return
    if use.primitive not in POINTWISE or out.ndim != bar.ndim:
        return
    axes = [axis for axis, length in enumerate(bar.shape) if length != out.shape[axis]]
    full = _before_the_sum(use, bench, out)
    if full is None or not axes:
        return
    axes = tuple(axes)
    for place, text in ((0, "the first"), (-1, "the last")):
        for some in _some(axes):
            one = full
            for axis in some:
                one = np.take(one, [place], axis)
            rest = tuple(axis for axis in axes if axis not in some)
            yield (
                f"{text} place stands for the sum over {_axes(some)}",
                np.sum(one, axis=rest).reshape(bar.shape),
            )
    count = full.size // max(1, bar.size)
    yield f"the mean stands for the sum over {_axes(axes)}", bar / count
    for text, f in (("the largest", np.max), ("the smallest", np.min)):
        yield f"{text} stands for the sum over {_axes(axes)}", f(full, axis=axes).reshape(bar.shape)


def _spread(use, bench, bar, out):
    """An equation that moves values: running it on the numbers of the places says where each went."""
    values = bench.values[0]
    operands = [a.val if hasattr(a, "val") else values[use.path, k] for k, a in enumerate(use.equation.invars)]
    numbered = np.arange(1.0, bar.size + 1).reshape(bar.shape)
    try:
        with exactly():
            came = bind(
                use.equation,
                [numbered if k == use.operand else a * 0 if _is_like(a, bar) else a for k, a in enumerate(operands)],
            )
    except Exception:  # an equation may refuse numbers that it was not made for
        return
    came = np.nan_to_num(np.asarray(came[0]).ravel()).astype(int)
    if came.max(initial=0) > bar.size or came.min(initial=0) < 0:
        return
    counts = np.bincount(came, minlength=bar.size + 1)[1:]
    if counts.max(initial=0) < 2:
        return
    first, last, largest = np.zeros(bar.size + 1), np.zeros(bar.size + 1), np.full(bar.size + 1, -np.inf)
    last[came] = out.ravel()
    first[came[::-1]] = out.ravel()[::-1]
    np.maximum.at(largest, came, out.ravel())
    for text, other in (("the first place", first), ("the last place", last), ("the largest", largest)):
        yield (
            f"{text} stands for the sum over all places that a value went to",
            np.where(counts, other[1:], 0).reshape(bar.shape),
        )
    mean = bar / np.maximum(counts, 1).reshape(bar.shape)
    yield "the mean stands for the sum over all places that a value went to", mean


def _is_like(array, bar) -> bool:
    return getattr(array, "dtype", None) == bar.dtype


def _some(axes):
    for count in range(len(axes), 0, -1):
        yield from itertools.combinations(axes, count)


def _axes(axes):
    return f"axis {axes[0]}" if len(axes) == 1 else f"axes {list(axes)}"


def _before_the_sum(use, bench, out):
    """The cotangent of a pointwise operand at every place that it was spread to."""
    if use.primitive in ("add", "add_any"):
        return out
    if use.primitive == "sub":
        return -out if use.operand else out
    here = arguments(use, bench)
    for letters, form in forms(use):
        if all(here[letter] is not None for letter in letters):
            with np.errstate(all="ignore"):
                return np.broadcast_to(out * form(*(here[letter] for letter in letters)), out.shape)
    return None


def reordered(bench: Bench):
    """What flows back through one use comes in another order, or part of it is missing."""
    changes, told = [], []
    for use in bench.graph.free:
        bar = bench.values[1].get((use.path, use.operand))
        if (
            bar is None
            or bar.size < 2
            or use.round
            or not arrays.various(bar)
            or use.primitive in ("neg", "add", "sub", "copy", "convert_element_type")
        ):
            continue
        for text, other in itertools.islice(arrays.orders(bar), 40):
            if not np.array_equal(other, bar):
                changes.append((use, other))
                told.append(f"{text}: what flows back")
    return _first(bench, changes, told, "permuted")


def partial(bench: Bench):
    """What flows back through one use is missing at the first or the last place of an axis, or from there on."""
    changes, told = [], []
    for use in bench.graph.free:
        bar = bench.values[1].get((use.path, use.operand))
        if bar is None or bar.size < 2 or use.round:
            continue
        for axis, length in enumerate(bar.shape):
            for places, text in _places(length):
                other = bar.copy()
                other[(slice(None),) * axis + (places,)] = 0
                changes.append((use, other))
                told.append(f"nothing flows back at {text} of axis {axis}")
    return _first(bench, changes, told, "located")


def _places(length):
    if length < 2:
        return
    yield slice(-1, None), "the last place"
    yield slice(0, 1), "the first place"
    for k in range(2, min(length, 9)):
        yield slice(-k, None), f"the last {k} places"
        yield slice(0, k), f"the first {k} places"
    if length > 3:
        yield slice(0, None, 2), "the even places"
        yield slice(1, None, 2), "the odd places"


def _first(bench, changes, told, kind):
    room = bench.room(bench.graph.width)
    changes, told = changes[:room], told[:room]
    if not changes:
        return None
    stacks = bench.injected(changes)
    for leaves in bench.sets:
        if found := leaves.explained(stacks):
            best = min(found, key=lambda i: (changes[i][0].line is None, bench.graph.fans[changes[i][0].origin] < 2, i))
            use = changes[best][0]
            kind = kind(told[best]) if callable(kind) else kind
            return Explanation(kind, f"{told[best]}, through {words.taken(use)}{leaves.alone}", words.where(use))
    return None


# --- the transpose of one equation -----------------------------------------------------------------------------------


def transposed(bench: Bench):
    """The cotangent passed through the equation itself, through the transpose at other operands, or turned before."""
    for use in bench.graph.free:
        if use.primitive not in LINEAR or use.round:
            continue
        if time.process_time() > bench.until:
            return None
        try:
            candidates = _through(use, bench)
        except Exception:  # an equation may refuse what is tried
            continue
        bar = bench.values[1][use.path, use.operand]
        candidates = [
            (t, k, c)
            for t, k, c in candidates
            if c.shape == bar.shape and np.isfinite(c).all() and not np.array_equal(c, bar)
        ]
        candidates = candidates[: bench.room(bench.graph.width)]
        if not candidates:
            continue
        stacks = bench.injected([(use, other) for *_, other in candidates])
        for leaves in bench.sets:
            for i in leaves.explained(stacks):
                text, kind, _ = candidates[i]
                text = f"the cotangent goes through {words.operation(use)} {text}"
                return Explanation(kind, text + leaves.alone, words.where(use))
    return None


def in_rounds(bench: Bench):
    """In every round of a loop, a product taken with the value of another round, or with another value of its own."""
    bodies: dict[tuple, list[Use]] = {}
    for use in bench.graph.free:
        if use.round and use.primitive in BILINEAR:
            bodies.setdefault(use.body, []).append(use)
    changes, told = [], []
    for uses in bodies.values():
        try:
            with exactly():
                found = [dict(_other_factors(use, bench)) for use in uses]
        except Exception:  # an equation may refuse what is tried
            continue
        for text in found[0]:
            if all(text in other for other in found):
                changes.append([(use, other[text]) for use, other in zip(uses, found, strict=True)])
                told.append((uses[0], text))
    changes = changes[: bench.room(bench.graph.width)]
    if not changes:
        return None
    stacks = bench.injected_together(changes)
    for leaves in bench.sets:
        for i in leaves.explained(stacks):
            use, text = told[i]
            text = f"the derivative of {words.operation(use)} is computed {text}"
            return Explanation("wrong_residual", text + leaves.alone, words.where(use))
    return None


def _other_factors(use: Use, bench: Bench):
    """What flows back if the other factor is another: words, array."""
    values, bars, _ = bench.values
    out, other = bars.get((use.path, "y")), 1 - use.operand
    own = values.get((use.path, other))
    if out is None or own is None:
        return
    operands = [values.get((use.path, k)) for k in range(len(use.equation.invars))]
    if any(a is None for a in operands):
        return
    for text, value in rounds(use, bench, other, "the other factor"):
        if value.shape == own.shape:
            changed = [value if k == other else a for k, a in enumerate(operands)]
            yield text, np.asarray(_pull(use, changed)(out)[0])


def _through(use: Use, bench: Bench) -> list:
    """What may flow back in place of the right cotangent: words, kind, array."""
    values, bars, _ = bench.values
    out = bars.get((use.path, "y"))
    if out is None:
        return []
    operands = []
    for k, atom in enumerate(use.equation.invars):
        operands.append(atom.val if hasattr(atom, "val") else values[use.path, k])
    found = []
    with exactly():
        if out.shape == use.shape:
            forward = bind(use.equation, [out if k == use.operand else a for k, a in enumerate(operands)])[0]
            found.append(("as if it were its own transpose", "permuted", np.asarray(forward)))
        pulled = _pull(use, operands)
        turned = list(itertools.islice(arrays.orders(out), 40)) + list(_masked(out))
        back = jax.vmap(lambda bar: pulled(bar)[0])(np.stack([other for _, other in turned])) if turned else []
        for (text, _), bar in zip(turned, np.asarray(back) if turned else [], strict=True):
            kind = "located" if "alone" in text else "permuted"
            found.append((f"when it is {text}", kind, bar))
        if use.primitive in BILINEAR and use.primitive != "mul":
            for k, value in enumerate(operands):
                if k != use.operand and getattr(value, "dtype", None) == np.float64:
                    for text, other in [*itertools.islice(arrays.orders(value), 40), *_same_shape(value, bench)]:
                        changed = [other if j == k else a for j, a in enumerate(operands)]
                        bar = np.asarray(_pull(use, changed)(out)[0])
                        found.append(
                            (
                                f"with its other operand {text}",
                                "wrong_residual" if text.startswith("replaced") else "permuted",
                                bar,
                            )
                        )
    return found


def _same_shape(value, bench):
    for other in bench.arrays:
        if other.shape == value.shape and not np.array_equal(other, value):
            yield f"replaced by {bench.told(other)}", other


def _masked(out):
    """Some places of the cotangent alone."""
    for axis, length in enumerate(out.shape):
        for places, text in _places(length):
            other = np.zeros_like(out)
            index = (slice(None),) * axis + (places,)
            other[index] = out[index]
            yield f"taken at {text} of axis {axis} alone", other


def _pull(use, operands):
    def run(value):
        return bind(use.equation, [value if k == use.operand else a for k, a in enumerate(operands)])[0]

    return jax.vjp(run, operands[use.operand])[1]
