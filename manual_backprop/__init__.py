"""Backpropagation by hand in pure jax.numpy, and the suite that proves it right.

Names are loaded when they are first used, so that what needs no arrays does not wait for JAX.
"""

import importlib

_HOMES = {
    "Rule": "rule",
    "value_and_grad": "rule",
    "RULES": "rules",
    "build": "architecture",
    **dict.fromkeys(
        ("serial", "fan_out", "concatenate", "parallel", "residual", "tied", "repeat", "scan", "checkpointed"),
        "combinators",
    ),
}


def __getattr__(name):
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(_HOMES)}")


def __dir__():
    return [*globals(), *_HOMES]
