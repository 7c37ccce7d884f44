"""When and how a derivative is wrong, in words: what has to hold at other lengths and values before it is said."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from manual_backprop.reference import check
from manual_backprop.reference.diagnosis.occasions import of_length, of_values


def by_hand(primal, backward):
    made = jax.custom_vjp(primal)
    made.defvjp(lambda *primals: (primal(*primals), primals), backward)
    return made


def said(function, *shapes, checks=("truth", "shapes"), low=-2.0, high=2.0, **options):
    rng = np.random.default_rng(4)
    args = [jnp.asarray(rng.uniform(low, high, shape), jnp.float32) for shape in shapes]
    result = check(function, *args, checks=checks, reproduce=False, **options)
    assert not result.ok
    return result.diagnosis.diagnosis


def sine(x):
    return jnp.sin(x)


def heard(places):
    return by_hand(sine, lambda kept, y_bar: (jnp.where(places(len(y_bar)), y_bar * jnp.cos(*kept), 0),))


LENGTHS = {
    "is not a multiple of 4": lambda n: jnp.arange(n) < n // 4 * 4,
    "is over 16": lambda n: jnp.arange(n) < 16,
    "is even": lambda n: jnp.arange(n) < n - (n % 2 == 0),
    "is under 3": lambda n: jnp.arange(n) < n - (n < 3),
    "is over 11": lambda n: jnp.arange(n) < 11,
}


@pytest.mark.parametrize(("words", "given"), list(zip(LENGTHS, (8, 9, 7, 8, 9), strict=True)))
def test_the_lengths_at_which_it_is_wrong_are_said_as_a_rule(words, given):
    assert f"wrong where the length of axis 0 of x {words}: nothing flows back" in said(heard(LENGTHS[words]), (given,))


def test_the_rule_is_told_where_the_example_is_among_the_wrong_ones():
    found = said(heard(LENGTHS["is not a multiple of 4"]), (10,))
    assert "at the last 2 places of axis 0" in found
    assert "wrong where the length of axis 0 of x is not a mult" in found


def test_of_two_rules_that_fit_neither_is_said():
    assert of_length(8, False, lambda n: None) is None
    assert of_length(8, False, lambda n: n in (9, 10, 12)) is None
    assert of_length(3, True, lambda n: n < 5) is None  # no multiple of 8 is among these


@pytest.mark.parametrize("factor", [3, 9])
def test_a_factor_that_happens_to_be_a_length_is_not_called_one(factor):
    found = said(by_hand(sine, lambda kept, y_bar: (factor * y_bar * jnp.cos(*kept),)), (9,))
    assert found == f"off by a factor of {factor} everywhere"


def shifted(x, b):
    return jnp.tanh(x + b)


def averaged(kept, y_bar):
    x_bar = y_bar * (1 - shifted(*kept) ** 2)
    return x_bar, x_bar.mean(0)


def test_of_two_equal_lengths_the_one_is_named_that_is_the_factor_elsewhere():
    assert "1 / the length 4 of axis 0 of x: a mean" in said(by_hand(shifted, averaged), (4, 4), (4,))
    assert "1 / the length 4 of axis 0 of x: a mean" in said(by_hand(shifted, averaged), (4, 3), (3,))


def test_a_factor_that_depends_on_the_arguments_is_no_constant():
    total = by_hand(lambda x: jnp.sum(x), lambda kept, y_bar: (y_bar * jnp.sum(kept[0] > 0) * jnp.ones_like(*kept),))
    assert "by another one at other values: it depends on the arguments" in said(
        total, (6,), checks=("truth", "values")
    )


def power(alpha, x):
    return jnp.where(alpha == -1, jnp.log(x), x ** (alpha + 1) / jnp.where(alpha == -1, 1, alpha + 1))


def test_what_is_wrong_at_one_value_alone_is_no_rounding():
    def backward(kept, y_bar):
        alpha, x = kept
        bars = jax.vjp(power, alpha, x)[1](y_bar)
        return jnp.zeros_like(alpha), jnp.where(alpha == -1, y_bar, bars[1])

    x = jnp.asarray([0.3, 1.7, 2.4], jnp.float32)
    result = check(by_hand(power, backward), -jnp.ones(3), x, argnums=1, checks=("truth",), reproduce=False)
    assert "wrong only where alpha is -1 exactly" in result.diagnosis.diagnosis


def on_the_host(turn, x):
    def product(v):
        return (turn(np.tri(len(v), k=1)) @ np.asarray(v)).astype(np.asarray(v).dtype)

    return jax.pure_callback(product, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


def decayed(x):
    return jnp.sum((1 - jnp.exp(-1.7 * (x - 1))) ** 2)


def without_its_rate(kept, y_bar):
    e = jnp.exp(-1.7 * (kept[0] - 1))
    return (y_bar * 2 * (1 - e) * e,)


WORDS = {
    "by -1.7 in `-1.7 * (x - 1)` is left out of the backward pass: off by a factor of 0.588235": by_hand(
        decayed, without_its_rate
    ),
    "another function's derivative: 6 of 6": by_hand(  # and no factor, of which any would fit a single output
        lambda x: jax.nn.logsumexp(jnp.sin(x)), lambda kept, y_bar: (y_bar * jnp.cosh(kept[0] * kept[0][::-1]),)
    ),
    "a part of it does not depend on the cotangent: where that is zero, it is": by_hand(
        sine, lambda kept, y_bar: (y_bar * jnp.cos(*kept) + 1 / (1 + kept[0] ** 2),)
    ),
    "the slope is another function's: where x is": by_hand(
        sine, lambda kept, y_bar: (y_bar * jnp.exp(-(kept[0] ** 2)) * (1 + jnp.sin(3 * kept[0])),)
    ),
    "without its limit -1 in `jnp.clip(x, -1, 1)`": by_hand(
        lambda x: jnp.clip(x, -1, 1), lambda kept, y_bar: (y_bar * (kept[0] < 1),)
    ),
    "through the Jacobian itself in place of its transpose": by_hand(
        lambda x: on_the_host(lambda a: a, x), lambda kept, y_bar: (on_the_host(lambda a: a, y_bar),)
    ),
}


@pytest.mark.parametrize("words", WORDS)
def test_it_is_said_in_these_words(words):
    assert words in said(WORDS[words], (6,), checks=("truth",))


def test_a_sum_along_another_axis_is_said():
    def backward(kept, y_bar):
        y = jax.nn.softmax(*kept)
        return (y * (y_bar - jnp.sum(y * y_bar, axis=0, keepdims=True)),)

    found = said(by_hand(lambda x: jax.nn.softmax(x), backward), (4, 6), checks=("truth",))
    assert "right with the sum in `jnp.sum(y * y_bar, axis=0, keepdims=True)` over axis 1 in place of axis 0" in found


def test_a_product_with_a_stale_state_names_it():
    def twice(x, h, w):
        return jnp.tanh(x + jnp.tanh(x + h @ w) @ w)

    def backward(kept, y_bar):
        x, h, w = kept
        first = jnp.tanh(x + h @ w)
        second_bar = y_bar * (1 - twice(*kept) ** 2)
        first_bar = (second_bar @ w.T) * (1 - first**2)
        return second_bar + first_bar, first_bar @ w.T, h.T @ second_bar + h.T @ first_bar

    assert "with its other operand replaced by h" in said(by_hand(twice, backward), (2, 3), (2, 3), (3, 3))


def test_a_slope_that_is_taken_elsewhere_names_the_place():
    def couple(a, b):
        a = a + jnp.tanh(b)
        return a, b + jnp.sin(a)

    def backward(outputs, bars):
        (a, b), (a_bar, b_bar) = outputs, bars
        a_bar = a_bar + b_bar * jnp.cos(a)
        return a_bar, b_bar + a_bar * (1 - jnp.tanh(b) ** 2)

    coupled = jax.custom_vjp(couple)
    coupled.defvjp(lambda a, b: (couple(a, b), couple(a, b)), backward)
    assert "of the tanh in `jnp.tanh(b)` is computed at output 1 in place of its operand" in said(coupled, (5,), (5,))


def test_kinds_of_values_are_told_in_few_words():
    assert of_values(["ties", "zeros", "nothing but zeros", "edges"]) == "wrong only at ties and zeros"
    assert of_values(["zeros", "fresh", "wide"]) == "right at the values given, wrong at others"


def scaled(x, g):
    return x * lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * g


def plain(x, g):
    return x / jnp.sqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * g


def test_a_reproduction_calls_no_smooth_point_a_kink():
    def backward(kept, y_bar):
        x, g = kept
        r = lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)
        x_bar = r * (y_bar * g - x * r * jnp.mean(y_bar * x * r, -1, keepdims=True))
        return x_bar, jnp.sum(y_bar * x * r, 0)

    x, g = jax.random.normal(jax.random.key(0), (6, 8)), jax.random.normal(jax.random.key(1), (8,))
    text = check(by_hand(scaled, backward), x, g, truth=plain, checks=("truth",)).diagnosis.reproduction
    assert "expected" in text
    assert "kink" not in text


def test_a_reproduction_does_not_end_where_nothing_has_a_derivative():
    def distance(x):
        return jnp.sum(jnp.linalg.norm(x[1:] - x[:-1], axis=1))

    def backward(kept, y_bar):
        d = kept[0][1:] - kept[0][:-1]
        flow = 1.5 * y_bar * d / jnp.linalg.norm(d, axis=1, keepdims=True)
        return (jnp.pad(flow, ((1, 0), (0, 0))) - jnp.pad(flow, ((0, 1), (0, 0))),)

    x = jax.random.normal(jax.random.key(0), (5, 3))
    found = check(by_hand(distance, backward), x, checks=("truth",)).diagnosis
    assert found.reproduction
    assert "nan" not in found.reproduction
