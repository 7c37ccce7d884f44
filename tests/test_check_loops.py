"""Loops that end when a term is small: rounding moves their terms, and neither their counters nor their ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from detection.case import by_hand
from jax import lax

from manual_backprop.reference import check

X = np.float32([0.5, 0.125, -0.375, 0.25])


@jax.vmap
def series(x):
    """log(1 + x), each lane with terms of its own; every other one is subtracted, told by a counter that is a float."""

    def body(state):
        total, power, k = state
        power = power * x
        return total + jnp.where(k % 2.0 == 1.0, power, -power) / k, power, k + 1.0

    def goes_on(state):
        return (jnp.abs(state[1]) > 2.0**-40) & (state[2] < 99.0)

    return lax.while_loop(goes_on, body, (jnp.zeros_like(x), jnp.ones_like(x), jnp.ones_like(x)))[0]


@pytest.mark.parametrize(("slope", "right"), [(lambda x: 1 / (1 + x), True), (lambda x: 1 / (1 + x) ** 2, False)])
def test_a_series_is_judged_by_differentiating_its_loop(slope, right):
    function = by_hand(series, lambda x: (series(x), x), lambda x, g: (g * slope(x),))
    result = check(function, X, checks=("value", "truth", "differences", "adjoint_identity"), reproduce=False)
    assert result.ok == right, result
    judged = {finding.check for finding in result.findings if finding.verdict != "abstained"}
    assert judged == {"value", "truth", "differences", "adjoint_identity"}
