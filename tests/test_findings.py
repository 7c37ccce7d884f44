"""FINDINGS.md is true: what it says is right is so by mpmath and by differences, and JAX gives what it says."""

import pathlib
import re

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from jax.scipy import special, stats

from manual_backprop.reference.oracles import ORACLES

TABLE = (pathlib.Path(__file__).parents[1] / "FINDINGS.md").read_text(encoding="utf-8")
SLOPES = {
    "special.spence": (special.spence, lambda z: mpmath.log(z) / (1 - z) if z != 1 else mpmath.mpf(-1)),
    "special.i0": (special.i0, lambda x: mpmath.besseli(1, x)),
    "lambda b: special.logsumexp(jnp.zeros(2), b=jnp.array([b, 1.0]))": (
        lambda b: special.logsumexp(jnp.zeros(2), b=jnp.array([b, 1.0])),
        lambda b: 1 / (b + 1),
    ),
    "stats.laplace.cdf": (stats.laplace.cdf, lambda x: mpmath.exp(-abs(x)) / 2),
    "lambda x: jnp.ldexp(x, 2)": (lambda x: jnp.ldexp(x, 2), lambda x: mpmath.mpf(4)),
}


def lines():
    for line in TABLE.splitlines():
        if found := re.match(r"\| `jax\.grad\((.+)\)` \| .+ \| (\S+) \| (.+) \| (\S+) \| (\S+) \|$", line):
            name, at, right, *gives = (part.replace("−", "-") for part in found.groups())
            yield name, float(at), right, gives


def same(value, text) -> bool:
    """Whether a number, rounded to the digits of a text, is that text."""
    digits = len(re.sub(r"e.*|[^0-9]", "", text).lstrip("0")) or 1
    return (np.isnan(value) and text == "nan") or float(f"{float(value):.{digits}g}") == float(text)


def test_the_table_has_lines():
    assert len(list(lines())) == 7
    assert {name for name, *_ in lines()} == set(SLOPES)


@pytest.mark.parametrize(("name", "at", "right", "gives"), list(lines()))
def test_who_is_right(name, at, right, gives):
    function, slope = SLOPES[name]
    with mpmath.workdps(50):
        exact = float(slope(mpmath.mpf(at)))
    assert same(exact, right.split()[-1])
    estimate = ORACLES["richardson"](function)((np.float64(at),), np.float64(1.0))
    assert abs(estimate.value[0] - exact) <= estimate.error[0]
    with jax.enable_x64(True):
        theirs = float(jax.grad(function)(at))
    assert any(same(theirs, text) for text in (right.split()[-1], *gives))
    if not same(theirs, right.split()[-1]):
        assert not abs(estimate.value[0] - theirs) <= estimate.error[0]


def test_the_slope_of_a_series_that_is_cut_off_is_further_off_than_the_series():
    x = -20.1
    with mpmath.workdps(50):
        below = mpmath.erfc(-mpmath.mpf(x) / mpmath.sqrt(2)) / 2
        value, slope = float(mpmath.log(below)), float(mpmath.npdf(x) / below)
    with jax.enable_x64(True):
        off = abs(float(special.log_ndtr(x)) / value - 1), abs(float(jax.grad(special.log_ndtr)(x)) / slope - 1)
    assert [f"{each:.0e}" for each in off] == ["2e-11", "4e-09"]
