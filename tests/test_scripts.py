"""A failure made small, as lines to paste and as a script that fails by itself and passes once it is mended."""

import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from manual_backprop.reference import literals
from manual_backprop.reference.checks import CHECKS
from manual_backprop.reference.culprits import culprits
from manual_backprop.reference.reducing import reduce
from manual_backprop.reference.script import script, snippet
from manual_backprop.reference.session import PROFILES, CannotTell, Session
from manual_backprop.reference.subject import Subject


def failures(function, *args, checks=("truth",), **options):
    """A session in which some checks ran."""
    session = Session(Subject(function, args, **options), PROFILES["quick"])
    for check in checks:
        list(CHECKS[check](session))
    return session


def first(session, leaf=None):
    """Its first failure in the example's own dtype."""
    own = [failed for failed in session.failed if failed.dtype == session.subject.dtype]
    return next(failed for failed in own if leaf in (None, failed.finding.leaf))


def run(text):
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)


def by_hand(function, forward, backward):
    made = jax.custom_vjp(function)
    made.defvjp(forward, backward)
    return made


def scaled_square(factor):
    """x² with the derivative `factor` times x."""
    return by_hand(lambda x: x * x, lambda x: (x * x, x), lambda x, y_bar: (jnp.asarray(factor, x.dtype) * x * y_bar,))


# --- scripts ---------------------------------------------------------------------------------------------------------

MODULE = """
import jax, jax.numpy as jnp
from typing import NamedTuple

class Params(NamedTuple):
    w: jax.Array
    b: jax.Array

@jax.custom_vjp
def loss(params, labels, key, scale):
    noise = jax.random.normal(key, params["layer"].w.shape, params["layer"].w.dtype)
    return jnp.take(params["layer"].w * params["layer"].b + noise, labels) * scale

def forward(params, labels, key, scale):
    return loss(params, labels, key, scale), (params["layer"], labels, scale)

def backward(residuals, y_bar):
    layer, labels, scale = residuals
    z = jnp.zeros_like(layer.w).at[labels].add(y_bar * scale)
    return {"layer": Params(z * layer.b, FACTOR * z * layer.w)}, None, None, None

loss.defvjp(forward, backward)
"""


def test_what_can_be_imported_is_and_passes_once_it_is_mended(tmp_path, monkeypatch):
    """A dict of a named tuple, integers, a key and a number that is static: all in their places."""
    home = tmp_path / "a_model.py"
    home.write_text(MODULE.replace("FACTOR", "1.5"))
    monkeypatch.syspath_prepend(str(tmp_path))
    import a_model

    params = {"layer": a_model.Params(jnp.asarray([0.1, 2.0, 3.0]), jnp.ones(3) / 3)}
    args = params, jnp.asarray([0, 2, 2]), jax.random.key(3), jnp.float32(2.0)
    session = failures(a_model.loss, *args, argnums=0)
    failed = first(session)
    assert failed.finding.leaf == "params['layer'].b"
    text = script(session, failed)
    assert "from a_model import loss" in text
    assert not {"manual_backprop", "base64"} & set(text.split())
    wrong = run(text)
    assert wrong.returncode == 1
    assert "AssertionError: the cotangent of params['layer'].b is wrong at [" in wrong.stderr
    for word in ("got ", "expected ", "allowed to differ by "):
        assert word in wrong.stderr
    home.write_text(MODULE.replace("FACTOR", "1.0"))
    mended = run(text)
    assert (mended.returncode, mended.stdout) == (0, "the cotangent of params['layer'].b is right\n"), mended.stderr
    sys.modules.pop("a_model")


def test_what_cannot_be_imported_comes_as_it_was_compiled():
    """A closure in bfloat16, beside a key that it takes; the same script of the right one passes."""

    def noisy(factor):
        square = scaled_square(factor)
        return lambda x, key: square(x) + jax.random.normal(key, x.shape, x.dtype)

    args = jnp.asarray([1.0, -3.3, 2.0], jnp.bfloat16), jax.random.key(1)
    session = failures(noisy(-2.0), *args)
    failed = first(session)
    text = script(session, failed)
    assert f"jax {jax.__version__} compiled it" in text
    wrong = run(text)
    assert wrong.returncode == 1
    assert "AssertionError: the cotangent of x is wrong at [" in wrong.stderr
    right = Session(Subject(noisy(2.0), args), PROFILES["quick"])
    mended = run(script(right, failed, way="jit"))
    assert (mended.returncode, mended.stdout) == (0, "the cotangent of x is right\n"), mended.stderr


