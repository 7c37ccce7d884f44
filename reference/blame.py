"""Who is wrong, where the oracles do not agree."""

import dataclasses

import numpy as np

from .allowance import SLACK, scale, unit
from .finding import Finding

ORACLES = ("jacobian", "differences", "complex_step", "adjoint_identity", "taylor")  # besides autodiff in reverse


def blamed(findings) -> list[Finding]:
    """Where one oracle alone contradicts a derivative that autodiff and the others confirm, that oracle is wrong."""
    of_oracles = [f for f in findings if f.check in ORACLES and f.verdict in ("right", "wrong", "raised")]
    said = {name: [f for f in of_oracles if f.check == name] for name in ORACLES}
    accusing = [name for name, some in said.items() if any(not f.ok for f in some)]
    confirmed = all(f.ok for f in findings if f.check == "truth") and any(f.check == "truth" for f in findings)
    if len(accusing) != 1 or not confirmed or sum(bool(some) for some in said.values()) < 3:
        return findings
    message = (
        f"the oracle {accusing[0]} contradicts autodiff, the other oracles and the derivative: the oracle is wrong"
    )
    excuse = {"verdict": "abstained", "message": message}
    return [dataclasses.replace(f, **excuse) if f.check == accusing[0] and not f.ok else f for f in findings]


def by_differences(got, truth, value, allowed, free, dtype, searches) -> tuple[bool, bool]:
    """Whether differences contradict autodiff of a definition and side with what came by hand; whether it is meant so.

    got      what came by hand
    truth    what autodiff of the definition gives
    value    what differences tend to, within what is allowed
    free     what autodiff gives if no gradient is stopped: where differences say that, a stop is meant

    A search that halves an interval has no derivative of its own, and where it ends is too coarse for steps to tell
    their error: of two answers the one is believed that they are far nearer to.
    """
    got, free = np.asarray(got, np.float64), np.asarray(free, np.float64)
    with np.errstate(invalid="ignore"):
        contradicted = np.any(np.abs(truth - value) > allowed)
        rounded = allowed + SLACK * unit(dtype) * scale(value)  # which autodiff's zeros say nothing of
        agrees = np.all(np.abs(got - value) <= rounded)
        nearer = searches and SLACK * scale(got - value) < scale(truth - value)
        return bool(nearer or (contradicted and agrees)), bool(np.all(np.abs(free - value) <= allowed) and not nearer)
