"""Independent ways to find a derivative, ways to say how two answers differ, and what it means to be right.

Names are loaded when they are first used, so that what needs no arrays does not wait for JAX.
"""

import importlib

_HOMES = {
    "DTYPES": "allowance",
    "Finding": "finding",
    "ORACLES": "oracles",
    "assert_correct": "checker",
    "check": "checker",
    "Point": "points",
    "point": "points",
    "shrink": "shrinking",
}


def __getattr__(name):
    if name in _HOMES:
        return getattr(importlib.import_module(f"manual_backprop.reference.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(_HOMES)}")


def __dir__():
    return [*globals(), *_HOMES]
