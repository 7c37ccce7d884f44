"""What `check` says of input that it cannot use: a clear message, and the other checks still run."""

import contextvars
import pathlib
import signal
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import pallas as pl

from manual_backprop.reference import check, checker
from manual_backprop.reference.checks import CHECKS
from manual_backprop.reference.finding import CannotTell, Finding
from manual_backprop.reference.subject import Unusable

X = np.array([0.5, -1.25, 2.0, 0.75], np.float32)


def made(function, backward):
    """A custom_vjp that keeps its primals."""
    by_hand = jax.custom_vjp(function)
    by_hand.defvjp(lambda *primals: (function(*primals), primals), backward)
    return by_hand


def square(x):
    return x * x


def square_back(kept, y_bar):
    return (2 * kept[0] * y_bar,)


def refused(*args, **options):
    with pytest.raises(Unusable) as caught:
        check(*args, **options)
    return str(caught.value)


def test_what_cannot_be_checked_is_refused_with_a_reason():
    right = made(square, square_back)
    assert "3 is not callable" in refused(3, X)
    assert "rejects its example arguments" in refused(made(lambda a, b: a @ b, None), np.ones((2, 3)), np.ones((2, 3)))
    assert "rejects its example arguments" in refused(made(jnp.multiply, None), X)
    assert "nothing differentiable" in refused(right, np.arange(3))
    assert "nothing differentiable" in refused(right)
    assert "no float output" in refused(lambda x: jnp.argmax(x), X)
    assert "checks names 'valu'; there are value, " in refused(right, X, checks=("valu",))
    assert "profile is 'fast'; it is one of quick, " in refused(right, X, profile="fast")
    assert "argnums is 1, but there are 1 arguments" in refused(right, X, argnums=1)
    assert "No VJP defined" in refused(jax.custom_vjp(square), X)
    assert "x is a shape, float32[2], without numbers" in refused(right, jax.ShapeDtypeStruct((2,), np.float32))
    with pytest.raises(Unusable, match=r"x\['a'\] is a tracer.* outside of jit"):
        jax.jit(lambda a: check(made(lambda x: x["a"], None), {"a": a}))(X)


def _exhausted(*_):
    raise MemoryError("cannot allocate")


def test_a_primal_that_exhausts_memory_is_refused():
    assert "MemoryError: cannot allocate" in refused(made(_exhausted, square_back), X)


def test_a_backward_pass_that_exhausts_memory_is_one_finding():
    result = check(made(square, _exhausted), X, checks=("truth", "zero", "shapes"))
    said = {finding.check: finding for finding in result.findings}
    assert not result.ok
    assert said["structure"].verdict == "raised"
    assert "out of memory; give smaller example arguments" in said["structure"].message
    assert {said[name].verdict for name in ("truth", "zero", "shapes")} == {"abstained"}


def _slowly(kept, y_bar, until=60.0):
    end = time.monotonic() + until
    while time.monotonic() < end:
        time.sleep(0.01)
    return square_back(kept, y_bar)


class _Swallows:
    """What is raised in here comes to nobody."""

    def __del__(self):
        _slowly((X,), X, until=3.0)


def _for_ever(kept, y_bar):
    return (lax.while_loop(lambda x: jnp.all(jnp.isfinite(x)), lambda x: x * 0 + 1, 2 * kept[0] * y_bar),)


def _in_time(backward, seconds):
    start = time.monotonic()
    result = check(made(square, backward), X, checks=("value", "zero"), seconds=seconds)
    assert time.monotonic() - start < 50  # and not 60
    assert not result.ok  # nothing could be judged
    assert {finding.verdict for finding in result.findings} == {"abstained"}
    assert any(f"given up after {seconds:g} seconds" in finding.message for finding in result.findings)


def test_what_hangs_in_python_is_given_up():
    _in_time(_slowly, 2.0)


def test_what_hangs_is_given_up_where_a_finalizer_swallows_the_exception():
    left = []

    def backward(kept, y_bar):
        swallows = _Swallows()
        del swallows
        try:
            return _slowly(kept, y_bar)
        finally:
            left.append(y_bar)

    _in_time(backward, 2.0)
    begun = time.monotonic()
    while not left and time.monotonic() - begun < 20:
        time.sleep(0.01)
    assert left


def test_what_hangs_in_a_compiled_loop_is_given_up():
    code = (
        "from tests.test_check_input import _for_ever, _in_time\n"
        "_in_time(_for_ever, 1.0)\n"
        "import os; print('in time', flush=True); os._exit(0)"
    )
    root = pathlib.Path(__file__).parents[1]
    ran = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120)
    assert "in time" in ran.stdout, ran.stderr


