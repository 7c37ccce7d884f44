"""The explicit derivations: every Jacobian, layout and order of association, against ways that share no code."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manual_backprop.architecture import build
from manual_backprop.derivations import association, chain, equations, graphs, jacobians
from manual_backprop.derivations.jacobians import has_formula
from manual_backprop.derivations.layouts import Jacobian, turned, unflatten
from manual_backprop.reference.claims.evidence import nudged, product_rounding, rounding
from manual_backprop.reference.points import instances, point
from manual_backprop.rules import RULES
from manual_backprop.signature import kind_of

WITH_FORMULA = [name for name, rule in RULES.items() if has_formula(rule)]


def pulled(rule, primals, cotangent):
    """ȳ times each explicit Jacobian, in the shape of the primal; None for a primal without one."""
    row = np.reshape(cotangent, (1, -1))
    with jax.enable_x64(True):
        _, found = jacobians(rule, primals)
    return [j and (row @ j.matrix).reshape(j.input_shape) for j in found]


@pytest.mark.parametrize("name", WITH_FORMULA)
def test_a_jacobian_from_its_formula_is_what_the_backward_pass_multiplies_by(name):
    rule, shape = next(instances(RULES[name], 1, seed=0))
    at = point(rule, shape)
    with jax.enable_x64(True):
        _, residuals = rule.forward(*map(jnp.asarray, at.primals))
        bars = rule.backward(residuals, jnp.asarray(at.cotangent))
        full = jacobians(rule, at.primals)[1]
    floats = [i for i, primal in enumerate(at.primals) if kind_of(primal) == "float"]
    assert [i for i, j in enumerate(full) if j is not None] == floats

    def with_primals(i, *values):
        primals = list(at.primals)
        for position, value in zip(floats, values, strict=True):
            primals[position] = value
        return pulled(rule, tuple(primals), at.cotangent)[i]

    for i in floats:
        assert full[i].source == "formula"
        assert full[i].formula
        allowance = nudged(functools.partial(with_primals, i), *(at.primals[j] for j in floats))
        allowance += rounding(np.abs(np.ravel(at.cotangent)) @ np.abs(full[i].matrix)).reshape(full[i].input_shape)
        found = with_primals(i, *(at.primals[j] for j in floats))
        assert np.all(np.abs(found - np.asarray(bars[i])) <= allowance)


def test_a_rule_without_formula_says_that_its_rows_come_from_the_backward_pass():
    x = np.array([[1.0, 2.0, 4.0]])
    with jax.enable_x64(True):
        _, (by_x, by_gamma, by_beta) = jacobians(RULES["layer_norm"], (x, np.ones(3), np.zeros(3)))
        _, (by_sum,) = jacobians(build("residual(relu)"), (np.array([1.0, -1.0]),))
    assert by_x.source == by_gamma.source == "rows"
    assert np.all(np.abs(by_x.matrix.sum(axis=1)) <= rounding(1.0))  # a common shift of the row changes nothing
    assert by_beta.matrix.tolist() == np.eye(3).tolist()
    assert by_sum.matrix.tolist() == [[2.0, 0.0], [0.0, 1.0]]  # x itself, and the rectifier


def test_an_integer_primal_has_no_jacobian():
    _, (by_indices, by_table) = jacobians(RULES["embedding"], (np.array([1, 1]), np.array([[1.0], [2.0]])))
    assert by_indices is None
    assert by_table.matrix.tolist() == [[0.0, 1.0], [0.0, 1.0]]


def test_layouts_convert_to_each_other_and_reverse_a_product():
    a = Jacobian(np.arange(24.0).reshape(2, 3, 4), outputs=1)
    b = Jacobian(np.arange(60.0).reshape(3, 4, 5), outputs=2)
    assert a.to("denominator").tensor.shape == (3, 4, 2)
    assert a.to("denominator").matrix.tolist() == a.matrix.T.tolist()
    assert a.to("denominator").to("numerator").tensor.tolist() == a.tensor.tolist()
    assert a.to("denominator").output_shape == a.output_shape == (2,)
    product = a.matrix @ b.matrix
    assert (b.to("denominator").matrix @ a.to("denominator").matrix).tolist() == product.T.tolist()
    assert unflatten(a.matrix, (2, 3, 4)).tolist() == a.tensor.tolist()
    with pytest.raises(ValueError, match="numerator, denominator"):
        a.to("rows")


def test_samples_turn_from_one_convention_to_the_other():
    x = np.arange(6.0).reshape(2, 3)
    assert turned(turned(x, "columns", to="rows"), "rows", to="columns").tolist() == x.tolist()
    assert turned(x, "rows", to="rows") is x
    with pytest.raises(ValueError, match="columns or rows"):
        turned(x, "rows", to="sideways")


class Counting:
    """A matrix that counts the multiplications of every product it takes part in, term by term."""

    counted = 0

    def __init__(self, entries):
        self.entries = entries

    def __matmul__(self, other):
        columns = list(zip(*other.entries, strict=True))
        Counting.counted += sum(len(row) for row in self.entries for _ in columns)
        return Counting([[sum(map(int.__mul__, row, column)) for column in columns] for row in self.entries])


lengths = st.lists(st.integers(1, 6), min_size=3, max_size=9)  # two to eight factors


@given(lengths, st.randoms())
def test_the_dynamic_programme_is_never_beaten_and_every_count_is_exact(lengths, random):
    fewest, order = association.optimal(lengths)
    every = list(association.bracketings(0, len(lengths) - 2))
    assert fewest == association.multiplications(lengths, order)
    assert fewest == min(association.multiplications(lengths, each) for each in every)
    each = random.choice(every)
    entries = [[[random.randint(-9, 9) for _ in range(m)] for _ in range(n)] for n, m in itertools.pairwise(lengths)]
    Counting.counted = 0
    found = association.product([Counting(matrix) for matrix in entries], each)
    assert Counting.counted == association.multiplications(lengths, each)
    exact = functools.reduce(np.matmul, [np.array(matrix, dtype=object) for matrix in entries])
    assert found.entries == exact.tolist()


def test_every_bracketing_of_a_chain_gives_the_same_derivative():
    rng = np.random.default_rng(0)
    network = build("serial(dense(3), tanh, dense(2), softmax, squared_error)")
    at = point(network, (4,))
    with jax.enable_x64(True):
        found = chain(network, at.primals[0], at.primals[1:])
    assert [m.shape for m in found.matrices] == [(1, 2), (2, 2), (2, 3), (3, 3), (3, 4)]
    allowance = product_rounding(*found.matrices)
    for order in association.bracketings(0, 4):
        assert np.all(np.abs(found.by_input(order) - found.by_input()) <= allowance)
    kept = found.errors()
    assert [error.shape for error in kept] == [(1, 3), (1, 3), (1, 2), (1, 2), (1, 1)]
    assert np.all(np.abs(kept[0] @ found.links[0].by_input.matrix - found.by_input()) <= allowance)
    assert found.by_primal(0, 1).shape == (4, 3)
    assert association.lengths_of(found.matrices) == (1, 2, 2, 3, 3, 4)
    with pytest.raises(ValueError, match="factor 0"):
        association.lengths_of([rng.normal(size=(2, 3)), rng.normal(size=(2, 3))])


def test_orders_are_written_with_their_brackets():
    assert association.written(association.from_the_left(4)) == "((0 1) 2) 3"
    assert association.written(association.from_the_right(4), "ABCD") == "A (B (C D))"
    assert len(set(association.bracketings(0, 5))) == 42


def test_softmax_has_a_matrix_and_no_slope():
    with pytest.raises(ValueError, match="does not act elementwise"):
        equations.slope("softmax", np.array([0.5, 0.5]))
    p = np.array([0.25, 0.75])
    assert equations.jacobian("softmax", p).tolist() == [[0.1875, -0.1875], [-0.1875, 0.1875]]


def test_keeping_the_errors_is_linear_and_starting_anew_quadratic():
    matrices, gradient = [np.eye(3)] * 7, np.ones(3)
    keeping, anew = equations.Tally(), equations.Tally()
    kept = equations.cached(matrices, gradient, keeping)
    assert [error.tolist() for error in equations.uncached(matrices, gradient, anew)] == [e.tolist() for e in kept]
    assert (keeping.products, anew.products) == (7, 28)
    assert (keeping.multiplications, anew.multiplications) == (63, 252)


@given(st.integers(0, 2**16), st.integers(1, 8))
def test_a_sweep_finds_the_sum_over_all_paths(seed, size):
    rng = np.random.default_rng(seed)
    graph = graphs.random_graph(rng, size)
    t = rng.normal(size=graph.nodes[0].weights[0].shape[1])
    edges = graph.edges(graph.values(t))
    paths = list(graph.paths())
    total, many = graphs.over_all_paths(graph, edges)
    swept, few = graphs.sweep(graph, edges)
    magnitudes = {edge: np.abs(partial) for edge, partial in edges.items()}
    allowance = rounding(sum(graphs.along(path, magnitudes) for path in paths), 3 * (size + len(paths)))
    assert len(paths) == len(set(paths)) == graph.count_paths()
    assert np.all(np.abs(total - swept) <= allowance)
    assert few <= many


def test_a_value_that_is_read_twice_collects_twice():
    """t → u → u², written as a product that reads u two times: 2u · du/dt."""
    double = graphs.Node("sum", (0,), (np.array([[2.0]]),))
    square = graphs.Node("product", (1, 1), (np.eye(1), np.eye(1)))
    graph = graphs.Graph((double, square))
    values = graph.values(np.array([3.0]))
    assert values[-1].tolist() == [36.0]
    assert graphs.sweep(graph, graph.edges(values))[0].tolist() == [[24.0]]
