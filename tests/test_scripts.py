"""A failure made small, as a script that fails by itself without this package, and passes once it is mended."""

import code
import json
import re
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from manual_backprop.reference.checks import CHECKS
from manual_backprop.reference.finding import CannotTell
from manual_backprop.reference.profiles import PROFILES
from manual_backprop.reference.reproduction import literals
from manual_backprop.reference.reproduction.reducing import reduce
from manual_backprop.reference.reproduction.script import script
from manual_backprop.reference.session import Session
from manual_backprop.reference.subject import Subject


def failures(function, *args, checks=("truth",), **options):
    """A session in which some checks ran."""
    session = Session(Subject(function, args, **options), PROFILES["quick"])
    for name in checks:
        list(CHECKS[name](session))
    return session


def first(session, leaf=None):
    """Its first failure in the example's own dtype."""
    own = [failed for failed in session.failed if failed.dtype == session.subject.dtype]
    return next(failed for failed in own if leaf in (None, failed.finding.leaf))


# Runs texts one after the other where neither this package nor anything else that it needs can be imported.
ALONE = """
import contextlib, io, json, sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("manual_backprop", "tests", "jaxtyping", "annotated_types", "optax", "hypothesis"):
            raise ImportError(f"{name} is not there")
sys.meta_path.insert(0, Blocked())
for text in json.loads(sys.stdin.read()):
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            exec(compile(text, "<pasted>", "exec"), {"__name__": "__main__"})
        outcome = ["passed", said.getvalue().strip()]
    except Exception as error:
        outcome = [type(error).__name__, str(error)]
    print(json.dumps(outcome))
    import jax
    jax.config.update("jax_enable_x64", False)
"""


