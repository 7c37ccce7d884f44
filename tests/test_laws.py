"""Laws that cotangents obey whatever an oracle says: sums that vanish, symmetries, and Euler's theorem."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manual_backprop.reference.allowance import SLACK
from manual_backprop.reference.points import instances, point
from manual_backprop.reference.precision import compiled
from manual_backprop.rules import RULES
from manual_backprop.signature import kind_of

ROUNDING = SLACK * np.finfo(float).eps  # of the sum of what was added, term by term

law = settings(max_examples=15, deadline=None, derandomize=True, database=None)
seeds = st.integers(0, 2**16)


@functools.cache
def sized(name):
    return list(instances(RULES[name], 4, seed=0))


@functools.cache
def halves(rule):
    return compiled(rule.forward), compiled(rule.backward)


class Run:
    """A rule's two halves at a point, in float64: primals, y, y_bar and the cotangents by hand."""

    def __init__(self, rule, primals, y_bar):
        self.rule, self.primals, self.y_bar = rule, primals, y_bar
        with jax.enable_x64(True):
            forward, backward = halves(rule)
            y, residuals = forward(*jax.tree.map(jnp.asarray, primals))
            bars = backward(residuals, jax.tree.map(jnp.asarray, y_bar))
            self.y, self.bars = jax.tree.map(np.asarray, (y, tuple(bars)))


def drawn(name, which, seed):
    rule, shape = sized(name)[which]
    at = point(rule, shape, "normal", seed)
    return Run(rule, at.primals, at.cotangent)


def runs(*names):
    """A test of each of these rules, over shapes and points that Hypothesis draws."""

    def decorate(test):
        @law
        @given(which=st.integers(0, 3), seed=seeds)
        def over_points(name, which, seed):
            test(drawn(name, which, seed))

        over_points.__name__, over_points.__doc__ = test.__name__, test.__doc__
        return pytest.mark.parametrize("name", names)(over_points)

    return decorate


def vanishes(difference, *scales):
    """Zero, but for the rounding of terms of this size."""
    return np.all(abs(difference) <= ROUNDING * sum(abs(scale) for scale in scales))


def total(a):
    return np.sum(a, axis=-1)


# --- sums ------------------------------------------------------------------------------------------------------------


@runs("softmax", "log_softmax")
def test_a_shift_of_the_row_changes_nothing_so_cotangents_sum_to_zero(run):
    assert vanishes(total(run.bars[0]), total(abs(run.y_bar)))


@runs("logsumexp")
def test_a_shift_of_the_row_shifts_its_logsumexp_so_cotangents_sum_to_it(run):
    assert vanishes(total(run.bars[0]) - run.y_bar, run.y_bar)


@runs("softmax_cross_entropy", "softmax_cross_entropy_with_integer_labels")
def test_cross_entropy_sees_no_shift_of_the_logits(run):
    labels = run.primals[1]
    weight = total(abs(labels)) if labels.ndim == run.primals[0].ndim else np.ones(labels.shape)
    assert vanishes(total(run.bars[0]), run.y_bar * weight)


@runs("layer_norm")
def test_layer_norm_sees_no_shift_of_the_row(run):
    _, spread, g = centred(run)
    assert vanishes(total(run.bars[0]), total(abs(g)) / spread)


@runs("layer_norm", "rms_norm")
def test_a_norm_sees_the_scale_of_the_row_through_eps_only(run):
    """⟨x̄, x − μ⟩ = ε ⟨g, x − μ⟩ / (σ² + ε)^(3/2):  x̄ is orthogonal to the row but for ε."""
    x, spread, g = centred(run)
    expected = run.rule.options["eps"] * total(g * x) / spread**3
    assert vanishes(total(run.bars[0] * x) - expected, total(abs(run.bars[0] * x)), total(abs(g * x)) / spread)


def centred(run):
    x, gamma = run.primals[:2]
    x = x - np.mean(x, axis=-1, keepdims=True) if run.rule.name == "layer_norm" else x
    return x, np.sqrt(np.mean(x**2, axis=-1) + run.rule.options["eps"]), gamma * run.y_bar


@runs("embedding")
def test_what_an_embedding_scatters_is_all_there_was(run):
    leading = tuple(range(run.y_bar.ndim - 1))
    scattered = run.bars[1]
    assert vanishes(np.sum(scattered, axis=0) - np.sum(run.y_bar, axis=leading), np.sum(abs(run.y_bar), axis=leading))
    unread = np.setdiff1d(np.arange(len(scattered)), run.primals[0])
    assert not scattered[unread].any()


@runs("add")
def test_every_term_of_a_sum_receives_its_cotangent_whole(run):
    ((a_bar, b_bar),) = run.bars
    assert np.array_equal(a_bar, run.y_bar)
    assert np.array_equal(b_bar, run.y_bar)


@runs("squared_error", "huber_loss")
def test_an_error_sees_differences_only(run):
    prediction_bar, target_bar = run.bars
    assert np.array_equal(prediction_bar, -target_bar)


# --- Euler's theorem: where y is homogeneous of a degree, Σ weight ⟨x̄, x⟩ = degree ⟨ȳ, y⟩ ---------------------------

