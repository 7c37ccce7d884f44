"""Only so many programs stay compiled, and one that was dropped is compiled anew."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from manual_backprop.command import run
from manual_backprop.reference import programs
from manual_backprop.reference.pullback import stacked_pullback
from manual_backprop.rules import RULES


def alive():
    gc.collect()
    return len(jax.local_devices()[0].client.live_executables())


@pytest.fixture
def few(monkeypatch):
    """Only three programs are kept, and none from before."""
    jnp.ones(1)
    programs.compiled(jnp.negative)(np.ones(1))
    monkeypatch.setattr(programs, "KEPT", 3)
    monkeypatch.setattr(programs, "_recent", type(programs._recent)())
    return alive()


def traced(double):
    """A compiled function, and the lengths that it was traced for."""
    lengths = []

    def function(x):
        lengths.append(x.shape[0])
        return double * x

    return programs.compiled(function), lengths


def test_no_more_than_so_many_are_kept(few):
    one, _ = traced(2)
    other, _ = traced(3)
    for length in range(1, 9):
        for function, factor in ((one, 2), (other, 3)):
            assert np.array_equal(function(np.ones(length)), np.full(length, factor))
    assert alive() == few + 3


def test_the_one_that_was_used_longest_ago_goes_first(few):
    function, lengths = traced(2)
    for length in (1, 2, 3, 1, 4, 1, 3, 4):
        function(np.ones(length))
    assert lengths == [1, 2, 3, 4]
    function(np.ones(2))
    assert lengths == [1, 2, 3, 4, 2]


def test_what_nobody_holds_is_dropped_at_once(few):
    function, _ = traced(2)
    function(np.ones(5))
    assert alive() == few + 1
    del function
    assert alive() == few


def test_structures_dtypes_and_scalars_are_told_apart_as_jax_does():
    function = programs.compiled(lambda tree, scale: jax.tree.map(lambda a: a * scale, tree))
    assert function({"a": np.ones(2, np.int32)}, 3)["a"].dtype == np.int32
    assert function({"a": np.ones(2, np.int32)}, 0.5)["a"].dtype == np.float32
    assert function((np.ones(2, np.float16), None), 2)[0].dtype == np.float16
    with jax.enable_x64(True):
        assert function((np.ones(2, np.float64), None), 2)[0].dtype == np.float64
    assert jax.vmap(function, in_axes=(0, None))(jnp.ones((3, 2)), 2.0).shape == (3, 2)


def test_a_long_run_drops_everything_compiled_now_and_then(monkeypatch):
    kept = []
    monkeypatch.setattr(run, "BLOCK", 2)
    monkeypatch.setattr(jax, "clear_caches", lambda: kept.append(len(names)))
    monkeypatch.setattr(run, "check_architecture", lambda rule, *_: [{"expression": str(rule)}])
    names = []
    for step in run._architectures(run.Plan(architectures=5)):
        names.extend(line["expression"] for line in step.lines if "expression" in line)
    assert names == [str(run._drawn(run.Plan(architectures=5), i)[0]) for i in range(5)]
    assert kept == [2, 4]


def test_noise_has_the_digits_of_where_it_is_used():
    """Whatever is asked first: what a dtype leaves its range at, without float64, or a neighbourhood, with it."""
    noises = ((0, 0.0, 0.0), (1, 0.0, 0.0), (1, 2.0**-13, 0.0))  # not those of anything else
    x = np.full((3, 2), 0.5)
    for wide in (False, True):
        with jax.enable_x64(wide):
            y, (x_bar,) = stacked_pullback(RULES["tanh"], noises)((x,), np.ones((3, 2)))
    assert y.dtype == x_bar.dtype == np.float64
    assert (x_bar[0] == x_bar[1]).all()
    assert (x_bar[0] != x_bar[2]).all()


def test_an_option_that_the_compiler_does_not_know_is_left_out(monkeypatch):
    monkeypatch.setattr(programs, "QUICKLY", programs.QUICKLY | {"xla_no_such_option": 1})
    monkeypatch.setattr(programs, "_options", dict(programs.QUICKLY))
    doubled = programs.compiled(lambda x: 2 * x)
    assert np.array_equal(doubled(np.ones(3)), np.full(3, 2.0))
    assert "xla_no_such_option" not in programs._options
    assert "xla_backend_optimization_level" in programs._options  # which every version knows
