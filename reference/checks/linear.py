"""Linear in the cotangent: homogeneous, additive, zero for zero."""

import functools
from collections.abc import Iterator

import numpy as np

from ..allowance import SLACK, least, scale, unit
from ..discrepancy import discrepancy
from ..finding import CannotTell, Finding
from ..judge import malformed
from ..session import Session
from ..tracing.widening import kind
from .naming import dtypes, named


def _must_be_finite(trial):
    if not all(np.isfinite(a).all() for a in trial.primals if kind(a.dtype) == "float"):
        raise CannotTell("the example arguments are not finite")


def _linear(session, check, combine, message):
    """Cotangents that a linear function would give, from those that it gave: the judge is the rounding at the truth."""
    trial = session.example[0]
    _must_be_finite(trial)
    dtype = dtypes(session)[-1]
    local, outputs = session.local(trial.primals, dtype), session.answer(trial, dtype)
    allowances = session.measured(trial, dtype).allowance[1]
    for cotangent, expected, power in combine(trial, outputs[1]):
        bars = local.hand(trial.primals, cotangent)[1]
        for i, leaf in enumerate(session.subject.names):
            if not session.subject.differentiated[i] or allowances[i] is None or malformed(bars[i], outputs[1][i]):
                continue
            got, wanted = np.asarray(bars[i], np.float64) / power, expected(i)
            rounding = SLACK * (unit(local.unit) * scale(wanted) + least(local.unit) / power)
            allowed = 2 * np.where(np.isfinite(allowances[i]), allowances[i], np.inf) + rounding
            apart = discrepancy(got, wanted, allowed, local.unit)
            make = functools.partial(Finding, str(session.subject), check, leaf, dtype, example=trial.words)
            if apart and apart.ratio > 1:
                yield make("wrong", **vars(apart), message=message.format(power=power), fault="nonlinear")
            else:
                yield make("right", **(vars(apart) if apart else {}))


@named
def homogeneous(session: Session) -> Iterator[Finding]:
    """A cotangent 2ᵏ times as large gives cotangents 2ᵏ times as large: none is clipped, rounded or dropped."""

    def combine(trial, bars):
        for power in (
            (2.0**14, 2.0**-14) if session.subject.dtype in ("float32", "float64", "bfloat16") else (8.0, 0.125)
        ):
            yield (
                tuple(c * power for c in trial.cotangent),
                lambda i: np.asarray(bars[i], np.float64),
                power,
            )

    message = "a cotangent {power:g} times as large does not give cotangents {power:g} times as large"
    yield from _linear(session, "homogeneous", combine, message)


@named
def additive(session: Session) -> Iterator[Finding]:
    """The cotangents of a sum are the sum of the cotangents: the cotangent is not ignored, squared or taken as ones."""
    local = session.local(session.example[0].primals, dtypes(session)[-1])

    def combine(trial, bars):
        other = session.trial(trial.primals, trial.words, 7).cotangent
        theirs = local.hand(trial.primals, other)[1]
        total = tuple(a + b for a, b in zip(trial.cotangent, other, strict=True))
        yield total, lambda i: np.asarray(bars[i], np.float64) + np.asarray(theirs[i], np.float64), 1.0

    yield from _linear(session, "additive", combine, "the cotangents of a sum are not the sum of the cotangents")


@named
def zero(session: Session) -> Iterator[Finding]:
    """A cotangent of zero gives exactly zero."""
    trial = session.example[0]
    dtype = session.subject.dtype
    _must_be_finite(trial)
    bars = session.local(trial.primals, dtype).hand(trial.primals, tuple(0 * c for c in trial.cotangent))[1]
    for leaf, bar, chosen in zip(session.subject.names, bars, session.subject.differentiated, strict=True):
        make = functools.partial(Finding, str(session.subject), "zero", leaf, dtype, example=trial.words)
        if chosen:
            largest = np.max(np.abs(np.asarray(bar, np.float64)), initial=0)
            message = f"the cotangent is {largest:.3g} where that of the output is zero"
            fault = "nonlinear" if np.isfinite(largest) else "not_finite"
            yield make("right") if largest == 0 else make("wrong", ratio=np.inf, message=message, fault=fault)
