"""One failure of every kind, each with a script that shows just that."""

import os
import re
import subprocess
import sys
import traceback

import jax
import jax.numpy as jnp
import pytest
from test_scripts import by_hand, failures, first, run

from manual_backprop.reference import check
from manual_backprop.reference.reproduction.script import script
from manual_backprop.reference.reproduction.ways import ways

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
    assert mended == ("passed", "")


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
    assert mended.returncode == 0, mended.stderr


def test_a_sum_of_cotangents_is_shown():
    function = by_hand(cube, keep, lambda x, y_bar: (3 * x**2 * y_bar * jnp.abs(y_bar),))
    session = failures(function, X)
    failed = first(session)
    (way,) = [way for way in ways("additive", ("x",), ("x",), ()) if way.name == "additive"]
    wrong, mended = run(text := script(session, failed, way), text.replace(" * jnp.abs(y_bar)", ""))
    assert "y_bar + other_y_bar" in text
    assert wrong[0] == "AssertionError"
    assert mended == ("passed", "")
