"""Numbers, counts and times as people read them."""

import math
import re

NARROW = "\u202f"  # the narrow no-break space that parts thousands
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float | None, digits: int = 2) -> str:
    """A measured number with its significant digits.

    >>> [number(x) for x in (0.0, 0.5, 0.0123, 12.34, 1234.5, 4.2e6, 3e-8, None)]
    ['0', '0.5', '0.012', '12', '1\u202f234', '4.2×10⁶', '3×10⁻⁸', '–']
    """
    if value is None or isinstance(value, str):
        return value or "–"
    if not math.isfinite(value):
        return str(value).replace("inf", "∞")
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        return f"{value:,.0f}".replace(",", NARROW) if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{'' if mantissa == '1' else mantissa + '×'}10{str(int(exponent)).translate(_RAISED)}"


def ulps(value: float | None) -> str:
    """A discrepancy to stand in a column of others: one decimal, so that the points align.

    >>> [ulps(x) for x in (0.0, 0.003, 0.5, 12.34, 4.2e6)]
    ['0', '<0.1', '0.5', '12.3', '4.2×10⁶']
    """
    if value is None or not math.isfinite(value) or value == 0 or abs(value) >= 1000:
        return number(value)
    return "<0.1" if abs(value) < 0.05 else f"{value:.1f}"


def exact(value) -> str:
    """A number to compare digit by digit: as short as it can be said, at most nine digits."""
    return f"{value:.9g}" if isinstance(value, float) else str(value)


def count(value: int) -> str:
    """A whole number, its thousands apart."""
    return f"{value:,}".replace(",", NARROW)


def some(value: int, singular: str, plural: str | None = None) -> str:
    """A count with its noun: 1 rule, 60 rules."""
    return f"{count(value)} {singular if value == 1 else plural or singular + 's'}"


def duration(seconds: float | None) -> str | None:
    """A time in its two largest units.

    >>> [duration(s) for s in (0.42, 38, 252, 3780)]
    ['0.42 s', '38 s', '4 min 12 s', '1 h 3 min']
    """
    if seconds is None:
        return None
    if seconds < 60:
        return f"{number(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def slug(text: str) -> str:
    """Text as the name of a place on the page.

    >>> slug("serial(dense(5), relu)")
    'serial-dense-5-relu-'
    """
    return re.sub(r"[^\w.-]+", "-", text)
