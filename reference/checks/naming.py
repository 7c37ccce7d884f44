"""Checks by name, and what all of them ask."""

from collections.abc import Callable, Iterator

import jax
import numpy as np

from ..finding import Finding
from ..session import Session
from ..tracing.interpreter import settles
from ..tracing.widening import coarsest

CHECKS: dict[str, Callable[[Session], Iterator[Finding]]] = {}


def named(check: Callable) -> Callable:
    """Register a check by its name."""
    CHECKS[check.__name__] = check
    return check


def dtypes(session) -> list[str]:
    """The example's own dtype, then float64 where the function computes in it throughout."""
    own = session.subject.dtype
    return [own] if own == "float64" else [own, *_sharp(session)]


def _sharp(session) -> list[str]:
    """float64, unless the function, or its derivative, falls back to fewer digits inside, or refuses it."""
    if not hasattr(session, "_sharp"):
        session._sharp = ["float64"] if _keeps_float64(session) else []
    return session._sharp


def _keeps_float64(session) -> bool:
    try:
        local = session.local(session.example[0].primals, "float64")
        traced, _ = local.by_hand
        wide = coarsest(traced) == "float64" and all(o.dtype == np.float64 for o in local.outputs)
        return wide and not settles(traced)  # what stops at a tolerance of its own is as exact as that
    except Exception:  # a function of single precision only is none the worse for it
        return False


def first_line(error) -> str:
    """The first line of what an error says."""
    return (str(error).strip().split("\n") or [""])[0][:400]


def takes(session, primals, dtype) -> bool:
    """Whether the function itself runs there."""
    try:
        local = session.local(primals, dtype)
        with local.precision():
            jax.block_until_ready(local.primal(*session.subject.cast(primals, dtype)))
    except Exception:
        return False
    return True
