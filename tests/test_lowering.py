"""Every rule lowers for every platform, and a rule that does not is told apart by half and platform."""

import collections

import jax.numpy as jnp
import pytest
from jaxtyping import Array, Float

from manual_backprop.command.lowering import PLATFORMS, lower
from manual_backprop.rule import rule
from manual_backprop.rules import RULES


@pytest.mark.parametrize("name", RULES)
def test_every_rule_lowers_everywhere(name):
    lines = lower(RULES[name])
    assert [(line["part"], line["platform"]) for line in lines] == [
        (part, platform) for part in ("forward", "backward") for platform in PLATFORMS
    ]
    for line in lines:
        assert (line["kind"], line["subject"], line["lowers"], line["message"]) == ("lowering", name, True, None), line


def spectrum(x: Float[Array, "n n"]) -> Float[Array, "n"]:
    """Real parts of the eigenvalues, which XLA finds on few platforms."""
    return jnp.linalg.eigvals(x).real


def halves(forward, backward):
    made = rule(spectrum)
    made.def_forward(forward)
    made.def_backward(backward)
    return made


def outcome(made):
    found = collections.defaultdict(dict)
    for line in lower(made):
        found[line["part"]][line["platform"]] = line["message"]
        assert line["lowers"] == (line["message"] is None)
    return found


def test_one_platform_that_fails_does_not_hide_the_others():
    found = outcome(halves(lambda x: (spectrum(x), x), lambda x, y_bar: (x * y_bar,)))
    assert found["forward"]["cpu"] is None
    assert "NotImplementedError" in found["forward"]["tpu"]
    assert set(found["backward"].values()) == {None}


def test_a_half_that_raises_is_a_line_and_not_an_end():
    def broken(*_):
        raise KeyError("mine\nsecond line")

    found = outcome(halves(lambda x: (x[0], x), broken))
    assert set(found["forward"].values()) == {None}
    assert all(message.startswith("KeyError") and "\n" not in message for message in found["backward"].values())
    found = outcome(halves(broken, lambda x, y_bar: (x,)))
    assert all(message.startswith("no residuals: KeyError") for message in found["backward"].values())
