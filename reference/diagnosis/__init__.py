"""The simplest mistake that reproduces a wrong cotangent, verified numerically before it is said.

A hypothesis is a function from a `Failure` to an `Explanation`, or None.  It predicts the wrong cotangent, and speaks
only where its prediction is what came, within the rounding that is allowed.  Hypotheses are asked in order, those of
fewest words first; the first that explains the failure is the diagnosis.
"""

from . import arrays, places
from .failure import KINDS, Explanation, Failure

__all__ = ["KINDS", "Explanation", "Failure", "diagnose"]

# These look at the arrays alone.
AT_A_GLANCE = (
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
    if not failure.wrong.any():
        return None
    for hypothesis in AT_A_GLANCE:
        if explanation := hypothesis(failure):
            return explanation
    return _from_the_graph(failure) or _from_behaviour(failure)


def _from_the_graph(failure):
    """Changes of the definition's own backward pass, which need it to be traced and compiled."""
    if failure.definition is None:
        return None
    from . import local, paths, residuals
    from .graph import graph_of

    graph = graph_of(failure)
    if graph is None:
        return None
    for hypothesis in (
        residuals.other_cotangent,
        paths.one_use,
        paths.in_loops,
        residuals.other_primal,
        paths.two_uses,
        residuals.other_constant,
        local.at_another_value,
        local.another_function,
    ):
        if explanation := hypothesis(failure, graph):
            return explanation
    return None


def _from_behaviour(failure):
    from .behaviour import behaves

    return behaves(failure)
