"""Every oracle against closed forms in 50 digits, its stated errors, and the cases in which it must not answer."""

import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
from annotated_types import Ge, Gt, Interval

from manual_backprop import build
from manual_backprop.reference import oracles, precision
from manual_backprop.reference.allowance import SLACK
from manual_backprop.reference.oracles import ORACLES, Abstains, adjoint, adjoint_differences, domains_of, richardson
from manual_backprop.reference.points import point
from manual_backprop.signature import Leaf


@pytest.fixture(autouse=True)
def fifty_digits():
    with mp.workdps(50):
        yield


POINTS = 60
ONE = np.ones(())


def digits(a):
    return mp.mpf(float(a))


# name: (f, f′ in 50 digits), elementwise, so that one call gives a closed form for each of many points
CLOSED_FORMS = {
    "affine": (lambda x: 3 * x - 1, lambda x: mp.mpf(3)),
    "tanh": (jnp.tanh, lambda x: mp.sech(x) ** 2),
    "softplus": (lambda x: jnp.log(1 + jnp.exp(x)), lambda x: 1 / (1 + mp.exp(-x))),
    "bell": (lambda x: jnp.exp(-x * x), lambda x: -2 * x * mp.exp(-x * x)),
    "hypotenuse": (lambda x: jnp.sqrt(1 + x * x) - 1, lambda x: x / mp.sqrt(1 + x * x)),
    "power": (lambda x: (x * x) ** 1.3, lambda x: mp.mpf(2.6) * mp.sign(x) * abs(x) ** mp.mpf(1.6)),
    "erf": (jax.scipy.special.erf, lambda x: 2 / mp.sqrt(mp.pi) * mp.exp(-x * x)),
    "wave in a loop": (
        lambda x: jax.lax.fori_loop(0, 3, lambda _, y: jnp.sin(y) * x, x),
        lambda x: mp.diff(lambda t: mp.sin(mp.sin(mp.sin(t) * t) * t) * t, x),
    ),
    "digamma": (lambda x: jax.scipy.special.gammaln(2 + x * x), lambda x: 2 * x * mp.digamma(2 + x * x)),
}


def points(seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=POINTS) * rng.choice([0.01, 1.0, 4.0], POINTS), rng.normal(size=POINTS)


def ratios(value, error, truth):
    """True error over stated error: at most one, where the oracle knows how far it can be trusted."""
    return [float(abs(digits(v) - t) / digits(e)) for v, e, t in zip(value, error, truth, strict=True)]


@pytest.mark.parametrize("name", CLOSED_FORMS)
@pytest.mark.parametrize("oracle", [o for o in ORACLES.values() if o is not oracles.grad], ids=lambda o: o.__name__)
def test_true_errors_stay_below_the_stated_ones(oracle, name):
    f, derivative = CLOSED_FORMS[name]
    x, y_bar = points(len(name))
    truth = [digits(c) * derivative(digits(a)) for a, c in zip(x, y_bar, strict=True)]
    if oracle is oracles.complex_step and name in {"erf", "digamma"}:
        with pytest.raises(Abstains, match="does not accept dtype complex"):
            oracle(f)((x,), y_bar)
        return
    estimate = oracle(f)((x,), y_bar)
    assert max(ratios(estimate.value[0], estimate.error[0], truth)) <= 1
    # An estimate that is always infinite would pass: most errors are small beside the answers.
    share = estimate.error[0] / np.maximum(np.abs(np.array(truth, float)), 1e-3)
    assert np.median(share) < (1e-8 if oracle is richardson else 1e-13)


def cross_entropy(logits, labels):
    log_p = logits - jnp.log(jnp.sum(jnp.exp(logits), axis=-1, keepdims=True))
    return -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], axis=-1))


@pytest.mark.parametrize("oracle", ORACLES.values(), ids=lambda o: o.__name__)
def test_integer_primals_get_none_and_float32_primals_are_widened(oracle):
    logits = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    labels = np.array([0, 2, 1, 2], np.int32)
    estimate = oracle(cross_entropy)((logits, labels), np.float32(0.7))
    z = mp.matrix(logits.astype(float).tolist())
    truth = []
    for n in range(4):
        total = mp.fsum(mp.exp(z[n, j]) for j in range(3))
        truth += [(mp.exp(z[n, j]) / total - (j == labels[n])) * digits(np.float32(0.7)) / 4 for j in range(3)]
    assert estimate.value[1] is None
    assert estimate.error[1] is None
    assert estimate.value[0].dtype == np.float64
    assert max(ratios(estimate.value[0].ravel(), estimate.error[0].ravel(), truth)) <= 1


