"""Against other oracles: the whole Jacobian, differences, complex steps, the adjoint identity, the remainder."""

import contextlib
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from ..allowance import SLACK, unit
from ..discrepancy import discrepancy
from ..excuses import EARLY, unfinished
from ..finding import CannotTell, Finding
from ..oracles import adjoint, adjoint_differences
from ..oracles.estimates import Abstains
from ..precision import compiled
from ..session import Session
from ..tracing.widening import kind
from .naming import dtypes, first_line, named


def _against(session, check, name):
    """The cotangents against an oracle, which is allowed the error that it states."""
    trial = session.example[0]
    dtype = dtypes(session)[-1]
    local, answer = session.local(trial.primals, dtype), session.answer(trial, dtype)
    allowances = session.measured(trial, dtype).allowance[1]
    at = session.rounded(trial, dtype)
    _must_not_be_a_convention(session, trial, dtype)
    if name == "jacfwd" and session.by_differences:
        raise CannotTell(f"{local.why}: forward mode, too")
    with _asking():
        estimate = local.oracle(name)(at.primals, at.cotangent)
    if check in SLOPES and local.stops_gradient:
        _must_be_the_slope(estimate, session.measured(trial, dtype))
    for i, leaf in enumerate(session.subject.names):
        if not session.subject.differentiated[i] or allowances[i] is None:
            continue
        make = functools.partial(Finding, str(session.subject), check, leaf, dtype, example=trial.words)
        got = np.asarray(answer[1][i], np.float64)
        room = SLACK * estimate.error[i]
        nearest = np.clip(got, estimate.value[i] - room, estimate.value[i] + room)
        apart = discrepancy(got, nearest, allowances[i], local.unit)
        if apart is None or not np.isfinite(room).any():
            yield make("abstained", message="the oracle cannot tell here")
        else:
            found = make("wrong" if apart.ratio > 1 else "right", **vars(apart))
            early = not found.ok and unfinished(session, trial, dtype, i, apart.absolute)
            yield make("abstained", message=EARLY) if early else found


@contextlib.contextmanager
def _asking():
    """Around what an oracle computes: what is raised there says nothing of the derivative by hand."""
    try:
        yield
    except Abstains as reason:
        raise CannotTell(reason.reason) from None
    except Exception as error:
        raise CannotTell(f"the oracle does not run here: {type(error).__name__}: {first_line(error)}") from error


SLOPES = ("differences", "complex_step")


def _must_not_be_a_convention(session, trial, dtype):
    """At a kink an oracle has a choice of its own, or the slope of no side; in float64 it may see another function."""
    if session.function_fails(trial, dtype, session.answer(trial, dtype)):
        raise CannotTell(f"the function itself is off in {dtype}, or another in float64, as one whose draws differ")
    found = list(session.judge("kinks", trial, dtype, outputs=False, remember=False))
    if (id(trial), dtype) in session.kinked and all(finding.verdict != "wrong" for finding in found):
        raise CannotTell("the example lies on a kink, where the derivative is a convention: see truth")


def _must_be_the_slope(estimate, yardstick):
    """A definition that stops a gradient may have another derivative than its slope: that is what was meant."""
    for value, error, truth, allowance in zip(
        estimate.value, estimate.error, yardstick.truth[1], yardstick.allowance[1], strict=True
    ):
        if value is not None and truth is not None and np.any(np.abs(value - truth) > SLACK * error + allowance):
            raise CannotTell("the definition stops a gradient: its derivative is not its slope, and is meant so")


@named
def jacobian(session: Session) -> Iterator[Finding]:
    """The cotangents equal the whole Jacobian, by forward mode, contracted with the cotangent."""
    yield from _against(session, "jacobian", "jacfwd")


@named
def differences(session: Session) -> Iterator[Finding]:
    """The cotangents equal differences of the function, extrapolated to step zero: no autodiff is involved."""
    yield from _against(session, "differences", "richardson")


@named
def complex_step(session: Session) -> Iterator[Finding]:
    """The cotangents equal steps off the real axis, where the function is holomorphic."""
    yield from _against(session, "complex_step", "complex_step")


