"""Where a cotangent is wrong, when it is wrong at some places alone: by index, or by the values found there."""

import math

import numpy as np

from .arrays import known
from .failure import Explanation, Failure

CHANCE = 1000  # a pattern is said where fewer than one in so many random sets of places would show it


def not_finite(failure: Failure):
    bad = ~np.isfinite(failure.got) & np.isfinite(failure.truth)
    if not bad.any():
        return None
    text = f"{bad.sum()} of {bad.size} elements are not finite, the truth is"
    told = None if bad.all() else condition(bad, values(failure)) or place(bad)
    return Explanation("not_finite", f"{text}: exactly {told[1]}" if told else text)


def located(failure: Failure):
    wrong = failure.wrong
    if wrong.all() or not wrong.any():
        return None
    told = place(wrong)
    return told and Explanation("located", f"wrong {told[1]} alone{_zero(failure, wrong)}")


def conditioned(failure: Failure):
    wrong = failure.wrong
    if wrong.all() or not wrong.any():
        return None
    told = condition(wrong, values(failure))
    return told and Explanation(told[0], f"wrong exactly {told[1]}{_zero(failure, wrong)}")


def _zero(failure, wrong):
    if not np.any(failure.got[wrong]):
        return ", where it is zero"
    if not np.any(failure.truth[wrong]):
        return ", where it should be zero"
    return ""


def values(failure: Failure) -> dict[str, np.ndarray]:
    """What a condition may be about, by name: primals, cotangent."""
    return known(failure)


# --- by index --------------------------------------------------------------------------------------------------------


def place(wrong: np.ndarray) -> tuple[str, str] | None:
    """Words for where the places stand, if they form a pattern."""
    where = np.argwhere(wrong)
    if wrong.size > 1 and len(where) == 1:
        return "located", f"at the one element {where[0].tolist()}"
    for axis, length in enumerate(wrong.shape):
        places = np.unique(where[:, axis])
        if len(places) == length:
            continue
        if len(places) == 1:
            last = ", the last," if places[0] == length - 1 and length > 2 else ""
            return "located", f"at place {places[0]}{last} of axis {axis}"
        if places[0] == length - len(places):
            return "located", f"at the last {len(places)} places of axis {axis}"
        if places[-1] == len(places) - 1:
            return "located", f"at the first {len(places)} places of axis {axis}"
        step = np.unique(np.diff(places))
        if len(step) == 1 and len(places) > 2 and len(places) >= length // step[0]:
            if step[0] == 2:
                return "located", f"at the {'odd' if places[0] % 2 else 'even'} places of axis {axis}"
            return "located", f"at places {places[0]}, {places[0]} + {step[0]}, … of axis {axis}"
        if places.tolist() == [0, length - 1] and length > 3:
            return "located", f"at the first and the last place of axis {axis}"
        if len(step) == 1 and step[0] == 1 and length > 3:
            return "located", f"at places {places[0]} to {places[-1]} of axis {axis}"
    return _two_axes(wrong)


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


def condition(wrong: np.ndarray, values: dict[str, np.ndarray]) -> tuple[str, str] | None:
    """The kind and the words of a condition on values that holds exactly where something is wrong."""
    count = max(1, len(values))
    for exact in (True, False):
        for name, value in values.items():
            for mask, array in _aligned(wrong, np.asarray(value, np.float64)):
                told = (_exactly if exact else _beyond)(mask, array, name, count)
                if told:
                    return told
    return None


def _aligned(wrong, value):
    """The places and the values in one shape: as they are, or row by row where one of them has fewer axes."""
    if not value.size or not wrong.size:
        return
    if value.shape == wrong.shape:
        yield wrong, value
        return
    if value.ndim > wrong.ndim and value.shape[: wrong.ndim] == wrong.shape:
        return
    if value.ndim and value.ndim < wrong.ndim:
        for start in range(wrong.ndim - value.ndim + 1):
            axes = tuple(i for i in range(wrong.ndim) if not start <= i < start + value.ndim)
            if wrong.shape[start : start + value.ndim] == value.shape:
                yield wrong.any(axis=axes), value


def _exactly(wrong, value, name, count):
    """Equalities, which hold at random almost nowhere."""
    for test, words in ((value == 0, f"{name} is 0"), (_tied(value), f"{name} has equal neighbours in its row (ties)")):
        if (test == wrong).all() and not test.all():
            return "kink", f"where {words}"
    there = np.unique(value[wrong])
    if len(there) == 1 and ((value == there[0]) == wrong).all() and (wrong.sum() > 1 or there[0] == round(there[0], 3)):
        return "kink", f"where {name} is {there[0]:.6g}"
    if len(there) == 2 and there[0] == -there[1] and ((np.abs(value) == there[1]) == wrong).all():
        return "kink", f"where |{name}| is {there[1]:.6g}"
    if value.ndim:
        top, bottom = (f(value, axis=-1, keepdims=True) for f in (np.max, np.min))
        for test, words in ((value == top, "the largest"), (value == bottom, "the smallest")):
            if (test == wrong).all() and not test.all() and _rare(wrong, count):
                return "values", f"where {name} is {words} of its row"
        if value.shape[-1] > 1:
            rows = _tied(value).any(-1)
            if (rows == wrong.any(-1)).all() and not rows.all() and rows.any():
                return "kink", f"in the rows where {name} has ties"
    return None


def _beyond(wrong, value, name, count):
    """Inequalities, said only where a random set of places would hardly be cut off by one."""
    if not np.isfinite(value).all():
        if (~np.isfinite(value) == wrong).all():
            return "values", f"where {name} is not finite"
        return None
    if not _rare(wrong, 8 * count):
        return None
    for test, words in ((value < 0, "negative"), (value > 0, "positive"), (value <= 0, "not positive")):
        if (test == wrong).all():
            return "values", f"where {name} is {words}"
    for array, shown in ((value, name), (np.abs(value), f"|{name}|")):
        inside, outside = array[wrong], array[~wrong]
        if inside.min() > outside.max():
            return "values", f"where {shown} > {_between(outside.max(), inside.min())}"
        if inside.max() < outside.min():
            return "values", f"where {shown} < {_between(inside.max(), outside.min())}"
    return None


def _tied(value):
    """Elements that equal another one of their row."""
    if value.ndim == 0:
        return np.zeros((), bool)
    rows = value.reshape(-1, value.shape[-1])
    return ((rows[:, :, None] == rows[:, None, :]).sum(-1) > 1).reshape(value.shape)


def _rare(wrong, tests):
    return math.comb(wrong.size, int(wrong.sum())) > CHANCE * tests


def _between(low, high) -> str:
    """The shortest number from low to high: round ones are where people put thresholds."""
    for digits in range(1, 17):
        scale = 10.0 ** (digits - 1 - math.floor(math.log10(max(abs(low), abs(high), 1e-300))))
        rounded = math.ceil(low * scale) / scale
        if low <= rounded <= high:
            return f"{rounded:g}" if digits < 7 else f"{rounded!r}"
    return f"{low!r}"
