"""Where a cotangent is wrong, when it is wrong at some places alone: by index, or by the values found there."""

import dataclasses
import math

import jax
import numpy as np

from manual_backprop.signature import kind_of

from ..allowance import SLACK
from .arrays import known
from .failure import Explanation, Failure, over

ASKED = 2  # other primals
SOME = "at some elements "  # not at all that stand there
CHANCE = 1000  # a pattern is said where fewer than one in so many random sets of places would show it


def not_finite(failure: Failure):
    bad = ~np.isfinite(failure.got) & np.isfinite(failure.truth)
    if not bad.any():
        return None
    text = f"{bad.sum()} of {bad.size} elements are not finite, the truth is"
    told = None if bad.all() else condition(bad, values(failure)) or place(bad)
    exactly = "" if told and told[1].startswith(SOME) else "exactly "
    return Explanation("not_finite", f"{text}: {exactly}{told[1]}" if told else text)


def located(failure: Failure):
    """By index; where the derivative under test can be asked elsewhere, the same places have to be wrong there."""
    wrong = failure.wrong
    if wrong.all() or not wrong.any():
        return None
    told = place(wrong)
    others = [other.wrong for other in failure.elsewhere() if other.truth.shape == wrong.shape]
    others += [other for _, other in asked(failure)] if told else []
    if not told or not all(not other.any() or other.all() or place(other) == told for other in others):
        return None
    return Explanation("located", f"wrong {told[1]} alone{_zero(failure, wrong)}")


def somewhere(failure: Failure):
    """The places alone, at this point."""
    wrong = failure.wrong
    told = not wrong.all() and place(wrong)
    return Explanation("values", f"wrong {told[1]} alone, and elsewhere at other values", vague=True) if told else None


def conditioned(failure: Failure):
    """By value; what a few elements might show by chance has to hold at other primals too, or is not said."""
    wrong = failure.wrong
    if wrong.all() or not wrong.any():
        return None
    own = values(failure)
    ratio = over(failure.got, failure.truth, failure.allowance)
    jumps = bool(ratio[wrong].min() > SLACK)  # an error that grows smoothly has no threshold
    told = condition(wrong, own, jumps=jumps)
    if (told is None or told[0] != "kink") and failure.at is not None:
        elsewhere = [(values(other), mask) for other, mask in asked(failure) if mask.any() and not mask.all()]
        if elsewhere:
            told = condition(wrong, own, elsewhere, jumps)
    return told and Explanation(told[0], f"wrong exactly {told[1]}{_zero(failure, wrong)}")


def asked(failure: Failure) -> list[tuple[Failure, np.ndarray]]:
    """The derivative under test at other primals: which elements are wrong there."""
    found = []
    for seed in range(ASKED) if failure.at is not None else ():
        rng = np.random.default_rng(seed)
        primals = tuple(_shuffled(a, rng) for a in failure.primals)
        try:
            cotangent = jax.tree.map(lambda a, rng=rng: _shuffled(a, rng), failure.cotangent)
            leaves = failure.at(primals, cotangent)
            other = dataclasses.replace(failure, primals=primals, cotangent=cotangent, leaves=leaves)
            found.append((other, other.wrong))
        except Exception:  # it may raise at other primals, which then explains nothing
            return found
    return found


def _shuffled(array, rng):
    """The same numbers at other places, half of them changed a little."""
    if not hasattr(array, "dtype") or array.dtype == jax.dtypes.float0 or kind_of(array) != "float":
        return array
    array = np.asarray(array)
    mixed = rng.permutation(array.ravel()).reshape(array.shape).astype(np.float64)
    changed = mixed * np.where(rng.random(array.shape) < 0.5, 1.0, rng.uniform(0.6, 1.4, array.shape))
    return changed.astype(array.dtype)


def _zero(failure, wrong):
    if not np.any(failure.got[wrong]):
        return ", where it is zero"
    if not np.any(failure.truth[wrong]):
        return ", where it should be zero"
    return ""


