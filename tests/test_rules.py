"""Every rule fulfils the contract: in every dtype, at lengths, values and seeds that Hypothesis draws."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manual_backprop.reference import strategies
from manual_backprop.reference.contract import contract
from manual_backprop.reference.oracles import ORACLES
from manual_backprop.reference.points import VALUES, Point, instances, point
from manual_backprop.rules import RULES
from manual_backprop.signature import kind_of

INDEPENDENT = tuple(name for name in ORACLES if name != "vjp")  # jax.vjp is what every check starts from

every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=str)


@every_rule
@given(data=st.data())
def test_every_rule_is_right(rule, data, record_finding):
    bound, at = data.draw(strategies.points(rule))
    for finding in contract(bound, at):
        record_finding(finding, subject=rule.name)
        assert finding.ok, str(finding)


@every_rule
def test_independent_oracles_agree(rule, record_finding):
    """At unequal lengths, and with one element less than rounding could hide."""
    bound, shape = next(instances(rule, 1, seed=0))
    verdicts = []
    for values in ("normal", "mixed", "kinks"):
        for finding in contract(bound, point(bound, shape, values), ("float64",), INDEPENDENT):
            record_finding(finding, subject=rule.name)
            assert finding.ok, str(finding)
            verdicts.append((finding.check, finding.verdict))
    assert {("value", "right"), ("vjp", "right"), ("richardson", "right"), ("jacrev", "right")} <= set(verdicts)


@pytest.mark.parametrize("name", ["relu", "dense", "layer_norm", "embedding"])
def test_arrays_without_elements_are_right(name):
    """A batch of nothing has cotangents of the right shapes, and the parameters' are zero."""
    rule = RULES[name].sized(3) if name == "dense" else RULES[name].bind(d=2) if name == "embedding" else RULES[name]
    rule = rule.bind(vocabulary=4) if name == "embedding" else rule
    at = point(rule, (0,) if name == "embedding" else (0, 4))
    findings = list(contract(rule, at, ("float32",)))
    assert all(finding.ok for finding in findings), findings
    assert all(np.size(leaf) == 0 for leaf in jax.tree.leaves(at.cotangent))


@settings(max_examples=100)
@given(data=st.data(), rule=st.sampled_from(list(RULES.values())))
def test_a_point_is_made_from_its_four_coordinates_alone(data, rule):
    bound, shape = data.draw(strategies.instances(rule, 3))
    values, seed = data.draw(st.sampled_from(VALUES)), data.draw(strategies.seeds)
    one, other = (point(bound, shape, values, seed) for _ in range(2))
    assert isinstance(one, Point)
    for a, b in zip(*map(jax.tree.leaves, (one.primals, other.primals)), strict=True):
        assert np.array_equal(*(jax.random.key_data(k) if kind_of(k) == "key" else k for k in (a, b)))
    for leaf in jax.tree.leaves(one.cotangent):
        assert leaf.size < 2 or np.unique(leaf).size > 1, "a constant cotangent hides what adds to nothing"
