"""Other values of a static option: a flag turned, a whole number one more or less, a number not far, and zero."""

import numpy as np


def others(value: bool | int | float | None, rng: np.random.Generator) -> tuple:
    """What a derivative that is right for an option is right for as well.

    >>> others(True, np.random.default_rng(0)), others(-1, np.random.default_rng(0))
    ((False,), (0,))
    >>> others(3, np.random.default_rng(0))
    (4, 2)
    """
    if value is None:  # what is derived then from something else, as a scale from a length
        return (0.5,)
    if isinstance(value, bool):
        return (not value,)
    if isinstance(value, int):
        return (value + 1, *([value - 1] if value > 1 else []))
    return (float(nearby(value, rng)), *([0.0] if value else []))


def nearby(number: float, rng: np.random.Generator, powers: float = 1) -> float:
    """Up to twice or half as much, or other powers of two; between zero and one what lies there.

    A lone number is a scale or a share.
    """
    if not number:
        return rng.random()
    factor = 2.0 ** rng.uniform(-powers, powers)
    return number * factor / (1 - number + number * factor) if 0 < number < 1 else number * factor
