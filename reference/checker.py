"""`check` and `assert_correct`: the whole contract on one function, and what it found, for people and for programs."""

import concurrent.futures
import dataclasses
import functools
import os
import pathlib
import threading
import time
import traceback
from collections.abc import Callable, Iterable

import jax
import numpy as np

from .blame import blamed
from .checks import CHECKS
from .checks.naming import first_line
from .explaining import explained, severity
from .finding import BROKEN, GIVEN_UP, INTERRUPTED, LEFT_OUT, CannotTell, Finding
from .kinks import floating
from .patience import Left, Patience
from .profiles import PROFILES
from .progress import progress
from .reproduction import reproduced
from .result import Interrupted, Result
from .session import Session
from .subject import Subject, Unusable, real_outputs
from .trials.kept import kept

HERE = pathlib.Path(__file__).parent
SECONDS = 60.0  # for one check, before it is given up
NOWHERE = "the definition is not finite wherever this check looked"
NOTHING = "there is nothing that this check could look at"
AT_THE_EXAMPLE = ("value", "truth")
AT_LENGTH = (*AT_THE_EXAMPLE, "structure", "residuals")  # all else, where the example is large, at shorter lengths
FIRST = ("value", "structure", "truth", "values", "kinks")  # what they measure, the others use
LONGEST = ("shapes", "eager")  # so they begin before the others do
SHOWN = 4  # arguments of which it is said what every trial keeps
ALONE = "repeatable"  # two calls are to be the same, with no third one beside them


def check(
    function: Callable,
    *args,
    argnums: int | tuple[int, ...] | None = None,
    truth: Callable | None = None,
    checks: Iterable[str] | None = None,
    profile: str = "default",
    seed: int = 0,
    seconds: float = SECONDS,
    name: str | None = None,
    reproduce: bool = True,
) -> Result:
    """Check a derivative written by hand against everything that a correct one fulfils.

    function   a `jax.custom_vjp` or `jax.custom_jvp` function, a rule, or any JAX callable that contains some
    args       example arguments: arrays, pytrees of arrays, keys; what is neither is static.  Other values and
               lengths are tried as well; what the examples have in common (positive, sorted, rows that sum to one,
               a symmetric matrix) is kept
    argnums    which arguments to differentiate; all that hold floats, if left out
    truth      a plain implementation of the same function, where the function's own primal cannot be differentiated;
               what JAX cannot trace (NumPy, SciPy, mpmath, PyTorch) is called with float64 and told by differences
    checks     names of `checks.CHECKS` to run; all, if left out
    profile    'quick', 'default' or 'thorough'
    seconds    for one check, before it is given up
    reproduce  whether a failure is made small, and written as lines that show it

    Ctrl-C raises `Interrupted`, a KeyboardInterrupt whose `result` is what was found until then.

    >>> import jax, jax.numpy as jnp
    >>> @jax.custom_vjp
    ... def square(x):
    ...     return x * x
    >>> square.defvjp(lambda x: (x * x, x), lambda x, y_bar: (x * y_bar,))
    >>> result = check(square, jnp.arange(1.0, 4.0), profile="quick")
    >>> print(result.ok, result.diagnosis.diagnosis.split(":")[0])
    False off by a factor of 1/2 everywhere
    """
    start = time.monotonic()
    _must_make_sense(profile, seed, seconds, name)
    without = PROFILES[profile].without if checks is None else ()
    chosen = [name for name in _chosen(checks) if name not in without]
    patience = Patience(seconds)
    subject = _in_time(lambda: Subject(function, args, argnums, truth, name), patience, name or function)
    session = Session(subject, PROFILES[profile], seed)
    make = functools.partial(Finding, str(subject), leaf="", dtype=subject.dtype, verdict="abstained")
    told = [make(n, message=f"{LEFT_OUT} the {profile} profile; checks={n!r} asks for it") for n in without]
    # By check: what it has found, and as long as it is not done, that it is not.
    found = {n: [make(n, message=INTERRUPTED)] for n in sorted(chosen, key=lambda name: name not in FIRST)}

    def result(findings):
        took = time.monotonic() - start
        said = "; ".join(filter(None, (advice, _of_the_example(session, chosen))))
        return Result(str(subject), (*findings, *told), tuple(session.outside), took, said)

    with progress(str(subject)) as at:
        findings, advice = None, ""
        try:
            _must_run(session, patience)
            advice = _advice(session)
            _run(session, found, patience, lambda part: at("; ".join(filter(None, (part, advice)))))
            findings = _worst(found)
            at("explaining")
            findings = _helped(lambda: _explained(session, findings), patience) or findings
            if reproduce:
                at("making what fails small")
                shown = session.in_little if session.in_little.failed else session
                findings = _helped(lambda: reproduced(shown, findings), patience) or findings
        except KeyboardInterrupt:
            patience.give_up()
            raise Interrupted(result(findings or _worst(found))) from None
    return result(findings)


