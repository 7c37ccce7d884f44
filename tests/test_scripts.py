"""A failure made small, as a script that fails by itself without this package, and passes once it is mended."""

import json
import os
import re
import subprocess
import sys
import textwrap
import traceback

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from manual_backprop.reference import check, literals
from manual_backprop.reference.checks import CHECKS
from manual_backprop.reference.profiles import PROFILES
from manual_backprop.reference.reducing import reduce
from manual_backprop.reference.script import script
from manual_backprop.reference.session import CannotTell, Session
from manual_backprop.reference.subject import Subject
from manual_backprop.reference.ways import ways


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


# --- one of every kind -----------------------------------------------------------------------------------------------

X = jnp.asarray([0.5, -1.25, 2.0])


def cube(x):
    return x**3


def keep(x):
    return cube(x), x


def twice_as_much(x, y_bar):
    return (6 * x**2 * y_bar,)


def is_traced(x):
    return isinstance(x, jax.core.Tracer)


def without_jit(x, y_bar):
    return (3 * x**2 * y_bar * (1 if is_traced(y_bar) else 2),)


def under_jit(x, y_bar):
    return (3 * x**2 * y_bar * (2 if is_traced(y_bar) else 1),)


def no_number(x, y_bar):
    return (3 * x**2 * y_bar * (1 if jnp.any(y_bar > 0) else 2),)


def clipped(x, y_bar):
    return (3 * x**2 * jnp.clip(y_bar, -100, 100),)


def never_zero(x, y_bar):
    return (3 * x**2 * y_bar + jnp.where(jnp.all(y_bar == 0), 1, 0).astype(x.dtype),)


def stopped(x, y_bar):
    return (jax.lax.stop_gradient(3 * x**2) * y_bar,)


def where_large(x, y_bar):
    return (3 * x**2 * jnp.where(jnp.abs(x) > 10, 2, 1) * y_bar,)


def of_three(x, y_bar):
    return (3 * x**2 * (1 if len(x) == 3 else 2) * y_bar,)


def in_bfloat16(x, y_bar):
    return (3 * x**2 * (2 if x.dtype == jnp.bfloat16 else 1) * y_bar,)


def first_lane(x, y_bar):
    return (scaled(3 * x**2, y_bar),)


@jax.custom_batching.custom_vmap
def scaled(slope, y_bar):
    return slope * y_bar


@scaled.def_vmap
def scaled_lanes(size, mapped, slope, y_bar):
    return jnp.broadcast_to(slope[:1] if mapped[0] else slope, (size, 3)) * y_bar, True


held = {}


def remember(x):
    held["x"] = x
    return cube(x), x


def remembered(x, y_bar):
    return (3 * held["x"] ** 2 * y_bar,)


calls = []


def every_second(x, y_bar):
    calls.append(1)
    return (3 * x**2 * y_bar / (1 + len(calls) % 2),)


def within(name):
    return any(name in frame.name for frame in traceback.extract_stack())


def in_a_loop(x, y_bar):
    return (3 * x**2 * y_bar * (2 if within("scan") else 1),)


