"""The main job: check every rule and many random architectures, train by hand, and say what lowers where.

`work(plan)` yields what it did, step by step; it writes nothing and prints nothing.
"""

import dataclasses
import functools
import random
import shlex
import time
from collections.abc import Callable, Iterator, Sequence

import jax

from manual_backprop.reference.allowance import DTYPES
from manual_backprop.reference.claims import CLAIMS, claims
from manual_backprop.reference.contract import INDEPENDENT, contract
from manual_backprop.reference.locating import locate
from manual_backprop.reference.points import VALUES, chosen, point
from manual_backprop.reference.shrinking import shrink
from manual_backprop.reports.ledger import Ledger
from manual_backprop.rule import Rule
from manual_backprop.rules import RULES
from manual_backprop.sampling import architecture, pairs, possible_pairs

from . import lowering
from .lines import line_of
from .spread import spread

BLOCK = 1000  # networks: compiling anew costs as much as some 100 of them, and they leave about 1 GB with JAX

# What every rule is tried with: for each choice of lengths, the kinds of values, which cost next to nothing; a dtype
# costs a compilation.  At the first lengths every dtype is tried, compiled as the rule's users run it, and independent
# oracles are asked; at the others the first dtype and one more in turn, compiled quickly.
EFFORT = {
    "odd": VALUES,
    "batched": VALUES,
    "one": VALUES,
    "drawn": VALUES,
    "long": ("normal", "wide", "kinks"),
    "square": VALUES,
    "empty": ("normal",),
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run shall do; the seed decides every random choice, and the number of processes decides none."""

    seed: int = 0
    architectures: int = 200
    dtypes: tuple[str, ...] = DTYPES
    processes: int = 1

    def choices(self) -> dict:
        """What a record's header says of the plan."""
        return {"seed": self.seed, "architectures": self.architectures, "precisions": list(self.dtypes)}


@dataclasses.dataclass(frozen=True)
class Step:
    """One unit of work done: the stage it belongs to, how far that stage is, and the record lines it gave."""

    stage: str
    done: int
    total: int
    lines: list[dict]


def work(plan: Plan) -> Iterator[Step]:
    """Every step of the main job, in order."""
    from . import experiments  # which needs scikit-learn and optax, where checking rules alone does not

    start = time.monotonic()
    rules = spread(functools.partial(_rule, plan), RULES, plan.processes)
    for i, lines in enumerate(rules, 1):
        yield Step("rules", i, len(RULES), lines)
    yield from _architectures(plan)
    for i, experiment in enumerate(experiments.EXPERIMENTS, 1):
        yield Step("training", i, len(experiments.EXPERIMENTS), [experiment(plan.seed)])
    for i, line in enumerate(claims(plan.seed), 1):
        yield Step("derivations", min(i, len(CLAIMS)), len(CLAIMS), [line])
    for i, rule in enumerate(RULES.values(), 1):
        yield Step("lowering", i, len(RULES), lowering.lower(rule))
    yield Step("end", 1, 1, [{"kind": "end", "finished": True, "seconds": time.monotonic() - start}])


def _in_blocks(function: Callable, items: Sequence, processes: int) -> Iterator:
    """As `spread`; between two blocks nothing compiled is kept, for what JAX itself keeps has no bound."""
    for start in range(0, len(items), BLOCK):
        if start:
            jax.clear_caches()
        yield from spread(function, items[start : start + BLOCK], processes)


def _rule(plan: Plan, name: str) -> list[dict]:
    return check_rule(RULES[name], plan.seed, plan.dtypes)


def _network(plan: Plan, i: int) -> list[dict]:
    return check_architecture(*_drawn(plan, i))


def instances(rule, seed: int, dtypes=DTYPES) -> Iterator[tuple[Rule, tuple, str, tuple[str, ...], bool]]:
    """All that a rule is tried with: itself at certain lengths, its input's shape, the kind of values, the dtypes,
    and whether these are the first lengths, where more is asked."""
    for i, (choice, kinds_of_values) in enumerate(EFFORT.items()):
        for bound, shape in chosen(rule, choice, seed):
            for values in kinds_of_values:
                yield bound, shape, values, dtypes if i == 0 else _in_turn(dtypes, i - 1), i == 0


def _in_turn(dtypes, i) -> tuple[str, ...]:
    """The first, and another of the rest in each turn, since each compiles anew."""
    first, *others = dtypes
    return (first, others[i % len(others)]) if others else (first,)


def check_rule(rule, seed: int, dtypes=DTYPES) -> list[dict]:
    """The worst finding of each check, leaf and dtype of one rule, over all choices of lengths and kinds of values."""
    ledger = Ledger()
    for bound, shape, values, precisions, first in instances(rule, seed, dtypes):
        for line in check_point(bound, shape, values, seed, precisions, INDEPENDENT if first else (), first):
            ledger.add(line | {"family": "rule", "subject": rule.name})
    return ledger.lines()


def check_point(
    rule: Rule, shape: tuple, values: str, seed: int, dtypes=DTYPES, oracles=(), optimised: bool = False
) -> Iterator[dict]:
    """Every finding at one point, as record lines that say how to come back to it."""
    at = point(rule, shape, values, seed)
    for finding in contract(rule, at, dtypes, oracles, optimised):
        yield line_of(dataclasses.replace(finding, reproduction=reproduction(rule, at, finding.dtype)))


def reproduction(rule: Rule, at, dtype: str) -> str:
    """The command that checks the same rule at the same point."""
    options = {"expression": rule, "input": at.input, "values": at.values, "seed": at.seed, "dtype": dtype}
    return "manual-backprop check " + " ".join(f"--{name} {shlex.quote(str(v))}" for name, v in options.items())


def _architectures(plan):
    start = time.monotonic()
    checked = _in_blocks(functools.partial(_network, plan), range(plan.architectures), plan.processes)
    for i, lines in enumerate(checked, 1):
        yield Step("architectures", i, plan.architectures, lines)
    seconds = time.monotonic() - start
    drawn = (_drawn(plan, i)[0] for i in range(plan.architectures))
    met, possible = set().union(*map(pairs, drawn)), possible_pairs()
    coverage = {
        "kind": "coverage",
        "pairs_possible": len(possible),
        "pairs_seen": len(met & possible),
        "missing": sorted(map(list, possible - met)),
        "architectures": plan.architectures,
        "architectures_per_second": plan.architectures / seconds,
        "rules_seen": len({name for pair in met for name in pair}),
    }
    yield Step("architectures", plan.architectures, plan.architectures, [coverage])


def _drawn(plan, i):
    """Network i of a plan: (rule, input shape, kind of values, seed, dtypes).

    The first dtype of the plan judges every network; the others take turns.
    """
    draw = random.Random(f"{plan.seed}:{i}")
    rule, shape = architecture(draw)
    return rule, shape, draw.choice(("normal", "normal", *VALUES)), i, _in_turn(plan.dtypes, i)


def check_architecture(rule, shape, values, seed, dtypes=DTYPES) -> list[dict]:
    """The worst leaf of each check and dtype of a network; where one fails, the smallest part that still does."""
    worst: dict = {}
    for line in check_point(rule, shape, values, seed, dtypes):
        key = line["check"], line["dtype"]
        if key not in worst or _order(line) > _order(worst[key]):
            worst[key] = line
    return [_shrunk(rule, shape, values, seed, line) if _failed(line) else line for line in worst.values()]


def _shrunk(rule, shape, values, seed, line):
    def failures(candidate, lengths):
        lines = check_point(candidate, lengths, values, seed, (line["dtype"],))
        return [found for found in lines if _failed(found)]

    location = _located(rule, shape, values, seed, line["dtype"])
    start = (location.layer, location.point.input) if location else (rule, shape)
    smallest, lengths = shrink(*(start if failures(*start) else (rule, shape)), failures)
    found = (failures(smallest, lengths) or [line])[0]
    told = ": ".join(str(said) for said in (location, found["diagnosis"]) if said) or None
    return line | {key: found[key] for key in ("reproduction", "worst", "example", "leaf")} | {"diagnosis": told}


def _located(rule, shape, values, seed, dtype):
    """Where a network's first wrong cotangent enters, if one layer is wrong by itself."""
    try:
        return locate(rule, point(rule, shape, values, seed), dtype)
    except Exception:  # what raises is a finding already; where it is, is a help
        return None


def _failed(line):
    return line["verdict"] in ("wrong", "raised")


def _order(line):
    return _failed(line), line["ratio"]
