"""Hypothesis strategies made from signatures, and how much is tried.

    @given(data=st.data())
    def test_mine(data):
        at = data.draw(points(mine))
        for finding in contract(at.rule, at.point): ...

Lengths come from a short list, because every new one is compiled; values and seeds cost nothing.
"""

import random
from collections.abc import Callable
from typing import NamedTuple

from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis import strategies as st

from manual_backprop.rule import Rule

from . import points as at

EXAMPLES = {"quick": 4, "default": 20, "thorough": 300}

# Every field is said, so that nothing depends on what Hypothesis finds out about its surroundings, such as CI=true.
PROFILES = {
    name: {
        "max_examples": examples,
        "derandomize": name != "thorough",
        "database": None,
        "deadline": None,  # the first example compiles
        "print_blob": True,
        "verbosity": Verbosity.normal,
        "phases": (Phase.explicit, Phase.generate, Phase.shrink),
        # The fixture `record_finding` gathers over all examples on purpose.
        "suppress_health_check": (
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.function_scoped_fixture,
        ),
        "report_multiple_bugs": True,
        "stateful_step_count": 50,
        "backend": "hypothesis",
    }
    for name, examples in EXAMPLES.items()
}


def load_profile(name: str) -> None:
    """Make a profile of PROFILES the one that tests without settings of their own run under."""
    settings.register_profile(f"gradient-{name}", **PROFILES[name])
    settings.load_profile(f"gradient-{name}")


class Drawn(NamedTuple):
    """A rule with its lengths and options bound, and a point of it."""

    rule: Rule
    point: at.Point


def instances(rule: Rule, count: int | None = None) -> st.SearchStrategy[tuple[Rule, tuple]]:
    """(rule with every length and option bound, input shape): odd and unequal lengths, all ones, and others.

    Without a count, one choice of lengths for every ten examples of the current profile, and at most 8.
    """
    count = min(8, max(1, settings().max_examples // 10)) if count is None else count
    return st.sampled_from(list(at.instances(rule, count, seed=0)))


def points(rule: Rule, count: int | None = None) -> st.SearchStrategy[Drawn]:
    """Points of a rule: its instances, every kind of values, any seed."""
    drawn = st.tuples(instances(rule, count), st.sampled_from(at.VALUES), seeds)
    return drawn.map(lambda parts: Drawn(parts[0][0], at.point(*parts[0], *parts[1:])))


seeds = st.integers(0, 2**16)


def architectures(sample: Callable[[random.Random], tuple]) -> st.SearchStrategy[tuple[Rule, tuple]]:
    """(network, input shape) as `sample` draws them from a random.Random, such as `sampling.architecture`.

    Hypothesis hands out the random numbers, so a failing network shrinks.
    """
    return st.randoms(use_true_random=False).map(sample)


__all__ = ["EXAMPLES", "PROFILES", "Drawn", "architectures", "instances", "load_profile", "points", "seeds"]
