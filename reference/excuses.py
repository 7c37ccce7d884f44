"""What is told of a derivative, and not held against it, at values that nobody gave."""

import numpy as np

from .allowance import SLACK, scale, unit
from .discrepancy import discrepancy
from .tracing.widening import CannotWiden

HUGE, MINUTE = "huge", "minute"  # values in the thousands, and below the smallest number that the function knows
EARLY = "a search, or a number of steps, ends early here; if it went on, this is what it would tend to"
NOTHING = "length 0"
OUTERMOST = ("ends", "infinities", "infinite rows", "missing", HUGE)


def excuse(session, trial, dtype, place, value, apart) -> tuple[str, str] | None:
    """The verdict on a cotangent that is off; None where it is wrong."""
    if trial.words.startswith(NOTHING) and not np.isfinite(value).all():
        return "abstained", "of nothing at all: not finite, as a mean of no numbers"
    if place is not None and unfinished(session, trial, dtype, place, apart.absolute):
        return "right", EARLY
    if not trial.given and _searched(session, trial, dtype, place, apart):
        return "abstained", "what searches is as exact as it stops, and half of the digits are left here"
    if place is None:  # of an output: what a library does inside rounds, too, and nobody measured it
        half = not trial.given and dtype == "float64" and apart.relative <= np.sqrt(unit(dtype))
        return ("right", "half of the digits are left here") if half else None
    return _digits_lost(session, trial, dtype, place, apart) or _overflows(session, trial, dtype, place, value)


def no_slope(session, trial, dtype, place, value, answer) -> dict | None:
    """What is said of a cotangent that differences contradict, of numbers for which autodiff is not finite."""
    if (trial.words in OUTERMOST or trial.words.startswith(NOTHING)) and not np.isfinite(value).all():
        return None  # which need not belong to the domain
    around, jumping = session.look_around(trial, dtype)
    if jumping:  # so it has no slope
        return None
    found = session.differences(session.rounded(trial, dtype), dtype)
    if found is None or session.function_fails(trial, dtype, answer):
        return None
    slope, error, truth = found.value[place], found.error[place], session.measured(trial, dtype).truth[1][place]
    with np.errstate(invalid="ignore"):
        known = ~np.isfinite(truth) & np.isfinite(slope) & np.isfinite(error)
        half = np.sqrt(unit(session.local(trial.primals, dtype).unit))  # what rounding does here, nobody measured
        if around is not None:  # where the sides have slopes of their own, differences have what lies between
            known &= ~(np.ptp(around[place], axis=0) > half * scale(np.where(known, around[place], 0)))
        rounding = half * scale(np.where(known, slope, 0))
        if not np.any(known & ~(np.abs(value - slope) <= SLACK * error + rounding)):
            return None
    message = "autodiff of the definition is not finite here; differences are, and this is not what they tend to"
    return {"ratio": np.inf, "message": message, "fault": None if np.isfinite(value).all() else "not_finite"}


def _searched(session, trial, dtype, place, apart):
    """Whether half of the digits are left of what a search found."""
    if not session.searches:
        return False
    sizes = [scale(a) for a in session.measured(trial, dtype).truth[place is not None] if a is not None]
    half = np.sqrt(unit(session.local(trial.primals, dtype).unit))
    return apart.absolute <= half * max(sizes, default=0.0)


def unfinished(session, trial, dtype, place, off=0.0) -> bool:
    """Whether definition and formula agree where their searches go on: both stop as early as they were asked to.

    And whether what came is off by no more than they are by stopping.  A number of steps is what somebody chose for
    the values that are given; at others it may be too small.
    """
    if session.subject.outside or not (session.searches or (session.repeats and not trial.given)):
        return False
    local, at = session.local(trial.primals, dtype), session.rounded(trial, dtype)
    before = session.measured(trial, dtype)
    try:
        truth, value = (np.asarray(bars[place]) for bars in local.in_the_end(at.primals, at.cotangent, not trial.given))
        stopped = np.asarray(local.formula(at.primals, at.cotangent)[1][place])
        early = max(scale(truth - before.truth[1][place]), scale(value - stopped))
    except Exception:  # what a stranger's loop has against more steps
        return False
    apart = discrepancy(value, truth, before.allowance[1][place], local.unit)
    return apart is not None and apart.ratio <= 1 and off <= SLACK * early


