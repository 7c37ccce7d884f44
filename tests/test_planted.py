"""Every mistake that is planted is found and named, in every cotangent of every rule, and a right rule passes."""

import faults
import jax
import numpy as np
import pytest

from manual_backprop.architecture import build
from manual_backprop.combinators import COMBINATORS
from manual_backprop.reference.contract import contract
from manual_backprop.reference.points import instances, point
from manual_backprop.rules import RULES

DTYPES = ("float64", "float32")

every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=str)


def judged(rule, at, dtypes=DTYPES):
    return list(contract(rule, at, dtypes))


def telling(rule):
    """A rule with its lengths bound, and a point where every cotangent has several elements that are not zero."""
    bound, shape = next(instances(rule, 1, 0))
    names = [f.leaf for f in judged(bound, point(bound, shape)) if f.check == "vjp" and f.dtype == DTYPES[0]]
    for seed in range(50):
        at = point(bound, shape, "normal", seed)
        bars = [bar for bar in jax.tree.leaves(cotangents(bound, at)) if bar is not None]
        if all(np.count_nonzero(bar) > min(bar.size, 3) - 1 for bar in bars):
            return bound, at, names
    raise AssertionError("no point tells")


def cotangents(rule, at):
    with jax.enable_x64(True):
        _, residuals = rule.compiled().forward(*at.primals)
        return jax.tree.map(np.asarray, tuple(rule.compiled().backward(residuals, at.cotangent)))


def places(rule, at):
    """Where the float leaves stand among all leaves of the cotangents."""
    leaves = jax.tree.leaves(cotangents(rule, at), is_leaf=lambda a: a is None)
    return [i for i, leaf in enumerate(leaves) if leaf is not None], leaves


@every_rule
def test_a_fault_is_found_and_named(rule):
    """In any cotangent, and of the whole rule; together, because what is compiled for one serves the other."""
    bound, at, names = telling(rule)
    assert all(finding.ok for finding in judged(bound, at))
    where, leaves = places(bound, at)
    assert len(where) == len(names) > 0
    for name, place in zip(names, where, strict=True):
        for what in faults.LEAF_FAULTS:
            _is_named(what, name, place, leaves[place].size, bound, at)
    for fault in (faults.ones_for_cotangent, faults.one_too_few, faults.one_too_many, faults.value_off):
        found = judged(faults.spoiled(bound, fault), at)
        assert {f.dtype for f in found if f.verdict == "wrong"} == set(DTYPES), fault.__name__
    found = judged(faults.spoiled(bound, faults.raising), at)
    assert [(f.verdict, f.message) for f in found] == [("raised", "ZeroDivisionError: planted")] * len(DTYPES)
    for place in set(range(len(leaves))) - set(where):
        found = judged(faults.spoiled(bound, faults.on_leaf(place, lambda _: np.zeros(3))), at)
        (message,) = {f.message for f in found if not f.ok}
        assert "has none; return None" in message


def _is_named(what, name, place, size, bound, at):
    change, words = faults.LEAF_FAULTS[what]
    found = judged(faults.spoiled(bound, faults.on_leaf(place, change)), at)
    wrong = {finding.dtype: finding for finding in found if not finding.ok}
    assert set(wrong) == set(DTYPES), f"{what} in {name} was not found"
    for finding in wrong.values():
        assert finding.leaf == name
        assert finding.verdict == "wrong"
        said = finding.diagnosis or finding.message or ""
        assert words in said or ("factor" in words and size == 1), f"{what} in {name}: {said!r}"


EXCHANGED = [("squared_error", (3, 2), 0, 1), ("multiply", ((3, 2), (3, 2)), 0, 1), ("layer_norm", (3, 5), 1, 2)]


@pytest.mark.parametrize(("name", "shape", "a", "b"), EXCHANGED)
def test_exchanged_cotangents_are_named(name, shape, a, b):
    wrong = [
        f for f in judged(faults.spoiled(RULES[name], faults.exchanged(a, b)), point(RULES[name], shape)) if not f.ok
    ]
    assert len(wrong) == 2 * len(DTYPES)
    # Where one cotangent is the other's negative, the simpler mistake is the sign.
    words = "the sign is wrong everywhere" if name == "squared_error" else "exchanged: this is the cotangent of"
    assert all(words in f.diagnosis for f in wrong)


@pytest.mark.parametrize(("expression", "shape", "place"), [("linear(4)", (3, 4), 1), ("recurrent(4)", (3, 4), 3)])
@pytest.mark.parametrize("words", ["transposed", "reversed along axis 0", "shifted by one place along axis 1"])
def test_arrangements_are_named(expression, shape, place, words):
    change = {"t": np.transpose, "r": np.flipud, "s": lambda bar: np.roll(bar, 1, axis=1)}[words[0]]
    rule = build(expression)
    found = judged(faults.spoiled(rule, faults.on_leaf(place, change)), point(rule, shape))
    assert {f.diagnosis for f in found if not f.ok} == {words}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["relu", "dense", "softmax"])
def test_half_precision_finds_what_exceeds_its_rounding(name, dtype):
    bound, at, names = telling(RULES[name])
    for place, leaf in enumerate(names):
        found = judged(faults.spoiled(bound, faults.on_leaf(place, faults.times(2.0))), at, (dtype,))
        assert [f.leaf for f in found if not f.ok] == [leaf]


def test_a_fault_inside_one_compiled_piece_is_found():
    """As a rule would have it that was written wrong: halves of its own, compiled together."""
    rule = faults.faulty(RULES["tanh"], faults.on_leaf(0, faults.times(1.001)))
    wrong = [f for f in judged(rule, point(rule, (3, 2))) if not f.ok]
    assert [f.dtype for f in wrong] == list(DTYPES)


def test_an_oracle_finds_what_it_is_asked_for():
    """Every oracle on its own objects to a wrong sign, not only the truth that allowances start from."""
    rule = faults.faulty(RULES["logsumexp"], faults.on_leaf(0, faults.times(-1.0)))
    names = ("vjp", "jacrev", "jacfwd", "complex_step", "richardson")
    found = contract(rule, point(rule, (4,)), ("float64",), names)
    verdicts = {f.check: f.verdict for f in found if f.leaf != "y"}
    assert verdicts == {**dict.fromkeys(names, "wrong"), "complex_step": verdicts["complex_step"]}


@pytest.mark.parametrize(
    ("name", "make", "parts", "shape"), faults.COMBINATOR_FAULTS, ids=lambda v: getattr(v, "__name__", None)
)
def test_a_fault_in_a_combinator_is_found(name, make, parts, shape):
    right = build(name + parts)
    at = point(right, shape)
    assert all(f.ok for f in judged(right, at))
    wrong = faults.wrong_combinator(name, make)(*right.layers, *right.arguments)
    assert {f.dtype for f in judged(wrong, at) if f.verdict == "wrong"} == set(DTYPES)


def test_no_combinator_goes_without_a_fault():
    assert {name for name, *_ in faults.COMBINATOR_FAULTS} == set(COMBINATORS)
