"""Mistakes that show in one cotangent as it stands: dropped, sign, factor, order, exchange, a term too few."""

import itertools

import jax.numpy as jnp
import numpy as np

from manual_backprop.signature import kind_of

from ..allowance import unit
from . import numbers
from .failure import Explanation, Failure, most, over

COARSE = 2.0**-20  # dtypes whose rounding is wider than this have few different numbers
AXES = 4  # all orders of up to so many axes are tried


def narrow(failure: Failure):
    """Every element fits a narrower dtype, and the truth, rounded to it, is what came."""
    for dtype in ("float32", "float16", "bfloat16"):
        if jnp.finfo(dtype).eps < 4 * unit(failure.dtype) or failure.got.size < 4 or np.iscomplexobj(failure.got):
            continue
        with np.errstate(all="ignore"):
            short = failure.got.astype(jnp.dtype(dtype)).astype(np.float64)
            near = np.abs(failure.got - failure.truth) <= failure.allowance + 4 * jnp.finfo(dtype).eps * np.abs(
                failure.truth
            )
        if (short == failure.got).all() and near.all() and np.unique(failure.got).size > 3:
            return Explanation("dtype", f"rounded to {dtype} on the way")
    return None


def dropped(failure: Failure):
    if failure.got.size and not failure.got.any():
        return Explanation("dropped", "zero everywhere: the cotangent was dropped")
    return None


def sign(failure: Failure):
    if failure.explains(-failure.truth):
        name, _, part = failure.leaf.rpartition(".")
        other = failure.leaves.get(f"{name}.real") if part == "imag" else None
        if other is not None and most(over(*other)) <= 1:
            text = f"the complex conjugate of the cotangent of {name}: the sign of its imaginary part is wrong"
            return Explanation("local_derivative", text)
        return Explanation("sign", "the sign is wrong everywhere")
    return None


def conjugate(failure: Failure):
    if np.iscomplexobj(failure.truth):
        for words, value in (("", failure.truth.conj()), (" with the sign changed", -failure.truth.conj())):
            if failure.explains(value):
                return Explanation("factor", f"the complex conjugate of the cotangent{words}")
    return None


def _ratio(failure: Failure):
    """The factor between what came and the truth, if there is one: least squares with the allowance as the unit."""
    got, truth, allowance = (np.where(np.isfinite(failure.allowance), a, 0) for a in failure.leaves[failure.leaf])
    with np.errstate(all="ignore"):
        weight = np.where(allowance > 0, 1 / allowance, 0)
        scaled = truth * weight
        norm = np.vdot(scaled, scaled).real
        found = np.vdot(scaled, got * weight) / norm if norm else 0.0
    found = complex(found) if np.iscomplexobj(truth) else float(np.real(found))
    return found if found and np.isfinite(found) and failure.explains(found * truth, factor=abs(found)) else None


def factor(failure: Failure):
    """A factor that has a name."""
    found, truth, allowance = _ratio(failure), failure.truth, failure.allowance
    if found is None:
        return None
    if isinstance(found, complex) and abs(found.imag) > abs(found.real):
        return Explanation("factor", f"off by a factor of {found:.6g} everywhere: i was dropped or repeated")
    found = float(np.real(found))
    telling = np.count_nonzero(np.abs(truth) > allowance)
    if telling < 2 < truth.size:
        return None
    if not isinstance(failure.cotangent, tuple | None) and np.size(failure.cotangent) == 1:
        inverse = 1 / complex(np.ravel(failure.cotangent)[0]).real
        if failure.explains(inverse * truth, factor=abs(inverse)):
            return Explanation(
                "ignores_cotangent", "the cotangent is ignored: this is the gradient for a cotangent of one"
            )
    words = numbers.named(found, _is_scaled(failure), failure, there=_scaled_there)
    if words and ("length" in words or "size" in words):
        words = f"{found:.6g} everywhere, which is {words}: a mean or a sum too many or too few"
    elif words:
        words = f"{words} everywhere" + ("" if words[-1].isdigit() else f", which is {found:.6g}")
    return Explanation("factor", f"off by a factor of {words}") if words and _everywhere(failure, found) else None


def _is_scaled(failure):
    return lambda value: failure.explains(value * failure.truth, factor=abs(value))


def _scaled_there(other):
    return None if _ratio(other) is None or np.iscomplexobj(other.truth) else _is_scaled(other)


def _everywhere(failure, found) -> bool:
    """Whether wherever else there is one factor, and the same lengths, it is the same one."""
    return all(test is None or test(found) for test in _tests(failure))


def _tests(failure):
    return [_scaled_there(other) for other in failure.elsewhere() if _lengths(other) == _lengths(failure)]


def _lengths(failure):
    return [np.shape(a) for a in failure.primals]


