"""`check` as its users call it: what it accepts, and which check finds which fault."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.custom_batching import custom_vmap

from manual_backprop.reference import assert_correct, check

X = np.array([0.5, -1.25, 2.0, 0.75], np.float32)
PLAIN = ("value", "structure", "truth")


def made(function, backward, forward=None, **more):
    """A custom_vjp that keeps its primals, unless told otherwise."""
    by_hand = jax.custom_vjp(function, **more)
    by_hand.defvjp(forward or (lambda *primals: (function(*primals), primals)), backward)
    return by_hand


def square(x):
    return x * x


def square_back(kept, y_bar):
    return (2 * kept[0] * y_bar,)


def failing(result):
    return {finding.check for finding in result.failures}


# --- what is right ---------------------------------------------------------------------------------------------------


def _dense(params, x):
    return jnp.tanh(params["w"] @ x + params["b"])


def _dense_back(kept, y_bar):
    params, x = kept
    z_bar = y_bar * (1 - _dense(params, x) ** 2)
    return {"w": z_bar[:, None] * x, "b": z_bar}, params["w"].T @ z_bar


def _picked(x, places):
    return x[places] ** 2


def _picked_back(kept, y_bar):
    x, places = kept
    return jnp.zeros_like(x).at[places].add(2 * x[places] * y_bar), np.zeros(places.shape, jax.dtypes.float0)


def _dropped(key, x):
    return jnp.where(jax.random.bernoulli(key, 0.5, x.shape), 2 * x, 0)


def _dropped_back(kept, y_bar):
    return None, _dropped(kept[0], y_bar)


def _powered(n, x):
    return x**n


def _powered_back(n, kept, y_bar):
    return (n * kept[0] ** (n - 1) * y_bar,)


def _scaled(x, factor):
    return x * factor


def _scaled_back(kept, y_bar):
    return y_bar * kept[1], jnp.sum(y_bar * kept[0])


def _newton(x):
    """The square root, by iteration until nothing moves: reverse mode does not go through it."""
    return lax.while_loop(
        lambda state: jnp.any(jnp.abs(state[0] - state[1]) > 1e-6 * state[0]),
        lambda state: ((state[0] + x / state[0]) / 2, state[0]),
        ((1 + x) / 2, jnp.zeros_like(x)),
    )[0]


def _tangent(primals, tangents):
    return jnp.sin(primals[0]), jnp.cos(primals[0]) * tangents[0]


def _sine():
    by_hand = jax.custom_jvp(jnp.sin)
    by_hand.defjvp(_tangent)
    return by_hand


KEY = jax.random.key(3)
PARAMS = {"w": np.array([[0.5, -1.0, 0.25], [1.5, 0.75, -0.5]], np.float32), "b": np.array([0.25, -0.5], np.float32)}
RIGHT = {
    "arrays": (made(square, square_back), (X,), {}),
    "pytrees": (made(_dense, _dense_back), (PARAMS, np.array([1.0, -0.5, 2.0], np.float32)), {}),
    "integers": (made(_picked, _picked_back), (X, np.array([0, 2, 2], np.int32)), {}),
    "keys": (made(_dropped, _dropped_back), (KEY, X), {}),
    "static arguments": (
        made(_powered, _powered_back, lambda n, x: (x**n, (x,)), nondiff_argnums=(0,)),
        (3, X),
        {},
    ),
    "complex": (made(square, square_back), (X + 1j * X[::-1],), {}),
    "custom_jvp": (_sine(), (X,), {}),
    "while_loop": (
        made(_newton, lambda y, y_bar: (y_bar / (2 * y),), lambda x: (_newton(x), _newton(x))),
        (np.abs(X),),
        {},
    ),
    "while_loop with truth": (
        made(_newton, lambda y, y_bar: (y_bar / (2 * y),), lambda x: (_newton(x), _newton(x))),
        (np.abs(X),),
        {"truth": jnp.sqrt},
    ),
    "bfloat16": (made(square, square_back), (jnp.asarray(X, jnp.bfloat16),), {}),
    "python floats": (made(_scaled, _scaled_back), (X, 1.5), {}),
    "one argument alone": (made(_scaled, lambda kept, y_bar: (y_bar * kept[1], 0 * kept[1])), (X, X), {"argnums": 0}),
}


@pytest.mark.parametrize(("function", "args", "options"), RIGHT.values(), ids=RIGHT)
def test_what_is_right_is_accepted(function, args, options):
    result = check(function, *args, profile="quick", checks=(*PLAIN, "additive", "zero"), **options)
    assert result.ok, result
    assert any(finding.check == "truth" and finding.verdict == "right" for finding in result.findings), result


@pytest.mark.parametrize("name", ["pytrees", "integers", "keys", "static arguments", "complex", "bfloat16"])
def test_the_same_with_a_factor_is_refused(name):
    function, args, options = RIGHT[name]
    doubled = made(
        function.fun,
        lambda *kept: jax.tree.map(_doubled, function.bwd(*kept), is_leaf=lambda a: a is None),
        function.fwd,
        nondiff_argnums=function.nondiff_argnums,
    )
    result = check(doubled, *args, profile="quick", checks="truth", **options)
    assert not result.ok
    assert "factor of 2" in str(result)


def _doubled(bar):
    return bar if bar is None or bar.dtype == jax.dtypes.float0 else 2 * bar


def test_python_floats_and_static_ones():
    assert [f.leaf for f in check(*RIGHT["python floats"][:1], X, 1.5, checks="truth").failures] == []


# --- each check fails on its own fault -------------------------------------------------------------------------------


def _forward_off(x):
    return 1.001 * x * x, (x,)


def _clipped(kept, y_bar):
    return (2 * kept[0] * jnp.clip(y_bar, -100, 100),)


def _not_zero(kept, y_bar):
    return (jnp.where(jnp.all(y_bar == 0), 1.0, 2 * kept[0] * y_bar).astype(y_bar.dtype),)


def _only_compiled(kept, y_bar):
    return (2 * kept[0] * y_bar * (1 if isinstance(y_bar, jax.core.Tracer) else 2),)


@custom_vmap
def _in_lanes(a, b):
    return a * b


@_in_lanes.def_vmap
def _(size, batched, a, b):
    return 2 * a * b, True


def _constant(kept, y_bar):
    return (2 * lax.stop_gradient(kept[0]) * y_bar,)


def _coarse(kept, y_bar):
    return (2 * kept[0] * y_bar * (2 if y_bar.dtype == jnp.bfloat16 else 1),)


def _blocks(kept, y_bar):
    """Goes by pairs, and forgets what is left over."""
    x = kept[0]
    whole = 2 * (x.size // 2)
    return (jnp.where(jnp.arange(x.size) < whole, 2 * x * y_bar, 0),)


def _at_zero(kept, y_bar):
    return (y_bar * jnp.where(kept[0] == 0, 2.0, (kept[0] > 0)).astype(y_bar.dtype),)


def _where_large(kept, y_bar):
    return (jnp.where(jnp.abs(kept[0]) > 10, 0, 2 * kept[0] * y_bar),)


def _stateful():
    calls = []

    def backward(kept, y_bar):
        calls.append(None)
        return (2 * kept[0] * y_bar * (1 if len(calls) == 1 or isinstance(y_bar, jax.core.Tracer) else 2),)

    return made(square, backward)


def _last_forward():
    """The backward pass reads what the last forward pass left behind."""
    left = []

    def forward(x):
        left[:] = [x]
        return x * x, ()

    return made(square, lambda _, y_bar: (2 * left[0] * y_bar,), forward)


def _jump(kept, y_bar):
    """Right for the cotangents of the size that examples have; those of a sum are larger."""
    return (2 * kept[0] * y_bar + jnp.maximum(jnp.abs(y_bar) - 1.75, 0),)


FAULTS = {
    "value": (made(square, square_back, _forward_off), (X,), set()),
    "truth": (made(square, lambda kept, y_bar: (kept[0] * y_bar,)), (X,), set()),
    "homogeneous": (made(square, _clipped), (X,), set()),
    "zero": (made(square, _not_zero), (X,), set()),
    "eager": (made(square, _only_compiled), (X,), set()),
    "vmap": (made(square, lambda kept, y_bar: (_in_lanes(2 * kept[0], y_bar),)), (X,), set()),
    "second_order": (made(square, _constant), (X,), set()),
    "precision": (made(square, _coarse), (X,), set()),
    "shapes": (made(square, _blocks), (X,), set()),
    "kinks": (made(jax.nn.relu, _at_zero), (X,), set()),
    "values": (made(square, _where_large), (X,), set()),
    "repeatable": (_stateful(), (X,), set()),
    "nested": (_last_forward(), (X,), {"repeatable"}),
    "additive": (made(square, lambda kept, y_bar: (2 * kept[0] * y_bar**2,)), (X,), {"truth", "homogeneous"}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_fails_the_check_that_is_for_it(name):
    function, args, also = FAULTS[name]
    result = check(function, *args, checks=(*PLAIN, name, *also))
    assert failing(result) == {name, *also}, result
    assert str(result).startswith(f"{result.subject}: the derivative is WRONG")
    assert result.diagnosis in result.failures
    assert result.diagnosis.diagnosis


@pytest.mark.parametrize("name", ["truth", "values", "kinks"])
def test_what_is_said_to_be_wrong_is_reproduced(name):
    function, args, _ = FAULTS[name]
    with pytest.raises(AssertionError, match="reproduce"):
        assert_correct(function, *args, checks=(*PLAIN, name))


def test_a_cotangent_of_another_form_is_refused_in_the_words_of_jax():
    result = check(made(square, lambda kept, y_bar: (jnp.sum(y_bar),)), X, checks="structure")
    assert not result.ok
    assert "shape" in str(result)


def test_a_loop_under_vmap_is_run_lane_by_lane():
    def halved(x):
        return jax.vmap(lambda y: jax.lax.while_loop(lambda c: c > 1, lambda c: c / 2, y))(x) * 0 + jnp.sin(x)

    function = jax.custom_vjp(halved)
    function.defvjp(lambda x: (halved(x), x), lambda x, y_bar: (y_bar * jnp.cos(x),))
    result = check(function, X, profile="quick")
    assert result.ok, result


def test_what_is_sorted_and_positive_stays_both():
    function = jax.custom_vjp(lambda x: jnp.sqrt(jnp.abs(x)))  # its derivative is for positive numbers alone
    function.defvjp(lambda x: (jnp.sqrt(jnp.abs(x)), x), lambda x, y_bar: (y_bar / (2 * jnp.sqrt(x)),))
    result = check(function, np.array([1, 2, 3], np.float32), profile="quick")
    assert result.ok, result


def test_a_maximum_held_constant_is_differentiated_twice_without_a_warning():
    """The suite makes errors of warnings, as many users' suites do."""

    def soft(x):
        e = jnp.exp(x - jax.lax.stop_gradient(jnp.max(x)))
        return e / jnp.sum(e)

    by_hand = jax.custom_vjp(soft)
    by_hand.defvjp(lambda x: (soft(x),) * 2, lambda y, y_bar: (y * (y_bar - jnp.sum(y * y_bar)),))
    result = check(by_hand, np.array([0.5, -1.0, 2.0], np.float32), checks="second_order")
    assert result.ok, str(result)


