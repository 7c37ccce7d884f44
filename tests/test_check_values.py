"""What `check` tries besides the example: indices twice, labels that are ignored, empty rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from detection.case import by_hand
from detection.halves import keeping
from jax import lax
from judging import TABLE, X, judged

from manual_backprop.reference import check


def lookup(table, ids):
    return table[ids]


def looked_up(write):
    def backward(saved, g):
        table, ids = saved
        return getattr(jnp.zeros_like(table).at[ids], write)(g), None

    return by_hand(lookup, keeping(lookup), backward)


@pytest.mark.parametrize("ids", [[7, 2, 5], [2, 5, 7], [3, 0, 11, 6, 1]], ids=str)
def test_indices_that_differ_in_the_example_are_tried_twice(ids):
    ids = np.array(ids, np.int32)
    found = judged(looked_up("set"), TABLE, ids, checks=("truth", "kinks"))
    assert {f.check for f in found.failures} == {"kinks"}
    assert judged(looked_up("add"), TABLE, ids, checks=("truth", "kinks")).ok


def test_places_that_are_written_to_stay_different():
    """Of equal places one wins, which one is nobody's business: a derivative may count on there being none."""

    def put(x, ids, v):
        return x.at[ids].set(v)

    function = by_hand(put, keeping(put), lambda saved, g: (g.at[saved[1]].set(0), None, g[saved[1]]))
    assert judged(function, TABLE[:, 0], np.array([7, 2, 5], np.int32), X[:3]).ok


def test_a_permutation_stays_one():
    def sorted_by(x, order):
        return x[order]

    function = by_hand(sorted_by, keeping(sorted_by), lambda saved, g: (g[jnp.argsort(saved[1])], None))
    assert judged(function, X, np.array([2, 0, 3, 1], np.int32)).ok


def test_offsets_stay_offsets():
    """Parts of an array, some of which may be empty: from the first offset to the last."""

    def parts(offsets, x):
        return jnp.searchsorted(offsets, jnp.arange(len(x)), side="right") - 1

    def sums(x, offsets):
        return jnp.zeros_like(x, shape=len(offsets) - 1).at[parts(offsets, x)].add(x)

    function = by_hand(sums, keeping(sums), lambda saved, g: (g[parts(saved[1], saved[0])], None))
    result = judged(function, TABLE[:, 0], np.array([0, 3, 4, 12], np.int32), checks=("truth", "values", "kinks"))
    assert result.ok
    assert not result.outside


@pytest.mark.parametrize("ignored", [-1, -100, 0])
def test_a_label_that_is_compared_with_a_number_is_tried_as_that(ignored):
    def safe(labels):
        return jnp.where(labels == ignored, 1, labels)

    def chosen(x, labels):
        return jnp.where(labels == ignored, 0, x[jnp.arange(len(labels)), safe(labels)])

    def backward(counts, saved, g):
        x, labels = saved
        g = jnp.where(labels == ignored, 0, g) if counts else g
        return jnp.zeros_like(x).at[jnp.arange(len(labels)), safe(labels)].add(g), None

    x, labels = TABLE.reshape(4, 6), np.array([1, 5, 3, 2], np.int32)
    careless, careful = (by_hand(chosen, keeping(chosen), lambda *both, c=c: backward(c, *both)) for c in (False, True))
    assert not judged(careless, x, labels, checks=("truth", "values", "kinks")).ok
    assert judged(careful, x, labels, checks=("truth", "values", "kinks")).ok


@pytest.mark.parametrize("dtype", [bool, np.float32])
def test_a_mask_is_tried_empty(dtype):
    def mean(x, mask):
        count = mask.sum(-1)
        return jnp.where(count > 0, jnp.sum(x, -1) / jnp.where(count > 0, count, 1), 0)

    def backward(guard, saved, g):
        x, mask = saved
        count = mask.sum(-1)
        share = jnp.where(count > 0, g / jnp.maximum(count, 1), 0) if guard else g / count
        return jnp.broadcast_to(share[:, None], x.shape).astype(x.dtype), None

    x, mask = TABLE[:4].reshape(2, 4), np.array([[1, 0, 1, 1], [0, 1, 1, 0]]).astype(dtype)
    careless, careful = (by_hand(mean, keeping(mean), lambda *both, c=c: backward(c, *both)) for c in (False, True))
    assert not judged(careless, x, mask, argnums=0, checks=("truth", "kinks")).ok
    assert judged(careful, x, mask, argnums=0, checks=("truth", "kinks")).ok


