"""Checks by name or by expression, for the command line."""

from collections.abc import Iterator, Sequence

from manual_backprop.architecture import ExpressionError, build
from manual_backprop.reference.contract import INDEPENDENT, contract
from manual_backprop.reference.finding import Finding
from manual_backprop.reference.points import instances, point
from manual_backprop.rule import Elementary, Rule
from manual_backprop.rules import RULES
from manual_backprop.sampling import any_input


def check(names, expression, shape, values, seed, dtypes) -> list[Finding]:
    """Every finding about rules by name, over several lengths, or about one network at one shape."""
    return [
        finding
        for rule, lengths in _subjects(names, expression, shape, seed)
        for kind in values
        for finding in contract(rule, point(rule, lengths, kind, seed), dtypes, INDEPENDENT)
    ]


def _subjects(names: Sequence[str], expression: str | None, shape, seed: int) -> Iterator[tuple[Rule, tuple]]:
    if expression:
        rule = build(expression)
        yield rule, any_input(rule) if shape is None else shape
    for name in names:
        rule = build(name)
        if not isinstance(rule, Elementary):
            raise ExpressionError(f"{name!r} is a combinator, not a rule; rules: {', '.join(RULES)}")
        yield from instances(rule, 3, seed)


def sentence(findings: Sequence[Finding]) -> str:
    """How many findings had which verdict."""
    counts = {verdict: sum(f.verdict == verdict for f in findings) for verdict in ("right", "wrong", "raised")}
    abstained = sum(f.verdict == "abstained" for f in findings)
    return ", ".join(f"{n} {verdict}" for verdict, n in counts.items()) + f"; {abstained} abstained"
