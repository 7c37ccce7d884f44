"""A network: a rule made of rules, and how a function that joins them becomes a combinator."""

import functools
import inspect
from collections.abc import Callable

from .rule import Rule
from .signature import SignatureError

COMBINATORS: dict[str, Callable] = {}


class Network(Rule):
    """A rule made of rules by a combinator, which prints as the call that made it."""

    def __init__(self, combinator, layers, arguments, input, shapes, definition, forward, backward, loop=False):
        self.combinator, self.layers, self.arguments, self._loop = combinator, layers, arguments, loop
        self._input, self.shapes = input, shapes
        self.definition, self.forward, self.backward = definition, forward, backward

    @property
    def _identity(self):
        return self.combinator.__name__, tuple(layer._identity for layer in self.layers), self.arguments

    @property
    def input(self):
        return self._input()

    def map(self, transform):
        """Loops run as one piece; every other combinator is rebuilt around its mapped layers."""
        if self._loop:
            return transform(self)
        return self.combinator(*(layer.map(transform) for layer in self.layers), *self.arguments)

    def __str__(self):
        return f"{self.combinator.__name__}({', '.join(map(str, (*self.layers, *self.arguments)))})"


def combinator(join: Callable) -> Callable:
    """Register a way of joining rules; a call with other arguments, or with what is no rule, is refused."""
    signature, name = inspect.signature(join), join.__name__
    first = next(iter(signature.parameters))

    @functools.wraps(join)
    def checked(*arguments, **named):
        try:
            bound = signature.bind(*arguments, **named).arguments
        except TypeError:
            wanted = ", ".join(map(str, signature.parameters))
            raise SignatureError(f"{name} takes ({wanted}), but {len(arguments) + len(named)} came") from None
        layers = bound.get("layers", ()) if first == "layers" else (bound[first],)
        if not layers:
            raise SignatureError(f"{name} needs at least one layer")
        for layer in layers:
            if not isinstance(layer, Rule):
                raise SignatureError(f"{name} joins rules, but {_came(layer)}")
        return join(*arguments, **named)

    COMBINATORS[name] = checked
    return checked


def _came(value):
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} came: unpack it with *"
    if callable(value):
        return f"the function {getattr(value, '__name__', value)} came: make a rule of it with @rule, or call it"
    return f"{value!r} came"


__all__ = ["COMBINATORS", "Network", "combinator"]
