"""Derivatives written wrongly by hand, one mistake each: the diagnosis gives its kind and names the right thing."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from manual_backprop.reference.diagnosis import KINDS, Explanation, Failure, diagnose

EPS = 1e-5


# --- definitions and their derivatives by hand, right but for what `wrong` says ---------------------------------------


def softmax(x):
    e = jnp.exp(x)
    return e / jnp.sum(e, axis=-1, keepdims=True)


def softmax_back(y_bar, x, wrong=""):
    y = softmax(x)
    inner = jnp.sum(y * y_bar, axis=-1, keepdims=True)
    return {
        "held": y * y_bar,
        "diagonal": y * (1 - y) * y_bar,
        "clipped": y * (jnp.clip(y_bar, -1, 1) - jnp.sum(y * jnp.clip(y_bar, -1, 1), -1, keepdims=True)),
    }.get(wrong, y * (y_bar - inner))


def layer_norm(x, gamma, beta):
    mu = jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean((x - mu) ** 2, axis=-1, keepdims=True)
    return (x - mu) / jnp.sqrt(variance + EPS) * gamma + beta


def layer_norm_back(y_bar, x, gamma, beta, wrong=""):
    mu = jnp.mean(x, axis=-1, keepdims=True)
    eps = {"no_epsilon": 0.0, "large_epsilon": 1e-3}.get(wrong, EPS)
    sigma = jnp.sqrt(jnp.mean((x - mu) ** 2, axis=-1, keepdims=True) + eps)
    if wrong == "epsilon_outside":
        sigma = jnp.sqrt(jnp.mean((x - mu) ** 2, axis=-1, keepdims=True)) + EPS
    x_hat = (x - mu) / sigma
    scaled = y_bar if wrong == "gamma_forgotten" else y_bar * gamma
    mean, projection = (jnp.mean(a, axis=-1, keepdims=True) for a in (scaled, scaled * x_hat))
    mean, projection = (
        0 if wrong in (term, "constant") else a for term, a in (("mean", mean), ("variance", projection))
    )
    x_bar = (scaled - mean - x_hat * projection) / sigma
    if wrong == "epsilon_outside":  # the derivative of x̂ = c / (√v + ε), written out
        root = sigma - EPS
        inner = scaled / sigma - x_hat * jnp.mean(scaled * x_hat, -1, keepdims=True) / root
        x_bar = inner - jnp.mean(inner, -1, keepdims=True)
    gamma_bar, beta_bar = jnp.sum(y_bar * x_hat, axis=0), jnp.sum(y_bar, axis=0)
    return {
        "exchanged": (x_bar, beta_bar, gamma_bar),
        "first_row": (x_bar, gamma_bar, y_bar[0]),
        "row_mean": (x_bar, gamma_bar, jnp.mean(y_bar, axis=0)),
    }.get(wrong, (x_bar, gamma_bar, beta_bar))


def dense(x, w, b):
    return jnp.tanh(x @ w + b)


def dense_back(y_bar, x, w, b, wrong=""):
    y = dense(x, w, b)
    inner = x @ w + b if wrong == "from_its_input" else y
    slope = {"no_square": 1 - y, "no_slope": jnp.ones_like(y)}.get(wrong, 1 - inner**2)
    z_bar = y_bar * slope
    x_bar = z_bar @ (w if wrong == "not_transposed" else w.T)
    w_bar = x.T @ z_bar
    return {
        "sign": (x_bar, -w_bar, b * 0 + z_bar.sum(0)),
        "transposed": (x_bar, w_bar.T, z_bar.sum(0)),
        "reversed": (x_bar, w_bar, z_bar.sum(0)[::-1]),
        "dropped": (x_bar, w_bar, jnp.zeros_like(b)),
        "last_row": (x_bar, w_bar, z_bar[-1]),
        "mean": (x_bar, w_bar / len(x), z_bar.sum(0)),
        "corner": (x_bar, w_bar.at[-1].multiply(1.01), z_bar.sum(0)),
    }.get(wrong, (x_bar, w_bar, z_bar.sum(0)))


def attention(q, k, v):
    scores = q @ k.T / jnp.sqrt(q.shape[-1] * 1.0)
    weights = jnp.exp(scores) / jnp.sum(jnp.exp(scores), axis=-1, keepdims=True)
    return weights @ v


def attention_back(o_bar, q, k, v, wrong=""):
    root = q.shape[-1] ** 0.5
    p = softmax(q @ k.T / root)
    p_bar = o_bar @ v.T
    s_bar = softmax_back(p_bar, q @ k.T / root, "held" if wrong == "normaliser" else "")
    scale = 1 if wrong == "scale" else root
    return s_bar @ k / scale, s_bar.T @ q / root, (p if wrong == "weights" else p.T) @ o_bar


def weighted_mean(x, weights):
    return jnp.sum(x * weights) / jnp.sum(weights)


def weighted_mean_back(y_bar, x, weights, wrong=""):
    total = jnp.sum(weights)
    inner = x if wrong == "total_held" else x - weighted_mean(x, weights)
    return y_bar * weights / (1 if wrong == "not_divided" else total), y_bar * inner / total


def logsumexp(x):
    return jnp.log(jnp.sum(jnp.exp(x), axis=-1))


def logsumexp_back(y_bar, x, wrong=""):
    if wrong == "sum":
        return softmax(x) * jnp.sum(y_bar)
    return softmax(x) * y_bar[:, None]


def rms_norm(x, gamma):
    return x / jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True)) * gamma


def rms_norm_back(y_bar, x, gamma, wrong=""):
    rms = jnp.sqrt(jnp.mean(x * x, axis=-1, keepdims=True))
    y_bar = jnp.ones_like(y_bar) if wrong == "ones" else y_bar
    scaled = y_bar * gamma
    twice = 2 if wrong == "twice" else 1
    projection = twice * jnp.mean(scaled * x, axis=-1, keepdims=True) / rms**3
    if wrong == "plus":
        projection = -projection
    if wrong == "held":
        projection = 0
    return scaled / rms - x * projection, jnp.sum(y_bar * x / rms, axis=0)


def recurrence(xs, h, w):
    def step(h, x):
        h = jnp.tanh(w @ h + x)
        return h, h

    return lax.scan(step, h, xs)[1]


def recurrence_back(ys_bar, xs, h, w, wrong=""):
    hs = [h]
    for x in xs:
        hs.append(jnp.tanh(w @ hs[-1] + x))
    h_bar, w_bar, xs_bar = jnp.zeros_like(h), jnp.zeros_like(w), []
    for t in reversed(range(len(xs))):
        z_bar = (ys_bar[t] + h_bar) * (1 - hs[t + 1] ** 2)
        xs_bar.append(z_bar)
        w_bar = w_bar + jnp.outer(z_bar, hs[t + 1 if wrong == "late" else t])
        h_bar = 0 * h if wrong == "truncated" else w.T @ z_bar
    return jnp.stack(xs_bar[::-1]), h_bar, w_bar


def gelu(x):
    return x * (0.5 * (1 + lax.erf(x / np.sqrt(2.0))))


def gelu_back(y_bar, x, wrong=""):
    phi, density = 0.5 * (1 + lax.erf(x / np.sqrt(2.0))), jnp.exp(-x * x / 2) / np.sqrt(2 * np.pi)
    if wrong == "cut_off":
        density = jnp.where(x > 0.5, 0, density)
    return y_bar * (phi + (0 if wrong == "held" else x * density))


def hinge(x):
    return jnp.maximum(1 - x, 0)


def hinge_back(y_bar, x, wrong=""):
    slope = jnp.where(x < 1, -1.0, 0.0)
    at_kink = 1.0 if wrong == "kink" else -0.5
    return y_bar * jnp.where(x == 1, at_kink, slope)


def gather(table, indices):
    return table[indices]


def gather_back(y_bar, table, indices, wrong=""):
    put = jnp.zeros_like(table).at[indices]
    return (put.set(y_bar) if wrong == "overwritten" else put.add(y_bar)), None


def polynomial(x, y):
    return x**3 * y + jnp.sin(x)


def polynomial_back(z_bar, x, y, wrong=""):
    twice = 2 if wrong == "twice" else 1
    slope = {"factor": 2 * x**2, "order": 3 * x}.get(wrong, 3 * x**2)
    return z_bar * (slope * y * twice + jnp.cos(x)), z_bar * x**3


# --- a failure, as a checker finds it --------------------------------------------------------------------------------

EXAMPLES = {
    softmax: [(4, 5)],
    layer_norm: [(5, 6), (6,), (6,)],
    dense: [(5, 4), (4, 4), (4,)],
    attention: [(4, 3), (4, 3), (4, 3)],
    weighted_mean: [(6,), (6,)],
    logsumexp: [(4, 5)],
    rms_norm: [(3, 5), (5,)],
    recurrence: [(4, 3), (3,), (3, 3)],
    gelu: [(14,)],
    hinge: [(8,)],
    gather: [(4, 3), "indices"],
    polynomial: [(7,), (7,)],
}
NAMES = {layer_norm: ("x", "gamma", "beta"), dense: ("x", "w", "b"), attention: ("q", "k", "v")}
BACK = {definition: globals()[f"{definition.__name__}_back"] for definition in EXAMPLES}


def example(definition, rng, dtype):
    drawn = [np.asarray([1, 3, 1, 0, 3]) if s == "indices" else rng.standard_normal(s) for s in EXAMPLES[definition]]
    if definition is hinge:
        drawn[0][[1, 4, 6]] = 1.0
    if definition is weighted_mean:
        drawn[1] = np.abs(drawn[1]) + 0.5
    return tuple(a.astype(dtype) if a.dtype.kind == "f" else a for a in drawn)


@functools.cache
def pullback(definition, wrong):
    """The right derivative in float64 or one by hand, compiled: (primals, cotangent) -> cotangents by name."""

    def by_hand(primals, cotangent):
        bars = BACK[definition](cotangent, *primals, wrong=wrong)
        return bars if isinstance(bars, tuple) else (bars,)

    def truth(primals, cotangent):
        floats = [i for i, a in enumerate(primals) if jnp.issubdtype(a.dtype, jnp.floating)]

        def of(*arrays):
            given = dict(zip(floats, arrays, strict=True))
            return definition(*(given.get(i, a) for i, a in enumerate(primals)))

        return jax.vjp(of, *(primals[i] for i in floats))[1](cotangent)

    return jax.jit(truth if wrong is None else by_hand)


def names_of(definition):
    return NAMES.get(definition, ("x", "y", "z")[: len(EXAMPLES[definition])])


def judged(definition, wrong, primals, cotangent, dtype="float32", spoil=None):
    """Every cotangent with its truth in float64, and the rounding that it is allowed: many roundings of its scale."""
    bars = [bar for bar in pullback(definition, wrong)(primals, cotangent) if bar is not None]
    with jax.enable_x64(True):
        wide = [np.asarray(a, np.float64) if a.dtype.kind == "f" else a for a in (*primals, cotangent)]
        truths = [np.asarray(a) for a in pullback(definition, None)(tuple(wide[:-1]), wide[-1])]
    found = {}
    for name, bar, truth in zip(names_of(definition), bars, truths, strict=False):
        bar = np.asarray(spoil(np.asarray(bar)) if spoil else bar, np.float64)
        found[name] = bar, truth, np.full(truth.shape, 256 * jnp.finfo(dtype).eps * max(1.0, np.abs(truth).max()))
    return found


def failures(definition, wrong, seed=0, asking=True, spoil=None):
    rng = np.random.default_rng(seed)
    primals = example(definition, rng, np.float32)
    cotangent = np.asarray(rng.standard_normal(jax.eval_shape(definition, *primals).shape), np.float32)
    leaves = judged(definition, wrong, primals, cotangent, spoil=spoil)
    at = (lambda primals, cotangent: judged(definition, wrong, primals, cotangent, spoil=spoil)) if asking else None
    names = names_of(definition)
    known = {"names": names, "dtype": "float32", "definition": definition, "at": at}
    every = [Failure(leaf, leaves, primals, cotangent, **known) for leaf in leaves]
    return [failure for failure in every if failure.wrong.any()]


MISTAKES = [
    (softmax, "held", "missing_path", "the sum in `return e / jnp.sum(e, axis=-1, keepdims=True)` held constant"),
    (softmax, "diagonal", "missing_path", "the diagonal of the Jacobian alone"),
    (rms_norm, "ones", "ignores_cotangent", "a cotangent of ones"),
    (softmax, "clipped", "nonlinear", "the cotangent is clipped to [-1, 1]"),
    (layer_norm, "mean", "missing_term", "a mean over that axis was not subtracted"),
    (layer_norm, "variance", "missing_path", "held constant"),
    (layer_norm, "constant", "missing_path", "two paths are missing"),
    (layer_norm, "exchanged", "exchanged", "this is the cotangent of beta"),
    (layer_norm, "first_row", "missing_sum", "the first place stands for the sum over axis 0"),
    (layer_norm, "row_mean", "factor", "1 / the length 5 of axis 0 of x"),
    (layer_norm, "gamma_forgotten", "wrong_residual local_derivative", "gamma"),
    (layer_norm, "large_epsilon", "epsilon", "0.001 in place of its constant 1e-05"),
    (dense, "sign", "sign", "the sign is wrong everywhere"),
    (dense, "transposed", "permuted", "transposed"),
    (dense, "reversed", "permuted", "reversed along axis 0"),
    (dense, "dropped", "dropped", "zero everywhere"),
    (dense, "last_row", "missing_sum", "the last place stands for the sum over axis 0"),
    (dense, "mean", "factor", "1 / the length 5 of axis 0 of x"),
    (dense, "corner", "located", "place 3, the last, of axis 0"),
    (dense, "from_its_input", "wrong_residual", "the tanh in `return jnp.tanh(x @ w + b)` is computed at its operand"),
    (dense, "no_square", "local_derivative", "the tanh in `return jnp.tanh(x @ w + b)`"),
    (dense, "no_slope", "local_derivative", "its slope is taken for one"),
    (
        dense,
        "not_transposed",
        "permuted",
        "the matrix product in `return jnp.tanh(x @ w + b)` as if it were its own transpose",
    ),
    (attention, "normaliser", "missing_path", "held constant"),
    (attention, "scale", "factor", "√(the length 3 of axis 1 of q)"),
    (attention, "weights", "permuted", "its own transpose"),
    (weighted_mean, "total_held", "missing_path", "the sum in `return jnp.sum(x * weights) / jnp.sum(weights)` held"),
    (logsumexp, "sum", "ignores_cotangent", "the sum of the cotangent stands for the cotangent"),
    (rms_norm, "twice", "counted_twice", "a path is counted twice"),
    (rms_norm, "plus", "sign", "the sign is wrong along one path"),
    (rms_norm, "held", "missing_path", "held constant"),
    (recurrence, "truncated", "missing_path", "the matrix product in `h = jnp.tanh(w @ h + x)` held constant"),
    (recurrence, "late", "wrong_residual", "the result of the tanh of the same round"),
    (gelu, "held", "missing_path", "held constant"),
    (gelu, "cut_off", "values", "where x > "),
    (hinge, "kink", "kink", "where x is 1"),
    (gather, "overwritten", "missing_sum", "the last place stands for the sum"),
    (polynomial, "twice", "counted_twice", "a path is counted twice"),
    (polynomial, "factor", "factor", "2 / 3"),
    (polynomial, "order", "local_derivative wrong_residual", "the power in `return x**3 * y + jnp.sin(x)`"),
]


@pytest.mark.parametrize(("definition", "wrong", "kinds", "words"), MISTAKES, ids=lambda v: getattr(v, "__name__", v))
def test_a_mistake_is_named(definition, wrong, kinds, words):
    wrongs = failures(definition, wrong)
    assert wrongs, "the mistake does not show"
    explanation = diagnose(wrongs[0])
    assert explanation is not None
    assert explanation.kind in kinds.split(), explanation
    assert words in str(explanation)


def test_the_line_of_the_source_is_given():
    explanation = diagnose(failures(rms_norm, "held")[0])
    file, line = explanation.where.split(":")
    assert file == "test_diagnosis.py"
    assert "def rms_norm(" in pathlib.Path(__file__).read_text().splitlines()[int(line) - 2]


@pytest.mark.parametrize("definition", EXAMPLES, ids=lambda v: v.__name__)
def test_what_is_right_needs_no_explanation(definition):
    assert not failures(definition, "")
    rng = np.random.default_rng(0)
    primals = example(definition, rng, np.float32)
    cotangent = np.asarray(rng.standard_normal(jax.eval_shape(definition, *primals).shape), np.float32)
    leaves = judged(definition, "", primals, cotangent)
    assert diagnose(Failure(next(iter(leaves)), leaves, primals, cotangent, definition=definition)) is None


@pytest.mark.parametrize("asking", [True, False])
@pytest.mark.parametrize("definition", EXAMPLES, ids=lambda v: v.__name__)
def test_nonsense_is_not_explained(definition, asking):
    """Noise as large as the cotangent itself, the same at every call so that only its values are nonsense."""

    def spoil(bar):
        return np.asarray(np.random.default_rng(bar.size).standard_normal(bar.shape), bar.dtype)

    for failure in failures(definition, "", asking=asking, spoil=spoil):
        explanation = diagnose(failure)
        # Asked, the derivative itself shows that it does not follow its cotangent; nothing else may be said.
        assert explanation is None or (asking and explanation.kind == "nonlinear"), explanation


def test_a_clock_is_found():
    """The answer changes from call to call."""
    rng = np.random.default_rng(0)
    wrongs = failures(gelu, "", spoil=lambda bar: bar * np.float32(1 + rng.random() / 8) + np.float32(rng.random()))
    assert diagnose(wrongs[0]).kind in ("impure", "missing_term")
    spoil = lambda bar: bar * rng.uniform(0.5, 2, bar.shape).astype(np.float32)  # noqa: E731
    assert diagnose(failures(gelu, "", spoil=spoil)[0]).kind == "impure"


@pytest.mark.parametrize(("spoil", "kind", "words"), [
    (lambda bar: np.where(np.arange(14) == 5, np.nan, bar), "not_finite", "1 of 14 elements are not finite"),
    (lambda bar: np.roll(bar, 1), "permuted", "shifted by one place along axis 0"),
    (lambda bar: np.where(np.arange(14) % 2, bar * 2, bar), "located", "odd places of axis 0"),
    (lambda bar: np.where(np.arange(14) > 11, 0, bar), "located", "last 2 places of axis 0"),
    (lambda bar: bar.astype(np.float16).astype(np.float32), "dtype", "float16"),
    (lambda bar: bar * np.float32(np.sqrt(14)), "factor", "√(the length 14 of axis 0 of x)"),
    (lambda bar: bar + np.float32(0.25), "missing_term", "the constant 0.25"),
])  # fmt: skip
def test_what_shows_in_the_array_needs_no_definition(spoil, kind, words):
    (failure,) = failures(gelu, "", spoil=spoil, asking=False)
    explanation = diagnose(Failure(failure.leaf, failure.leaves, dtype="float32"))
    assert explanation.kind == kind
    assert words in explanation.text


def test_digits_lost_in_one_dtype_alone_are_told_from_a_mistake_in_it():
    (failure,) = failures(gelu, "", asking=False, spoil=lambda bar: bar + np.float32(1e-2) * (2 + np.sin(bar * 997)))
    here = Failure(failure.leaf, failure.leaves, dtype="float32", right_in=("float64",))
    assert diagnose(here).kind == "cancellation"
    (failure,) = failures(gelu, "", asking=False, spoil=lambda bar: bar + 9 * (2 + np.sin(bar * 997)))
    assert diagnose(Failure(failure.leaf, failure.leaves, dtype="float32", right_in=("float64",))).kind == "dtype"


def test_a_definition_that_cannot_be_traced_ends_nothing():
    (failure,) = failures(gelu, "cut_off", asking=False)

    def stubborn(x):
        raise RuntimeError("no")

    diagnose(Failure(failure.leaf, failure.leaves, failure.primals, failure.cotangent, definition=stubborn))


def test_a_kind_is_one_of_those_listed():
    assert all(Explanation(kind, "said").kind == kind for kind in KINDS)
    with pytest.raises(ValueError, match="kind 'guess' is none of sign, factor"):
        Explanation("guess", "said")
