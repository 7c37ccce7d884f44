"""Another value of a static option: a flag turned, a whole number one more, a number that is not far."""

import numpy as np


def another(value: bool | int | float, rng: np.random.Generator) -> bool | int | float:
    """What a derivative that is right for an option is right for as well.

    >>> another(True, np.random.default_rng(0)), another(-1, np.random.default_rng(0))
    (False, 0)
    """
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else float(nearby(value, rng))


def nearby(number: float, rng: np.random.Generator, powers: float = 1) -> float:
    """Up to twice or half as much, or other powers of two; between zero and one what lies there.

    A lone number is a scale or a share.
    """
    if not number:
        return rng.random()
    factor = 2.0 ** rng.uniform(-powers, powers)
    return number * factor / (1 - number + number * factor) if 0 < number < 1 else number * factor