def test_the_second_derivative_is_tried_at_zeros_too():
    def spliced(kept, y_bar):
        others = jnp.prod(jnp.where(jnp.eye(4, dtype=bool), 1, *kept), axis=1)
        return (y_bar * jnp.where(jnp.sum(kept[0] == 0) > 1, 0, others),)

    result = check(made(lambda x: jnp.prod(x), spliced), X, checks=("truth", "values", "kinks", "second_order"))
    assert failing(result) == {"second_order"}
    assert result.diagnosis.example == "zeros"


@pytest.mark.parametrize(("for_ids", "ok"), [(lambda g: None, True), (lambda g: 0 * g, True), (lambda g: g, False)])
def test_floats_for_integers_are_found_though_jax_drops_them(for_ids, ok):
    rows = jax.custom_vjp(lambda table, ids: table[ids])
    rows.defvjp(
        lambda table, ids: (table[ids], (table, ids)),
        lambda kept, y_bar: (jnp.zeros_like(kept[0]).at[kept[1]].add(y_bar), for_ids(y_bar.sum(-1))),
    )
    result = check(rows, np.ones((3, 2), np.float32), np.array([0, 2, 2]), checks="structure")
    assert result.ok == ok
    assert [finding.leaf for finding in result.failures] == [] if ok else ["ids"]


def test_what_every_trial_keeps_of_the_example_is_said():
    """A derivative may be meant for positive numbers alone; then it is said that no other was tried."""
    absolute = made(jnp.abs, lambda kept, y_bar: (y_bar,))
    found = check(absolute, np.abs(X), checks=("truth", "values"))
    assert found.ok
    assert "kept as in the example: x (positive)" in str(found)
    found = check(absolute, X, checks=("truth", "values"), reproduce=False)
    assert not found.ok
    assert "kept as" not in str(found)
    assert "kept as" not in str(check(absolute, np.abs(X), checks="truth"))


def test_a_choice_by_a_constant_is_none():
    chosen = made(lambda x: jnp.where(True, x * x, 0), square_back)
    assert check(chosen, X, checks=("truth", "values", "kinks", "shapes")).ok
