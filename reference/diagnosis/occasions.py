"""On what occasions alone a derivative is wrong: at which values, and for which lengths, in a few words."""

import dataclasses
from collections.abc import Callable, Iterable

FEW = 9  # lengths below which every one may be where it begins
ASKED = 12  # lengths at which it is tried to tell one rule from another
LONGEST = 130  # of those
BLOCKS = (2, 3, 4, 5, 6, 8, 16, 32, 64, 128)
# What lies in another kind of values too, and is not named beside it.
WITHIN = {
    "zeros": ("nothing but zeros", "edges"),
    "ties": ("equal rows",),
    "tiny": ("minute",),
    "wide": ("large", "huge", "far from zero"),
    "large": ("huge",),
}
SAID = {
    "nothing but zeros": "zeros",
    "wide": "large values",
    "far from zero": "values far from zero",
    "large": "large values",
    "huge": "huge values",
    "tiny": "tiny values",
    "minute": "tiny values",
    "alike": "arguments that are alike",
    "mixed sizes": "values of mixed sizes",
    "edges": "values on its edges",
    "nothing but edges": "values on its edges",
    "between edges": "values between its edges",
    "ends": "the ends of the range",
    "near ends": "values near the ends of the range",
    "marks": "single values that it asks for",
    "infinities": "infinite values",
    "infinite rows": "infinite rows",
    "missing": "missing values",
}


def of_values(kinds: Iterable[str]) -> str:
    """Words for the kinds of values at which it is wrong.

    >>> of_values(["zeros", "edges", "large", "huge"])
    'wrong only at zeros and large values'
    """
    kinds = list(dict.fromkeys(kinds))
    if "fresh" in kinds:
        return "right at the values given, wrong at others"
    hidden = {inner for kind in kinds for inner in WITHIN.get(kind, ())}
    said = list(dict.fromkeys(SAID.get(kind, kind) for kind in kinds if kind not in hidden))
    return f"wrong only at {', '.join(said[:-1])}{' and ' if said[1:] else ''}{said[-1]}"


@dataclasses.dataclass(frozen=True)
class Rule:
    """For which lengths it is wrong, all else as given: words with {} for the length, a test.

    sure   lengths that tell it from what no rule here says
    moved  the rule whose edge comes after another length, of one that has an edge
    """

    words: str
    wrong: Callable[[int], bool]
    sure: tuple[int, ...] = ()
    moved: Callable[[int], "Rule"] | None = None


def rules(given: int, bad: bool) -> list[Rule]:
    """What is right, or wrong, at the length that was given, the likeliest first."""
    blocks = [Rule(f"{{}} is {_not_a_multiple(b)}", lambda n, b=b: n % b != 0, sure=(2 * b, 2 * b + 1)) for b in BLOCKS]
    ends, starts = sorted({given, *BLOCKS, 100}), (given, *range(min(given, FEW) - 1, 2, -1))
    found = [
        Rule("{} is 1", lambda n: n == 1),
        *blocks,
        Rule("{} is even", lambda n: n % 2 == 0),
        *map(_over, ends),
        *map(_under, starts),
        Rule(f"{{}} is not {given}", lambda n: n != given),
    ]
    return [rule for rule in found if rule.wrong(given) == bad]


def _over(end) -> Rule:
    return Rule(f"{{}} is over {end}", lambda n: n > end, moved=_over)


def _under(start) -> Rule:
    return Rule(f"{{}} is under {start}", lambda n: n < start, moved=lambda last: _under(last + 1))


def _not_a_multiple(block) -> str:
    return "odd" if block == 2 else f"not a multiple of {block}"


def of_length(given: int, bad: bool, ask: Callable[[int], bool | None]) -> tuple[str, int] | None:
    """The one rule that a length follows, and a length near that given at which it was seen wrong.

    bad  whether it is wrong at the length that was given
    ask  whether it is wrong at another length, None where that is not to be had
    """
    known, left = {given: bad}, rules(given, bad)
    for _ in range(ASKED):
        apart = [n for n in range(1, LONGEST + 1) if n not in known and len({rule.wrong(n) for rule in left}) > 1]
        if not apart:
            break
        n = min(apart, key=lambda n: (abs(2 * sum(rule.wrong(n) for rule in left) - len(left)), n < given, n))
        known[n] = ask(n)
        left = [rule for rule in left if known[n] is None or rule.wrong(n) == known[n]]
    if len(left) == 1 and not any(known.values()):
        n = min((n for n in range(1, LONGEST + 1) if left[0].wrong(n)), key=lambda n: (n < given, n), default=given)
        known[n] = ask(n)
    rule = _made_sure(left[0], known, ask) if left else None
    wrong = [n for n, bad in known.items() if bad]
    right = [n for n, bad in known.items() if bad is False]
    if rule is None or not wrong or (len(right) < 2 and f"not {given}" not in rule.words):
        return None
    return rule.words, min(wrong, key=lambda n: (n < given, abs(n - given)))


def _made_sure(rule, known, ask) -> Rule | None:
    """The rule where it holds further, with its edge between a length that is right and the next, that is wrong."""
    if rule.moved is None:
        for n in (n for n in rule.sure if n not in known and n <= LONGEST):
            known[n] = ask(n)
        return rule if all(bad in (None, rule.wrong(n)) for n, bad in known.items()) else None
    edge = next(n for n in range(1, LONGEST + 1) if rule.wrong(n) != rule.wrong(n + 1))
    for n in {edge, edge + 1} - known.keys():
        known[n] = ask(n)
    here = rule.wrong(1)
    low = max((n for n, bad in known.items() if bad is here), default=0)
    high = min((n for n, bad in known.items() if bad is (not here)), default=0)
    while 0 < low < high - 1:
        middle = (low + high) // 2
        known[middle] = ask(middle)
        if known[middle] is None:  # of the lengths that are to be had none lies between, as far as is seen
            return rule if low <= edge < high else None
        low, high = (middle, high) if known[middle] is here else (low, middle)
    return rule.moved(low) if 0 < low < high else None