EULER = [
    ("identity", (1,), 1),
    ("split", (1,), 1),
    ("join", (1,), 1),
    ("add", (1,), 1),
    ("multiply", (1,), 2),
    ("relu", (1,), 1),
    ("leaky_relu", (1,), 1),
    ("prelu", (1, 0), 1),
    ("sqrt", (1,), 0.5),
    ("dropout", (1, 0), 1),
    ("linear", (1, 0), 1),
    ("linear", (0, 1), 1),
    ("dense", (0, 1, 1), 1),
    ("dense", (1, 0, 1), 1),
    ("embedding", (0, 1), 1),
    ("layer_norm", (0, 1, 1), 1),
    ("rms_norm", (0, 1), 1),
    ("squared_error", (1, 1), 2),
    ("softmax_cross_entropy", (0, 1), 1),
    ("volume_rendering", (0, 0, 1), 1),
    ("volume_rendering", (1, -1, 0), 0),  # a denser fog that is thinner by as much
]


@pytest.mark.parametrize(("name", "weights", "degree"), EULER)
@law
@given(which=st.integers(0, 3), seed=seeds)
def test_euler(name, weights, degree, which, seed):
    run = drawn(name, which, seed)
    terms = [
        weight * bar * x
        for weight, bars, xs in zip(weights, run.bars, run.primals, strict=True)
        for bar, x in zip(jax.tree.leaves(bars), jax.tree.leaves(xs), strict=False)
        if weight
    ]
    outputs = [degree * b * y for b, y in zip(jax.tree.leaves(run.y_bar), jax.tree.leaves(run.y), strict=True)]
    size = sum(np.sum(abs(term)) for term in terms + outputs)
    assert vanishes(sum(map(np.sum, terms)) - sum(map(np.sum, outputs)), size)


# --- symmetries ------------------------------------------------------------------------------------------------------


def mirrored(run):
    """The value at −x, and the slopes there and at x."""
    ones = np.ones_like(run.y)
    there = Run(run.rule, (-run.primals[0],), ones)
    return there.y, there.bars[0], Run(run.rule, run.primals, ones).bars[0]


@runs("tanh", "soft_sign", "hard_tanh", "identity")
def test_odd_functions_have_even_slopes(run):
    y, there, here = mirrored(run)
    assert vanishes(y + run.y, run.y)
    assert vanishes(there - here, here)


@runs("sigmoid", "hard_sigmoid", "sparse_sigmoid")
def test_gates_for_and_against_add_to_one(run):
    y, there, here = mirrored(run)
    assert vanishes(y + run.y - 1, 1)
    assert vanishes(there - here, here)


@runs("relu", "softplus", "sparse_plus", "squareplus", "silu", "hard_silu", "gelu")
def test_what_a_rectifier_holds_back_it_lets_through_on_the_other_side(run):
    """y(x) − y(−x) = x, so the slopes on both sides add to 1."""
    y, there, here = mirrored(run)
    assert vanishes(run.y - y - run.primals[0], run.y, y)
    assert vanishes(there + here - 1, here, there)


@runs("sigmoid_binary_cross_entropy")
def test_yes_and_no_are_exchangeable(run):
    logits, labels = run.primals
    other = Run(run.rule, (-logits, 1 - labels), run.y_bar)
    share = run.y_bar / labels.size
    assert vanishes(other.y - run.y, run.y)
    assert vanishes(other.bars[0] + run.bars[0], share)
    assert vanishes(other.bars[1] + run.bars[1], run.bars[1])


@runs("split")
def test_split_and_join_undo_each_other(run):
    joined = Run(RULES["join"], (run.y_bar,), run.primals[0])
    assert np.array_equal(joined.y, run.bars[0])
    assert all(map(np.array_equal, joined.bars[0], run.y))


# --- dropout ---------------------------------------------------------------------------------------------------------


@runs("dropout")
def test_dropout_returns_cotangents_where_it_let_values_through(run):
    x_bar, key_bar = run.bars
    scale = 1 / (1 - run.rule.options["rate"])
    assert key_bar is None
    assert vanishes(x_bar - np.where(run.y == 0, 0, run.y_bar * scale), x_bar)


@law
@given(seed=seeds)
def test_dropout_draws_one_mask_for_all_dtypes_and_keeps_its_rate(seed):
    rule, key, masks = RULES["dropout"].bind(rate=0.1), jax.random.key(seed), []
    with jax.enable_x64(True):
        for dtype in ("float64", "float32", "bfloat16", "float16"):
            y, _ = rule.forward(jnp.ones(1000, dtype), key)
            masks.append(np.asarray(y, float) > 0)
    assert all(np.array_equal(mask, masks[0]) for mask in masks)
    assert abs(np.sum(~masks[0]) - 100) < 6 * np.sqrt(90)  # six standard deviations of 1000 draws at 0.1


# --- every rule ------------------------------------------------------------------------------------------------------


@runs(*RULES)
def test_backward_scales_with_the_cotangent(run):
    """By −2, where nothing rounds, to the last bit."""
    scaled = Run(run.rule, run.primals, jax.tree.map(lambda a: -2 * a, run.y_bar))
    for got, bar in zip(jax.tree.leaves(scaled.bars), jax.tree.leaves(run.bars), strict=True):
        assert np.array_equal(got, -2 * bar)


@runs(*RULES)
def test_only_real_numbers_have_cotangents_each_shaped_like_its_primal(run):
    for primal, bar in zip(run.primals, run.bars, strict=True):
        if kind_of(jax.tree.leaves(primal)[0]) != "float":
            assert bar is None
        else:
            assert jax.tree.map(np.shape, bar) == jax.tree.map(np.shape, primal)
