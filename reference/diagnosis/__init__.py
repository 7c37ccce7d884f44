"""The simplest mistake that reproduces a wrong cotangent, verified numerically before it is said.

A hypothesis is a function from a `Failure` to an `Explanation`, or None.  It predicts the wrong cotangent, and speaks
only where its prediction is what came, within the rounding that is allowed.  Hypotheses are asked in order, those of
fewest words first; the first that explains the failure is the diagnosis.
"""

import dataclasses
import math
import time

import numpy as np

from . import arrays, places
from .failure import KINDS, Explanation, Failure

__all__ = ["KINDS", "Explanation", "Failure", "diagnose"]

SECONDS = 4.0  # the simple hypotheses come first, and a diagnosis is not worth more
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
    arrays.straight,
    arrays.shifted,
)


def diagnose(failure: Failure, seconds: float = SECONDS) -> Explanation | None:
    """The simplest explanation of a wrong cotangent, or None where no single mistake reproduces it.

    After so many seconds of the processor no further hypothesis is begun.

    >>> truth, allowance = np.asarray([1.0, -2.0, 4.0]), np.full(3, 1e-6)
    >>> print(diagnose(Failure("x", {"x": (truth * 3, truth, allowance)})).text.split(":")[0])
    off by a factor of 3 everywhere, which is the length 3 of axis 0 of x
    """
    if not failure.wrong.any():
        return None
    with np.errstate(all="ignore"):  # what is tried may overflow; nothing is said that does not fit
        found = _where_alone(failure) if failure.particular else None
        found = found or _of(AT_A_GLANCE, failure)
        if found and found.kind == "factor" and seconds > 0:
            return _left_out(failure) or found
        return found or _with_the_definition(failure, seconds)


def _of(hypotheses, asked, until=math.inf):
    """The first explanation; after the time is up no further hypothesis is begun."""
    for hypothesis in hypotheses:
        if time.process_time() >= until:
            return None
        try:
            explanation = hypothesis(asked)
        except Exception:  # what a stranger's function does when it is changed is no reason to try nothing further
            continue
        if explanation:
            return explanation
    return None


def _where_alone(failure):
    """The values at which alone it is wrong, and what is so there."""
    if not np.isfinite(failure.got).all():
        return None
    found = _of((places.conditioned,), failure)
    if found is None or found.kind != "kink":
        return None
    wrong = failure.wrong
    there = {failure.leaf: tuple(np.asarray(a)[wrong] for a in failure.leaves[failure.leaf])}
    same = _of((arrays.sign, arrays.factor), Failure(failure.leaf, there, dtype=failure.dtype))
    return dataclasses.replace(found, text=f"{found.text}: {same.text}") if same else found


def _left_out(failure):
    """Which constant of the definition a factor is."""
    from . import constants
    from .bench import bench_of

    bench = failure.definition and bench_of(failure)
    return constants.left_out(bench) if bench else None


def _with_the_definition(failure, seconds):
    """Changes of the definition's own backward pass, questions to the derivative under test, and where it is wrong."""
    # These trace the definition, so they load JAX, which the arrays alone do not need.
    from . import behaviour, constants, jacobian, local, paths, repairs, residuals, transposes
    from .bench import bench_of

    until = time.process_time() + seconds
    bench = bench_of(failure) if seconds > 0 else None

    if bench:
        bench.until = until
    whole = bench or jacobian.Ungraphed(failure)

    def of(*hypotheses):
        return _of(hypotheses, bench, until) if bench else None

    def of_jacobian(*hypotheses):
        return _of(hypotheses, whole) if seconds > 0 else None  # which take little

    mended = repairs.Repairs(failure)

    bent = behaviour.impure_or_nonlinear(failure)
    if bent:
        found = of(residuals.ignored) or (bent.kind == "nonlinear" and of(residuals.other_cotangent))
        if not found and bent.kind == "nonlinear" and seconds > 0 and (more := mended.simple() or mended.replaced()):
            return Explanation(bent.kind, f"{bent.text}; {more.text}", more.where)
        return found or bent
    return (
        of(residuals.ignored)
        or arrays.any_factor(failure, lambda: of(constants.left_out))
        or of(paths.one_use, transposes.summed, paths.two_uses)
        or _of((repairs.Repairs.simple,), mended, until)
        or of(
            paths.in_loops,
            transposes.in_rounds,
            residuals.diagonal,
            constants.moved_epsilon,
            constants.other_constant,
            local.ungated,
            residuals.other_primal,
            local.at_another_value,
            transposes.reordered,
            transposes.transposed,
            residuals.untransposed,
            transposes.partial,
            residuals.other_cotangent,
        )
        or behaviour.rounding(failure)
        or _of((arrays.constant, places.conditioned), failure)
        or of_jacobian(jacobian.untransposed, jacobian.moved)
        or _of((repairs.Repairs.several,), mended, until)
        or places.located(failure)
        or _of((repairs.Repairs.replaced,), mended, until)
        or _of((arrays.projected, arrays.lost), failure)
        or of_jacobian(jacobian.scaled, jacobian.heard)
        or of(local.another_function, local.enters)
        or behaviour.at_other_primals(failure)
        or of_jacobian(jacobian.differs)
        or places.somewhere(failure)
        or None
    )
