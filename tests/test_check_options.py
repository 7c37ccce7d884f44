"""Static options, values that several arguments have together, large examples: what `check` tries of itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from detection.case import by_hand
from detection.halves import keeping
from judging import X, judged

from manual_backprop.reference import check
from manual_backprop.reference.specification import draw, parse

ROWS = np.array([[0.5, -1.25, 2.0], [0.75, 1.5, -0.25], [1.0, -0.5, 0.125], [2.0, 0.25, -1.0]], np.float32)


# --- options ----------------------------------------------------------------------------------------------------------


def _root(x, eps):
    return jnp.sqrt(x * x + eps)


def _power(x, n):
    return x**n


def _clipped(x, clip):
    return jnp.clip(x, -1, 1) if clip else x * x


def with_option(f, backward):
    made = jax.custom_vjp(f, nondiff_argnums=(1,))
    made.defvjp(lambda x, option: (f(x, option), x), backward)
    return made


def root_back(eps, x, g):
    return (g * x / _root(x, eps),)


def power_back(n, x, g):
    return (g * n * x ** (n - 1),)


def clipped_back(clip, x, g):
    return (g * (jnp.abs(x) < 1) if clip else g * 2 * x,)


OPTIONS = {
    "a constant": (_root, root_back, 1e-6, "eps="),
    "a whole number": (_power, power_back, 2, "n=3"),
    "a flag": (_clipped, clipped_back, False, "clip=True"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_that_the_backward_pass_takes_for_granted_is_told(name, paste):
    f, backward, option, said = OPTIONS[name]
    assert judged(with_option(f, backward), X, option, checks=("truth", "options")).ok
    wrong = with_option(f, lambda _, x, g: backward(option, x, g))
    result = check(wrong, X, option, checks=("truth", "options"))
    assert {finding.check for finding in result.failures} == {"options"}
    assert f"wrong with {said}" in result.diagnosis.diagnosis
    with pytest.raises(AssertionError, match="the cotangent of x"):
        paste(result.diagnosis.reproduction)


def test_options_that_the_function_refuses_are_passed_over():
    def even(x, n):
        if n % 2:
            raise ValueError("n is odd")
        return x**n

    finding = judged(with_option(even, power_back), X, 2, checks=("options",)).findings[0]
    assert finding.verdict == "abstained"
    assert "no other options" in finding.message
    assert "no argument is a static option" in judged(jnp.sin, X, checks=("options",)).findings[0].message


def test_an_option_that_stops_all_says_nothing():
    def solved(x, step):
        return jax.lax.fori_loop(0, 60, lambda _, y: y - step * (y - x / 2), jnp.zeros_like(x))

    assert judged(with_option(solved, lambda step, x, g: (g / 2,)), X, 0.7, checks=("truth", "options")).ok


# --- values that arguments have together ------------------------------------------------------------------------------


def pairs(f, backward):
    return by_hand(f, keeping(f), backward)


def _huber(a, b):
    u = b - a
    return jnp.where(jnp.abs(u) <= 1, u * u / 2, jnp.abs(u) - 0.5)


def _distance(a, b):
    return jnp.arctan2(jnp.linalg.norm(jnp.cross(a, b), axis=-1), jnp.sum(a * b, -1))


def test_a_difference_that_lies_on_an_edge_is_tried():
    def backward(saved, g, edge=True):
        u = saved[1] - saved[0]
        d = g * jnp.clip(u, -1, 1) * (edge | (jnp.abs(u) != 1))
        return -d, d

    assert judged(pairs(_huber, backward), X, X[::-1] * 0.5, checks=("kinks",)).ok
    wrong = pairs(_huber, lambda saved, g: backward(saved, g, False))
    assert not judged(wrong, X, X[::-1] * 0.5, checks=("kinks",)).ok


def test_arguments_that_are_alike_are_tried():
    """The slope of the angle between vectors by the arccosine of a number that is held below one."""

    def backward(saved, g):
        lengths = [jnp.linalg.norm(v, axis=-1, keepdims=True) for v in saved]
        p, q = (v / n for v, n in zip(saved, lengths, strict=True))
        c = jnp.clip(jnp.sum(p * q, -1, keepdims=True), -0.999, 0.999)
        steep = jnp.where(jnp.abs(c) < 0.999, -1 / jnp.sqrt(1 - c * c), 0) * g[:, None]
        return steep * (q - c * p) / lengths[0], steep * (p - c * q) / lengths[1]

    result = judged(pairs(_distance, backward), ROWS, ROWS[::-1] * 0.5 + 1, checks=("truth", "kinks"))
    assert {finding.check for finding in result.failures} == {"kinks"}


def test_what_is_alike_keeps_its_range():
    """The second is positive, as a scale: its logarithm may be asked of its absolute value, and its slope not."""

    def f(x, s):
        return x * jnp.log(jnp.abs(s)) + jnp.sqrt(jnp.abs(s))

    def backward(saved, g):
        x, s = saved
        return g * jnp.log(s), g * (x / s + 0.5 / jnp.sqrt(s))

    assert judged(pairs(f, backward), X, np.abs(X[::-1]), checks=("kinks",)).ok


def test_rows_that_leave_the_domain_do_not_take_the_others_with_them():
    """Of weights that are zero the cotangent is dropped; where all of a row are, the function is infinite."""

    def f(a, b):
        return jnp.log(jnp.sum(b * jnp.exp(a), -1))

    def backward(saved, g, all_of_them=True):
        a, b = saved
        share = g[:, None] * jnp.exp(a - f(a, b)[:, None])
        return b * share, share * (all_of_them | (b != 0))

    weights = np.abs(ROWS)
    assert judged(pairs(f, backward), ROWS, weights, checks=("kinks",)).ok
    wrong = pairs(f, lambda saved, g: backward(saved, g, False))
    assert not judged(wrong, ROWS, weights, checks=("kinks",)).ok


def test_a_matrix_one_rank_short_is_tried():
    def backward(saved, g):
        (x,) = saved
        det = jnp.linalg.det(x)
        return (jnp.where(jnp.abs(det) < 1e-6, 0, g * det * jnp.linalg.inv(x).T),)

    matrix = ROWS[:3] + np.eye(3, dtype=np.float32)
    result = judged(pairs(jnp.linalg.det, backward), matrix, checks=("truth", "kinks"))
    assert {finding.check for finding in result.failures} == {"kinks"}


# --- lengths ----------------------------------------------------------------------------------------------------------


def test_offsets_stay_offsets_at_other_lengths():
    def means(x, offsets):
        part = jnp.searchsorted(offsets[1:], jnp.arange(len(x)), side="right")
        return jax.ops.segment_sum(jnp.tanh(x), part, len(offsets) - 1)

    def backward(saved, g):
        x, offsets = saved
        part = jnp.searchsorted(offsets[1:], jnp.arange(len(x)), side="right")
        live = jnp.arange(len(x)) < offsets[-1]  # behind the last offset nothing comes
        return live * g[jnp.clip(part, 0, len(g) - 1)] * (1 - jnp.tanh(x) ** 2), None

    x = np.linspace(-2, 2, 8, dtype=np.float32)
    assert judged(pairs(means, backward), x, np.array([0, 3, 5, 8], np.int32), checks=("truth", "shapes")).ok


def test_a_block_behind_the_second_is_tried():
    def backward(saved, g):
        block = np.minimum(np.arange(g.shape[0]) // 4, 1)  # as if there were no third one
        return (g * jnp.asarray(1.0 + block, g.dtype)[:, None],)

    def scaled(x):
        return x * jnp.asarray(1.0 + np.arange(x.shape[0]) // 4, x.dtype)[:, None]

    x = np.linspace(-2, 2, 24, dtype=np.float32).reshape(8, 3)
    assert not judged(pairs(scaled, backward), x, checks=("truth", "shapes")).ok


# --- large examples ---------------------------------------------------------------------------------------------------


def test_a_large_example_is_judged_whole_and_all_else_at_shorter_lengths():
    x = np.random.default_rng(0).normal(size=(400, 256)).astype(np.float32)

    def backward(saved, g, off=0.0):
        return ((2 * saved[0] * g).at[-1, -1].add(off),)

    result = check(pairs(jnp.square, backward), x)
    assert result.ok
    assert "at shorter lengths: [16, 8]" in str(result)
    wrong = judged(pairs(jnp.square, lambda saved, g: backward(saved, g, 0.01)), x, checks=("truth",))
    assert wrong.failures[0].index == (399, 255)
    at_zero = pairs(jnp.square, lambda saved, g: (2 * saved[0] * g + (saved[0] == 0),))
    result = judged(at_zero, x, checks=("truth", "kinks"))
    assert "at shorter lengths" in result.failures[0].example


# --- what is drawn ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_of_what_is_drawn_the_domain_can_be_known(seed):
    """Numbers that all happen to lie between zero and one would be taken for probabilities."""
    rng = np.random.default_rng(seed)
    anything, positive, share = draw(parse("f32[2] f32[3]>0 f32[3]>0<1"), rng)
    assert anything.min() < 0 < anything.max()
    assert positive.min() > 0
    assert positive.max() > 1
    assert 0 < share.min() <= share.max() < 1


@pytest.mark.parametrize("given", [1.0, 0.0])
def test_what_a_compiler_hides_at_another_option_is_told(given):
    """Zero times d / 0, which XLA takes for zero."""

    def smooth(x, beta):
        size = jnp.abs(x)
        return size if beta == 0 else jnp.where(size < beta, x * x / (2 * beta), size - beta / 2)

    def backward(beta, x, g):
        inside = (jnp.abs(x) < beta).astype(x.dtype)
        return (g * (inside * (x / jnp.asarray(beta, x.dtype)) + (1 - inside) * jnp.sign(x)),)

    result = check(with_option(smooth, backward), X, given, checks=("truth", "eager", "repeatable", "options"))
    assert "wrong without jit, right under it" in result.diagnosis.diagnosis
    assert "what ran before" not in str(result)
