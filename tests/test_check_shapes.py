"""Other lengths that `check` tries: set apart, beyond blocks, small, in a batch; and those that it leaves alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from detection.case import by_hand
from detection.halves import keeping
from judging import TABLE, X, judged


def test_lengths_that_are_equal_by_chance_are_set_apart():
    """Rows of the left and columns of the right factor have nothing to do with each other."""

    def product(a, b):
        return a @ b

    def backward(saved, g):
        a, b = saved
        return g @ b.T, a.T @ g * (len(a) / b.shape[1])

    function = by_hand(product, keeping(product), backward)
    a, b = TABLE[:8].reshape(4, 4), TABLE[4:].reshape(4, 4)
    found = judged(function, a, b, checks=("truth", "shapes"))
    assert {f.check for f in found.failures} == {"shapes"}
    assert "for 4 in" in found.failures[0].example


MATRIX = np.array([[2.0, 0.5, -0.25], [0.5, 1.5, 0.75], [-0.25, 0.75, 3.0]], np.float32)


@pytest.mark.parametrize(
    "weight",
    [
        MATRIX,
        -MATRIX,
        np.eye(3, dtype=np.float32),
        np.eye(3, dtype=np.float32)[::-1],
        np.tril(MATRIX),
        np.triu(MATRIX),
        np.tril(MATRIX, -1) - np.triu(MATRIX, 1),
        MATRIX - np.diag(np.diag(MATRIX)),
    ],
    ids=["definite", "symmetric", "identity", "orthogonal", "lower", "upper", "antisymmetric", "hollow"],
)
def test_what_a_square_matrix_alone_has_is_kept_where_equal_lengths_are_set_apart(weight):
    def product(x, w):
        return x @ w

    result = judged(
        by_hand(product, keeping(product), lambda saved, g: (g @ saved[1].mT, saved[0].mT @ g)),
        TABLE[:6].reshape(4, 3),
        weight,
        checks=("shapes",),
    )
    assert {finding.verdict for finding in result.findings} == {"right"}, result


@pytest.mark.parametrize("index", [3, -2, np.array([1, 3], np.int32), (slice(None), 3)])
def test_lengths_that_do_not_have_an_index_are_not_tried(index):
    """JAX takes the last element for one that is not there, and writes nothing; a length that has it is tried."""

    def read(x):
        return x[index] ** 2

    read_by_hand = by_hand(read, keeping(read), lambda x, g: (jnp.zeros_like(x[0]).at[index].add(2 * x[0][index] * g),))
    result = judged(read_by_hand, np.arange(1.0, 21.0, dtype=np.float32).reshape(5, 4) ** 0.5, checks=("shapes",))
    assert {finding.verdict for finding in result.findings if not finding.given_up} == {"right"}, result


def test_a_length_beyond_a_block_is_tried():
    def backward(saved, g):
        return (jnp.where(jnp.arange(len(g)) < 128, g * jnp.cos(saved[0]), 0),)

    found = judged(by_hand(jnp.sin, keeping(jnp.sin), backward), X, checks=("truth", "shapes"))
    assert [f.example for f in found.failures] == ["length 1042 for 4"]


@pytest.mark.parametrize(("axis", "ok"), [(lambda g: -1, True), (lambda g: g.shape.index(3), False)])
def test_a_length_is_not_taken_for_one_beyond_which_nothing_is_read(axis, ok):
    """Of vectors that are in proportion the cross product is zero, whatever they are."""

    def backward(saved, g):
        a, b = saved
        along = dict.fromkeys(("axisa", "axisb", "axisc"), axis(g))
        return jnp.cross(b, g, **along), jnp.cross(g, a, **along)

    crossed = by_hand(lambda a, b: jnp.cross(a, b), lambda a, b: (jnp.cross(a, b), (a, b)), backward)
    assert judged(crossed, TABLE.reshape(8, 3)[:4], TABLE.reshape(8, 3)[4:] ** 2, checks=("shapes",)).ok == ok


@pytest.mark.parametrize(("back", "wrong"), [(lambda g: g[..., ::-1], []), (lambda g: g[::-1], ["shapes"])])
def test_a_batch_is_tried_where_the_function_takes_one(back, wrong):
    """Turning around the first axis is turning around the last, as long as there is one."""

    def backward(saved, g):
        return (back(jnp.cumsum(back(g), axis=-1)),)

    found = judged(by_hand(cumulated, keeping(cumulated), backward), X, checks=("truth", "shapes"))
    assert [f.check for f in found.failures] == wrong
    assert all("a batch of 2" in f.example for f in found.failures)


def cumulated(x):
    return jnp.cumsum(x, axis=-1)


def test_what_is_no_batch_is_not_taken_for_one():
    """A definition along the first axis gives other numbers for rows than for each of them: nobody asked for rows."""

    def backward(saved, g):
        return (jnp.cumsum(g[..., ::-1], axis=-1)[..., ::-1],)

    function = by_hand(lambda x: jnp.cumsum(x, axis=0), keeping(lambda x: jnp.cumsum(x, axis=0)), backward)
    assert judged(function, X, checks=("shapes",)).ok


def _pooled(x, starts):
    return jnp.mean(x[jnp.clip(starts[:, None] + jnp.arange(3), 0, len(x) - 1)], 1)


def _pooled_back(times):
    def backward(saved, g):
        x, starts = saved
        places = jnp.clip(starts[:, None] + jnp.arange(3), 0, len(x) - 1)
        return times(x, starts) * jnp.zeros_like(x).at[places].add(g[:, None] / 3), None

    return by_hand(_pooled, keeping(_pooled), backward)


TIMES = {"of indices": lambda x, starts: -(-len(starts) // 4), "reached by indices": lambda x, starts: -(-len(x) // 8)}


@pytest.mark.parametrize("length", TIMES)
def test_it_is_no_length_beyond_which_nothing_is_read(length):
    args = np.arange(8.0, dtype=np.float32) ** 0.5, np.array([0, 4, 3], np.int32)
    wrong = judged(_pooled_back(TIMES[length]), *args, checks="shapes")
    assert "is over" in wrong.diagnosis.diagnosis
    assert judged(_pooled_back(lambda *_: 1), *args, checks="shapes").ok


def test_a_length_below_a_shift_is_tried():
    def rolled(x):
        return jnp.roll(x, 3)

    twice = by_hand(rolled, keeping(rolled), lambda _, g: (jnp.concatenate([g[3:], g[:3]]),))
    eight = np.arange(8.0, dtype=np.float32)
    assert "is under 3" in judged(twice, eight, checks="shapes").diagnosis.diagnosis


def test_a_length_that_cannot_grow_is_not_tried_small():
    """Of two numbers `jnp.cross` makes one: another function."""

    def turned(axis, x):
        return x + jnp.cross(jax.lax.stop_gradient(axis), x)

    def backward(saved, g):
        axis, _ = saved
        return jnp.zeros_like(axis), g + jnp.cross(g, axis)

    axis, *rows = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    assert judged(by_hand(turned, keeping(turned), backward), axis, np.stack(rows), checks="shapes").ok


@pytest.mark.parametrize(("factor", "ok"), [(1.0, True), (1.01, False)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_where_rounding_leaves_the_truth_no_digit_nobody_is_accused(dtype, factor, ok):
    """More unknowns than equations: the matrix is singular, and what is solved with it is noise."""

    def least_squares(a, b):
        return jnp.linalg.solve(a.T @ a, a.T @ b)

    def backward(saved, g):
        a, b = saved
        x, w = least_squares(a, b), jnp.linalg.solve(a.T @ a, g)
        a_bar = jnp.outer(b - a @ x, w) - jnp.outer(a @ w, x)
        return a_bar.at[-1, -1].multiply(factor), a @ w

    with jax.enable_x64(dtype == "float64"):
        a, b = np.split(np.random.default_rng(0).normal(size=(7, 4)).astype(dtype), [3], axis=1)
        assert judged(by_hand(least_squares, keeping(least_squares), backward), a, b[:, 0], checks="shapes").ok == ok


@pytest.mark.parametrize("bias", [(1, 4), (4,)], ids=str)
@pytest.mark.parametrize(("first", "ok"), [(False, True), (True, False)])
def test_a_batch_of_one_grows(first, ok, bias):
    """Also where another length has to stay even, and where another array has a length of one that has to stay."""

    def projected(x, w, b):
        return jnp.einsum("bthd,hde->bte", (x + b).reshape(*x.shape[:2], 2, -1), w)

    def backward(saved, g):
        x, w, b = saved
        heads = (x + b).reshape(*x.shape[:2], 2, -1)
        heads_bar = jnp.einsum("bte,hde->bthd", g, w).reshape(x.shape)
        w_bar = jnp.einsum("bthd,bte->hde", heads[:1] if first else heads, g[:1] if first else g)
        return heads_bar, w_bar, heads_bar.sum((0, 1)).reshape(b.shape)

    rng = np.random.default_rng(0)
    x, w, b = (rng.normal(size=shape).astype(np.float32) for shape in ((1, 3, 4), (2, 2, 5), bias))
    assert judged(by_hand(projected, keeping(projected), backward), x, w, b, checks="shapes").ok == ok
