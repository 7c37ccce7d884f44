"""Checks by name or by expression, for the command line."""

from collections.abc import Iterator, Sequence

from manual_backprop.architecture import ExpressionError, build
from manual_backprop.reference.contract import INDEPENDENT, contract
from manual_backprop.reference.finding import Finding
from manual_backprop.reference.points import point
from manual_backprop.rule import Elementary
from manual_backprop.rules import RULES
from manual_backprop.sampling import any_input

from .run import instances


def check(names, expression, shape, values, seed, dtypes) -> list[Finding]:
    """Every finding about rules by name, over several lengths, or about one network at one shape."""
    found = []
    for rule, lengths, kind, first in _points(names, expression, shape, values, seed):
        oracles = INDEPENDENT if first else ()
        found += contract(rule, point(rule, lengths, kind, seed), dtypes, oracles, optimised=first)
    return found


def _points(names: Sequence[str], expression: str | None, shape, values, seed: int) -> Iterator[tuple]:
    """(rule, input shape, kind of values, whether to ask independent oracles): a rule's as in a run."""
    if expression:
        rule = build(expression)
        for kind in values:
            yield rule, any_input(rule) if shape is None else shape, kind, True
    for name in names:
        rule = build(name)
        if not isinstance(rule, Elementary):
            raise ExpressionError(f"{name!r} is a combinator, not a rule; rules: {', '.join(RULES)}")
        for bound, lengths, kind, _, first in instances(rule, seed):
            if kind in values:
                yield bound, lengths, kind, first


def sentence(findings: Sequence[Finding]) -> str:
    """How many findings had which verdict."""
    counts = {verdict: sum(f.verdict == verdict for f in findings) for verdict in ("right", "wrong", "raised")}
    abstained = sum(f.verdict == "abstained" for f in findings)
    return ", ".join(f"{n} {verdict}" for verdict, n in counts.items()) + f"; {abstained} abstained"