def test_what_a_plain_call_does_not_show_has_no_script():
    session = failures(scaled_square(1.0), jnp.asarray([1.0, 2.0]))
    right = Session(Subject(scaled_square(2.0), [jnp.asarray([1.0, 2.0])]), PROFILES["quick"])
    with pytest.raises(CannotTell, match="does not show"):
        script(right, first(session))


# --- lines to paste --------------------------------------------------------------------------------------------------


def paste(text, **names):
    exec(text, {"jax": jax, "jnp": jnp, "np": np, **names})


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_lines_to_paste_fail_where_the_derivative_is_wrong(dtype):
    session = failures(scaled_square(3.0), jnp.asarray([1.0, -3.3, 2.0], dtype), name="square")
    text = snippet(session, reduce(session, first(session)))
    assert len(text.split("\n")) == 5
    with pytest.raises(AssertionError):
        paste(text, square=scaled_square(3.0))
    paste(text, square=scaled_square(2.0))


def test_lines_to_paste_call_with_trees_and_several_outputs():
    def both(tree, by):
        return {"s": scaled_square(1.0)(tree["a"]) * by, "t": tree["a"] + 1}

    def right(tree, by):
        return {"s": tree["a"] ** 2 * by, "t": tree["a"] + 1}

    session = failures(both, {"a": jnp.asarray([1.0, 2.0])}, 3)
    text = snippet(session, first(session))
    assert "both({'a': tree_a}, 3)" in text
    with pytest.raises(AssertionError):
        paste(text, both=both)
    paste(text, both=right)


def test_at_a_kink_every_convention_passes_and_no_other_number_does():
    """|x| has any slope between −1 and 1 at zero; 2 is none."""

    def absolute(slope):
        return by_hand(jnp.abs, lambda x: (jnp.abs(x), x), lambda x, g: (jnp.where(x == 0, slope, jnp.sign(x)) * g,))

    session = failures(absolute(2.0), jnp.asarray([0.0, 1.5]), name="absolute")
    text = snippet(session, first(session))
    with pytest.raises(AssertionError):
        paste(text, absolute=absolute(2.0))
    for slope in (-1.0, 0.0, 1.0):
        paste(text, absolute=absolute(slope))


def test_an_argument_may_be_called_as_the_output_is():
    def twice(y):
        return scaled_square(1.0)(y)

    session = failures(twice, jnp.asarray([1.0, 2.0]))
    failed = first(session)
    with pytest.raises(AssertionError):
        paste(snippet(session, failed), twice=twice)
    paste(snippet(session, failed), twice=lambda y: y * y)
    off = by_hand(lambda y: y * y, lambda y: (1.5 * y * y, y), lambda y, g: (2 * y * g,))
    session = failures(lambda y: off(y), jnp.asarray([1.0, 2.0]), checks=("value",))
    assert "the output output in float32" in script(session, first(session))


# --- smaller ---------------------------------------------------------------------------------------------------------


def test_arguments_shrink_together_and_labels_stay_in_range():
    """One row, two classes, one cotangent: what a cross entropy needs whose gradient has the wrong sign."""

    def value(logits, labels):
        return jax.nn.logsumexp(logits, axis=-1) - jnp.take_along_axis(logits, labels[:, None], -1)[:, 0]

    def backward(residuals, y_bar):
        logits, labels = residuals
        return (jax.nn.one_hot(labels, logits.shape[-1]) - jax.nn.softmax(logits)) * y_bar[:, None], None

    rng = np.random.default_rng(0)
    wrong = by_hand(value, lambda *both: (value(*both), both), backward)
    session = failures(wrong, jnp.asarray(rng.normal(size=(7, 5)), jnp.float32), jnp.asarray([4, 0, 3, 1, 2, 4, 0]))
    smallest = reduce(session, first(session))
    logits, labels = smallest.trial.primals
    assert logits.shape == (1, 2)
    assert labels.shape == (1,)
    assert 0 <= labels[0] < 2
    assert set(logits.ravel()) == {1.0}
    assert smallest.trial.cotangent[0].tolist() == [1.0]
    assert smallest.finding.leaf == "logits"
    assert smallest.finding.verdict == "wrong"


