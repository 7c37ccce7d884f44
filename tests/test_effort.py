"""The lengths and values that a run tries find faults which show at some of them alone."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

from manual_backprop.command.run import EFFORT, check_rule
from manual_backprop.reference.points import CHOICES, VALUES, chosen, instances, point
from manual_backprop.rule import Elementary, rule
from manual_backprop.rules import RULES


@rule
def sine(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    return jnp.sin(x)


@rule
def hard_clip(x: Float[Array, "*n"]) -> Float[Array, "*n"]:
    return jnp.clip(x, -0.5, 0.5)


@rule
def affine(x: Float[Array, "*batch i"], w: Float[Array, "i o"]) -> Float[Array, "*batch o"]:
    return x @ w


@sine.def_forward
def _(x):
    return jnp.sin(x), x


@sine.def_backward
def _(x, y_bar):
    return (jnp.cos(x) * y_bar,)


@hard_clip.def_forward
def _(x):
    return jnp.clip(x, -0.5, 0.5), x


@hard_clip.def_backward
def _(x, y_bar):
    edge = jnp.where(jnp.abs(x) == 0.5, 0.5, 1.0).astype(x.dtype)
    return (jnp.where(jnp.abs(x) <= 0.5, edge * y_bar, jnp.zeros_like(y_bar)),)


@affine.def_forward
def _(x, w):
    return x @ w, (x, w)


@affine.def_backward
def _(residuals, y_bar):
    x, w = residuals
    batch = tuple(range(x.ndim - 1))
    return y_bar @ w.T, jnp.tensordot(x, y_bar, (batch, batch))


def spoiled(right, change):
    """The rule whose cotangents went through change(residuals, *cotangents)."""
    forward, backward = right._halves
    return Elementary(right._definition, [forward, lambda kept, y_bar: change(kept, *backward(kept, y_bar))])


def where(condition, fault):
    """The fault of a cotangent where a condition on x holds."""
    return lambda x, x_bar: (jnp.where(condition(x), fault(x_bar), x_bar),)


def at_end(bar, axis):
    """Zero beyond the first 128 along an axis."""
    keep = jnp.arange(bar.shape[axis]) < 128
    return bar * jnp.expand_dims(keep, [a for a in range(bar.ndim) if a != axis % bar.ndim]).astype(bar.dtype)


def mean_of_nothing(residuals, x_bar, w_bar):
    rows = np.prod(residuals[0].shape[:-1])
    return x_bar, w_bar / rows * rows if rows == 0 else w_bar


FAULTS = {
    "three axes": (sine, lambda x, x_bar: (1.5 * x_bar if x.ndim >= 3 else x_bar,)),
    "an axis beyond 16": (sine, lambda x, x_bar: (x_bar[::-1] if x.ndim and x.shape[0] > 16 else x_bar,)),
    "beyond 128 of a batch": (affine, lambda _, x_bar, w_bar: (at_end(x_bar, 0) if x_bar.ndim > 1 else x_bar, w_bar)),
    "beyond 128 inputs": (affine, lambda _, x_bar, w_bar: (x_bar, at_end(w_bar, 0))),
    "beyond 128 outputs": (affine, lambda _, x_bar, w_bar: (x_bar, at_end(w_bar, 1))),
    "square": (affine, lambda _, x_bar, w_bar: (x_bar, w_bar.T if w_bar.shape[0] == w_bar.shape[1] else w_bar)),
    "an empty batch": (affine, mean_of_nothing),
    "above 60": (sine, where(lambda x: jnp.abs(x) > 60, lambda bar: 0 * bar)),
    "below 1e-5": (sine, where(lambda x: (jnp.abs(x) < 1e-5) & (x != 0), lambda bar: 1.5 * bar)),
    "an undeclared kink": (hard_clip, where(lambda x: x == 0.5, lambda bar: 4 * bar)),
}


@pytest.mark.parametrize("right", [sine, hard_clip, affine], ids=str)
def test_the_rules_to_be_spoiled_are_right(right):
    lines = check_rule(right, 0, ("float64", "float32"))
    assert {line["verdict"] for line in lines} <= {"right", "abstained"}, lines
    assert {line["verdict"] for line in lines if line["check"] in ("value", "vjp")} == {"right"}


@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_that_shows_at_some_lengths_or_values_alone_is_found(what):
    lines = check_rule(spoiled(*FAULTS[what]), 0, ("float64",))
    assert "wrong" in {line["verdict"] for line in lines if line["check"] == "vjp"}


def lengths(name, choice):
    """Of every instance, the lengths of all axes of all primals."""
    for bound, shape in chosen(RULES[name], choice, 0):
        yield [np.shape(leaf) for leaf in jax.tree.leaves(point(bound, shape).primals)]


@pytest.mark.parametrize("name", RULES)
def test_the_choices_of_lengths_are_what_they_say(name):
    variadic = any(size.startswith("*") for size in RULES[name].signature.sizes)
    assert all(set(itertools.chain(*shapes)) <= {1, 2} for shapes in lengths(name, "one"))  # 2 where it is 2*d
    assert [max(map(len, shapes)) >= 3 for shapes in lengths(name, "batched")] == [True] * variadic
    assert [min(itertools.chain(*shapes)) for shapes in lengths(name, "empty")] == [0] * variadic
    assert all(len(set(itertools.chain(*shapes)) - {8}) <= 1 for shapes in lengths(name, "square"))  # 8 is 2*4
    found = list(lengths(name, "long"))
    assert len(found) == len(RULES[name].signature.sizes)
    assert all(max(itertools.chain(*shapes)) >= 131 for shapes in found)


@pytest.mark.parametrize("name", RULES)
def test_where_a_choice_does_not_apply_lengths_are_drawn(name):
    assert len(list(instances(RULES[name], 8, 0))) == 8


def test_wide_values_are_large_and_small_wherever_there_are_a_few():
    for seed in range(20):
        (x,) = point(sine, (3, 2), "wide", seed).primals
        assert np.abs(x).max() > 60
        assert np.abs(x).min() < 1e-5
        (x,) = point(sine, (16,), "wide", seed).primals
        assert (x < 0).any()
        assert (x > 0).any()


def test_kinks_are_looked_for_at_the_constants_of_a_definition():
    (x,) = point(hard_clip, (200,), "kinks", 0).primals
    assert {-1.0, -0.5, 0.0, 0.5, 1.0} <= set(x)
    assert np.mean(np.isin(x, [-1.0, -0.5, 0.0, 0.5, 1.0])) < 0.7
    (x,) = point(hard_clip, (200,), "normal", 0).primals
    assert not np.isin(x, [-1.0, -0.5, 0.0, 0.5, 1.0]).any()


def test_every_kind_of_values_and_every_choice_is_tried():
    assert set(EFFORT) == set(CHOICES)
    assert set(itertools.chain(*EFFORT.values())) == set(VALUES)