def any_factor(failure: Failure, constant):
    """A factor without a name, unless the `constant` of the definition explains it that is left out."""
    found = _ratio(failure)
    if found is None or np.iscomplexobj(failure.truth) or None in _tests(failure):  # among equals any would fit
        return None
    if np.count_nonzero(np.abs(failure.truth) > failure.allowance) > 1:
        close, more = f"{found:.6g}" == "1", "+" if found > 1 else "−"
        text = f"off by a factor of {f'1 {more} {abs(found - 1):.2g}' if close else f'{found:.6g}'} everywhere"
        if not _everywhere(failure, found):
            return Explanation("factor", f"{text}, and by another one at other values: it depends on the arguments")
        why = "a constant has too few digits" if close else "a constant was dropped or repeated"
        return constant() or Explanation("factor", f"{text}: {why}")
    return None


def straight(failure: Failure):
    """The cotangent is passed on as it came."""
    bars = failure.cotangent
    if isinstance(bars, np.ndarray | np.generic) and kind_of(bars) == "float":
        bar = np.asarray(bars, np.float64)
        for words, value in (("", bar), (", with the sign changed", -bar)):
            if failure.explains(value):
                text = f"the output's cotangent is passed on as it came{words}: the derivative is taken for one"
                return Explanation("local_derivative", text)
    return None


# --- order -----------------------------------------------------------------------------------------------------------


def arranged(failure: Failure):
    truth = failure.truth
    if truth.size < 2:
        return None
    for words, candidate in orders(truth):
        for sign_words, value in ((words, candidate), (f"{words}, and the sign is wrong", -candidate)):
            if failure.explains(value) and _tells(failure, candidate):
                return Explanation("permuted", sign_words)
    return _reordered(failure)