def values(failure: Failure) -> dict[str, np.ndarray]:
    """What a condition may be about, by name: primals, integers and masks among them, and the cotangent."""
    names = [*failure.names, *(f"primal {i}" for i in range(len(failure.names), len(failure.primals)))]
    named = zip(names, failure.primals, strict=False)
    whole = {n: np.asarray(a) for n, a in named if hasattr(a, "dtype") and kind_of(a) in ("integer", "boolean")}
    return known(failure) | {name: a.astype(np.float64) for name, a in whole.items()}


# --- by index --------------------------------------------------------------------------------------------------------


def place(wrong: np.ndarray) -> tuple[str, str] | None:
    """Words for where the places stand, if they form a pattern."""
    where = np.argwhere(wrong)
    if wrong.size > 1 and len(where) == 1:
        return "located", f"at the one element {where[0].tolist()}"
    told = [
        (np.take(wrong, places, axis).all(), f"{words} of axis {axis}")
        for axis, length in enumerate(wrong.shape)
        for places in [np.unique(where[:, axis])]
        if len(places) < length and (words := _along(places, length))
    ]
    whole = next((words for all_there, words in told if all_there), None)
    two = None if whole else _two_axes(wrong)
    return two or (("located", whole or f"{SOME}{told[0][1]}") if told else None)


def _along(places, length) -> str | None:
    """Words for places along one axis, which are not all."""
    if len(places) == 1:
        last = ", the last," if places[0] == length - 1 and length > 2 else ""
        return f"at place {places[0]}{last}"
    if places[0] == length - len(places):
        return f"at the last {len(places)} places"
    if places[-1] == len(places) - 1:
        return f"at the first {len(places)} places"
    step = np.unique(np.diff(places))
    if len(step) == 1 and len(places) > 2 and len(places) >= length // step[0]:
        if step[0] == 2:
            return f"at the {'odd' if places[0] % 2 else 'even'} places"
        return f"at places {places[0]}, {places[0]} + {step[0]}, …"
    if places.tolist() == [0, length - 1] and length > 3:
        return "at the first and the last place"
    if len(step) == 1 and step[0] == 1 and length > 3:
        return f"at places {places[0]} to {places[-1]}"
    return None


def _two_axes(wrong):
    if wrong.ndim < 2 or wrong.size < 9:
        return None
    rows, columns = np.indices(wrong.shape[-2:])
    border = (rows == 0) | (columns == 0) | (rows == rows.max()) | (columns == columns.max())
    patterns = {
        "on the diagonal": rows == columns,
        "off the diagonal": rows != columns,
        "above the diagonal": columns > rows,
        "below the diagonal": columns < rows,
        "on and above the diagonal": columns >= rows,
        "on and below the diagonal": columns <= rows,
        "where the two last indices have an even sum": (rows + columns) % 2 == 0,
        "where the two last indices have an odd sum": (rows + columns) % 2 == 1,
        "at the border": border,
        "away from the border": ~border,
    }
    seen = wrong.reshape(-1, *rows.shape).any(axis=0)
    for words, pattern in patterns.items():
        if (seen == pattern).all() and not pattern.all():
            return "located", words
    return None


# --- by value --------------------------------------------------------------------------------------------------------


def condition(wrong: np.ndarray, values: dict[str, np.ndarray], asked=(), jumps=True) -> tuple[str, str] | None:
    """The kind and the words of a condition on values that holds exactly where something is wrong.

    `asked` are values and places at other primals: a condition is then tried there instead of being improbable.
    """
    count = max(1, len(values))
    for source in (_exactly, _beyond, _extreme) if jumps else (_exactly,):
        for name, value in values.items():
            for mask, array in _aligned(wrong, np.asarray(value, np.float64)):
                for kind, words, test, rare in source(mask, array, name):
                    if asked and _holds(test, name, asked):
                        return kind, words
                    if not asked and (rare or math.comb(mask.size, int(mask.sum())) > CHANCE * 8 * count):
                        return kind, words
    return None


def _holds(test, name, asked) -> bool:
    for values, wrong in asked:
        pairs = list(_aligned(wrong, np.asarray(values[name], np.float64)))
        if not pairs:
            return False
        mask, array = pairs[0]
        holds = test(array)
        open_ = np.isnan(holds) if holds.dtype.kind == "f" else np.zeros(holds.shape, bool)
        if ((holds == 1) != mask)[~open_].any():
            return False
    return True


