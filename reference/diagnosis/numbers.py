"""What a wrong factor is: a length, an option, a constant of the definition, or a simple number."""

import itertools
import math
from collections.abc import Callable, Iterator
from fractions import Fraction

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


def lengths(failure: Failure) -> dict[tuple, tuple[str, float]]:
    """Words and value of every length of the primals and of the output, by where it is found."""
    named = [*zip(failure.leaves, (truth for _, truth, _ in failure.leaves.values()), strict=True)]
    bars = failure.cotangent if isinstance(failure.cotangent, tuple) else (failure.cotangent,)
    named += [(f"output {i}" if len(bars) > 1 else "the output", bar) for i, bar in enumerate(bars)]
    found = {}
    for name, array in named:
        for axis, length in enumerate(np.shape(array)):
            found[name, axis] = f"the length {length} of axis {axis} of {name}", float(length)
        found[name, "size"] = f"the size {np.size(array)} of {name}", float(np.size(array))
    return found


def named(factor: float, is_it: Callable[[float], bool], failure: Failure, constants=None, there=None) -> str | None:
    """The simplest words for a factor, among the values that `is_it` accepts; None where it has no name.

    there  (other) -> what `is_it` is for the same leaf at other lengths, or None where there is no factor.  What is
           said of lengths has to hold there too; what may be so by chance is said only where that bears it out
    """
    size, sign = abs(factor), "-" if factor < 0 else ""

    def fits(value, is_it=is_it, factor=factor):
        # A value that is far from the factor is refused without being tried.
        return value > 0 and np.isfinite(value) and abs(value / size - 1) < 0.1 and is_it(math.copysign(value, factor))

    known = _known(failure, constants)
    likely = [(form, keys, value) for form, keys, value in _from(known) if fits(value)]
    if likely:
        others = [(_known(other, constants), test) for other in failure.elsewhere() if (test := there and there(other))]
        for form, keys, value in likely:
            born_out = _born_out(form, keys, value, factor, others)
            if born_out or (born_out is None and not _rare(form, keys, value)):
                return sign + form.format(*(known[key][0] for key in keys))
    if unit(failure.dtype) < 2**-20:  # in narrow dtypes everything is near some fraction
        for words, value in _simple():
            if fits(value):
                return sign + words
    elif fits(2.0) or fits(0.5):
        return sign + ("2" if fits(2.0) else "1/2")
    return None


def _known(failure, constants):
    """Words and value of options, constants and lengths; of equal ones the first alone, unless it is a length."""
    given = {("", words): (words, abs(float(v))) for words, v in {**failure.scope, **(constants or {})}.items()}
    return {key: (words, value) for key, (words, value) in (given | lengths(failure)).items() if value not in (0, 1)}


def _born_out(form, keys, value, factor, others) -> bool | None:
    """Whether the same expression is the factor elsewhere; None where that says nothing."""
    said = None
    for known, test in others:
        if not all(key in known for key in keys):
            continue
        other = _value(form, *(known[key][1] for key in keys))
        if not test(math.copysign(other, factor)):
            return False
        said = said or other != value or None
    return said


# Expressions of one value and of two, simplest first.
OF_ONE = {
    "{}": lambda a: a,
    "1 / {}": lambda a: 1 / a,
    "√({})": math.sqrt,
    "1 / √({})": lambda a: 1 / math.sqrt(a),
    "({})²": lambda a: a**2,
    "1 / ({})²": lambda a: 1 / a**2,
    "{} less one, over it": lambda a: (a - 1) / a,
    "{} over it less one": lambda a: a / (a - 1),
    "1 - {}": lambda a: abs(1 - a),
    "1 / (1 - {})": lambda a: 1 / abs(1 - a) if a != 1 else 0,
    "2 × {}": lambda a: 2 * a,
    "2 / {}": lambda a: 2 / a,
    "{} / 2": lambda a: a / 2,
}
OF_TWO = {
    "{} times {}": lambda a, b: a * b,
    "1 / ({} times {})": lambda a, b: 1 / (a * b),
    "{} over {}": lambda a, b: a / b,
    "√({} over {})": lambda a, b: math.sqrt(a / b),
}
PLAIN = ("{}", "1 / {}")


def _rare(form, keys, value) -> bool:
    """Whether it might be so by chance: of lengths, simple fractions other than the length itself and one over it."""
    if len(keys) > 1:
        return True
    plain = form in PLAIN and value not in (2.0, 0.5)
    return bool(keys[0][0]) and not plain and value == float(Fraction(value).limit_denominator(SIMPLE))


def _value(form, *values) -> float:
    return float((OF_ONE.get(form) or OF_TWO[form])(*values))


def _from(known) -> Iterator[tuple[str, tuple, float]]:
    """Expression, where its values are found, and what it gives."""
    for form in OF_ONE:
        yield from ((form, (key,), _value(form, value)) for key, (_, value) in known.items())
    for form in OF_TWO:
        pairs = itertools.permutations if "over" in form else itertools.combinations
        yield from ((form, (a, b), _value(form, known[a][1], known[b][1])) for a, b in pairs(known, 2))


def _simple() -> Iterator[tuple[str, float]]:
    """Simple fractions, powers of ten and of two, the well-known constants."""
    for q in range(1, SIMPLE + 1):
        for p in range(1, SIMPLE + 1):
            if math.gcd(p, q) == 1 and p != q:
                yield (f"{p}/{q}" if q > 1 else f"{p}"), p / q
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
