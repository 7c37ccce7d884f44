"""What a wrong factor is: a length, an option, a constant of the definition, or a simple number."""

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from ..allowance import unit
from .failure import Failure

SIMPLE = 12  # fractions of whole numbers up to this count as simple
KNOWN = {
    "π": math.pi,
    "√2": math.sqrt(2),
    "√π": math.sqrt(math.pi),
    "√(2π)": math.sqrt(2 * math.pi),
    "√(2 / π)": math.sqrt(2 / math.pi),
    "√3": math.sqrt(3),
    "log 2": math.log(2),
    "log 10": math.log(10),
    "π / 180": math.pi / 180,
    "e": math.e,
}


def lengths(failure: Failure) -> dict[str, float]:
    """The lengths of the primals and of the cotangent by name; of equal ones the first alone."""
    named = [*zip(failure.leaves, (truth for _, truth, _ in failure.leaves.values()), strict=True)]
    named += [("the cotangent", failure.cotangent)] if isinstance(failure.cotangent, np.ndarray) else []
    found = {}
    for name, array in named:
        for axis, length in enumerate(np.shape(array)):
            found.setdefault(length, f"the length {length} of axis {axis} of {name}")
        found.setdefault(np.size(array), f"the size {np.size(array)} of {name}")
    return {words: float(length) for length, words in found.items() if length > 1}


def named(factor: float, is_it: Callable[[float], bool], failure: Failure, constants: Mapping = {}) -> str | None:
    """The simplest words for a factor, among the values that `is_it` accepts; None where it has no name."""
    size = abs(factor)
    scope = {**failure.scope, **lengths(failure), **constants}
    values = {words: abs(float(value)) for words, value in scope.items() if value not in (0, 1, -1)}
    sign = "-" if factor < 0 else ""

    def fits(value):
        # A value that is far from the factor is refused without being tried.
        return value > 0 and np.isfinite(value) and abs(value / size - 1) < 0.1 and is_it(math.copysign(value, factor))

    for words, value in _from(values):
        if fits(value):
            return sign + words
    if unit(failure.dtype) < 2**-20:  # in narrow dtypes everything is near some fraction
        for words, value in _simple(values):
            if fits(value):
                return sign + words
    elif fits(2.0) or fits(0.5):
        return sign + ("2" if fits(2.0) else "1 / 2")
    return None


def _from(values) -> Iterator[tuple[str, float]]:
    """One value, then two, then powers of one value, simplest first, then products and ratios of two values."""
    for power, form in ((1, "{}"), (-1, "1 / {}")):
        yield from ((form.format(words), value**power) for words, value in values.items())
    yield from (("2", 2.0), ("1 / 2", 0.5))
    for power, form in (
        (0.5, "√({})"),
        (-0.5, "1 / √({})"),
        (2, "({})²"),
        (-2, "1 / ({})²"),
    ):
        yield from ((form.format(words), value**power) for words, value in values.items())
    for words, value in values.items():
        if value > 1:
            yield f"{words} less one, over it", (value - 1) / value
            yield f"{words} over it less one", value / (value - 1)
        yield f"1 - {words}", abs(1 - value)
        yield f"1 / (1 - {words})", 1 / abs(1 - value) if value != 1 else 0
        yield f"2 × {words}", 2 * value
        yield f"2 / {words}", 2 / value
        yield f"{words} / 2", value / 2
    for a, first in values.items():
        for b, second in values.items():
            if a < b:
                yield f"{a} times {b}", first * second
                yield f"1 / ({a} times {b})", 1 / (first * second)
            if a != b:
                yield f"{a} over {b}", first / second
                yield f"√({a} over {b})", math.sqrt(first / second)


def _simple(values) -> Iterator[tuple[str, float]]:
    """Simple fractions, powers of ten and of two, the well-known constants."""
    for q in range(1, SIMPLE + 1):
        for p in range(1, SIMPLE + 1):
            if math.gcd(p, q) == 1 and p != q:
                yield (f"{p} / {q}" if q > 1 else f"{p}"), p / q
    for words, value in KNOWN.items():
        yield words, value
        yield f"1 / ({words})", 1 / value
        yield f"2 × {words}", 2 * value
        yield f"{words} / 2", value / 2
    for power in range(1, 8):
        yield f"{10**power}", 10.0**power
        yield f"1e-{power}", 10.0**-power
    for power in range(4, 16):
        yield f"{2**power}", 2.0**power
        yield f"1 / {2**power}", 2.0**-power