def _aligned(wrong, value):
    """The places and the values in one shape: as they are, or row by row where the values have fewer axes."""
    if not value.size or not wrong.size:
        return
    if value.shape == wrong.shape:
        yield wrong, value
    elif 0 < value.ndim < wrong.ndim:
        for start in range(wrong.ndim - value.ndim + 1):
            axes = tuple(i for i in range(wrong.ndim) if not start <= i < start + value.ndim)
            rows = wrong.any(axis=axes)
            if rows.shape == value.shape and not rows.all():
                yield rows, value


def _exactly(wrong, value, name):
    """Equalities, which hold at random almost nowhere: kind, words, test, whether it is rare."""
    there = np.unique(value[wrong])
    tests = [("kink", f"{name} is 0", lambda v: v == 0, True)]
    if len(there) == 1:
        named = wrong.sum() > 1 or there[0] == round(float(there[0]), 2)
        tests.append(("kink", f"{name} is {there[0]:.6g}", lambda v: v == there[0], named))
    tests.append(("kink", f"{name} is tied in its row", _tied, True))
    if len(there) == 2 and there[0] == -there[1]:
        tests.append(("kink", f"|{name}| is {there[1]:.6g}", lambda v: np.abs(v) == there[1], True))
    if value.shape and value.shape[-1] > 1:
        tests.append(
            (
                "kink",
                f"{name} has ties in its row",
                lambda v: np.broadcast_to(_tied(v).any(-1, keepdims=True), v.shape),
                True,
            )
        )
    whole = (value == np.round(value)).all()  # of labels and masks no value is a kink
    for kind, words, test, rare in tests:
        kind = "values" if whole else kind
        if (test(value) == wrong).all():
            yield kind, f"where {words}", test, rare


def _beyond(wrong, value, name):
    """Inequalities: one of a few signs, or a threshold that lies between what is wrong and what is right."""
    if not np.isfinite(value).all():
        if (~np.isfinite(value) == wrong).all():
            yield "values", f"where {name} is not finite", lambda v: ~np.isfinite(v), True
        return
    for test, words in (
        (lambda v: v < 0, "negative"),
        (lambda v: v > 0, "positive"),
        (lambda v: v <= 0, "not positive"),
        (lambda v: v >= 0, "not negative"),
    ):
        if (test(value) == wrong).all():
            yield "values", f"where {name} is {words}", test, False
    for f, shown in ((np.asarray, name), (np.abs, f"|{name}|")):
        inside, outside = f(value)[wrong], f(value)[~wrong]
        if inside.min() > outside.max():
            low, high = outside.max(), inside.min()
            yield "values", f"where {shown} > {_between(low, high)}", _above(f, low, high), False
        if inside.max() < outside.min():
            low, high = inside.max(), outside.min()
            yield "values", f"where {shown} < {_between(low, high)}", _above(f, low, high, 0.0), False


def _extreme(wrong, value, name):
    """The largest or the smallest of a row."""
    if value.shape and value.shape[-1] > 1:
        for f, words in ((np.max, "largest"), (np.min, "smallest")):
            if ((value == f(value, axis=-1, keepdims=True)) == wrong).all():
                yield "values", f"where {name} is the {words} of its row", _most(f), False


def _most(f):
    return lambda v: v == f(v, axis=-1, keepdims=True)


def _above(f, low, high, one=1.0):
    """1 above, 0 below (or the other way round), and NaN in the gap where the threshold may be anywhere."""
    return lambda v: np.where(f(v) >= high, one, np.where(f(v) <= low, 1 - one, np.nan))


def _tied(value):
    """Elements that equal another one of their row."""
    if value.ndim == 0:
        return np.zeros((), bool)
    rows = value.reshape(-1, value.shape[-1])
    return ((rows[:, :, None] == rows[:, None, :]).sum(-1) > 1).reshape(value.shape)


def _between(low, high) -> str:
    """The shortest number from low to high: round ones are where people put thresholds."""
    for digits in range(1, 17):
        scale = 10.0 ** (digits - 1 - math.floor(math.log10(max(abs(low), abs(high), 1e-300))))
        rounded = math.ceil(low * scale) / scale
        if low <= rounded <= high:
            return f"{rounded:g}" if digits < 7 else f"{rounded!r}"
    return f"{low!r}"
