"""The loop trains, its twin agrees at every step, and a fault of one in a thousand does not pass."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from manual_backprop.combinators import serial
from manual_backprop.command import experiments
from manual_backprop.reference.twin import by_autodiff, twin
from manual_backprop.rule import Elementary
from manual_backprop.rules import RULES
from manual_backprop.signature import Leaf, SignatureError
from manual_backprop.training import by_hand, join, split, train

LOSS = RULES["softmax_cross_entropy_with_integer_labels"]


def problem(seed=0, width=4, dtype=np.float32):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(20, 3)).astype(dtype)
    labels = np.argmax(x @ rng.normal(size=(3, 2)), axis=1).astype(np.int32)
    params = tuple(
        (rng.normal(size=shape).astype(dtype), np.zeros(shape[1], dtype)) if shape else ()
        for shape in ((3, width), None, (width, 2))
    )
    return params, (x, labels), np.tile(np.arange(20), (30, 1))


NETWORK = serial(RULES["dense"].sized(4), RULES["relu"], RULES["dense"].sized(2))


def test_the_loop_is_gradient_descent_step_by_step():
    """In whole numbers and their halves, which nothing rounds."""
    rng = np.random.default_rng(1)
    x, w, target = (rng.integers(-2, 3, shape).astype(float) for shape in ((8, 3), (3, 2), (8, 2)))
    order = rng.integers(8, size=(4, 4))
    gradient = by_hand(serial(RULES["linear"].sized(2)), RULES["squared_error"])
    with jax.enable_x64(True):
        trained = train(gradient, optax.sgd(0.5), ((w,),), (x, target), order, keep=True)
        for step, chosen in enumerate(order):
            value, (w_bar,) = (
                np.mean((x[chosen] @ w - target[chosen]) ** 2),
                gradient(((w,),), (x[chosen], target[chosen]))[1][0],
            )
            assert trained.losses[step] == value
            w = w - 0.5 * np.asarray(w_bar)
            assert np.array_equal(trained.trajectory[0][0][step], w)
        assert np.array_equal(trained.params[0][0], w)
        assert train(gradient, optax.sgd(0.5), ((w,),), (x, target), order).trajectory is None


def test_parameters_that_are_no_floats_stay_and_have_no_gradient():
    tree = {"w": np.ones(2, np.float32), "n": np.array([1, 2]), "key": jax.random.key(0)}
    floats, others = split(tree)
    assert (floats["n"], floats["key"], others["w"]) == (None, None, None)
    assert jax.tree.structure(join(floats, others)) == jax.tree.structure(tree)

    network = serial(RULES["dense"].sized(2), RULES["dropout"])
    (dense, _), _ = network.shapes(Leaf("float", (20, 3)))
    own, data = (tuple(np.ones(leaf.shape, np.float32) for leaf in dense), (jax.random.key(1),)), problem()[1]
    for gradient in (by_hand(network, LOSS), by_autodiff(network, LOSS)):
        trained = train(gradient, optax.adam(0.1), own, data, np.tile(np.arange(20), (3, 1)))
        assert trained.params[1][0] == own[1][0]
        assert not np.array_equal(trained.params[0][0], own[0][0])


def test_an_order_that_is_no_table_is_explained():
    params, data, _ = problem()
    with pytest.raises(SignatureError, match=r"order has shape \(20,\)"):
        train(by_hand(NETWORK, LOSS), optax.sgd(0.1), params, data, np.arange(20))


PAIRS = list(zip(experiments.EXPERIMENTS, ("float64", "float32"), strict=True))


@pytest.mark.parametrize(("experiment", "dtype"), PAIRS, ids=lambda value: getattr(value, "__name__", value))
def test_by_hand_and_by_autodiff_stay_together(experiment, dtype):
    line = experiment(0, dtype)
    assert line["kind"] == "curve"
    assert line["verdict"] == "right"
    assert line["accuracy_by_hand"] >= 0.95
    assert line["loss_by_hand"][-1] < line["loss_by_hand"][0] / 5
    length = len(line["steps"])
    for field in ("loss_by_hand", "loss_autodiff", "divergence_ulps", "allowance_ulps"):
        assert len(line[field]) == length
    assert line["largest_divergence_ulps"] == max(line["divergence_ulps"]) > 0
    assert jnp.ones(1).dtype == jnp.float32
    # Meaningful only where the two are apart by rounding of this dtype, and the allowance is not the whole story.
    assert max(line["allowance_ulps"]) < 1e4
    json.dumps(line)


def planted(rule, factor):
    """A copy of a rule whose backward pass is wrong by a factor."""
    copy = Elementary(rule._definition, list(rule._halves), rule._bound)
    backward = copy._halves[1]

    def wrong(residuals, y_bar, **options):
        first, *rest = backward(residuals, y_bar, **options)
        return (first * factor, *rest) if first is not None and not rest else (first, *(a * factor for a in rest))

    copy.def_backward(wrong)
    return copy


@pytest.mark.parametrize(
    ("name", "factor", "verdict"),
    [
        ("dense", 1.0, "right"),
        ("relu", 1.001, "wrong"),
        ("dense", 1.001, "wrong"),
        ("dense", 0.999, "wrong"),
        ("relu", np.nan, "wrong"),
    ],
)
def test_a_fault_of_one_in_a_thousand_is_wrong(name, factor, verdict):
    params, data, order = problem()
    layers = [planted(layer, factor) if layer.name == name else layer for layer in NETWORK.layers]
    found = twin("planted", serial(*layers), LOSS, optax.sgd(0.1, momentum=0.9), params, data, order, data)
    assert found.verdict == verdict


def test_chaos_is_measured():
    """With long steps training jumps about before it settles: rounding grows, and the allowance with it."""
    params, data, order = problem(seed=1)
    calm, wild = (
        twin("chaos", NETWORK, LOSS, optax.sgd(rate), params, data, np.tile(order, (10, 1)), data) for rate in (0.01, 3)
    )
    assert calm.verdict == wild.verdict == "right"
    assert wild.allowance_ulps[-1] > 20 * calm.allowance_ulps[-1]


def test_where_autodiff_overflows_the_twin_abstains():
    params, data, order = problem()
    assert twin("overflow", NETWORK, LOSS, optax.sgd(1000.0), params, data, order, data).verdict == "abstained"
    layers = [planted(layer, 1.001) for layer in NETWORK.layers]
    assert twin("overflow", serial(*layers), LOSS, optax.sgd(1000.0), params, data, order, data).verdict == "wrong"
