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
    arrays.narrow,
    arrays.arranged,
    arrays.exchanged,
    arrays.shifted,
)
IN_PLACES = (places.conditioned, places.located, arrays.projected)


def diagnose(failure: Failure) -> Explanation | None:
    """The simplest explanation of a wrong cotangent, or None where no single mistake reproduces it.

    >>> import numpy as np
    >>> truth, allowance = np.asarray([1.0, -2.0, 4.0]), np.full(3, 1e-6)
    >>> print(diagnose(Failure("x", {"x": (truth * 3, truth, allowance)})).text.split(":")[0])
    off by a factor of 3 everywhere, which is the length 3 of axis 0 of x
    """
    if not failure.wrong.any():
        return None
    if explanation := _of(AT_A_GLANCE, failure):
        return explanation
    bench = _bench(failure)
    return _of_the_graph(bench) or _of(IN_PLACES, failure) or _at_last(bench) or _of_behaviour(failure)


def _of(hypotheses, *asked):
    return next(filter(None, (hypothesis(*asked) for hypothesis in hypotheses)), None)


def _bench(failure):
    if failure.definition is None:
        return None
    from .bench import bench_of  # it needs JAX to trace the definition, which the arrays alone do not

    return bench_of(failure)


def _of_the_graph(bench):
    """Changes of the definition's own backward pass that have a name."""
    if bench is None:
        return None
    from . import constants, local, paths, residuals, transposes

    hypotheses = (
        residuals.other_cotangent,
        paths.one_use,
        transposes.summed,
        paths.two_uses,
        paths.in_loops,
        constants.moved_epsilon,
        constants.other_constant,
        residuals.other_primal,
        local.at_another_value,
        transposes.reordered,
        transposes.transposed,
        transposes.partial,
    )
    return _of(hypotheses, bench)


def _at_last(bench):
    """Where the mistake is, if not what it is."""
    if bench is None:
        return None
    from . import local

    return _of((local.another_function, local.enters), bench)


def _of_behaviour(failure):
    from .behaviour import behaves

    return behaves(failure)