def test_a_single_wrong_element_is_what_is_left():
    wrong = by_hand(jnp.sin, lambda x: (jnp.sin(x), x), lambda x, g: ((jnp.cos(x) * g).at[-1].multiply(2),))
    session = failures(wrong, jnp.linspace(-2.0, 1.7, 9))
    smallest = reduce(session, first(session))
    assert smallest.trial.primals[0].tolist() == [1.0]


# --- which one -------------------------------------------------------------------------------------------------------


def test_the_wrong_one_of_several_derivatives_is_named():
    right, wrong = scaled_square(2.0), by_hand(jnp.sin, lambda x: (jnp.sin(x), x), lambda x, g: (jnp.sin(x) * g,))

    def looped(x):
        return jax.lax.scan(lambda c, _: (right(wrong(c)), None), x, None, length=2)[0] + right(x)

    session = failures(looped, jnp.asarray([0.3, -0.2]))
    (culprit,) = culprits(session, first(session))
    line = looped.__code__.co_firstlineno + 1
    assert culprit.name == "sin"
    assert str(culprit.called) == f"test_scripts.py:{line}"
    assert str(culprit).endswith("is the one that is wrong")


def test_two_wrong_derivatives_are_both_named():
    def plus(x):
        return x + 1

    def times(x):
        return x * 3

    add = by_hand(plus, lambda x: (x + 1, None), lambda _, g: (2 * g,))
    multiply = by_hand(times, lambda x: (x * 3, None), lambda _, g: (g,))
    right = scaled_square(2.0)
    session = failures(lambda x: multiply(right(add(x))), jnp.asarray([0.3, -0.2]))
    found = culprits(session, first(session))
    assert [culprit.name for culprit in found] == ["plus", "times"]
    assert str(found[0].written) == f"test_scripts.py:{plus.__code__.co_firstlineno}"
    assert all(str(culprit).endswith("is wrong, and not alone") for culprit in found)


def test_a_function_that_is_itself_the_derivative_has_no_culprit():
    session = failures(scaled_square(1.0), jnp.asarray([1.0, 2.0]))
    assert culprits(session, first(session)) == ()


# --- numbers as text -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["float16", "float32", "float64", "bfloat16", "complex64", "int32", "uint8", "bool"])
@pytest.mark.parametrize("shape", [(), (1,), (3, 2), (0, 3), (40, 10)])
def test_arrays_come_back_bit_by_bit(name, shape):
    rng = np.random.default_rng(0)
    values = (rng.normal(size=shape) * 10.0 ** rng.integers(0, 3, size=shape)).astype(jnp.dtype(name))
    if values.size > 5 and name.startswith(("float", "bfloat")):
        values.flat[:4] = [np.inf, -np.inf, -0.0, 0.1]
    import base64
    import zlib

    back = eval(literals.array(values), {"np": np, "jnp": jnp, "zlib": zlib, "base64": base64})
    assert (back.shape, back.dtype, back.tobytes()) == (values.shape, values.dtype, values.tobytes())


def test_keys_come_back():
    key = jax.random.split(jax.random.key(7), 2)
    back = eval(literals.array(key), {"np": np, "jax": jax})
    assert back.dtype == key.dtype
    assert (jax.random.key_data(back) == jax.random.key_data(key)).all()


def test_what_no_text_gives_back_is_said():
    for value, words in ((object(), "static argument"), (lambda x: x, "not found by its name|has no module")):
        with pytest.raises(literals.NotText, match=words):
            literals.static(value, {})
    assert literals.static(textwrap.dedent, imports := {}) == "dedent"
    assert imports == {"dedent": "textwrap"}