def _run(session, found, patience, at) -> None:
    """All findings of the checks, each in place of what stands in `found`."""
    if raised := _raises(session, found, patience):
        found.update((finding.check, [finding]) for finding in raised)
        return

    def one(name):
        at(name)
        _one(session if name in AT_LENGTH else little, name, found[name], patience)

    little = _helped(lambda: session.in_little, patience) or session
    names, unfinished = list(found), {name: own[0] for name, own in found.items()}
    first = [name for name in names if name in FIRST]
    for i, name in enumerate(first, 1):
        one(name)
        if (
            little is session and name in AT_THE_EXAMPLE and any(finding.given_up for finding in found[name])
        ):  # where all others begin
            message = f"not asked: {name} was given up at the example's own values"
            for other in names[i:]:
                found[other] = [dataclasses.replace(finding, message=message) for finding in found[other]]
            return
    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())  # XLA compiles outside of Python's lock
    try:
        others = sorted({*names} - {*first, ALONE}, key=lambda name: (name not in LONGEST, names.index(name)))
        for begun in [pool.submit(one, name) for name in others]:
            begun.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    if ALONE in found:
        one(ALONE)
    if all(finding.ok for name in first for finding in found[name]):
        # A function that writes to what others read may be wrong for being called beside itself alone.
        for name in (name for name in others if not all(finding.ok for finding in found[name])):
            little.failed = [failed for failed in little.failed if failed.finding.check != name]
            found[name][:] = [unfinished[name]]
            one(name)


def assert_correct(function: Callable, *args, **options) -> None:
    """Raise an AssertionError that says what is wrong with a derivative, and how to reproduce it.

    Takes what `check` takes.
    """
    __tracebackhide__ = True
    result = check(function, *args, **options)
    if not result.ok:
        raise AssertionError(str(result))


def _explained(session, findings) -> list[Finding]:
    """Of what fails at shorter lengths, too, those say it."""
    found = explained(session.in_little, findings)
    untold = any(finding.verdict == "wrong" and not finding.fault for finding in found)
    return explained(session, found) if untold and session.in_little is not session else found


def _must_make_sense(profile, seed, seconds, name):
    if profile not in PROFILES:
        raise Unusable(f"profile is {profile!r}; it is one of {', '.join(PROFILES)}")
    if not (isinstance(seed, int | np.integer) and seed >= 0):
        raise Unusable(f"seed is {seed!r}; a whole number of at least 0 was expected")
    if not (isinstance(seconds, int | float) and 0 < seconds <= threading.TIMEOUT_MAX):
        raise Unusable(f"seconds is {seconds!r}; a number above 0, of at most {threading.TIMEOUT_MAX:g}, was expected")
    if not (name is None or isinstance(name, str)):
        raise Unusable(f"name is {name!r}; a string was expected")


def _chosen(checks):
    if checks is None:
        return tuple(CHECKS)
    chosen = (checks,) if isinstance(checks, str) else tuple(checks)
    if not chosen:
        raise Unusable("checks names none; leave it out for all")
    unknown = [name for name in chosen if name not in CHECKS]
    if unknown:
        raise Unusable(f"checks names {unknown[0]!r}; there are {', '.join(CHECKS)}")
    return chosen


def _must_run(session, patience):
    """Refuse a function that cannot be called, traced or compiled, takes for ever, or is never twice the same."""
    subject = session.subject
    try:
        local = _in_time(lambda: session.local(subject.example, subject.dtype), patience, subject)
        same = _in_time(lambda: local.traces_alike() and local.repeats(), patience, subject)
    except Unusable:
        raise
    except Exception as error:
        _called(subject, patience)
        said = f"{type(error).__name__}: {first_line(error)}".rstrip(".")
        raise Unusable(
            f"{subject}: jax.jit cannot trace the function: {said}. {_remedy(error, subject.dtype)}"
        ) from error
    if not same:  # which may be in the words of JAX alone
        pairs = zip(*(real_outputs(_called(subject, patience)) for _ in range(2)), strict=True)
        if not all(np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True) for a, b in pairs):
            raise Unusable(f"{subject}: the function is not deterministic: two calls with the same arguments differ")


def _remedy(error, dtype) -> str:
    """What a function needs that jax.jit cannot trace."""
    if isinstance(error, jax.errors.TracerArrayConversionError):
        return "What NumPy or SciPy computes is called by jax.pure_callback."
    if dtype != "float64" and "float64" in str(error):
        return "What takes no float64 is checked with truth=, a plain implementation that does."
    return "Static arguments of a custom_vjp belong in nondiff_argnums."


def _advice(session) -> str:
    """What a user should know: a kernel is slow to trace in float64, and large arguments are tried in one way alone."""
    kernel = "a kernel is checked faster, and at more lengths, with truth=, a plain implementation"
    shapes = ", ".join(str(list(shape)) for shape in dict.fromkeys(session.in_little.subject.shapes) if shape)
    shorter = f"all but {', '.join(AT_LENGTH)} at shorter lengths: {shapes}"
    return "; ".join([kernel] * session.is_kernel + [shorter] * (session.in_little is not session))