def test_trees_keys_booleans_and_integer_outputs():
    def f(tree, key, mask):
        y = jnp.where(mask, tree["a"] * tree["b"][0], 0) + 0 * jax.random.uniform(key, (3,))
        return {"y": y, "best": jnp.argmax(y)}

    primals = ({"a": np.arange(3.0), "b": (np.float32(2.0), np.int32(5))}, jax.random.key(1), np.array([1, 0, 1], bool))
    cotangent = {"y": np.array([1.0, 2.0, 3.0]), "best": None}
    for name in ("vjp", "jacrev", "jacfwd", "richardson"):
        estimate = ORACLES[name](f)(primals, cotangent)
        (value, key, mask), (error, *_) = estimate.value, estimate.error
        assert (key, mask, value["b"][1]) == (None, None, None)
        assert np.all(np.abs(value["a"] - [2, 0, 6]) <= error["a"])
        assert np.abs(value["b"][0] - 6) <= error["b"][0]


def test_nothing_of_the_64_bits_is_left_behind():
    before = jnp.ones(1).dtype
    ORACLES["vjp"](jnp.sin)((np.float32(1),), ONE)
    with pytest.raises(Abstains):
        ORACLES["grad"](lambda x: x)((np.ones(2),), np.ones(2))
    with pytest.raises(ZeroDivisionError), precision.float64():
        raise ZeroDivisionError
    assert jnp.ones(1).dtype == before == jnp.float32


def test_one_compilation_per_function_and_shape():
    traces = []

    def f(x):
        traces.append(1)
        return jnp.sin(x)

    for oracle in ORACLES.values():
        if oracle is not oracles.grad:
            oracle(f)((np.ones(2),), np.ones(2))
            before = len(traces)
            oracle(f)((np.zeros(2),), np.zeros(2))
            assert len(traces) == before
            assert oracle(f) is oracle(f)


# --- abstentions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("oracle", "f", "primal", "reason"),
    [
        ("grad", lambda x: x * x, np.ones(2), "not one scalar"),
        ("vjp", lambda x: jax.lax.while_loop(lambda a: a < 9, lambda a: a * 2, x), ONE, "Reverse-mode"),
        ("vjp", lambda x: x * 1j, ONE, "output is complex"),
        ("vjp", jnp.real, 1j * ONE, "primal is complex"),
        ("jacfwd", jax.custom_vjp(lambda x: x), ONE, "custom_vjp"),
        ("jacrev", jnp.sin, np.ones(1025), "1050625 entries"),
        ("complex_step", jnp.sin, np.ones(2049), "2049 coordinates"),
        ("complex_step", jnp.abs, ONE, "abs is not holomorphic"),
        ("complex_step", lambda x: jnp.where(x > 0, x, 0), ONE, "real is not holomorphic"),
        ("complex_step", lambda x: jnp.maximum(x, 0.0), ONE, "max is not holomorphic"),
        ("complex_step", lambda x: jax.lax.sign(x) * x, ONE, "sign is not holomorphic"),
        ("complex_step", lambda x: jnp.sum(jnp.sort(x)), np.ones(2), "sort is not holomorphic"),
        ("complex_step", lambda x: x * jnp.conj(x), ONE, "conj is not holomorphic"),
        ("complex_step", lambda x: x.astype(jnp.float64), ONE, "is not holomorphic"),
        ("complex_step", lambda x: jax.jit(lambda y: jnp.abs(y))(x), ONE, "abs is not holomorphic"),
        (
            "complex_step",
            lambda x: jax.lax.fori_loop(0, 2, lambda _, y: y * jnp.abs(y), x),
            ONE,
            "abs is not holomorphic",
        ),
        (
            "complex_step",
            lambda x: jax.lax.cond(True, lambda y: y * jnp.abs(y), jnp.sin, x),
            ONE,
            "abs is not holomorphic",
        ),
        ("complex_step", lambda x: jax.nn.relu(x), ONE, "is not holomorphic"),
        ("complex_step", jnp.cosh, ONE, "cosh loses digits"),
        ("complex_step", jnp.floor, ONE, "floor"),
        ("complex_step", jnp.sqrt, -ONE, "leaves the real axis"),
        ("complex_step", jnp.log, 0 * ONE, "not finite"),
    ],
)
def test_it_says_why_it_abstains(oracle, f, primal, reason):
    if isinstance(f, jax.custom_vjp):
        f.defvjp(lambda x: (x, None), lambda _, y_bar: (y_bar,))
    cotangent = np.ones(np.shape(primal))
    for _ in range(2):  # the second time from what is kept
        with pytest.raises(Abstains, match=reason) as caught:
            ORACLES[oracle](f)((primal,), cotangent)
        assert caught.value.oracle == oracle