def run(*texts):
    """What becomes of these texts in a new process: (the error's name, or 'passed', and what it says)."""
    command = [sys.executable, "-I", "-c", ALONE]
    done = subprocess.run(command, input=json.dumps(texts), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


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


def test_what_is_in_a_module_is_written_out_with_its_arguments(tmp_path, monkeypatch):
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
    assert "# from a_model import loss" in text
    (error, said), mended = run(text, text.replace("1.5 *", "1.0 *"))
    assert error == "AssertionError"
    assert said.startswith("the cotangent of params['layer'].b: got [")
    assert mended == ("passed", "")

    monkeypatch.setattr("manual_backprop.reference.reproduction.sources.LINES", 1)  # as of a long function
    text = script(session, failed)
    assert "\nfrom a_model import Params, loss\n" in text or "\nfrom a_model import loss\n" in text
    assert run(text)[0][0] == "AssertionError"
    home.write_text(MODULE.replace("FACTOR", "1.0"))
    assert run(text) == [("passed", "")]
    sys.modules.pop("a_model")


def test_what_has_no_source_comes_as_it_was_compiled():
    """A closure in bfloat16 made by exec, beside a key that it takes."""
    given: dict = {"jax": jax}
    exec("def noisy(square):\n    return lambda x, key: square(x) + jax.random.normal(key, x.shape, x.dtype)", given)
    args = jnp.asarray([1.0, -3.3, 2.0], jnp.bfloat16), jax.random.key(1)
    session = failures(given["noisy"](scaled_square(-2.0)), *args)
    text = script(session, first(session))
    assert f"as jax {jax.__version__} compiled it" in text
    ((error, said),) = run(text)
    assert error == "AssertionError"
    assert said.startswith("the cotangent of x: got [")


def test_a_script_alone_ends_with_an_error():
    session = failures(scaled_square(1.0), jnp.asarray([1.0, 2.0]))
    text = script(session, first(session))
    done = subprocess.run([sys.executable, "-I", "-c", text], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "AssertionError: the cotangent of x: got" in done.stderr


def test_a_large_array_is_written_as_what_it_nearly_is():
    def backward(x, y_bar):
        return ((2 * x * y_bar).at[777].multiply(1.5 if x.size > 5000 else 1.0),)

    session = failures(by_hand(lambda x: x * x, lambda x: (x * x, x), backward), jnp.linspace(0.1, 1.0, 8000))
    text = script(session, reduce(session, first(session)))
    assert len(text) < 2000
    assert "y_bar[777] = 1.0" in text
    ((error, said),) = run(text)
    assert error == "AssertionError"
    assert said.endswith("at [777]")


def test_a_script_can_be_pasted_line_by_line(capsys):
    """Empty lines end a definition there, so there are none inside of one."""

    def backward(x, y_bar):
        factor = 3

        return (factor * x * y_bar,)

    session = failures(by_hand(lambda x: x * x, lambda x: (x * x, x), backward), jnp.asarray([1.0, 2.0]))
    console = code.InteractiveConsole()
    for line in script(session, first(session)).split("\n"):
        console.push(line)
    (error,) = re.findall(r"\w*Error.*", capsys.readouterr().err)
    assert error.startswith("AssertionError: the cotangent of x: got")


def test_what_no_call_shows_has_no_script():
    session = failures(scaled_square(1.0), jnp.asarray([1.0, 2.0]))
    right = Session(Subject(scaled_square(2.0), [jnp.asarray([1.0, 2.0])]), PROFILES["quick"])
    with pytest.raises(CannotTell, match="shows this failure"):
        script(right, first(session))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_scripts_pass_once_the_closure_is_mended(dtype):
    session = failures(scaled_square(3.0), jnp.asarray([1.0, -3.3, 2.0], dtype), name="square")
    text = script(session, reduce(session, first(session)))
    assert "factor = 3.0" in text
    wrong, mended = run(text, text.replace("factor = 3.0", "factor = 2.0"))
    assert wrong[0] == "AssertionError"
    assert mended == ("passed", "")


def test_scripts_call_with_trees_static_arguments_and_several_outputs():
    square = scaled_square(1.0)

    def both(tree, by):
        return {"s": square(tree["a"]) * by, "t": tree["a"] + 1}

    session = failures(both, {"a": jnp.asarray([1.0, 2.0])}, 3)
    text = script(session, first(session))
    assert "both({'a': tree_a}, 3)" in text
    wrong, mended = run(text, text.replace("factor = 1.0", "factor = 2.0"))
    assert wrong[0] == "AssertionError"
    assert mended == ("passed", "")


def test_at_a_kink_every_convention_passes_and_no_other_number_does():
    """|x| has any slope between −1 and 1 at zero; 2 is none."""
    slope = 2.0

    def backward(x, g):
        return (jnp.where(x == 0, slope, jnp.sign(x)) * g,)

    session = failures(by_hand(jnp.abs, lambda x: (jnp.abs(x), x), backward), jnp.asarray([0.0, 1.5]), name="absolute")
    text = script(session, first(session))
    assert "slope = 2.0" in text
    wrong, *others = run(text, *(text.replace("slope = 2.0", f"slope = {slope}") for slope in (-1.0, 0.0, 1.0)))
    assert wrong[0] == "AssertionError"
    assert others == [("passed", "")] * 3


def test_an_argument_may_be_called_as_the_output_is():
    square = scaled_square(1.0)

    def twice(y):
        return square(y)

    session = failures(twice, jnp.asarray([1.0, 2.0]))
    text = script(session, first(session))
    wrong, mended = run(text, text.replace("factor = 1.0", "factor = 2.0"))
    assert wrong[0] == "AssertionError"
    assert mended == ("passed", "")
    off = by_hand(lambda y: y * y, lambda y: (1.5 * y * y, y), lambda y, g: (2 * y * g,))
    session = failures(lambda y: off(y), jnp.asarray([1.0, 2.0]), checks=("value",))
    text = script(session, first(session))
    assert "the output output in float32" in text
    assert [error for error, _ in run(text, text.replace("1.5 * y", "y"))] == ["AssertionError", "passed"]


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
    for value, words in ((object(), "has no module"), (lambda x: x, "not found by its name|has no module")):
        with pytest.raises(literals.NotText, match=words):
            literals.static(value, lambda thing: literals.named(thing, {}))
    imports: dict = {}
    assert literals.static(textwrap.dedent, lambda thing: literals.named(thing, imports)) == "dedent"
    assert imports == {"dedent": "textwrap"}
