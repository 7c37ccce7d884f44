"""Every definition, and every forward half, against somebody else's function or a loop that nobody can misread."""

import itertools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import optax
import pytest
import scipy.special
from jax import nn
from mpmath import mpf

from manual_backprop.reference.allowance import SLACK
from manual_backprop.reference.points import instances, point
from manual_backprop.reference.precision import compiled
from manual_backprop.rules import RULES
from manual_backprop.signature import kind_of

EPS = np.finfo(float).eps


# --- the same function, by somebody else -----------------------------------------------------------------------------


def mean_of(loss):
    return lambda *primals, **options: np.mean(loss(*primals, **options))


def layer_norm(x, gamma, beta, *, eps):
    mean, variance = np.mean(x, axis=-1, keepdims=True), np.var(x, axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + eps) * gamma + beta


def rms_norm(x, gamma, *, eps):
    return x / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + eps) * gamma


def recurrent(x, h, params):
    new = np.empty(h.shape)
    for at in np.ndindex(h.shape[:-1]):
        new[at] = np.tanh(params.w.T @ x[at] + params.u.T @ h[at] + params.b)
    return new, new


def dropout(x, key, *, rate):
    drawn = np.asarray(jax.random.uniform(key, x.shape, jnp.float32))
    return np.array([v / (1 - rate) if u >= rate else 0 for v, u in zip(x.flat, drawn.flat, strict=True)]).reshape(
        x.shape
    )


def volume_rendering(density, depth, colour):
    """Light that walks along each ray, slab by slab."""
    image = np.zeros(colour.shape[:-2] + colour.shape[-1:])
    for ray in np.ndindex(density.shape[:-1]):
        light, start = 1.0, 0.0
        for sigma, end, c in zip(density[ray], depth[ray], colour[ray], strict=True):
            absorbed = -np.expm1(-sigma * (end - start))
            image[ray] += light * absorbed * c
            light, start = light * (1 - absorbed), end
    return image


REFERENCES = {
    **{name: getattr(nn, name) for name in RULES if hasattr(nn, name)},
    "logsumexp": lambda x: scipy.special.logsumexp(x, axis=-1),
    "softmax": lambda x: scipy.special.softmax(x, axis=-1),
    "log_softmax": lambda x: scipy.special.log_softmax(x, axis=-1),
    "sigmoid": scipy.special.expit,
    "log_sigmoid": scipy.special.log_expit,
    "prelu": lambda x, slope: np.maximum(x, 0) + slope * np.minimum(x, 0),
    "log": np.log,
    "sqrt": np.sqrt,
    "split": lambda x: tuple(np.split(x, 2, axis=-1)),
    "join": lambda halves: np.concatenate(halves, axis=-1),
    "add": lambda terms: np.add(*terms),
    "multiply": lambda factors: np.multiply(*factors),
    "dense": lambda x, w, b: np.einsum("...i,io->...o", x, w) + b,
    "linear": lambda x, w: np.einsum("...i,io->...o", x, w),
    "embedding": lambda indices, table: np.take(table, indices, axis=0),
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "recurrent": recurrent,
    "dropout": dropout,
    "volume_rendering": volume_rendering,
    "squared_error": mean_of(optax.squared_error),
    "huber_loss": mean_of(optax.huber_loss),
    "hinge_loss": mean_of(optax.hinge_loss),
    "sigmoid_binary_cross_entropy": mean_of(optax.sigmoid_binary_cross_entropy),
    "softmax_cross_entropy": mean_of(optax.softmax_cross_entropy),
    "softmax_cross_entropy_with_integer_labels": mean_of(optax.softmax_cross_entropy_with_integer_labels),
}


def test_no_rule_is_missing():
    assert set(REFERENCES) == set(RULES)


def every_choice():
    """Each rule with each combination of its static options."""
    for rule in RULES.values():
        choices = rule.signature.options
        for values in itertools.product(*choices.values()):
            yield rule.bind(**dict(zip(choices, values, strict=True)))


def sensitivity(rule, primals):
    """How far the output can move, in units of eps, when every primal is rounded:  |y| + Σ |∂y/∂x| |x|."""
    floats = jax.tree.map(lambda a: a if kind_of(a) == "float" else None, primals)

    def of_floats(floats):
        full = jax.tree.map(lambda a, x: x if a is None else a, floats, primals, is_leaf=lambda a: a is None)
        return rule.definition(*full)

    def of_leaf(y, row):
        terms = zip(jax.tree.structure(floats).flatten_up_to(row), jax.tree.leaves(floats), strict=True)
        return abs(y) + sum(jnp.sum(abs(j * x), axis=tuple(range(y.ndim, j.ndim))) for j, x in terms)

    outs, structure = jax.tree.flatten(of_floats(floats))
    rows = structure.flatten_up_to(jax.jacrev(of_floats)(floats))
    return [of_leaf(y, row) for y, row in zip(outs, rows, strict=True)]


@pytest.mark.parametrize("rule", list(every_choice()), ids=str)
def test_definition_and_forward_agree_with_the_reference(rule):
    for sized, shape in instances(rule, 2, seed=1):
        sized = sized.bind(**rule.options)
        computed = compiled(lambda *p, f=sized: (f.definition(*p), f.forward(*p)[0], sensitivity(f, p)))
        for values in ("normal", "zero", "kinks"):
            primals = point(sized, shape, values, seed=0).primals
            expected = jax.tree.leaves(in_float64(REFERENCES[rule.name])(*primals, **rule.options))
            definition, forward, scale = in_float64(computed)(*primals)
            answers = jax.tree.leaves((definition, forward))
            for got, want, error in zip(answers, 2 * expected, 2 * scale, strict=True):
                assert got.shape == np.shape(want)
                assert got.dtype == jnp.float64
                assert np.all(abs(got - want) <= SLACK * EPS * error), f"{sized}: {got} where {want} was expected"