def test_ties_between_arguments_are_one_tie():
    def both(saved, g):
        return g * (saved[0] >= saved[1]), g * (saved[1] >= saved[0])

    def first(saved, g):
        return g * (saved[0] >= saved[1]), g * (saved[1] > saved[0])

    found = judged(by_hand(jnp.maximum, keeping(jnp.maximum), both), X, X[::-1] + 1, checks=("truth", "kinks"))
    assert "receive together" in found.failures[0].message
    assert judged(by_hand(jnp.maximum, keeping(jnp.maximum), first), X, X[::-1] + 1, checks=("truth", "kinks")).ok


def test_a_backward_pass_that_overflows_alone_is_wrong():
    """Where the forward pass is stable and the function itself is not, the derivative is held against the truth."""

    def norm(x):
        return jnp.sqrt(jnp.sum(x**2))

    def forward(x):
        largest = jnp.max(jnp.abs(x))
        return largest * norm(x / largest), x

    naive = by_hand(norm, forward, lambda x, g: (g * x / norm(x),))
    stable = by_hand(norm, forward, lambda x, g: (g * x / forward(x)[0],))
    assert not judged(naive, X * 2.0**80, checks="truth").ok
    assert judged(stable, X * 2.0**80, checks="truth").ok


def test_a_side_is_not_left_out_by_chance():
    """e⁻ˣ / (1 + e⁻ˣ)² is infinity over infinity far below zero, where four normal numbers need not come to lie."""

    def slope(x):
        return jnp.exp(-x) / (1 + jnp.exp(-x)) ** 2

    function = by_hand(jax.nn.sigmoid, keeping(jax.nn.sigmoid), lambda saved, g: (g * slope(saved[0]),))
    with jax.enable_x64(True):
        missed = [s for s in range(8) if judged(function, X.astype(np.float64), checks="values", seed=s).ok]
    assert missed == []


def test_where_all_sides_agree_not_a_number_is_wrong():
    def quotient(x):
        return jnp.where(x == 0, 1, jnp.sin(x) / jnp.where(x == 0, 1, x))

    def slope(x):
        return (x * jnp.cos(x) - jnp.sin(x)) / x**2

    function = by_hand(quotient, keeping(quotient), lambda saved, g: (g * slope(saved[0]),))
    assert not judged(function, X * np.array([1, 0, 1, 1], np.float32), checks="truth").ok


def test_nothing_at_all_is_refused():
    with pytest.raises(Exception, match="no elements"):
        check(jnp.sin, np.zeros((0, 3), np.float32))


def test_autodiff_that_cancels_is_no_excuse_for_agreeing_with_it():
    """(cos x − sinc x)/x has no digit of −x/3 at 1e-4; its series has all.  p − 1 is as good as it gets."""

    def sinc(x):
        return jnp.where(x == 0, 1, jnp.sin(x) / jnp.where(x == 0, 1, x))

    def naive(x):
        safe = jnp.where(x == 0, 1, x)
        return jnp.where(x == 0, 0, (jnp.cos(x) - jnp.sin(x) / safe) / safe)

    def stable(x):
        return jnp.where(jnp.abs(x) < 0.125, -x / 3 * (1 - x**2 / 10 * (1 - x**2 / 28)), naive(x))

    x = np.array([0.5, -1.25, 2.0, 0.75], np.float32)
    for slope, ok in ((naive, False), (stable, True)):
        by_slope = by_hand(sinc, lambda x: (sinc(x), x), lambda x, y_bar, slope=slope: (y_bar * slope(x),))
        assert check(by_slope, x, checks="values", reproduce=False).ok == ok, slope


def test_rounding_of_complex_numbers_is_allowed():
    """log cosh z as z + log(1 + e^{−2z}): what autodiff of it loses at small z, tanh z does not."""

    def log_cosh(z):
        return z + jnp.log1p(jnp.exp(-2 * z))

    by_tanh = by_hand(log_cosh, lambda z: (log_cosh(z), z), lambda z, y_bar: (y_bar * jnp.tanh(z),))
    z = np.array([0.5 - 0.25j, 0.125 + 1j, 0.75 + 0.5j])
    with jax.enable_x64(True):
        result = check(by_tanh, z, checks=("truth", "values"), reproduce=False)
    assert result.ok, result


