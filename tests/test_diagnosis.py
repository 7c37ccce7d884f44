"""Derivatives written wrongly by hand, one mistake each: the diagnosis gives its kind and names the right thing."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import mistaken
import numpy as np
import pytest
from mistaken import (
    BACK,
    EXAMPLES,
    attention,
    blur,
    dense,
    example,
    gather,
    gelu,
    hinge,
    layer_norm,
    logsumexp,
    names_of,
    polynomial,
    recurrence,
    rms_norm,
    softmax,
    weighted_mean,
)

from manual_backprop.reference import check
from manual_backprop.reference.diagnosis import KINDS, Explanation, Failure, diagnose

diagnose = functools.partial(diagnose, seconds=600)  # on whatever machine this runs

# --- a failure, as a checker finds it --------------------------------------------------------------------------------


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
    (softmax, "held", "missing_path", "the sum in `jnp.sum(e, axis=-1, keepdims=True)` held constant"),
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
    (dense, "from_its_input", "wrong_residual", "the tanh in `jnp.tanh(x @ w + b)` is computed at its operand"),
    (dense, "no_square", "local_derivative", "the tanh in `jnp.tanh(x @ w + b)`"),
    (dense, "no_slope", "local_derivative", "its slope is taken for one"),
    (
        dense,
        "not_transposed",
        "permuted",
        "the matrix product in `x @ w` as if it were its own transpose",
    ),
    (attention, "normaliser", "missing_path", "held constant"),
    (attention, "scale", "factor", "the division by 1.73205 in `q @ k.T"),
    (attention, "weights", "permuted", "its own transpose"),
    (weighted_mean, "total_held", "missing_path", "the sum in `jnp.sum(weights)` held"),
    (logsumexp, "sum", "ignores_cotangent", "the sum of the cotangent stands for the cotangent"),
    (rms_norm, "twice", "counted_twice", "a path is counted twice"),
    (rms_norm, "rounded", "dtype", "rounded to float16 on the way"),
    (blur, "itself", "permuted", "the Jacobian itself in place of its transpose"),
    (rms_norm, "plus", "sign", "the sign is wrong along one path"),
    (rms_norm, "held", "missing_path", "held constant"),
    (recurrence, "truncated", "missing_path", "the matrix product in `w @ h` held constant"),
    (recurrence, "late", "wrong_residual", "the result of the tanh of the same round"),
    (gelu, "held", "missing_path", "held constant"),
    (gelu, "cut_off", "values", "where x > "),
    (hinge, "kink", "kink", "where x is 1"),
    (gather, "overwritten", "missing_sum", "the last place stands for the sum"),
    (polynomial, "twice", "counted_twice", "a path is counted twice"),
    (polynomial, "factor", "factor", "2/3"),
    (polynomial, "order", "local_derivative wrong_residual", "the power in `x**3`"),
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
    assert file == "mistaken.py"
    assert "def rms_norm(" in pathlib.Path(mistaken.__file__).read_text().splitlines()[int(line) - 2]


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
    wrongs = failures(gelu, "", spoil=lambda bar: bar * rng.uniform(0.5, 2, bar.shape).astype(np.float32))
    assert diagnose(wrongs[0]).kind == "impure"


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


# --- the derivative as it is written, asked by a check ---------------------------------------------------------------


def by_hand(primal, backward):
    made = jax.custom_vjp(primal)
    made.defvjp(lambda *primals: (primal(*primals), primals), backward)
    return made


def bend(x, w):
    return jnp.sin(x @ w)


def not_transposed(kept, y_bar):
    x, w = kept
    z_bar = jnp.cos(x @ w) * y_bar
    return z_bar @ w, x.T @ z_bar


def doubly_multiplied(kept, y_bar):
    x, w = kept
    z_bar = jnp.cos(x @ w) * y_bar
    return (z_bar * jnp.cos(x @ w)) @ w.T, x.T @ z_bar


def of_its_output(kept, y_bar):
    x, w = kept
    z_bar = jnp.cos(jnp.sin(x @ w)) * y_bar
    return z_bar @ w.T, x.T @ z_bar


def in_half(kept, y_bar):
    x, w = kept
    z_bar = (jnp.cos(x @ w) * y_bar).astype(jnp.float16).astype(y_bar.dtype)
    return z_bar @ w.T, x.T @ z_bar


def shared(x):
    return jax.nn.softmax(x, axis=-1)


def over_everything(kept, y_bar):
    y = shared(*kept)
    return (y * (y_bar - jnp.sum(y * y_bar)),)


def shared_plainly(x):
    e = jnp.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def over_the_mean(kept, y_bar):
    y = shared_plainly(*kept)
    return (y * (y_bar - (y * y_bar).mean(-1, keepdims=True)),)


def root_mean_square(x):
    return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6)


def over_the_sum(kept, y_bar):
    (x,) = kept
    r = jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6)
    return (r * (y_bar - x * r**2 * (y_bar * x).sum(-1, keepdims=True)),)


def scaled_scores(q, k):
    return jnp.tanh(q @ k.T / jnp.sqrt(q.shape[-1]))


def scale_forgotten(kept, y_bar):
    q, k = kept
    z_bar = y_bar * (1 - scaled_scores(q, k) ** 2)
    return z_bar @ k, z_bar.T @ q


def best(x):
    return jax.lax.top_k(x, 3)[0]


def in_order_of_place(kept, y_bar):
    places = jnp.sort(jax.lax.top_k(*kept, 3)[1])
    return (jnp.zeros_like(*kept).at[jnp.arange(len(places))[:, None], places].set(y_bar),)


MIX = np.random.default_rng(0).standard_normal((6, 6))


def mixed(x):
    return jnp.asarray(MIX, x.dtype) @ jnp.sin(x)


def mixed_otherwise(kept, y_bar):
    return (jnp.asarray(np.sort(MIX), y_bar.dtype) @ y_bar,)


WRITTEN = [
    (bend, not_transposed, "permuted", "right with the second operand of the matrix product in `z_bar @ w`"),
    (bend, doubly_multiplied, "local_derivative", "without the second operand of the product in `z_bar * jnp.cos("),
    (bend, of_its_output, "wrong_residual", "is computed at its result in place of its operand"),
    (bend, in_half, "dtype", "rounded to float16 on the way; without rounding it is right"),
    (shared, over_everything, "missing_term", "off by a multiple of the output along axis 1"),
    (shared_plainly, over_the_mean, "factor", "(y * y_bar).mean(-1, keepdims=True)` times the length 4 of axis 1 of x"),
    (root_mean_square, over_the_sum, "factor", "which is the length 4 of axis 1 of x: through both operands"),
    (scaled_scores, scale_forgotten, "factor", "the division by 2 in `q @ k.T / jnp.sqrt(q.shape"),
    (best, in_order_of_place, "permuted", "the right numbers in the wrong places, for every element of the output"),
    (mixed, mixed_otherwise, "local_derivative", "another function's derivative: 36 of 36 entries"),
]  # fmt: skip


@pytest.mark.parametrize(("definition", "backward", "kind", "words"), WRITTEN, ids=lambda v: getattr(v, "__name__", ""))
def test_what_is_written_wrongly_is_named(definition, backward, kind, words):
    rng = np.random.default_rng(1)
    shapes = {bend: [(3, 4), (4, 4)], scaled_scores: [(3, 4), (5, 4)], mixed: [(6,)], best: [(3, 7)]}.get(
        definition, [(3, 4)]
    )
    args = [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]
    found = check(by_hand(definition, backward), *args, checks=("truth",), reproduce=False).diagnosis
    assert (found.fault, words in found.diagnosis) == (kind, True), found.diagnosis


def test_the_line_of_the_backward_pass_is_given():
    x, w = jnp.ones((3, 4)), jnp.arange(16.0).reshape(4, 4) / 16
    found = check(by_hand(bend, not_transposed), x, w, checks=("truth",), reproduce=False)
    number = not_transposed.__code__.co_firstlineno + 3
    assert f"[test_diagnosis.py:{number}]" in found.diagnosis.diagnosis


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_what_is_rounded_on_the_way_is_said_to_which_dtype(dtype):
    def squared_sines(x):
        return jnp.sum(jnp.sin(x) ** 2)

    def backward(x, y_bar):
        narrow = x.astype(dtype)
        return (y_bar * (2 * jnp.sin(narrow) * jnp.cos(narrow)).astype(x.dtype),)

    rounding = jax.custom_vjp(squared_sines)
    rounding.defvjp(lambda x: (squared_sines(x), x), backward)
    with jax.enable_x64(True):
        result = check(rounding, np.array([0.3, 0.7, -1.2, 2.0]), checks="truth", reproduce=False)
    assert f"rounded to {dtype} on the way" in str(result)
