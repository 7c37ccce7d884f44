"""Backpropagation by hand in pure jax.numpy, and the suite that proves it right."""

from .lazy import lazily

__getattr__, __dir__ = lazily(
    "manual_backprop",
    {
        "Rule": "rule",
        "value_and_grad": "rule",
        "RULES": "rules",
        "build": "architecture",
        **dict.fromkeys(
            ("serial", "fan_out", "concatenate", "parallel", "residual", "tied", "repeat", "scan", "checkpointed"),
            "combinators",
        ),
    },
)