def test_errors_of_the_function_itself_are_not_abstentions():
    def broken(x):
        raise TypeError("mine")

    for oracle in ORACLES.values():
        with pytest.raises(TypeError, match="mine"):
            oracle(broken)((ONE,), ONE)
    with pytest.raises(ValueError, match=r"cotangent leaf 0 has shape \(2,\)"):
        ORACLES["vjp"](jnp.sin)((np.ones(3),), np.ones(2))


def test_a_function_with_float32_inside_has_float32_errors():
    def f(x):
        return jnp.sin(x.astype(jnp.float32))

    for name in ("vjp", "jacrev", "jacfwd", "richardson"):
        estimate = ORACLES[name](f)((ONE,), ONE)
        assert abs(estimate.value[0] - np.cos(1)) <= estimate.error[0] < 1e-3
        assert estimate.error[0] > 1e-8


# --- differences ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kink", [0.0, 0.3, -2.0])
def test_a_symmetric_kink_is_seen_and_both_sides_are_handed_out(kink):
    estimate = richardson(lambda x: 1.5 * jnp.abs(x - kink))((np.array(kink),), ONE)
    assert estimate.error[0] >= 1.5  # the central difference converges to zero, perfectly
    assert abs(estimate.left.value[0] + 1.5) <= estimate.left.error[0] < 1e-9
    assert abs(estimate.right.value[0] - 1.5) <= estimate.right.error[0] < 1e-9


@pytest.mark.parametrize("distance", [10.0**-k for k in range(1, 17)] + [-(2.0**-k) for k in range(1, 24)])
def test_close_to_a_kink_the_error_is_never_understated(distance):
    x = np.array(1 + distance)
    true = np.sign(x - 1)
    estimate = richardson(lambda x: jnp.abs(x - 1))((x,), ONE)
    assert abs(estimate.value[0] - true) <= estimate.error[0]


@pytest.mark.parametrize(("f", "x"), [(jnp.floor, 1.0), (jnp.sqrt, 0.0), (jnp.cbrt, 0.0), (jnp.log, 0.0)])
def test_no_derivative_no_answer(f, x):
    assert richardson(f)((np.array(x),), ONE).error[0] == np.inf


def test_steps_stay_inside_the_domain():
    seen = []

    def f(x):
        jax.debug.callback(lambda a: seen.append(np.array(a)), x)
        return jnp.log(x)

    x = np.array([1e-12, 1e-3, 0.5, 1 - 1e-6])
    domains = domains_of((Leaf("float", (4,), (Interval(gt=0, lt=1),)),))
    assert domains == ((0.0, 1.0),)
    estimate = richardson(f)((x,), np.ones(4), domains=domains)
    jax.effects_barrier()
    assert min(a.min() for a in seen) > 0
    assert max(a.max() for a in seen) < 1
    assert np.all(np.abs(estimate.value[0] - 1 / x) <= estimate.error[0])
    assert np.all(estimate.error[0] * x < 1e-7)


def test_at_the_end_of_the_domain_one_side_is_enough():
    domains = domains_of(((Leaf("float", (), (Ge(0),)), Leaf("float", (), (Gt(1),))),))
    assert domains == (((0.0, np.inf), (1.0, np.inf)),)
    f = lambda pair: jnp.sin(jnp.sqrt(pair[0] ** 3 + 0 * pair[1]) + pair[0])  # noqa: E731
    estimate = richardson(f)(((np.array(0.0), np.array(2.0)),), ONE, domains=domains)
    assert abs(estimate.value[0][0] - 1) <= estimate.error[0][0] < 0.1


def test_beyond_the_limit_a_random_choice_of_coordinates():
    estimate = richardson(jnp.square)((np.arange(1.0, 51.0),), np.ones(50), coordinates=7)
    told = np.isfinite(estimate.error[0])
    assert told.sum() == 7
    assert np.all(np.isnan(estimate.value[0]) == ~told)
    assert np.all((np.abs(estimate.value[0] - 2 * np.arange(1.0, 51.0)) <= estimate.error[0])[told])


def test_many_coordinates_go_in_batches(monkeypatch):
    x, y_bar = points(3)
    whole = [ORACLES[name](jnp.sin)((x,), y_bar) for name in ("richardson", "complex_step")]
    monkeypatch.setattr("manual_backprop.reference.oracles.differences.BATCH_ELEMENTS", 18 * POINTS * 7)
    monkeypatch.setattr(oracles, "BATCH_ELEMENTS", 9 * POINTS * 7)
    again = lambda x: jnp.sin(x)  # noqa: E731 - another function, compiled anew
    for name, first in zip(("richardson", "complex_step"), whole, strict=True):
        batched = ORACLES[name](again)((x,), y_bar)
        assert np.all(np.abs(batched.value[0] - first.value[0]) <= batched.error[0] + first.error[0])


