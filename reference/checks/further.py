"""Beyond the example: second order, other dtypes, other lengths, what is kept in between."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator

import jax
import numpy as np

from ..allowance import scale, unit
from ..finding import CannotTell, Finding
from ..pullback import pull
from ..session import Session
from ..subject import Subject
from ..tracing.interpreter import equations, settles
from ..tracing.widening import kind
from ..trials import batch
from ..trials.bounds import beyond_the_end
from ..trials.lengths import ELEMENTS, longer, other_lengths, set_apart
from .naming import dtypes, first_line, named


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
    for finding in inner.judge("second_order", at, dtype, answer, outputs=False, once=True):
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
            if isinstance(error, CannotTell) or _takes(session, trial.primals, dtype):
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
def shapes(session: Session) -> Iterator[Finding]:
    """Other lengths: one, odd, none; where the function takes them, its derivative is right there too."""
    dtype, tried = session.subject.dtype, 0
    for i, (words, primals) in enumerate(_reshaped(session)):
        try:
            trial = session.trial(primals, words, 200 + i)
            if beyond_the_end(session.local(primals, dtype).equations):
                continue
        except Exception:  # the function does not take arguments of these shapes
            continue
        try:
            yield from session.judge("shapes", trial, dtype, once=True)
            tried += 1
        except CannotTell:
            continue
        except Exception as error:  # lengths that nobody asked for: to refuse them is no wrong gradient
            if not _takes(session, primals, dtype):
                continue
            tried += 1
            message = f"with {words} the derivative raises {type(error).__name__}: {first_line(error)}"
            yield Finding(str(session.subject), "shapes", words, dtype, "abstained", message=message, example=words)
    if not tried:
        raise CannotTell("the function takes no other lengths than the example's")


def _takes(session, primals, dtype) -> bool:
    """Whether the function itself runs there."""
    try:
        local = session.local(primals, dtype)
        with local.precision():
            jax.block_until_ready(local.primal(*session.subject.cast(primals, dtype)))
    except Exception:
        return False
    return True


def _reshaped(session):
    takes, thorough = session.takes, session.profile.thorough
    made = list(other_lengths(session.subject.example, session.uses, takes, thorough))
    none = [m for m in made if m[0].startswith("length 0 ")]
    if thorough:
        return [*(m for m in made if m not in none or not session.is_kernel), *_in_a_batch(session)]
    if session.profile.name != "default":
        return []
    ones = [m for m in made if m[0].startswith("length 1 ")]
    others = [m for m in made if m not in ones and m not in none]
    if (
        session.is_kernel
    ):  # it reads no more than its blocks of what is longer, is slow, and may run for ever on nothing
        return [*others, *ones[:3], *_in_a_batch(session)]
    ones = [*ones[:3], *_spread(session)]
    apart = set_apart(session.subject.example, session.subject.names, session.uses, takes)
    return [*others, *apart, *ones, *none[:1], *_longer(session), *_in_a_batch(session)]


def _longer(session):
    """Longer than a block, unless the function grows with it as a loop of Python's does."""
    local = session.local(session.subject.example, session.subject.dtype)

    def made_of(primals):
        with local.precision():
            shapes = [np.shape(a) for a in primals]
            functions = {session.subject, session.subject.traceable}
            return [equation for f in functions for equation in equations(session.traced(shapes, f))]

    def small(primals):
        if any(np.size(a) > ELEMENTS for a in primals):
            return False
        try:
            made = made_of(primals)
        except Exception:  # the function does not take them
            return False
        largest = max((math.prod(out.aval.shape) for equation in made for out in equation.outvars), default=0)
        shapes = [np.shape(a) for a in primals]
        return len(made) <= 2 * len(known) and largest <= ELEMENTS and session.takes(shapes)

    try:
        known = made_of(session.subject.example)
    except Exception:
        return
    primitives = [equation.primitive.name for equation in known]
    yield from longer(session.subject.example, session.uses, primitives, small)


def _in_a_batch(session):
    """The example in a batch, where the function takes it for one: it gives of all what it gives of each."""
    subject, dtype = session.subject, session.subject.dtype
    for alone, words in ((False, "every array"), (True, "the arrays with most axes")):
        lanes, axes = batch(subject.example, subject.differentiated, session.uses, session.seed, alone)
        primals = tuple(a[0] if axis is None else np.stack(a) for axis, *a in zip(axes, *lanes, strict=True))
        if not session.takes(map(np.shape, primals)):
            continue
        with contextlib.suppress(Exception):  # whatever a function says of what it does not take
            each = zip(*(session.local(lane, dtype).plainly(lane) for lane in lanes), strict=True)
            together = session.local(primals, dtype).plainly(primals)
            if all(_alike(a, np.stack(b), dtype) for a, b in zip(together, each, strict=True)):
                yield f"a batch of {len(lanes)} in front of {words}", primals
                return


def _spread(session):
    """An argument that has a length 1 in the example has it elsewhere too, if it is spread over others (broadcast)."""
    subject, dtype = session.subject, session.subject.dtype
    example = subject.example

    def with_one(i, a):
        return *example[:i], a, *example[i + 1 :]

    def outputs(primals):
        return session.local(primals, dtype).plainly(primals)

    def fits(primals):
        bars = session.local(primals, dtype).by_hand[1][1]
        return all(bar is None or bar.shape == np.shape(a) for a, bar in zip(primals, bars, strict=True))

    for i, a in enumerate(example):
        known = {n for j, other in enumerate(example) if j != i for n in np.shape(other)}
        small = a
        meant = subject.differentiated[i] and 1 in np.shape(a)
        for axis in [axis for axis, n in enumerate(np.shape(a)) if meant and n > 1 and n in known]:
            one = np.take(small, [0], axis)
            with contextlib.suppress(Exception):  # whatever either has against it
                narrow, wide = with_one(i, one), with_one(i, np.broadcast_to(one, np.shape(a)))
                if fits(narrow) and all(_alike(*o, dtype) for o in zip(outputs(narrow), outputs(wide), strict=True)):
                    small = one
        if small is not a:
            words = f"shape {np.shape(small)} for {np.shape(a)} in {subject.names[i]}"
            yield words, with_one(i, small)


def _alike(a, b, dtype) -> bool:
    """Whether they are the same to half of their digits."""
    a, b = (np.asarray(each, np.float64) for each in (a, b))
    return a.shape == b.shape and bool(np.all(np.abs(a - b) <= np.sqrt(unit(dtype)) * scale(b)))


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
