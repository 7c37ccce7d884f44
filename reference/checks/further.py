"""Beyond the example: second order, other dtypes, what is kept in between."""

import dataclasses
import math
from collections.abc import Iterator

import jax
import numpy as np

from ..finding import CannotTell, Finding
from ..pullback import pull
from ..session import Session
from ..subject import Subject
from ..tracing.interpreter import settles
from ..tracing.widening import kind
from ..trials import other_values
from .naming import dtypes, first_line, named, takes


@named
def second_order(session: Session) -> Iterator[Finding]:
    """Differentiating the backward pass equals differentiating the definition twice."""
    trial, dtype = session.example[0], dtypes(session)[-1]
    local = session.local(trial.primals, dtype)
    if session.measured(trial, dtype) and not local.reverse:
        raise CannotTell(f"autodiff of the definition does not apply: {local.why}")
    if local.stops_gradient and _means_it(session, trial, dtype):
        raise CannotTell("the definition stops a gradient on purpose: what that is, differentiated again, is not told")
    chosen, names = session.subject.differentiated, session.subject.names
    count = len(trial.primals)

    def bars_of(pullback):
        def function(*both):
            bars = pullback(both[:count], both[count:])[1]
            return tuple(bar for bar, c in zip(bars, chosen, strict=True) if c)

        return function

    def twice(*both):
        return pull(local.definition, both[:count], both[count:])

    with local.precision():
        cast = (*session.subject.cast(trial.primals, dtype), *local.cast_outputs(trial.cotangent))
    derived = Subject(bars_of(local.pullback), cast, truth=None, name=f"the derivative of {session.subject}")
    derived.names = [*names, *(f"cotangent of {name}" for name in session.subject.output_names(len(trial.cotangent)))]
    derived.definition = lambda *both: tuple(bar for bar, c in zip(twice(*both)[1], chosen, strict=True) if c)
    inner = session.inner = Session(derived, session.profile, session.seed)
    try:
        at = inner.trial(
            tuple(np.asarray(a, np.float64) if kind(a.dtype) == "float" else a for a in cast), trial.words, 11
        )
        answer = inner.answer(at, dtype)
    except Exception as error:
        raise CannotTell(f"the backward pass cannot be differentiated: {first_line(error)}") from None
    yield from _of_second_order(inner.judge("second_order", at, dtype, answer, outputs=False, once=True), session)
    for at in _among_zeros(session, dtype):
        both = inner.trial((*at.primals, *trial.cotangent), at.words, 12)
        answer = inner.answer(both, dtype)
        if all(np.isfinite(bar).all() for bar in jax.tree.leaves(answer[1])):
            found = inner.judge("second_order", both, dtype, answer, outputs=False, once=True)
            yield from _of_second_order(found, session)
        else:  # as where what it calls, an SVD of a matrix that is short of a rank, has a derivative and no second one
            message = "the backward pass, differentiated, is not finite at some zeros"
            yield Finding(str(session.subject), "second_order", "", dtype, "abstained", message=message)


ZEROS = 4  # draws of which some numbers are zero: there a derivative is often put together from parts


def _among_zeros(session, dtype):
    """Trials with zeros in them at which nothing kinks; of what repeats its steps, fewer digits are known there."""
    if not session.profile.values or session.repeats or session.searches:
        return
    example, chosen = session.subject.example, session.subject.differentiated
    for k in range(ZEROS):
        at = session.trial(other_values(example, chosen, "zeros", seed=session.seed + k, uses=session.uses), "zeros")
        found = list(session.judge("kinks", at, dtype, outputs=False, remember=False))
        if all(finding.ok for finding in found) and (id(at), dtype) not in session.kinked:
            yield at


def _of_second_order(findings, session):
    """Findings about the derivative's derivative, put down to the subject."""
    for finding in findings:
        wrong = {"message": "the backward pass, differentiated, is not the second derivative", "fault": "transform"}
        yield dataclasses.replace(
            finding, subject=str(session.subject), **(wrong if finding.verdict == "wrong" else {})
        )