def in_float64(function):
    """The function under 64-bit JAX, its answers as NumPy arrays."""

    def inside(*primals, **options):
        with jax.enable_x64(True):
            return jax.tree.map(np.asarray, function(*primals, **options))

    return inside


# --- over the whole range of each dtype ------------------------------------------------------------------------------


def _logistic(x):
    return 1 / (1 + mpmath.exp(-x))


def _clipped(x, low, high):
    return min(max(x, mpf(low)), mpf(high))


def _elu(x, alpha):
    return x if x > 0 else alpha * mpmath.expm1(x)


def _gelu(x, approximate):
    if approximate:
        return x * _logistic(2 * mpmath.sqrt(2 / mpmath.pi) * (x + mpf("0.044715") * x**3))
    return x * mpmath.ncdf(x)


# Closed forms, for many digits, of everything that takes one number to another.
EXACT = {
    "identity": lambda x: x,
    "tanh": mpmath.tanh,
    "sigmoid": _logistic,
    "log_sigmoid": lambda x: -mpmath.log1p(mpmath.exp(-x)),
    "soft_sign": lambda x: x / (1 + abs(x)),
    "hard_tanh": lambda x: _clipped(x, -1, 1),
    "hard_sigmoid": lambda x: _clipped(x + 3, 0, 6) / 6,
    "sparse_sigmoid": lambda x: _clipped(x + 1, 0, 2) / 2,
    "relu": lambda x: max(x, mpf(0)),
    "relu6": lambda x: _clipped(x, 0, 6),
    "leaky_relu": lambda x, negative_slope: x if x > 0 else negative_slope * x,
    "elu": _elu,
    "celu": lambda x, alpha: alpha * _elu(x / alpha, 1),
    "selu": lambda x: mpf("1.0507009873554804934193349852946") * _elu(x, mpf("1.6732632423543772848170429916717")),
    "softplus": lambda x: mpmath.log1p(mpmath.exp(x)),
    "sparse_plus": lambda x: x if x >= 1 else (max(x, mpf(-1)) + 1) ** 2 / 4,
    "squareplus": lambda x, b: (x + mpmath.sqrt(x**2 + b)) / 2,
    "silu": lambda x: x * _logistic(x),
    "hard_silu": lambda x: x * _clipped(x + 3, 0, 6) / 6,
    "gelu": _gelu,
    "mish": lambda x: x * mpmath.tanh(mpmath.log1p(mpmath.exp(x))),
    "log": mpmath.log,
    "sqrt": mpmath.sqrt,
}
MAGNITUDES = (1e-100, 1e-30, 1e-7, 0.01, 0.7, 2.3, 11.0, 12.5, 47.0, 90.0, 200.0, 3e4, 1e30, 1e100)
DTYPES = ("float64", "float32", "bfloat16", "float16")


def test_every_function_of_one_number_has_a_closed_form():
    one = [rule for rule in RULES.values() if list(map(str, rule.signature.primals.values())) == ["float[*n]"]]
    assert set(EXACT) == {rule.name for rule in one if str(rule.signature.output) == "float[*n]"}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", [rule for rule in every_choice() if rule.name in EXACT], ids=str)
def test_forward_and_backward_hold_over_the_whole_range(rule, dtype):
    """Finite and right wherever the closed form is, from the smallest numbers to the largest."""
    finfo = jnp.finfo(dtype)
    least = max(float(finfo.smallest_subnormal) * SLACK, 0 if dtype == "float16" else float(finfo.tiny))  # others flush
    positive = any(getattr(constraint, "gt", None) == 0 for constraint in rule.input.domain)
    signed = np.array([sign * m for m in MAGNITUDES for sign in ((1,) if positive else (1, -1))])
    signed = signed[(abs(signed) < float(finfo.max)) & (abs(signed) > float(finfo.tiny))]
    with jax.enable_x64(True):
        x = jnp.asarray(signed, dtype)
        y, residuals = compiled(rule.forward)(x)
        (slope,) = compiled(rule.backward)(residuals, jnp.ones_like(y))
    assert y.dtype == slope.dtype == x.dtype
    with mpmath.workdps(250 if dtype == "float64" else 90):  # from the least to the largest magnitude and back
        for at, got_y, got_slope in zip(*(np.asarray(a, float) for a in (x, y, slope)), strict=True):
            exact = [
                mpmath.diff(lambda t: EXACT[rule.name](t, **rule.options), mpf(at), n, relative=True) for n in range(3)
            ]
            value, first, second = map(float, exact)
            floor = least * max(1, abs(at))  # what is lost in a factor of x
            allowed = SLACK * float(finfo.eps) * (abs(value) + abs(at * first)) + floor
            assert abs(got_y - value) <= allowed, f"y({at}) is {got_y}, but {value} was expected"
            allowed = SLACK * float(finfo.eps) * (max(abs(first), 1) + abs(at * second)) + floor
            assert abs(got_slope - first) <= allowed, f"the slope at {at} is {got_slope}, but {first} was expected"


@pytest.mark.parametrize("name", ["softplus", "log_sigmoid"])
def test_far_out_the_derivative_of_a_definition_keeps_what_is_small(name):
    """log1p(eˣ) divides by 1 + eˣ on the way back, and a small cotangent was flushed to zero before it came out."""
    far, small = np.float64(-700.0 if name == "log_sigmoid" else 700.0), np.float64(2.0**-20)
    with jax.enable_x64(True):
        pulled = jax.jit(lambda x, y_bar: jax.vjp(RULES[name].definition, x)[1](y_bar)[0])(far, small)
    assert float(pulled) == small