# --- the adjoint identity ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("identity", [adjoint, adjoint_differences], ids=lambda o: o.__name__)
def test_the_adjoint_identity_holds_for_the_right_cotangents_only(identity):
    rng = np.random.default_rng(0)
    x, w, y_bar = rng.normal(size=(5, 4)), rng.normal(size=(4, 3)), rng.normal(size=(5, 3))

    def f(x, w, n):
        return jnp.tanh(x @ w) * n

    bars = ORACLES["vjp"](f)((x, w, 2), y_bar).value
    right = identity(f)((x, w, 2), y_bar, primals_bar=bars, directions=50)
    assert right.discrepancy.shape == (50,)
    assert np.all(np.abs(right.discrepancy) <= right.error)
    assert np.all(right.error < 1e-8)
    wrong = identity(f)((x, w, 2), y_bar, primals_bar=(bars[0], bars[1] * (1 + 1e-6), None))
    assert np.all(np.abs(wrong.discrepancy) > wrong.error)
    with pytest.raises(ValueError, match="primals_bar has"):
        identity(f)((x, w, 2), y_bar, primals_bar=(bars[0].T, bars[1], None))


def test_the_moved_points_are_not_rounded_where_the_output_has_no_digits_to_lose():
    ones, y_bar = np.ones((3, 2)), np.random.default_rng(0).normal(size=(3, 2))
    for seed in range(20):
        identity = adjoint_differences(jnp.log)((ones,), y_bar, primals_bar=(y_bar,), seed=seed)
        assert np.all(np.abs(identity.discrepancy) <= identity.error)


def test_steps_across_a_kink_do_not_agree_by_chance():
    """Of a clipped line two coarse differences and a fine one fit a parabola exactly: 1/4, 1, 67/64."""

    def clipped(x):
        return jnp.concatenate([jnp.clip(67 / 64 * x, -1 / 64, 1 / 64), 3 + x])  # the sum loses digits at short steps

    estimate = ORACLES["richardson"](clipped)((np.zeros(1),), np.ones(2))
    assert np.all(np.abs(estimate.value[0] - 131 / 64) <= estimate.error[0])


# --- rounding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("f", "lost"),
    [
        (lambda x: (1 + x) - 1, 1.0),
        (lambda x: jax.jit(lambda y: (1 + y) - 1)(x), 1.0),
        (lambda x: jax.lax.scan(lambda y, _: ((1 + y) - 1, None), x, None, length=2)[0], 1.0),
        (lambda x: jax.lax.while_loop(lambda c: c[0] < 2, lambda c: (c[0] + 1, (1 + c[1]) - 1), (0, x))[1], 1.0),
        (lambda x: jax.lax.cond(x < 1, lambda y: (1 + y) - 1, lambda y: y, x), 1.0),
        (lambda x: jnp.sum(jnp.stack([x, jnp.ones_like(x), -jnp.ones_like(x)])), 1.0),
        (lambda x: jnp.stack([x, jnp.ones_like(x)]) @ jnp.array([1.0, -1.0]) + 1, 1.0),
        (lambda x: x * 3, 0.0),
        (lambda x: jnp.sort(jnp.stack([x, 7 + 0 * x]))[0], 0.0),
    ],
)
def test_cancellation_shows_wherever_it_hides(f, lost):
    x = 1e-6 * np.ones(())
    with precision.float64():
        (value,), (error,) = precision.with_rounding(lambda x: [f(x)])(x)
    eps, value, error = np.finfo(float).eps, float(value), float(error)
    assert error >= lost * eps
    assert error <= 20 * (lost or abs(value)) * eps


def test_a_row_that_is_small_beside_others_is_moved_by_its_own_size():
    """Moved by the size of the leaf, a number is even far beyond the root of eps, and all differences agree on 0."""
    rule = build("rms_norm(eps=1e-05)")
    at = point(rule, (3, 2, 4), values="wide", seed=102)
    estimate = richardson(rule.definition)(at.primals, at.cotangent)
    x, y_bar = at.primals[0][1, 1], (at.cotangent * at.primals[1])[1, 1]
    row, g = ([digits(a) for a in each] for each in (x, y_bar))
    size = mp.sqrt(sum(a * a for a in row) / 4 + digits(1e-5))
    along = sum(a * b for a, b in zip(row, g, strict=True)) / (4 * size**3)
    exact = np.array([float(b / size - a * along) for a, b in zip(row, g, strict=True)])
    assert np.all(np.abs(estimate.value[0][1, 1] - exact) <= SLACK * estimate.error[0][1, 1])
