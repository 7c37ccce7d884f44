"""`manual-backprop explain`: rules, claims and networks, as a reader of the terminal sees them."""

import re

import click.testing
import jax
import numpy as np
import pytest

from manual_backprop.architecture import build
from manual_backprop.command.main import main
from manual_backprop.derivations import slopes
from manual_backprop.reference.checks import CHECKS
from manual_backprop.reference.claims import CLAIMS, Claim
from manual_backprop.reference.claims.evidence import counted
from manual_backprop.reference.points import point
from manual_backprop.rules import RULES


def explain(*arguments):
    result = click.testing.CliRunner().invoke(main, ["explain", *arguments], env={"COLUMNS": "150"})
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


IRIS = "serial(dense(5), relu, dense(3), softmax_cross_entropy)"


@pytest.fixture(scope="module")
def network():
    code, text = explain(IRIS, "--input", "4")
    assert code == 0
    return text


def test_a_network_is_derived_layer_by_layer_with_all_shapes(network):
    assert "The chain rule of one variable" in network
    assert "∂C/∂x = ∂C/∂z² · ∂z²/∂a¹ · ∂a¹/∂z¹ · ∂z¹/∂x" in network
    assert "(1×3)(3×5)(5×5)(5×4) → 1×4" in network
    assert "∂z²/∂w²  3 by 5×3, read as 3×15" in network
    assert re.search(r"\(1×3\)\(3×15\) → 1×15 → 5×3 +w̄² = a¹ ⊗ z̄²:  \(5\) ⊗ \(3\)", network)
    assert re.search(r"from the output, reverse mode +60\b", network)
    assert network.count("✓ right") == 6
    for name in ("x", "w¹", "b¹", "w²", "b²", "labels"):
        assert re.search(rf"^∂C/∂{name} .*✓ right", network, re.MULTILINE)


def test_the_numbers_shown_for_a_network_are_those_of_autodiff(network):
    z = np.array([float(v) for v in re.search(r"  z²  3\n +\[(.*)\]", network)[1].split()])
    shown = [float(v) for v in re.search(r"  ∂C/∂z²  3\n +\[(.*)\]", network)[1].split()]
    labels = np.array([float(v) for v in re.search(r"  labels  3\n +\[(.*)\]", network)[1].split()])
    with jax.enable_x64(True):
        expected = jax.grad(RULES["softmax_cross_entropy"]._definition)(z, labels)
    assert np.abs(shown - np.asarray(expected)).max() <= 2e-4  # four decimals of z and of the answer are printed


def test_a_wrong_derivation_is_called_wrong(monkeypatch):
    monkeypatch.setitem(slopes.SLOPES, "tanh", ("1", np.ones_like))
    code, text = explain("serial(dense(2), tanh, squared_error)", "--input", "3")
    assert code == 1
    assert re.search(r"^∂C/∂w¹ .*✗ wrong", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("expression", "shape", "expected"),
    [
        ("serial(embedding(4, 2), tanh)", "2", "∂y/∂z"),
        ("serial(add, tanh)", "((2,), (2,))", "assembled row by row"),
        ("serial(dense(3), softmax, squared_error)", "(2, 3)", "diag(p) − p pᵀ"),
        ("serial(relu, split)", "4", "weights ȳ"),
    ],
)
def test_networks_of_every_kind(expression, shape, expected):
    code, text = explain(expression, "--input", shape)
    assert code == 0
    assert "✗" not in text
    assert expected.replace("∂y/∂z", "✓ right") in text


def test_a_rule_has_its_derivation_its_domain_and_a_checked_example():
    code, text = explain("relu")
    assert code == 0
    assert "at x = 0 the derivative is a convention" in text
    assert re.search(r"x +float\[\*n\] +2×3 +kinks at 0", text)
    assert "∂y_i/∂x_k = [i = k] f'(x_i),   f'(x) = [x > 0]" in text
    assert "The full Jacobian ∂y/∂x, 2×3 by 2×3, as a matrix 6×6" in text
    assert re.search(r"x in float64 is right \[vjp\]", text)
    assert ">>>" not in text


def test_a_rule_tells_where_it_comes_from_and_how_its_jacobian_was_made():
    code, text = explain("layer_norm")
    assert code == 0
    assert "Source: Ba, Kiros, Hinton, 'Layer Normalization', 2016, eq. 3." in text
    assert "assembled from the backward pass row by row" in text
    assert "tried: 1e-05, 0.1" in text


def test_a_claim_shows_its_matrices_and_what_is_wrong_by_how_much():
    code, text = explain("a2")
    assert code == 0
    assert "diag(p) − p pᵀ  2×2" in text
    found, predicted = re.search(r"a diagonal softmax Jacobian is wrong, by (\S+); predicted (\S+)", text).groups()
    assert found == predicted
    assert float(found) != 0
    assert "right on random shapes and values: 33 comparisons" in text
    assert "Text 4: 'The Total Derivative" in text
    assert "Text 2" not in text


@pytest.mark.parametrize("small", [True, False])
def test_a_claim_that_fails_here_or_elsewhere_is_a_failure(small, monkeypatch):
    def function(case):
        """A title."""
        yield counted("a count", int(case.small == small), 0)

    monkeypatch.setitem(CLAIMS, "X1", Claim("X1", "a = b", function))
    code, text = explain("X1")
    assert code == 1
    assert "a count: 1 came where 0 was predicted" in text


@pytest.mark.parametrize(
    ("name", "close"),
    [
        ("sofmax", "softmax or log_softmax"),
        ("turth", "did you mean truth"),
        ("D13", "D3 or D1"),
        ("zzz", "name a rule, a check, a claim"),
        ("serial(dens(2))", "dense"),
    ],
)
def test_an_unknown_name_is_one_line_with_close_matches(name, close):
    code, text = explain(name)
    assert code == 2
    assert close in text
    assert text.strip().count("\n") == 0


def test_a_name_of_a_check_and_of_a_rule_tells_of_both(monkeypatch):
    code, text = explain("relu")
    monkeypatch.setitem(CHECKS, "relu", CHECKS["zero"])
    code_of_both, both = explain("relu")
    assert code == code_of_both == 0
    assert text in both
    assert CHECKS["zero"].__doc__.splitlines()[0] in both


def test_an_input_belongs_to_a_network():
    code, text = explain("relu", "--input", "3")
    assert code == 2
    assert "--input belongs to a network" in text


def test_the_example_of_a_network_is_the_seeded_point():
    """Another seed gives other numbers, the same seed the same."""
    expression = "serial(tanh, squared_error)"
    first, again, other = (explain(expression, "--input", "2", "--seed", seed)[1] for seed in ("0", "0", "1"))
    assert first == again != other
    x = np.round(point(build(expression), (2,), "normal", 1).primals[0], 2)
    assert " ".join(f"{v:g}" for v in x) in re.sub(r" +", " ", other)