RIGHT = "def {name}(x, y_bar):\n    return (3 * x**2 * y_bar,)\n"
# forward, backward, the checks that run, and words of the script
KINDS = {
    "truth": (keep, twice_as_much, ("truth",), "wrong: the cotangent of x in float32."),
    "jit alone": (keep, under_jit, ("truth", "eager"), "wrong: the cotangent of x in float32."),
    "eager": (keep, without_jit, ("truth", "eager"), "without jit"),
    "raises under jit": (keep, no_number, ("truth",), "raises"),
    "vmap": (keep, first_lane, ("truth", "vmap"), "under vmap over all arguments"),
    "nested": (keep, in_a_loop, ("truth", "nested"), "inside scan"),
    "homogeneous": (keep, clipped, ("truth", "homogeneous"), "with a cotangent 2.0**14 times as large"),
    "zero": (keep, never_zero, ("truth", "zero"), "with a cotangent of zero"),
    "second_order": (keep, stopped, ("truth", "second_order"), "second derivative"),
    "values": (keep, where_large, ("truth", "values"), "wrong: the cotangent of x"),
    "shapes": (keep, of_three, ("truth", "shapes"), "wrong: the cotangent of x"),
    "precision": (keep, in_bfloat16, ("truth", "precision"), "in bfloat16"),
    "after another forward pass": (remember, remembered, ("repeatable",), "after another forward pass"),
    "called again": (keep, every_second, ("repeatable",), "when it is called again"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_failure_has_a_script_that_needs_jax_and_numpy_alone(kind):
    forward, backward, checks, words = KINDS[kind]
    held.clear(), calls.clear()
    result = check(by_hand(cube, forward, backward), X, checks=checks, name="cubed")
    text = result.diagnosis.reproduction
    assert words in " ".join(text.split("\n\n")[0].replace("\n# ", " ").split()), text
    start = text.index(f"def {backward.__name__}(")
    end = re.search(r"\n\n\n", text[start:]).start() + start
    (error, said), mended = run(text, text[:start] + RIGHT.format(name=backward.__name__) + text[end:])
    if kind == "raises under jit":
        assert error == "TracerBoolConversionError"
    else:
        assert error == "AssertionError"
        assert "got" in said
        assert "expected" in said
    assert mended == ("passed", "right")


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
    assert mended == ("passed", "right")

    monkeypatch.setattr("manual_backprop.reference.sources.LINES", 1)  # as of a long function
    text = script(session, failed)
    assert "\nfrom a_model import Params, loss\n" in text or "\nfrom a_model import loss\n" in text
    assert run(text)[0][0] == "AssertionError"
    home.write_text(MODULE.replace("FACTOR", "1.0"))
    assert run(text) == [("passed", "right")]
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


SHARDED = """
import sys
import jax, jax.numpy as jnp
from jax.experimental.custom_partitioning import custom_partitioning

@custom_partitioning
def centred(g):
    return g - g.mean()

def partition(mesh, arguments, result):
    inside = jnp.zeros_like if "--mended" not in sys.argv else lambda g: g - jax.lax.pmean(g.mean(), "devices")
    return mesh, inside, arguments[0].sharding, (arguments[0].sharding,)

centred.def_partition(
    partition=partition, infer_sharding_from_operands=lambda mesh, a, _: a[0].sharding, sharding_rule="i -> i"
)

@jax.custom_vjp
def function(x):
    return x - x.mean()

function.defvjp(lambda x: (function(x), None), lambda _, g: (centred(g),))

if __name__ == "__main__":
    from a_sharded import function
    from manual_backprop.reference import check
    print(check(function, jnp.arange(8.0), checks=["truth", "sharded"]).diagnosis.reproduction)
"""


def test_what_is_wrong_on_several_devices_alone_is_run_on_several(tmp_path):
    (tmp_path / "a_sharded.py").write_text(SHARDED)
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    command, options = [sys.executable, "a_sharded.py"], {"capture_output": True, "text": True, "check": False}
    text = subprocess.run(command, env=os.environ | flags, cwd=tmp_path, **options).stdout
    assert "sharded over devices" in text
    command = [sys.executable, "-I", "-c", text]
    wrong, mended = (subprocess.run([*command, *more], **options) for more in ((), ("--mended",)))
    assert "AssertionError: the cotangent of x sharded over devices: got [0. 0." in wrong.stderr
    assert mended.stdout == "right\n", mended.stderr


def test_a_sum_of_cotangents_is_shown():
    function = by_hand(cube, keep, lambda x, y_bar: (3 * x**2 * y_bar * jnp.abs(y_bar),))
    session = failures(function, X)
    failed = first(session)
    (way,) = [way for way in ways("additive", ("x",), ("x",), ()) if way.name == "additive"]
    wrong, mended = run(text := script(session, failed, way), text.replace(" * jnp.abs(y_bar)", ""))
    assert "y_bar + other_y_bar" in text
    assert wrong[0] == "AssertionError"
    assert mended == ("passed", "right")


def test_a_script_alone_ends_with_an_error():
    session = failures(scaled_square(1.0), jnp.asarray([1.0, 2.0]))
    text = script(session, first(session))
    done = subprocess.run([sys.executable, "-I", "-c", text], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "AssertionError: the cotangent of x: got" in done.stderr


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
    assert mended == ("passed", "right")


def test_scripts_call_with_trees_static_arguments_and_several_outputs():
    square = scaled_square(1.0)

    def both(tree, by):
        return {"s": square(tree["a"]) * by, "t": tree["a"] + 1}

    session = failures(both, {"a": jnp.asarray([1.0, 2.0])}, 3)
    text = script(session, first(session))
    assert "both({'a': tree_a}, 3)" in text
    wrong, mended = run(text, text.replace("factor = 1.0", "factor = 2.0"))
    assert wrong[0] == "AssertionError"
    assert mended == ("passed", "right")


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
    assert others == [("passed", "right")] * 3


def test_an_argument_may_be_called_as_the_output_is():
    square = scaled_square(1.0)

    def twice(y):
        return square(y)

    session = failures(twice, jnp.asarray([1.0, 2.0]))
    text = script(session, first(session))
    wrong, mended = run(text, text.replace("factor = 1.0", "factor = 2.0"))
    assert wrong[0] == "AssertionError"
    assert mended == ("passed", "right")
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
