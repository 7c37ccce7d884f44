"""In a network with one mistake the layer and the argument are named where the first wrong cotangent enters."""

import faults
import jax.numpy as jnp
import pytest

from manual_backprop.architecture import build
from manual_backprop.combinators import serial
from manual_backprop.command.run import check_architecture
from manual_backprop.reference.locating import locate
from manual_backprop.reference.points import point
from manual_backprop.reference.shrinking import shrink


def replaced(rule, path, change):
    """A network with the layer at a path changed."""
    if not path:
        return change(rule)
    parts = [replaced(p, path[1:], change) if i == path[0] else p for i, p in enumerate(rule.layers)]
    return rule.combinator(*parts, *rule.arguments)


# A network, the path of the layer that is spoiled, which of its cotangents, and the name of that.
PLANTED = [
    ("serial(dense(4), tanh, layer_norm, dense(4), tanh, softmax)", (1,), 0, "x"),
    ("serial(dense(4), tanh, layer_norm, dense(4), tanh, softmax)", (2,), 1, "gamma"),
    ("serial(dense(4), tanh, layer_norm, dense(4), tanh, softmax)", (3,), 2, "b"),
    ("serial(tanh, residual(serial(dense(4), tanh)), dense(4))", (1, 0, 0), 1, "w"),
    ("serial(tanh, fan_out(dense(4), serial(tanh, dense(4))), tanh)", (1, 1, 0), 0, "x"),
    ("serial(dense(4), split, parallel(tanh, dense(2)), join, tanh)", (2, 0), 0, "x"),
    ("serial(dense(4), concatenate(tanh, serial(tanh, dense(2))), tanh)", (1, 1, 1), 0, "x"),
    ("serial(tanh, tied(dense(4), dense(4)), tanh)", (1, 1), 1, "w"),
    ("serial(tanh, checkpointed(serial(dense(4), tanh)), dense(4))", (1, 0, 1), 0, "x"),
    ("serial(dense(4), repeat(serial(dense(4), tanh), 3), tanh)", (1, 0, 1), 0, "x"),
    ("serial(dense(4), scan(recurrent(4)), tanh)", (1, 0), 3, "params.u"),
    ("serial(tanh, repeat(residual(dense(4)), 2), tanh)", (1, 0, 0), 2, "b"),
]


@pytest.mark.parametrize(("expression", "path", "which", "leaf"), PLANTED)
def test_the_layer_and_its_argument_are_named(expression, path, which, leaf):
    right = build(expression)
    wrong = replaced(right, path, lambda rule: faults.faulty(rule, faults.on_leaf(which, _off)))
    at = point(right, (3, 4))
    found = locate(wrong, at, "float32")
    assert (found.path, found.leaf) == (path, leaf)
    assert str(found).startswith(f"enters at layer path {'.'.join(map(str, path))} ({found.layer})")
    assert str(found).endswith(f"argument {leaf}")


def test_no_layer_of_a_right_network_is_named():
    right = build("serial(dense(4), repeat(serial(dense(4), tanh), 3), checkpointed(tanh))")
    assert locate(right, point(right, (3, 4)), "float32") is None


def _off(bar):
    return bar * jnp.asarray(1.5, bar.dtype)


def test_what_comes_wrong_from_above_is_no_fault_of_the_layers_below():
    """Both layers are wrong: the one that the backward pass meets first is named."""
    network = replaced(build("serial(dense(4), tanh, sigmoid)"), (1,), _wrong)
    network = replaced(network, (2,), _wrong)
    assert locate(network, point(network, (3, 4)), "float32").path == (2,)


def _wrong(rule):
    return faults.faulty(rule, faults.on_leaf(0, _off))


def test_in_a_loop_the_last_step_is_the_first_that_the_backward_pass_meets():
    network = replaced(build("serial(dense(4), repeat(tanh, 3))"), (1, 0), _wrong)
    found = locate(network, point(network, (3, 4)), "float32")
    assert found.step == 2
    assert "in step 2 of its loop" in str(found)


@pytest.mark.parametrize("name", ["residual", "fan_out", "scan"])
def test_a_combinator_is_named_where_its_layers_are_right(name):
    _, make, parts, shape = next(fault for fault in faults.COMBINATOR_FAULTS if fault[0] == name)
    right = build(name + parts)
    wrong = faults.wrong_combinator(name, make)(*right.layers, *right.arguments)
    network = serial(wrong, build("tanh"))
    found = locate(network, point(network, shape), "float32")
    assert found.path == (0,)
    assert found.layer is wrong


def test_a_layer_that_raises_or_gives_another_value_is_named():
    for fault, words in ((faults.raising, "which raises"), (faults.value_off, ", y")):
        network = serial(build("dense(4)"), faults.spoiled(build("tanh"), fault), build("sigmoid"))
        found = locate(network, point(network, (3, 4)), "float32")
        assert found.path == (1,)
        assert str(found).endswith(words)


def test_a_reproduction_starts_from_the_layer():
    """The location holds the layer and what it was given: shrinking has little left to do."""
    network = replaced(
        build("serial(dense(4), residual(serial(dense(4), tanh)), layer_norm, dense(4))"), (1, 0, 1), _wrong
    )
    at = point(network, (3, 4))
    found = locate(network, at, "float32")

    def fails(rule, shape):
        return locate(rule, point(rule, shape), "float32") is not None

    smallest, lengths = shrink(found.layer, found.point.input, fails)
    assert str(smallest) == "tanh"
    assert lengths == ()


def test_a_run_records_where_the_fault_enters_and_a_small_reproduction():
    network = replaced(build("serial(dense(4), residual(serial(dense(4), tanh)), dense(4))"), (1, 0, 1), _wrong)
    (line,) = [line for line in check_architecture(network, (3, 4), "normal", 0, ("float32",)) if _failed(line)]
    assert line["diagnosis"].startswith("enters at layer path 1.0.1 (tanh), argument x: off by a factor of 3/2")
    assert "--expression tanh --input '()'" in line["reproduction"]


def _failed(line):
    return line["verdict"] == "wrong"