def _digits_lost(session, trial, dtype, place, apart):
    """A formula that is right and loses digits.

    What is kept for the backward pass is rounded, and where it is large, as a log-sum-exp of large numbers, the
    rounding shows: the exponential of a logarithm that came out before is off by as many roundings as that is large.
    As long as half of the digits are left, or those, and of numbers in the thousands without that, it is told; and
    where nothing is lost but some roundings of what the derivative usually is, as in the sum behind an opaque sample,
    or where a single element of the cotangent leaves zeros that others come from by cancelling.
    """
    if trial.given and not trial.sparse and dtype == session.subject.dtype:
        return None
    local, truth = session.local(trial.primals, dtype), session.measured(trial, dtype)
    u, size = unit(local.unit), max(map(scale, truth.truth[0]), default=0.0)
    whole, allowance = scale(truth.truth[1][place]), truth.allowance[1][place]
    unsure = scale(allowance) >= whole / 2  # rounding alone leaves no digit: what it may do, a few copies do not tell
    nothing = SLACK * usual(session, trial, dtype, place)  # times a rounding: where the derivative dies away
    # What is kept is asked for, and compiled, only where it can matter.
    if not apart.absolute <= whole * (SLACK * u * size if dtype == "float64" else np.sqrt(u)):
        size = max([size, *map(scale, _kept(session, trial, dtype))])
    few = apart.absolute > max(min(max(np.sqrt(u), SLACK * u * size), 0.5) * whole, u * nothing) and not unsure
    few = few or not np.isfinite(apart.absolute)
    beyond = trial.words == HUGE and np.isfinite(apart.absolute)
    if few and not beyond:
        return None
    left = f"{-np.log10(max(apart.relative, u)):.1f} of {-np.log10(u):.1f} digits"
    if dtype == "float64":  # which nothing is wider than
        if np.all(allowance >= whole / 2) and apart.ratio <= SLACK:
            return "abstained", "rounding alone leaves the truth no digit here"
        return ("right", f"{left} are left here") if apart.absolute <= u * max(SLACK * size * whole, nothing) else None
    at = session.rounded(trial, dtype)
    try:
        value = np.asarray(local.formula(at.primals, at.cotangent)[1][place])
    except (CannotWiden, TypeError, ValueError, NotImplementedError):
        return "abstained", f"{left} are left here, and what runs inside cannot be run with more of them"
    exact = discrepancy(value, truth.truth[1][place], allowance + unit("float64") * nothing, local.unit)
    return ("right", f"the formula is right; {left} are left here") if exact and exact.ratio <= 1 else None


def usual(session, trial, dtype, place) -> float:
    """How large the cotangent of a leaf is at the example, or what comes in, or what the output would feel.

    Of numbers no smaller than the example's the output, ⟨ȳ, y⟩ / min(x, 1): less than its rounding is nothing to it.
    """
    truths = (session.measured(each, dtype).truth[1][place] for each in session.example)
    pairs = zip(trial.cotangent, session.measured(trial, dtype).truth[0], strict=True)
    size, felt = scale(trial.primals[place]), sum(float(np.sum(np.abs(bar * out))) for bar, out in pairs)
    larger = size >= scale(session.subject.example[place])
    felt = felt / min(size, 1.0) if larger and size else 0.0  # of a large exponent the output feels all
    return max(*map(scale, (*truths, *trial.cotangent)), felt)


def _kept(session, trial, dtype) -> list:
    """The numbers that the forward pass keeps for the backward pass."""
    local = session.local(trial.primals, dtype)
    try:
        with local.precision():
            kept = local.kept(*session.subject.cast(session.rounded(trial, dtype).primals, dtype))
    except (TypeError, ValueError, NotImplementedError):  # as what does not go under jit says
        return []
    return [np.asarray(a, np.float64) for a in kept]


def _overflows(session, trial, dtype, place, value):
    """In the thousands, or of their reciprocals, what autodiff of the definition overflows at may overflow."""
    if trial.words not in (HUGE, MINUTE) or np.isfinite(value).all():
        return None
    try:
        theirs = session.local(trial.primals, dtype).autodiff(trial.primals, trial.cotangent)[1][place]
    except (TypeError, ValueError, NotImplementedError, AssertionError):
        return None
    if np.isfinite(np.asarray(theirs, np.float64))[~np.isfinite(value)].any():
        return None
    return "abstained", f"it leaves the range of {dtype} here, and so does autodiff of the definition"