@pytest.mark.parametrize(("factor", "ok"), [(1.0, True), (3.0, False)])
def test_more_digits_than_a_dtype_has_that_nobody_gave_are_no_fault(factor, ok):
    """A mask made in single precision widens a cotangent in bfloat16, which JAX takes; its numbers are judged."""
    mask = np.float32([1, 0, 1, 1])

    def backward(kept, y_bar):
        wide = y_bar.dtype != np.float32
        return (y_bar * jnp.asarray(mask) * (factor if wide else 1.0),)

    masked = by_hand(lambda x: x * mask.astype(x.dtype), lambda x: (x * mask.astype(x.dtype), ()), backward)
    assert judged(masked, X, checks=("truth", "precision")).ok == ok


LOOKED_UP = {
    "by an index": (lambda t, y: t[y + 1] - t[y], 4),
    "taken": (lambda t, y: jnp.take(t, y), 5),
    "as one of a row": (lambda t, y: t.reshape(1, 6)[jnp.zeros_like(y), y], 5),
    "among classes": (lambda t, y: jax.nn.one_hot(y, 6) @ t, 5),
    "in a loop": (lambda t, y: lax.scan(lambda total, i: (total + t[i], total), 0.0, y)[0], 5),
    "from there on": (lambda t, y: jnp.sum(lax.dynamic_slice_in_dim(t, y[0], 3) ** 2), 3),
    "so many": (lambda t, y: jnp.where(jnp.arange(6) < y[:, None], t, 0.0), 6),
}


@pytest.mark.parametrize("way", LOOKED_UP)
def test_the_last_class_is_tried_where_the_example_has_it_not(way):
    """And none after it: an index that is none tells nothing of a derivative."""
    function, last = LOOKED_UP[way]

    def backward(factor, kept, g):
        t_bar = jax.vjp(lambda t: function(t, kept[1]), kept[0])[1](g)[0]
        beyond = jnp.maximum(jnp.max(kept[1]) - (last - 1), 0)  # no comparison, which would be tried
        return t_bar * factor**beyond, None

    t, y = np.sqrt(np.arange(1, 7, dtype=np.float32)), np.array([1, 0, 2, 1], np.int32)
    for factor, ok in ((1.0, True), (2.0, False)):
        looked_up = by_hand(function, keeping(function), functools.partial(backward, factor))
        assert judged(looked_up, t, y, checks=("truth", "kinks")).ok == ok


@pytest.mark.parametrize("refusing", ["function", "backward"])
def test_a_dtype_that_the_function_itself_refuses_is_no_fault_of_the_derivative(refusing):
    """A solver says by an error of its own that it does not converge in half precision."""

    def converged(x):
        if x.dtype == jnp.bfloat16:
            raise ArithmeticError("no convergence in bfloat16")
        return x

    def function(x):
        return jnp.sin(converged(x) if refusing == "function" else x)

    solved = by_hand(function, keeping(function), lambda kept, g: (g * jnp.cos(converged(*kept)),))
    found = judged(solved, X, checks=("truth", "precision"))
    assert found.ok == (refusing == "function")
    assert ("no convergence in bfloat16" in str(found)) == (not found.ok)


# --- lengths and values that are easily passed over ------------------------------------------------------------------


def test_numbers_of_sequences_are_tried_where_the_example_has_one():
    def apart(x, ids):
        return jnp.where(ids[1:] == ids[:-1], x[1:] * x[:-1], 0.0)

    def backward(saved, g):
        x, _ = saved
        return jnp.zeros_like(x).at[1:].add(g * x[:-1]).at[:-1].add(g * x[1:]), None

    assert not judged(by_hand(apart, keeping(apart), backward), X, np.zeros(4, np.int32), checks="values").ok


@pytest.mark.parametrize(("squares", "ok"), [(False, True), (True, False)])
def test_a_variance_by_two_sums_is_told_where_numbers_are_far_from_zero(squares, ok):
    def centred(x):
        return x - jnp.mean(x, -1, keepdims=True)

    def norm(x):
        return centred(x) * jax.lax.rsqrt(jnp.mean(centred(x) ** 2, -1, keepdims=True) + 1e-5)

    def backward(saved, g):
        (x,) = saved
        variance = jnp.mean(x**2, -1, keepdims=True) - jnp.mean(x, -1, keepdims=True) ** 2
        variance = variance if squares else jnp.mean(centred(x) ** 2, -1, keepdims=True)
        scale = jax.lax.rsqrt(variance + 1e-5)
        return (scale * (centred(g) - centred(x) * scale**2 * jnp.mean(g * centred(x), -1, keepdims=True)),)

    x = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    result = judged(by_hand(norm, keeping(norm), backward), x, checks="values")
    assert result.ok == ok
    assert ok or "values far from zero: digits are lost" in result.diagnosis.diagnosis