def _means_it(session, trial, dtype) -> bool:
    """Whether the cotangents would be others if no gradient were stopped."""
    at, yardstick = session.rounded(trial, dtype), session.measured(trial, dtype)
    through = session.local(trial.primals, dtype).unstopped(at.primals, at.cotangent)
    if through is None:
        raise CannotTell("the definition stops a gradient, and is not made to run without the stop")
    leaves = zip(through, yardstick.truth[1], yardstick.allowance[1], strict=True)
    return any(truth is not None and np.any(np.abs(bar - truth) > allowed) for bar, truth, allowed in leaves)


@named
def precision(session: Session) -> Iterator[Finding]:
    """In half precision too the cotangents are right, beside what autodiff of the definition loses there."""
    others = [d for d in ("bfloat16", "float16", "float32") if d != session.subject.dtype][: session.profile.dtypes]
    if not others:
        raise CannotTell("this profile tries the example's dtype and float64 alone")
    trial, refused = session.example[0], []
    for dtype in others:
        try:
            if settles(session.local(trial.primals, dtype).by_hand[0]):
                refused.append(f"{dtype}: a loop that stops when something is small enough may never do so there")
                continue
            answer = session.answer(trial, dtype)
            findings = list(session.judge("precision", trial, dtype, answer, outputs=False))
        except (TypeError, ValueError, NotImplementedError) as error:
            refused.append(f"{dtype}: {first_line(error)}")
            continue
        except Exception as error:  # as a solver that does not converge there says, or a table without that dtype
            if isinstance(error, CannotTell) or takes(session, trial.primals, dtype):
                raise
            refused.append(f"{dtype}: {first_line(error)}")
            continue
        if any(f.verdict == "wrong" for f in findings):
            excuse = {"verdict": "abstained", "diagnosis": None}
            lost = excuse | {"message": f"autodiff of the definition fails in {dtype} too"}
            bad = dict.fromkeys(_lost_by_autodiff(session, trial, dtype), lost)
            if _leaves(session, trial, dtype):  # it was not written for that one
                bad |= {
                    f.leaf: excuse | {"message": f"{f.message}; the function itself leaves {dtype} for another"}
                    for f in findings
                    if f.fault == "structure" and f.message.startswith("the dtype")
                }
            findings = [dataclasses.replace(f, **bad[f.leaf]) if f.leaf in bad and not f.ok else f for f in findings]
        yield from findings
    if len(refused) == len(others):
        raise CannotTell(f"the function refuses other dtypes ({'; '.join(refused)})")


def _leaves(session, trial, dtype) -> bool:
    """Whether a function of this dtype gives another: constants of a wider one are part of it."""
    outputs = session.local(trial.primals, dtype).outputs
    return all(str(o.dtype) != dtype for o in outputs if jax.dtypes.issubdtype(o.dtype, np.floating))


def _lost_by_autodiff(session, trial, dtype) -> set[str]:
    """The leaves where autodiff of the definition, run in the dtype itself, is off too."""
    try:
        theirs = session.local(trial.primals, dtype).autodiff(trial.primals, trial.cotangent)
    except (TypeError, ValueError, NotImplementedError, AssertionError):
        return set()  # it does not apply, as in a kernel
    judged = session.judge("precision", trial, dtype, theirs, outputs=False, remember=False)
    return {finding.leaf for finding in judged if not finding.ok}


@named
def residuals(session: Session) -> Iterator[Finding]:
    """The bytes that the forward pass keeps for the backward pass, beside those that autodiff keeps."""
    trial, dtype = session.example[0], session.subject.dtype
    local, cast = session.local(trial.primals, dtype), session.subject.cast(trial.primals, dtype)
    with local.precision():
        kept = jax.eval_shape(lambda *primals: session.subject.vjp(session.subject, primals)[1].kept, *cast)
    total = sum(math.prod(a.shape) * a.dtype.itemsize for a in kept if hasattr(a.dtype, "itemsize"))
    given = sum(a.nbytes for a in cast if hasattr(a, "nbytes"))
    message = f"{total} bytes are kept; the arguments have {given}"
    yield Finding(str(session.subject), "residuals", "", dtype, "right", message=message, example=trial.words)
