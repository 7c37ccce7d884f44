"""A smaller rule and a smaller input that still fail."""

import time
from collections.abc import Callable, Iterator

from manual_backprop.combinators import Network, serial
from manual_backprop.rule import Elementary, Rule
from manual_backprop.signature import SignatureError

from .points import input_leaves

SECONDS = 20.0


def shrink(rule: Rule, input: tuple, fails: Callable[[Rule, tuple], bool], seconds: float = SECONDS):
    """The smallest (rule, input shape) found that still fails, by taking away and putting in less, greedily."""
    deadline = time.monotonic() + seconds
    improved = True
    while improved and time.monotonic() < deadline:
        improved = False
        for candidate, shape in _candidates(rule, input):
            if time.monotonic() > deadline:
                break
            if _fits(candidate, shape) and fails(candidate, shape):
                rule, input, improved = candidate, shape, True
                break
    return rule, input


def _candidates(rule, input) -> Iterator[tuple[Rule, tuple]]:
    for smaller in sorted(set(_smaller(rule)), key=lambda r: len(str(r))):
        yield smaller, input
    for shape in _shorter(input):
        yield rule, shape


def _smaller(rule: Rule) -> Iterator[Rule]:
    """Rules with one part less, or one part replaced by a smaller one."""
    if isinstance(rule, Elementary):
        for name, length in rule.sizes.items():
            for less in {1, 2, length // 2}:
                if 0 < less < length:
                    yield rule.bind(**{name: less})
        return
    if not isinstance(rule, Network):
        return
    yield from rule.layers
    name = rule.combinator.__name__
    if name in ("serial", "fan_out", "concatenate", "tied") and len(rule.layers) > 1:
        for size in sorted({1, len(rule.layers) // 2}, reverse=True):
            for start in range(0, len(rule.layers) - size + 1):
                rest = rule.layers[:start] + rule.layers[start + size :]
                if rest:
                    yield _rebuilt(rule, rest)
    if name == "repeat" and rule.arguments[0] > 1:
        yield rule.combinator(rule.layers[0], rule.arguments[0] - 1)
    for i, layer in enumerate(rule.layers):
        for smaller in _smaller(layer):
            yield _rebuilt(rule, (*rule.layers[:i], smaller, *rule.layers[i + 1 :]))


def _rebuilt(rule, layers):
    if rule.combinator is serial and len(layers) == 1:
        return layers[0]
    return rule.combinator(*layers, *rule.arguments)


def _shorter(shape) -> Iterator[tuple]:
    if shape and isinstance(shape[0], tuple):
        for i, part in enumerate(shape):
            for less in _shorter(part):
                yield (*shape[:i], less, *shape[i + 1 :])
        for axis in range(min(map(len, shape))):
            for less in _shorter_at(shape[0], axis):
                yield tuple((*part[:axis], less[axis], *part[axis + 1 :]) for part in shape)
        return
    for axis in range(len(shape)):
        yield (*shape[:axis], *shape[axis + 1 :])
        yield from _shorter_at(shape, axis)


def _shorter_at(shape, axis):
    for less in sorted({1, 2, shape[axis] // 2}):
        if 0 < less < shape[axis]:
            yield (*shape[:axis], less, *shape[axis + 1 :])


def _fits(rule, shape) -> bool:
    try:
        rule.shapes(input_leaves(rule, shape))
    except (SignatureError, ValueError, TypeError):
        return False
    return True
