"""Random networks: right like every rule, drawn so that every rule meets every other, and small once they fail."""

import functools
import itertools
import random

import faults
import hypothesis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manual_backprop.architecture import build
from manual_backprop.combinators import COMBINATORS, Network
from manual_backprop.reference import strategies
from manual_backprop.reference.contract import contract
from manual_backprop.reference.points import VALUES, input_leaves, point
from manual_backprop.rules import RULES
from manual_backprop.sampling import DEPTH, any_input, architecture, pairs, possible_pairs

# In bfloat16 rounding moves what this gives by as much as its size.
ASTRAY = (
    "serial(dropout(rate=0.5), serial(serial(glu, dropout), dense(4)), linear(4), tied(dense(4), dense(4)), sigmoid,"
    " fan_out(identity, scan(recurrent(4)), serial(concatenate(serial(rms_norm, dense(2)), dense(2)), dropout)),"
    " residual(dense(4)), tied(dense(4), residual(dense(4))))"
)

# Each found once by a random network, and kept: (expression, input, values, seed, dtype).
REGRESSIONS = [
    # Nudges by sixteen roundings leapt over the narrow place where tanh is steep, into which one rounding fell.
    ("recurrent(4)", (4, 4, 4), "large", 833, "bfloat16"),
    # The same of the two corners of hard_tanh: all copies were beyond them, and all of the truth was zero.
    (f"serial({ASTRAY}, hard_tanh)", (2, 3, 4), "mixed", 1, "bfloat16"),
    (f"serial({ASTRAY}, hard_tanh, hard_sigmoid)", (2, 3, 4), "mixed", 1, "bfloat16"),
    # The definition's autodiff squared 1 + e⁴⁵⁶: the truth was zero, and the rule right.
    ("serial(softmax_cross_entropy, sigmoid)", (3, 4), "wide", 4, "float64"),
    # Values at the edge of float16's range: whether they overflow is a matter of rounding.
    ("serial(log_softmax, serial(dense(2), dense(4)), relu)", (2, 4), "large", 23, "float16"),
    # Autodiff of a naive definition loses digits in float64: the truth was off, not the rule.
    (
        "serial(concatenate(identity, layer_norm), concatenate(dense(2), identity, dense(6)), dense(18), prelu, mish)",
        (3, 3),
        "normal",
        9,
        "float64",
    ),
    # The nudges of all steps of a loop were the same, and cancelled: what really rounding does was not foreseen.
    (
        "serial(layer_norm, log_sigmoid, rms_norm, dense(4), relu, fan_out(gelu, serial(repeat(hard_silu, 2), relu),"
        " dense(4)), repeat(identity, 3), elu, elu, tied(dense(4), dense(4)), scan(recurrent(4)))",
        (3, 4),
        "normal",
        459,
        "float32",
    ),
    # γ ȳ was too small a number for float32, and r γ ȳ is none: the derivative by hand multiplied in the other order.
    (
        "serial(embedding(4, 4), serial(split, parallel(serial(serial(rms_norm, glu), dense(2)), sparse_plus), join),"
        " sparse_plus, serial(split, parallel(sparse_plus, serial(tanh, serial(linear(4), dense(2)), dense(2))), add),"
        " softmax_cross_entropy)",
        (),
        "wide",
        42,
        "float32",
    ),
]

