"""A truth that JAX cannot trace: NumPy, SciPy and mpmath as oracles of derivatives by hand."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.special

from manual_backprop.reference import check
from manual_backprop.reference.subject import Unusable

X = np.array([0.5, -1.25, 2.0, 0.75], np.float32)
POSITIVE = np.array([0.5, 1.25, 2.0, 0.75])
FEW = ("value", "truth", "values", "kinks", "differences", "adjoint_identity")


def made(function, backward):
    by_hand = jax.custom_vjp(function)
    by_hand.defvjp(lambda *primals: (function(*primals), primals), backward)
    return by_hand


def failing(result):
    return {finding.check for finding in result.failures}


def wrongly(by_hand, change):
    """The same with another first cotangent."""

    def backward(kept, y_bar):
        first, *rest = by_hand.bwd(kept, y_bar)
        return change(first), *rest

    return made(by_hand.fun, backward)


# --- what is right, and what is not ----------------------------------------------------------------------------------


def through(function):
    """A SciPy function in JAX, which has no derivative but the one by hand."""

    def called(x):
        form = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return jax.pure_callback(lambda a: function(a).astype(a.dtype), form, x, vmap_method="expand_dims")

    return called


RELU = made(lambda x: jnp.maximum(x, 0), lambda kept, y_bar: (jnp.where(kept[0] > 0, y_bar, 0),))
TANH = made(jnp.tanh, lambda kept, y_bar: ((1 - jnp.tanh(kept[0]) ** 2) * y_bar,))
BESSEL = made(through(scipy.special.k0), lambda kept, y_bar: (-through(scipy.special.k1)(kept[0]) * y_bar,))
DENSE = made(lambda w, x: w @ x, lambda kept, y_bar: (jnp.outer(y_bar, kept[1]), kept[0].T @ y_bar))
SCALED = made(lambda x, a: a * x, lambda kept, y_bar: (kept[1] * y_bar, jnp.sum(y_bar * kept[0])))
POWER = made(
    lambda x, n: x**n,
    lambda kept, y_bar: (y_bar * kept[1] * kept[0] ** (kept[1] - 1), np.zeros(kept[1].shape, jax.dtypes.float0)),
)
SQUARED = made(lambda z: z * z, lambda kept, y_bar: (2 * kept[0] * y_bar,))
TREE = made(
    lambda p: {"doubled": 2 * p["w"], "total": jnp.sum(jnp.sin(p["v"]))},
    lambda kept, y_bar: ({"w": 2 * y_bar["doubled"], "v": jnp.cos(kept[0]["v"]) * y_bar["total"]},),
)
CASES = {
    "NumPy": (TANH, (X,), np.tanh),
    "a kink": (RELU, (X,), lambda x: np.maximum(x, 0)),
    "SciPy in float64": (BESSEL, (POSITIVE,), scipy.special.k0),
    "SciPy in float32": (BESSEL, (POSITIVE.astype(np.float32),), scipy.special.k0),
    "mpmath": (BESSEL, (POSITIVE,), np.vectorize(lambda x: float(mpmath.besselk(0, x)))),
    "numbers of mpmath": (BESSEL, (POSITIVE,), np.vectorize(lambda x: mpmath.besselk(0, x))),
    "several arguments": (DENSE, (np.outer(X[:3], X), X), np.matmul),
    "a lone number": (SCALED, (X, 0.5), lambda x, a: x.dot(np.diag([a] * len(x)))),
    "an integer argument": (POWER, (POSITIVE, np.array([1, 2, 3, 2], np.int32)), np.power),
    "complex numbers": (SQUARED, ((X + 1j * X[::-1]).astype(np.complex64),), np.square),
    "a tree": (TREE, ({"w": X, "v": X[:3]},), lambda p: {"doubled": 2 * p["w"], "total": np.sum(np.sin(p["v"]))}),
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_right_is_right(case):
    function, args, truth = CASES[case]
    result = check(function, *args, truth=truth, checks=FEW)
    assert result.ok, str(result)
    by_check = {finding.check: finding.verdict for finding in result.findings}
    assert by_check["value"] == by_check["truth"] == by_check["differences"] == "right"


CHANGES = {
    "off by a factor of 2 everywhere": lambda bar: jax.tree.map(lambda a: 2 * a, bar),
    "the sign is wrong everywhere": lambda bar: jax.tree.map(lambda a: -a, bar),
    "": lambda bar: jax.tree.map(lambda a: a.ravel().at[2].multiply(1.01).reshape(a.shape), bar),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("words", CHANGES)
def test_what_is_wrong_is_wrong(case, words):
    function, args, truth = CASES[case]
    result = check(wrongly(function, CHANGES[words]), *args, truth=truth, checks=("value", "truth"), reproduce=False)
    assert failing(result) == {"truth"}, str(result)
    assert words in result.diagnosis.diagnosis


def test_all_checks_hold_or_say_why_not():
    result = check(TANH, np.linspace(-2, 2, 32, dtype=np.float32), truth=np.tanh)
    assert result.ok, str(result)
    said = {f.check: f.message for f in result.findings if f.verdict == "abstained"}
    assert said.keys() <= {"jacobian", "complex_step", "second_order", "sharded", "alone", "options"}
    assert all("the truth runs outside of JAX" in said[name] for name in ("jacobian", "complex_step", "second_order"))


def test_a_function_of_another_value_is_told_from_a_wrong_derivative():
    result = check(made(lambda x: 1.01 * jnp.tanh(x), TANH.bwd), X, truth=np.tanh, checks=("value", "truth"))
    assert failing(result) == {"value"}
    assert "the function gives another value than truth" in str(result)


def test_the_function_alone_would_not_tell():
    """Where the function is wrong and its derivative is of that, autodiff of the function agrees with both."""
    both = made(lambda x: x * x, SQUARED.bwd)
    assert check(both, X, checks=FEW).ok
    assert failing(check(both, X, truth=lambda x: np.power(x, 3), checks=("value", "truth"))) == {"value", "truth"}


@pytest.mark.parametrize("digits", [15, 50])
def test_digits_that_the_function_itself_loses_are_no_fault_of_its_derivative(digits):
    """Nor are those that the truth loses, as this one does with 15."""
    by_hand = made(lambda x: 1 - jnp.cos(x), lambda kept, y_bar: (jnp.sin(kept[0]) * y_bar,))
    truth = np.vectorize(lambda x: float(1 - mpmath.cos(x)))
    with mpmath.workdps(digits):
        assert check(by_hand, X, truth=truth, checks=(*FEW, "precision")).ok


def test_the_script_needs_no_truth(paste):
    wrong = wrongly(TANH, lambda bar: -bar)
    script = check(wrong, X, truth=np.tanh, checks=("truth",)).diagnosis.reproduction
    assert {line.split()[1].split(".")[0] for line in script.split("\n") if line.startswith("import")} <= {
        "jax",
        "numpy",
    }
    with pytest.raises(AssertionError, match="the cotangent of x"):
        paste(script)


# --- what cannot be asked --------------------------------------------------------------------------------------------


def refuses(x):
    raise RuntimeError("out of order")


def test_a_truth_of_another_form_is_refused():
    with pytest.raises(Unusable, match=r"truth gives outputs of shapes \[\(\)\], the function \[\(4,\)\]"):
        check(RELU, X, truth=lambda x: np.maximum(x, 0).sum().item())


def test_a_truth_that_raises_is_refused():
    with pytest.raises(Unusable, match=r"cannot trace truth .*out of order.* nor can NumPy call it .*out of order"):
        check(RELU, X, truth=refuses)


def test_a_truth_that_runs_in_jax_and_cannot_be_traced_is_refused():
    """It would run in 32 bits, or for ever, where it is called back."""
    with pytest.raises(Unusable, match="it runs in JAX"):
        check(RELU, X, truth=lambda x: jnp.maximum(x, 0) if x[0] > 0 else x)


def test_keys_mean_nothing_outside_of_jax():
    dropped = made(
        lambda key, x: x * jax.random.normal(key, x.shape),
        lambda kept, y_bar: (None, y_bar * jax.random.normal(kept[0], y_bar.shape)),
    )
    with pytest.raises(Unusable, match="keys mean nothing"):
        check(dropped, jax.random.key(0), X, truth=lambda key, x: np.array(x))


def test_where_a_truth_raises_it_is_not_defined():
    def careful(x):
        return np.maximum(x, 0) if np.all(x) else refuses(x)

    result = check(RELU, X, truth=careful, checks=FEW)
    assert result.ok
    assert "zeros" in result.outside
