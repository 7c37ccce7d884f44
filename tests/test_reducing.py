"""What is left of a failure when it is made small, and which of several derivatives is named as the wrong one."""

import jax
import jax.numpy as jnp
import numpy as np
from test_scripts import by_hand, failures, first, scaled_square

from manual_backprop.reference.culprits import culprits
from manual_backprop.reference.reproduction.reducing import reduce

# --- smaller ---------------------------------------------------------------------------------------------------------


def test_arguments_shrink_together_and_labels_stay_in_range():
    """One row, two classes, one cotangent: what a cross entropy needs whose gradient has the wrong sign."""

    def value(logits, labels):
        return jax.nn.logsumexp(logits, axis=-1) - jnp.take_along_axis(logits, labels[:, None], -1)[:, 0]

    def backward(residuals, y_bar):
        logits, labels = residuals
        return (jax.nn.one_hot(labels, logits.shape[-1]) - jax.nn.softmax(logits)) * y_bar[:, None], None

    rng = np.random.default_rng(0)
    wrong = by_hand(value, lambda *both: (value(*both), both), backward)
    session = failures(wrong, jnp.asarray(rng.normal(size=(7, 5)), jnp.float32), jnp.asarray([4, 0, 3, 1, 2, 4, 0]))
    smallest = reduce(session, first(session))
    logits, labels = smallest.trial.primals
    assert logits.shape == (1, 2)
    assert labels.shape == (1,)
    assert 0 <= labels[0] < 2
    assert set(logits.ravel()) == {1.0}
    assert smallest.trial.cotangent[0].tolist() == [1.0]
    assert smallest.finding.leaf == "logits"
    assert smallest.finding.verdict == "wrong"


def test_a_single_wrong_element_is_what_is_left():
    wrong = by_hand(jnp.sin, lambda x: (jnp.sin(x), x), lambda x, g: ((jnp.cos(x) * g).at[-1].multiply(2),))
    session = failures(wrong, jnp.linspace(-2.0, 1.7, 9))
    smallest = reduce(session, first(session))
    assert smallest.trial.primals[0].tolist() == [1.0]


# --- which one -------------------------------------------------------------------------------------------------------


def test_the_wrong_one_of_several_derivatives_is_named():
    right, wrong = scaled_square(2.0), by_hand(jnp.sin, lambda x: (jnp.sin(x), x), lambda x, g: (jnp.sin(x) * g,))

    def looped(x):
        return jax.lax.scan(lambda c, _: (right(wrong(c)), None), x, None, length=2)[0] + right(x)

    session = failures(looped, jnp.asarray([0.3, -0.2]))
    (culprit,) = culprits(session, first(session))
    line = looped.__code__.co_firstlineno + 1
    assert culprit.name == "sin"
    assert str(culprit.called) == f"test_reducing.py:{line}"
    assert str(culprit).endswith("is the one that is wrong")


def test_two_wrong_derivatives_are_both_named():
    def plus(x):
        return x + 1

    def times(x):
        return x * 3

    add = by_hand(plus, lambda x: (x + 1, None), lambda _, g: (2 * g,))
    multiply = by_hand(times, lambda x: (x * 3, None), lambda _, g: (g,))
    right = scaled_square(2.0)
    session = failures(lambda x: multiply(right(add(x))), jnp.asarray([0.3, -0.2]))
    found = culprits(session, first(session))
    assert [culprit.name for culprit in found] == ["plus", "times"]
    assert str(found[0].written) == f"test_reducing.py:{plus.__code__.co_firstlineno}"
    assert all(str(culprit).endswith("is wrong, and not alone") for culprit in found)


def test_a_function_that_is_itself_the_derivative_has_no_culprit():
    session = failures(scaled_square(1.0), jnp.asarray([1.0, 2.0]))
    assert culprits(session, first(session)) == ()