architectures = strategies.architectures(architecture)
fewer = settings(max_examples=max(2, settings().max_examples // 2))  # a network compiles what is new in it


def right(rule, at, dtypes, record_finding):
    """Every finding in the report, and none of them wrong."""
    for finding in contract(rule, at, dtypes):
        record_finding(finding, family="architecture")
        assert finding.ok, str(finding)


@fewer
@given(drawn=architectures, values=st.sampled_from(VALUES), seed=strategies.seeds)
def test_every_network_is_right(drawn, values, seed, record_finding):
    rule, shape = drawn
    right(rule, point(rule, shape, values, seed), ("float64", "float32"), record_finding)


@pytest.mark.parametrize("seed", range(12))
def test_these_networks_are_right(seed, record_finding):
    """Networks that stay the same whatever Hypothesis draws, with the dtypes by turns."""
    rule, shape = architecture(random.Random(seed))
    dtypes = "float64", ("float32", "bfloat16", "float16")[seed % 3]
    right(rule, point(rule, shape, VALUES[seed % len(VALUES)], seed), dtypes, record_finding)


@pytest.mark.parametrize(("expression", "shape", "values", "seed", "dtype"), REGRESSIONS)
def test_what_was_wrong_once_is_right(expression, shape, values, seed, dtype, record_finding):
    rule = build(expression)
    right(rule, point(rule, shape, values, seed), (dtype,), record_finding)


@pytest.mark.parametrize("name", ["hard_tanh", "hard_sigmoid", "dense"])
def test_where_rounding_leads_astray_a_fault_is_seen_all_the_same(name):
    wrong = faults.planted(build(f"serial({ASTRAY}, hard_tanh, hard_sigmoid)"), name, faults.on_leaf(0, lambda b: -b))
    assert any(f.verdict == "wrong" for f in contract(wrong, point(wrong, (2, 3, 4), "mixed", 1), ("bfloat16",)))


# --- what is drawn ---------------------------------------------------------------------------------------------------


@functools.cache
def many(count):
    draw = random.Random(0)
    return [architecture(draw) for _ in range(count)]


def parts(rule):
    yield rule
    for layer in getattr(rule, "layers", ()):
        yield from parts(layer)


def test_nearly_every_pair_of_rules_meets():
    possible = possible_pairs()
    met = set().union(*(pairs(rule) for rule, _ in many(5000)))
    missing = sorted(possible - met)
    assert len(missing) <= len(possible) / 20, missing
    assert {name for pair in possible for name in pair} == set(RULES)


def test_every_rule_combinator_and_depth_occurs():
    depths = [len(rule.layers) for rule, _ in many(1000)]
    assert max(depths) == DEPTH == 12
    assert min(depths) == 1
    seen = [part for rule, _ in many(1000) for part in parts(rule)]
    assert {part.combinator.__name__ for part in seen if isinstance(part, Network)} == set(COMBINATORS)
    assert {part.name for part in seen if not isinstance(part, Network)} == set(RULES)
    assert {part.options["eps"] for part in seen if getattr(part, "name", "") == "rms_norm"} == {1e-05, 0.1}


def test_networks_print_as_expressions_that_build_them():
    for rule, shape in many(1000):
        again = build(str(rule))
        assert again == rule
        assert hash(again) == hash(rule)
        assert again.shapes(input_leaves(again, shape)) == rule.shapes(input_leaves(rule, shape))


def test_one_seed_draws_one_network():
    one, other = (list(itertools.starmap(str_of, map(architecture, map(random.Random, range(50))))) for _ in range(2))
    assert one == other
    assert len(set(one)) > 45


def str_of(rule, shape):
    return f"{rule} {shape}"


@pytest.mark.parametrize("expression", ["relu", "embedding(5, 4)", "multiply", "serial(split, parallel(tanh, relu))"])
def test_some_input_is_found_for_any_rule(expression):
    rule = build(expression)
    rule.shapes(input_leaves(rule, any_input(rule)))


# --- what fails shrinks ----------------------------------------------------------------------------------------------


def test_hypothesis_shrinks_a_failing_network():
    """One rule off by a thousandth, and of a network of many layers at most three are left."""
    off, sizes = faults.on_leaf(0, faults.times(1.001)), []

    def fails(drawn):
        rule, shape = drawn
        names = [part.name for part in parts(rule) if not isinstance(part, Network)]
        if "sigmoid" not in names:
            return False
        wrong = faults.planted(rule, "sigmoid", off)
        found = any(f.verdict == "wrong" for f in contract(wrong, point(wrong, shape), ("float64",)))
        sizes.extend([len(names)] * found)
        return found

    every_draw = settings(max_examples=500, database=None, derandomize=True, deadline=None)
    hypothesis.find(architectures, fails, settings=every_draw)
    assert max(sizes) > 3 >= sizes[-1]
