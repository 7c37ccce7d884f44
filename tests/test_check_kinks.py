"""At a kink any derivative between the one-sided ones is right, and one beyond them is not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bench_kinks import KINKS, main, of_choice, of_jax, of_rule, sides
from detection.case import by_hand

from manual_backprop.reference import check

every_kink = pytest.mark.parametrize("kink", KINKS, ids=lambda kink: kink.name)


@functools.cache
def verdict(kink, choice):
    """What is said at exactly the kink."""
    result = check(kink.by_hand(choice), *kink.arrays, profile="quick", checks="truth", name=kink.name)
    return result.ok, str(result)


@every_kink
def test_the_first_choice_is_that_of_jax(kink):
    for ours, theirs in zip(of_choice(kink, kink.choices[0]), of_jax(kink), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@every_kink
def test_the_rule_follows_jax(kink):
    for ours, theirs in zip(of_rule(kink) or (), of_jax(kink) if kink.rule else (), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@every_kink
def test_the_choices_lie_on_both_sides_of_what_is_allowed(kink):
    """By differences alone: the second choice is between the one-sided derivatives, the third, or its sum, is not."""
    left, right = sides(kink)

    def outside(bars):
        off = 0.0
        for bar, below, above in zip(bars, left, right, strict=True):
            low, high = np.fmin(below, above), np.fmax(below, above)
            off = max(off, float(np.nanmax(np.fmax(low - bar, bar - high), initial=0)))
        return off

    eps = float(np.finfo(np.float32).eps) * 8
    assert outside(of_choice(kink, kink.choices[1])) <= eps
    wrong, total = of_choice(kink, kink.choices[2]), sum(map(np.sum, of_choice(kink, kink.choices[1])))
    jumps = any(np.isnan(side).any() for side in (*left, *right))
    assert outside(wrong) > eps or sum(map(np.sum, wrong)) > total + eps or jumps


@every_kink
def test_what_jax_chose_is_right(kink):
    """Unless it is no number: a limit of derivatives nearby would have been one."""
    ok, said = verdict(kink, kink.choices[0])
    assert ok == all(np.isfinite(bar).all() for bar in of_jax(kink)), said


@every_kink
def test_another_choice_is_right(kink):
    ok, said = verdict(kink, kink.choices[1])
    assert ok, said


@every_kink
def test_what_lies_beyond_both_sides_is_wrong(kink):
    ok, said = verdict(kink, kink.choices[2])
    assert not ok, said


def test_the_table_is_printed(capsys):
    main()
    printed = capsys.readouterr().out
    assert all(kink.name in printed for kink in KINKS)


@pytest.mark.parametrize(("factor", "ok"), [(1.0, True), (1 + 1e-10, False)])
def test_where_nothing_kinks_neighbours_are_no_excuse(factor, ok):
    cube = by_hand(lambda x: x**3, lambda x: (x**3, x), lambda x, y_bar: (3 * factor * x**2 * y_bar,))
    with jax.enable_x64(True):
        result = check(
            cube, np.array([0.5, -1.25, 2.0]), profile="quick", checks=("truth", "jacobian"), reproduce=False
        )
    assert result.ok == ok, result
    assert not [finding for finding in result.findings if finding.verdict == "abstained"]


def test_where_the_truth_is_zero_what_is_not_finite_is_wrong():
    """The first column times its cofactors, divided by what may be zero."""

    def product(x):
        return x[0] * x[1] * x[2]

    divided = by_hand(
        product,
        lambda x: (product(x), x),
        lambda x, y_bar: (y_bar * product(x) * jnp.linalg.inv(jnp.diag(x)).diagonal(),),
    )
    result = check(divided, np.array([0.5, -1.25, 2.0], np.float32), profile="quick", checks="kinks", reproduce=False)
    assert not result.ok


@pytest.mark.parametrize(("top", "ok"), [(0.0, True), (1.0, True), (-0.5, True), (1.5, False)])
def test_where_autodiff_is_no_limit_every_output_may_take_a_side_of_its_own(top, ok):
    """Hats over knots: where one has its top, its neighbours have their feet, and autodiff takes neither side."""
    knots = jnp.linspace(-1.0, 1.0, 5)

    def hats(x):
        return jax.nn.relu(1 - jnp.abs(x[:, None] - knots.astype(x.dtype)) / 0.5).sum(0)

    def backward(x, y_bar):
        off = x[:, None] - knots.astype(x.dtype)
        slope = jnp.where(off == 0, top, jnp.sign(off)) * (jnp.abs(off) < 0.5)
        return (-(slope / 0.5) @ y_bar,)

    x = np.array([-0.9, -0.3, 0.15, 0.62, 0.1, 0.77], np.float32)
    result = check(by_hand(hats, lambda x: (hats(x), x), backward), x, checks=("truth", "kinks"), reproduce=False)
    assert result.ok == ok, result
