"""Independent ways to find a derivative, ways to say how two answers differ, and what it means to be right."""

from manual_backprop.lazy import lazily

__getattr__, __dir__ = lazily(
    "manual_backprop.reference",
    {
        "DTYPES": "allowance",
        "Finding": "finding",
        "ORACLES": "oracles",
        "assert_correct": "checker",
        "check": "checker",
        "Point": "points",
        "point": "points",
        "shrink": "shrinking",
    },
)