def _of_the_example(session, chosen) -> str:
    """What no trial leaves, since the example has it."""
    if not {"values", "kinks"} & {*chosen}:
        return ""
    subject = session.in_little.subject
    leaves = zip(subject.names, subject.example, subject.differentiated, strict=True)
    words = {name: kept(a)[0] for name, a, asked in leaves if asked and np.ndim(a) and floating(a)}
    said = [f"{name} ({of_it})" for name, of_it in words.items() if of_it]
    more = [f"{len(said) - SHOWN} more"] if len(said) > SHOWN else []
    return f"kept as in the example: {', '.join((*said[:SHOWN], *more))}" if said else ""


def _called(subject, patience):
    """What the function gives when it is called without jit."""
    try:
        return _in_time(lambda: subject.function(*subject.arrays()), patience, subject)
    except Unusable:
        raise
    except Exception as error:
        message = f"{subject}: the function rejects its example arguments: {type(error).__name__}: {error}"
        raise Unusable(message) from error


def _in_time(work, patience, name):
    """What comes of calling the function itself; one that takes for ever is refused."""
    try:
        return patience.within(work)
    except concurrent.futures.TimeoutError:
        said = f"{getattr(name, '__name__', name)}: the function itself takes longer than {patience.seconds:g} seconds"
        raise Unusable(said) from None
    except Left as error:
        raise Unusable(f"{getattr(name, '__name__', name)}: the function itself {error}") from None


def _raises(session, chosen, patience) -> list[Finding]:
    """What a derivative raises when it is traced, once for all checks; what has no derivative at all is refused."""
    local = session.local(session.subject.example, session.subject.dtype)
    try:
        patience.within(lambda: local.by_hand)
        return []
    except Exception as error:
        if local.autodiff_raises(type(error), first_line(error)):  # so nothing written by hand was asked
            said = f"{type(error).__name__}: {first_line(error)}"
            message = f"{session.subject}: JAX cannot differentiate the function, and nobody did by hand: {said}"
            advice = "argnums= leaves an argument out; a jax.custom_vjp gives it a derivative."
            raise Unusable(f"{message}. {advice}") from error
        make = functools.partial(Finding, str(session.subject), leaf="", dtype=session.subject.dtype)
        others = [name for name in chosen if name != "structure"]
        message = "the derivative does not get through jax.jit: see structure"
        return [
            make(check="structure", **_raised(error, patience.seconds)),
            *(make(check=name, verdict="abstained", message=message) for name in others),
        ]


def _one(session, name, own, patience) -> None:
    """The findings of one check, whatever becomes of it, before the last of its own, which says how it ended."""

    def work():
        for finding in CHECKS[name](session):
            where = f"{finding.example}, {session.where}" if finding.example and session.where else finding.example
            own.insert(-1, dataclasses.replace(finding, example=where))

    try:
        patience.within(work)
        if own[:-1]:
            own.pop()
        else:
            own[-1] = dataclasses.replace(own[-1], message=NOWHERE if session.outside else NOTHING)
    except CannotTell as reason:
        own[-1] = dataclasses.replace(own[-1], message=str(reason))
    except Exception as error:
        own[-1] = dataclasses.replace(own[-1], **_raised(error, patience.seconds))


def _raised(error, seconds) -> dict:
    """What is said of what went wrong instead of giving cotangents; what takes long may be right."""
    said = f"{type(error).__name__}: {first_line(error)}"
    if isinstance(error, concurrent.futures.TimeoutError):
        return {"verdict": "abstained", "message": f"{GIVEN_UP} {seconds:g} seconds; seconds= allows more"}
    if _of_our_own(error):
        return {"verdict": "abstained", "message": f"{BROKEN}: {said}"}
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        said = "out of memory; give smaller example arguments"
    impure = isinstance(error, jax.errors.UnexpectedTracerError)
    form = "structure" if "bwd" in str(error) else "raised"  # what JAX says of cotangents that do not fit
    if "complexfloating" in str(error):  # a complex argument is put together of two real ones, and its cotangent split
        said, form = f"a cotangent is real where the argument is complex; return a complex one ({said})", "structure"
    return {"verdict": "raised", "message": said, "fault": "impure" if impure else form}


def _of_our_own(error) -> bool:
    """Whether an error was raised by the checker's own lines, or by NumPy for them, and not by the function or JAX."""
    if isinstance(error, jax.errors.JaxRuntimeError) or any("JAX" in note for note in getattr(error, "__notes__", ())):
        return False
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    asked = [pathlib.Path(name) for name in files if "numpy" not in pathlib.Path(name).parts]
    return bool(asked) and HERE in asked[-1].parents


def _helped(work, patience):
    """What comes of it in time: words and lines for a failure are a help, and no reason to lose what was found."""
    try:
        return patience.within(work)
    except Exception:
        return None


def _worst(found) -> list[Finding]:
    """One finding for each check, leaf and dtype: the worst; an oracle that is wrong itself is found out."""
    worst: dict = {}
    for finding in [finding for own in found.values() for finding in own]:
        key = finding.check, finding.leaf, finding.dtype
        if key not in worst or severity(finding) > severity(worst[key]):
            worst[key] = finding
    return blamed(list(worst.values()))