@named
def adjoint_identity(session: Session) -> Iterator[Finding]:
    """⟨J v, ȳ⟩ = ⟨v, x̄⟩ for random v, with J v by forward mode, and by differences where that does not apply."""
    trial = session.example[0]
    floats = [i for i, a in enumerate(trial.primals) if kind(a.dtype) == "float"]
    if not all(session.subject.differentiated[i] for i in floats):
        raise CannotTell("an argument that is not differentiated moves the output too")
    dtype = dtypes(session)[-1]
    local, bars = session.local(trial.primals, dtype), session.answer(trial, dtype)[1]
    allowances = session.measured(trial, dtype).allowance[1]
    at = session.rounded(trial, dtype)
    _must_not_be_a_convention(session, trial, dtype)
    full = _filled(session, bars)
    for oracle in (adjoint_differences,) if session.by_differences else (adjoint, adjoint_differences):
        try:
            with _asking():
                identity = oracle.__wrapped__(local.definition)(at.primals, at.cotangent, primals_bar=full)
            break
        except CannotTell as told:
            reason = told
    else:
        raise reason
    room = np.concatenate([np.ravel(allowances[i]) for i in floats])
    allowed = SLACK * identity.error + np.abs(identity.directions) @ np.where(np.isfinite(room), room, np.inf)
    off = np.abs(identity.discrepancy)
    ratio = float(np.max(np.where(np.isfinite(allowed) & (off > 0), off / allowed, 0), initial=0))
    if ratio > 1:
        _must_have_ended(session, trial, dtype)
    make = functools.partial(Finding, str(session.subject), "adjoint_identity", "all arguments", dtype)
    yield make("wrong" if ratio > 1 else "right", absolute=float(np.max(off)), ratio=ratio, example=trial.words)


def _must_have_ended(session, trial, dtype):
    """A search that stops early is of all arguments together neither here nor there."""
    if all(unfinished(session, trial, dtype, i) for i, c in enumerate(session.subject.differentiated) if c):
        raise CannotTell(EARLY)


def _filled(session, bars):
    return tuple(
        np.zeros(np.shape(a)) if bar is None and kind(a.dtype) == "float" else bar
        for a, bar in zip(session.example[0].primals, bars, strict=True)
    )


@named
def taylor(session: Session) -> Iterator[Finding]:
    """What is left of ⟨ȳ, f(x + h v) − f(x)⟩ − h ⟨x̄, v⟩ falls with h²: halving h divides it by four, not by two."""
    trial = session.example[0]
    dtype = dtypes(session)[-1]
    local, bars = session.local(trial.primals, dtype), session.answer(trial, dtype)[1]
    if local.stops_gradient:
        raise CannotTell("the definition stops a gradient: its derivative need not be its slope")
    if session.by_differences and session.searches:
        raise CannotTell("a search ends in steps, and they leave a remainder of their own")
    _must_not_be_a_convention(session, trial, dtype)
    at = session.rounded(trial, dtype)
    rng = np.random.default_rng(session.seed)
    chosen = session.subject.differentiated
    floats = [i for i, a in enumerate(at.primals) if kind(a.dtype) == "float" and chosen[i]]
    v = {i: rng.normal(size=np.shape(at.primals[i])) * np.maximum(np.abs(at.primals[i]), 2.0**-4) for i in floats}
    steps = 2.0 ** -np.arange(2.0, 16.0)

    def moved(h):
        outputs = local.definition(*(a + h * v[i] if i in v else a for i, a in enumerate(at.primals)))
        return sum(jnp.sum(c * o) for c, o in zip(at.cotangent, outputs, strict=True))

    with jax.enable_x64(True), _asking():
        program = compiled(moved)
        start, *along = (float(program(h)) for h in np.concatenate([[0.0], steps, -steps]))
    forth, back = np.reshape(along, (2, -1)) - start
    slope = sum(float(np.vdot(np.asarray(bars[i], np.float64), v[i])) for i in floats)
    left = np.abs(forth - steps * slope)
    floor = 64 * np.finfo(np.float64).eps * max(np.max(np.abs([start, *along])), 1e-300) + steps * unit(
        local.unit
    ) * SLACK * sum(float(np.sum(np.abs(np.asarray(bars[i], np.float64) * v[i]))) for i in floats)
    use = np.isfinite(left) & (left > 8 * floor)
    if use.sum() < 4:
        raise CannotTell("the function is straight, or its remainder drowns in rounding")
    bent = np.abs(forth + back)[use][-4:]
    if np.all(bent > 8 * floor[use][-4:]) and _order(steps[use][-4:], bent) < HALF_WAY:
        raise CannotTell("the function has a kink at the example: its slopes on either side differ")
    order = _order(steps[use][-4:], left[use][-4:])
    if order <= HALF_WAY:
        _must_have_ended(session, trial, dtype)
    make = functools.partial(Finding, str(session.subject), "taylor", "all arguments", dtype, example=trial.words)
    said = f"the remainder falls with h^{order:.2f}; with a right derivative it is h^2"
    yield make("right", message=said) if order > HALF_WAY else make("wrong", ratio=np.inf, message=said)


HALF_WAY = 1.5  # between what is left of a wrong slope, which falls with h, and of a right one, with h²


def _order(steps, left) -> float:
    return float(np.polyfit(np.log2(steps), np.log2(left), 1)[0])
