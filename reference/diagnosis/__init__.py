"""The simplest mistake that reproduces a wrong cotangent, verified numerically before it is said.

A hypothesis is a function from a `Failure` to an `Explanation`, or None.  It predicts the wrong cotangent, and speaks
only where its prediction is what came, within the rounding that is allowed.  Hypotheses are asked in order, those of
fewest words first; the first that explains the failure is the diagnosis.
"""

from . import arrays, places
from .failure import KINDS, Explanation, Failure

__all__ = ["KINDS", "Explanation", "Failure", "diagnose"]

HYPOTHESES = (
    places.not_finite,
    arrays.dropped,
    arrays.sign,
    arrays.factor,
    arrays.conjugate,
    arrays.arranged,
    arrays.exchanged,
    arrays.shifted,
    places.conditioned,
    places.located,
    arrays.projected,
)


def diagnose(failure: Failure) -> Explanation | None:
    """The simplest explanation of a wrong cotangent, or None where no single mistake reproduces it.

    >>> import numpy as np
    >>> truth, allowance = np.asarray([1.0, -2.0, 4.0]), np.full(3, 1e-6)
    >>> print(diagnose(Failure("x", {"x": (truth * 3, truth, allowance)})).text.split(":")[0])
    off by a factor of 3 everywhere, which is the length 3 of axis 0 of x
    """
    for hypothesis in HYPOTHESES:
        if explanation := hypothesis(failure):
            return explanation
    return None