def _tells(failure, candidate) -> bool:
    """Whether an order can be told from the right one by more than a few places that rounding might have moved."""
    apart = np.count_nonzero(over(candidate, failure.truth, failure.allowance) > 2)
    coarse = unit(failure.dtype) > COARSE
    return various(failure.truth) and apart >= (max(3, failure.truth.size // 4) if coarse else 2)


def various(array) -> bool:
    """Whether there are numbers in it that differ: another order of one number and of zeros says where it is zero."""
    return np.unique(array[array != 0]).size > 1


def orders(truth):
    """The truth in other orders, with words for each."""
    if truth.ndim >= 2:
        if truth.shape[-1] == truth.shape[-2]:
            yield "transposed", np.swapaxes(truth, -1, -2)
        if truth.ndim <= AXES:
            for axes in itertools.permutations(range(truth.ndim)):
                other = truth.transpose(axes)
                if axes == tuple(range(truth.ndim)):
                    continue
                if other.shape == truth.shape:
                    yield f"transposed: the axes are in the order {list(axes)}", other
                yield (
                    "laid out in the wrong order: transposed, and reshaped instead of transposed",
                    other.reshape(truth.shape),
                )
    for axis, length in enumerate(truth.shape):
        if length > 1:
            yield f"reversed along axis {axis}", np.flip(truth, axis)
            for shift in sorted(range(1, min(length, 65)), key=lambda k: min(k, length - k)):
                places = min(shift, length - shift)
                by = "one place" if places == 1 else f"{places} places"
                yield f"shifted by {by} along axis {axis}", np.roll(truth, shift, axis)
            if length % 2 == 0 and length > 2:
                pairs = np.arange(length).reshape(-1, 2)[:, ::-1].ravel()
                yield f"neighbours exchanged along axis {axis}", np.take(truth, pairs, axis)
                two = np.arange(length).reshape(2, -1).T.ravel()
                yield f"halves interleaved along axis {axis}", np.take(truth, two, axis)
                yield f"even and odd places gathered along axis {axis}", np.take(truth, np.argsort(two), axis)
    if truth.ndim > 1:
        yield "reversed", truth.ravel()[::-1].reshape(truth.shape)
    for axis, length in enumerate(truth.shape):
        for shift in [*range(1, min(length, 5)), *range(-min(length, 5) + 1, 0)]:
            moved = np.roll(truth, shift, axis)
            edge = [slice(None)] * truth.ndim
            edge[axis] = slice(0, shift) if shift > 0 else slice(shift, None)
            moved[tuple(edge)] = 0
            yield f"shifted by {abs(shift)} along axis {axis}, with zeros where nothing came in", moved


def _reordered(failure):
    """The same numbers in another order: found by sorting them, elements or slices along one axis."""
    got, truth = failure.got, failure.truth
    if truth.size < 4 or np.iscomplexobj(truth) or not np.isfinite(truth).all():
        return None
    for axis, length in enumerate(truth.shape):
        if length < 3:
            continue
        ours, theirs = (np.moveaxis(a, axis, 0).reshape(length, -1) for a in (got, truth))
        order = np.argmin(np.abs(ours[:, None] - theirs[None]).max(-1), axis=1) if length <= 64 else None
        if order is not None and len(set(order.tolist())) == length and failure.explains(np.take(truth, order, axis)):
            text = f"permuted along axis {axis}: place i holds what belongs to place {order.tolist()}[i]"
            inverse = "an order was used where its inverse is due, or none"
            return Explanation("permuted", f"{text}; {inverse}" if length <= 16 else f"permuted along axis {axis}")
    order = np.empty(truth.size, int)
    order[np.argsort(got, axis=None)] = np.argsort(truth, axis=None)
    apart = np.diff(np.sort(truth, axis=None))
    distinct = np.count_nonzero(apart > 2 * np.max(failure.allowance, initial=0)) > truth.size / 2
    if distinct and failure.explains(truth.ravel()[order].reshape(truth.shape)):
        return Explanation("permuted", "the right numbers in the wrong order")
    return None


def exchanged(failure: Failure):
    """With another leaf that is wrong as well: minus the cotangent of one that is right is more likely a path less."""
    for name, (got, value, allowance) in failure.leaves.items():
        value = np.asarray(value)
        if name == failure.leaf or value.size < 2:
            continue
        turned = np.swapaxes(value, -1, -2) if value.ndim > 1 else value
        both = most(over(got, value, allowance)) > 1
        for how, candidate in (("", value), (", with the sign changed", -value), (", transposed", turned)):
            if (both or not how) and failure.explains(candidate):
                text = f"exchanged: this is the cotangent of {name}{how}"
                return Explanation("exchanged", text if both else f"the cotangent of {name} stands for it{how}")
    return None


# --- a term too few or too many --------------------------------------------------------------------------------------


def constant(failure: Failure):
    """Off by one number everywhere."""
    off = np.where(np.isfinite(failure.allowance), failure.got - failure.truth, 0)
    if off.size > 2 and failure.explains(failure.truth + np.mean(off)):
        text = f"off by the constant {np.mean(off):.6g} everywhere: a term was added or not subtracted"
        if most(over(failure.truth, 0, failure.allowance)) <= 1:
            text = f"it is {np.mean(off):.6g} everywhere, where it should be zero"
        return Explanation("missing_term", text)
    return None


def shifted(failure: Failure):
    """Off by a number for each row."""
    off = np.where(np.isfinite(failure.allowance), failure.got - failure.truth, 0)
    if off.size < 3 or constant(failure):
        return None
    for count in range(1, off.ndim):
        for axes in itertools.combinations(range(off.ndim), count):
            if np.prod([off.shape[axis] for axis in axes]) < 2:
                continue
            shift = np.mean(off, axis=axes, keepdims=True)
            if failure.explains(failure.truth + shift):
                which = f"axis {axes[0]}" if count == 1 else f"axes {list(axes)}"
                subtracted = over(np.mean(failure.truth, axes), 0, np.max(failure.allowance, axes)).max() <= 1
                why = "a mean over that axis was not subtracted" if subtracted else "a term is missing, or there twice"
                return Explanation("missing_term", f"off by a constant along {which}: {why}")
    return None


def projected(failure: Failure):
    """Off by a multiple of a known array of the same shape: along an axis, one multiple for each row."""
    off = np.where(np.isfinite(failure.allowance), failure.got - failure.truth, 0)
    for words, value in _directions(failure).items():
        if value.shape != off.shape or off.size < 3:
            continue
        for axis in [None, *range(off.ndim)]:
            if axis is not None and off.shape[axis] < 3:
                continue
            norm = np.sum(value * value, axis=axis, keepdims=True)
            share = np.sum(off * value, axis=axis, keepdims=True) / np.where(norm == 0, 1, norm)
            if failure.explains(failure.truth + share * value):
                along = "" if axis is None else f" along axis {axis}"
                return Explanation(
                    "missing_term", f"off by a multiple of {words}{along}: a term was added or not subtracted"
                )
    return None


def _directions(failure):
    """What an error may be a multiple of, by name: known arrays, and ones where they are not zero."""
    found = known(failure)
    found |= {f"the output{i or ''}": value for i, value in enumerate(failure.outputs)}
    there = {f"one where {words} is not zero": (a != 0) * 1.0 for words, a in found.items() if a.any() and not a.all()}
    return found | there


def lost(failure: Failure):
    """Right in float64: either digits are lost on the way, or something is particular about the narrower dtype."""
    if "float64" not in failure.right_in or failure.dtype == "float64":
        return None
    truth, off = np.abs(failure.truth), np.abs(failure.got - failure.truth)
    share = most(np.where(failure.wrong, off, 0)) / (most(truth) or 1.0)
    if share > 1 / 8:
        return Explanation("dtype", f"wrong in {failure.dtype} alone: the same point is right in float64")
    left = max(0, round(-np.log10(share)))
    text = f"digits are lost through cancellation: {left} are right in {failure.dtype}, while float64 is right"
    return Explanation("cancellation", text)


def known(failure: Failure) -> dict[str, np.ndarray]:
    """The floating arrays among the primals, and the cotangent where it is one array, by name."""
    names = [*failure.names, *(f"primal {i}" for i in range(len(failure.names), len(failure.primals)))]
    named = [*zip(names, failure.primals, strict=False), ("the output's cotangent", failure.cotangent)]
    return {name: np.asarray(a, np.float64) for name, a in named if hasattr(a, "dtype") and kind_of(a) == "float"}