@pytest.fixture
def press():
    """Ctrl-C, from any thread; a process in the background ignores it otherwise."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    signal.signal(signal.SIGINT, before)


def test_an_interruption_keeps_what_was_found_and_stops_what_runs(press, monkeypatch):
    ended = threading.Event()

    def stopped(session):
        yield Finding(str(session.subject), "eager", "x", "float32", "right")
        press()
        try:
            while True:
                time.sleep(0.05)
        finally:
            ended.set()

    monkeypatch.setitem(CHECKS, "eager", stopped)
    with pytest.raises(KeyboardInterrupt) as raised:
        check(made(square, lambda kept, y_bar: (kept[0] * y_bar,)), X, checks=("truth", "eager"))
    result = raised.value.result
    verdicts = {(f.check, f.leaf): f.verdict for f in result.findings if f.dtype == "float32"}
    assert verdicts == {("truth", "x"): "wrong", ("eager", "x"): "right", ("eager", ""): "abstained"}
    assert not result.ok
    assert "interrupted before eager" in str(result)
    assert ended.wait(10)


def test_what_was_interrupted_is_not_called_right(press, monkeypatch):
    def stopped(session):
        press()
        while True:
            time.sleep(0.05)
        yield

    monkeypatch.setitem(CHECKS, "eager", stopped)
    with pytest.raises(KeyboardInterrupt) as raised:
        check(made(square, square_back), X, checks=("truth", "eager"))
    assert not raised.value.result.ok
    assert "nothing was found wrong so far" in str(raised.value.result)


def test_options_that_make_no_sense_are_refused():
    right = made(square, square_back)
    assert "seconds is -1; a number above 0" in refused(right, X, seconds=-1)
    assert "seconds is 'a'" in refused(right, X, seconds="a")
    assert "seconds is inf; a number above 0, of at most" in refused(right, X, seconds=np.inf)
    assert "name is 7; a string" in refused(right, X, name=7)
    assert "argnums is 0.0, but there are 1 arguments" in refused(right, X, argnums=0.0)
    assert "seed is -1; a whole number" in refused(right, X, seed=-1)
    assert "seed is None" in refused(right, X, seed=None)
    assert "checks names none" in refused(right, X, checks=[])


def test_a_function_that_hangs_while_it_is_traced_is_refused():
    def hangs(x):
        while True:
            time.sleep(0.01)

    assert "hangs: the function itself takes longer than 0.5 seconds" in refused(
        made(hangs, square_back), X, seconds=0.5
    )


def test_an_example_that_is_not_finite_is_told():
    right = made(square, square_back)
    result = check(right, np.array([0.5, np.nan], np.float32), checks=("truth", "values"))
    assert result.ok
    assert "not finite at the example's own values, where nothing was judged" in str(result)
    assert "not finite" not in str(check(right, X, checks=("truth", "values")))


def test_what_explains_a_failure_cannot_lose_it(monkeypatch):
    def out_of_memory(session, findings):
        raise CannotTell("out of memory")

    monkeypatch.setattr(checker, "reproduced", out_of_memory)
    assert not check(made(square, lambda kept, y_bar: (y_bar,)), X, checks="truth").ok


def test_a_kernel_without_a_plain_implementation_is_told_that_one_helps():
    def kernel(x_ref, y_ref):
        y_ref[...] = x_ref[...] * x_ref[...]

    def squared(x):
        return pl.pallas_call(kernel, out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype), interpret=True)(x)

    by_hand, options = made(squared, square_back), {"checks": ("structure", "value")}
    assert "a kernel is checked faster, and at more lengths, with truth=" in str(check(by_hand, X, **options))
    assert "truth=" not in str(check(by_hand, X, truth=square, **options))
    assert "truth=" not in str(check(made(square, square_back), X, **options))


def test_a_function_that_hangs_itself_is_refused():
    def function(x):
        time.sleep(2)
        return x * x

    assert "the function itself takes longer than 0.2 seconds" in refused(made(function, square_back), X, seconds=0.2)


def test_a_function_that_prints_is_checked(capsys):
    def function(x):
        print("printed")
        return x * x

    assert check(made(function, square_back), X, profile="quick", checks=("value", "truth")).ok
    assert "printed" in capsys.readouterr().out


def test_a_function_that_is_not_deterministic_is_said_to_be():
    rng = np.random.default_rng(0)
    function = made(lambda x: x * rng.normal(), lambda kept, y_bar: (y_bar,))
    assert "not deterministic" in str(_said(function))


def _said(function):
    try:
        return check(function, X)
    except Unusable as error:
        return error


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_arguments_that_are_not_finite_are_no_fault_of_the_derivative(value):
    result = check(made(square, square_back), np.array([1.0, value], np.float32), profile="quick")
    assert not result.failures, result
    assert result.outside  # it is counted as a place where nothing can be said


def test_a_truth_of_another_form_is_refused():
    assert "truth" in refused(made(square, square_back), X, truth=lambda x: jnp.sum(x * x))


def test_another_truth_is_another_function():
    result = check(made(square, square_back), X, truth=lambda x: x**3, checks=("value",))
    assert {finding.check for finding in result.failures} == {"value"}, result


def test_a_rule_that_is_not_linear_in_its_tangent_is_wrong_and_not_refused():
    rule = jax.custom_jvp(square)
    rule.defjvp(lambda primals, tangents: (square(*primals), jnp.abs(2 * primals[0] * tangents[0])))
    (finding,) = check(rule, X, checks="truth").failures
    assert finding.verdict == "raised"
    assert "Transpose rule" in finding.message


def test_a_function_without_any_derivative_is_refused_once():
    def called_back(a, x):
        return x * jax.pure_callback(np.sin, jax.ShapeDtypeStruct(a.shape, a.dtype), a, vmap_method="expand_dims")

    message = refused(called_back, X, X)
    assert "JAX cannot differentiate the function" in message
    assert "argnums= leaves an argument out" in message
    assert check(called_back, X, X, argnums=1, profile="quick").ok


@pytest.mark.breaks_the_checker
def test_a_mistake_of_the_checker_is_not_put_down_to_the_derivative(monkeypatch):
    monkeypatch.setattr("manual_backprop.reference.judge.between", None)
    result = check(made(square, square_back), X, profile="quick")
    (said,) = {finding.message for finding in result.findings if finding.check == "truth"}
    assert not result.failures
    assert "a mistake of its own: TypeError: 'NoneType' object is not callable" in said
    assert "nothing was found wrong so far" in str(result)
    assert "truth, kinks failed by a mistake of the checker" in str(result)


@pytest.mark.parametrize("scalar", [np.float64(0.75), 0.75])
def test_the_precision_set_for_a_thread_is_that_of_the_check(scalar):
    scaled = made(lambda x, a: a * x, lambda kept, y_bar: (kept[1] * y_bar, jnp.sum(kept[0] * y_bar)))
    with jax.enable_x64(True):
        result = check(scaled, X.astype(np.float64), scalar, checks=("structure", "truth", "eager"))
    assert result.ok, result
    assert {finding.dtype for finding in result.findings} == {"float64"}


@pytest.mark.parametrize("profile", ["quick", "default"])
def test_what_is_held_against_no_truth_is_not_called_right(profile):
    """Below 1000 the function is not finite: that the form is right, and zero gives zero, is no derivative."""
    beyond = made(lambda x: jnp.log(x - 1000), lambda kept, y_bar: (7 * y_bar / (kept[0] - 1000),))
    result = check(beyond, X, profile=profile, checks=("value", "structure", "truth", "zero", "additive"))
    assert not result.ok
    assert "nothing could be judged" in str(result)


def test_what_leaves_python_is_told():
    assert "calls sys.exit(3)" in refused(made(lambda x: sys.exit(3), square_back), X)


def test_what_the_caller_has_set_is_set_for_the_function():
    factor = contextvars.ContextVar("factor")
    factor.set(3.0)
    mesh = jax.make_mesh((1,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))

    def scaled(x):
        return factor.get() * lax.with_sharding_constraint(x * x, jax.sharding.PartitionSpec("rows"))

    for slope, ok in ((6.0, True), (5.0, False)):
        by_hand = made(scaled, lambda kept, y_bar, slope=slope: (slope * kept[0] * y_bar,))
        with jax.set_mesh(mesh):
            assert check(by_hand, X, checks=("truth", "repeatable", "nested"), reproduce=False).ok == ok


def test_a_function_that_keeps_what_it_traces_is_not_accused_of_what_runs_beside_it():
    """It puts what it is called with where another call would find it: one at a time is all that is promised."""
    stack = []

    def pushed(x):
        stack.append(x)
        time.sleep(0.02)
        return stack.pop() ** 2

    def backward(kept, y_bar):
        stack.append(kept[0])
        time.sleep(0.02)
        return (2 * stack.pop() * y_bar,)

    assert check(made(pushed, backward), X, checks=("value", "truth", "eager", "repeatable", "vmap", "nested")).ok
