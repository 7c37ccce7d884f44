"""`check` and `assert_correct`: the whole contract on one function, and what it found, for people and for programs."""

import concurrent.futures
import functools
import os
import pathlib
import time
import traceback
from collections.abc import Callable, Iterable

import jax
import numpy as np

from .blame import blamed
from .checks import CHECKS
from .checks.naming import first_line
from .explaining import explained, severity
from .finding import GIVEN_UP, CannotTell, Finding
from .patience import within
from .profiles import PROFILES
from .progress import progress
from .reproduction import reproduced
from .result import Result
from .session import Session
from .subject import Subject, Unusable, real_outputs

HERE = pathlib.Path(__file__).parent
SECONDS = 60.0  # for one check, before it is given up
AT_THE_EXAMPLE = ("value", "truth")
FIRST = ("value", "structure", "truth", "values", "kinks")  # what they measure, the others use
LONGEST = ("shapes", "eager")  # so they begin before the others do


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

    >>> import jax, jax.numpy as jnp
    >>> @jax.custom_vjp
    ... def square(x):
    ...     return x * x
    >>> square.defvjp(lambda x: (x * x, x), lambda x, y_bar: (x * y_bar,))
    >>> result = check(square, jnp.arange(1.0, 4.0), profile="quick")
    >>> print(result.ok, result.diagnosis.diagnosis.split(":")[0])
    False off by a factor of 0.5 everywhere, which is 1 / 2
    """
    start = time.monotonic()
    if profile not in PROFILES:
        raise Unusable(f"profile is {profile!r}; it is one of {', '.join(PROFILES)}")
    without = PROFILES[profile].without if checks is None else ()
    chosen = [name for name in _chosen(checks) if name not in without]
    subject = Subject(function, args, argnums, truth, name)
    session = Session(subject, PROFILES[profile], seed)
    with progress(str(subject)) as at:
        _must_run(session, seconds)
        findings = blamed(_worst(_run(session, chosen, seconds, at)))
        at("explaining")
        findings = _helped(lambda: explained(session, findings), seconds) or findings
        if reproduce:
            at("making what fails small")
            findings = _helped(lambda: reproduced(session, findings), seconds) or findings
    for left_out in without:
        message = f"left out by the {profile} profile; checks={left_out!r} asks for it"
        findings.append(Finding(str(subject), left_out, "", subject.dtype, "abstained", message=message))
    return Result(str(subject), tuple(findings), tuple(session.outside), time.monotonic() - start)


def _run(session, chosen, seconds, at) -> list[Finding]:
    """All findings of the checks."""
    if findings := _raises(session, chosen, seconds):
        return findings

    def one(name):
        at(name)
        return _one(session, name, seconds)

    for name in [name for name in chosen if name in FIRST]:
        found = one(name)
        findings += found
        if name in AT_THE_EXAMPLE and any(finding.given_up for finding in found):  # where all others begin
            message = f"not asked: {name} was given up at the example's own values"
            make = functools.partial(Finding, str(session.subject), leaf="", dtype=session.subject.dtype)
            asked = {finding.check for finding in findings}
            return findings + [make(check=n, verdict="abstained", message=message) for n in chosen if n not in asked]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # XLA compiles outside of Python's lock
        others = [name for name in chosen if name not in FIRST]
        begun = {name: pool.submit(one, name) for name in sorted(others, key=lambda name: name not in LONGEST)}
        return findings + [finding for name in others for finding in begun[name].result()]


def assert_correct(function: Callable, *args, **options) -> None:
    """Raise an AssertionError that says what is wrong with a derivative, and how to reproduce it.

    Takes what `check` takes.
    """
    __tracebackhide__ = True
    result = check(function, *args, **options)
    if not result.ok:
        raise AssertionError(str(result))


def _chosen(checks):
    if checks is None:
        return tuple(CHECKS)
    chosen = (checks,) if isinstance(checks, str) else tuple(checks)
    unknown = [name for name in chosen if name not in CHECKS]
    if unknown:
        raise Unusable(f"checks names {unknown[0]!r}; there are {', '.join(CHECKS)}")
    return chosen


def _must_run(session, seconds):
    """Refuse a function that cannot be called, traced or compiled, takes for ever, or is never twice the same."""
    subject = session.subject
    try:
        local = within(seconds, lambda: session.local(subject.example, subject.dtype))
        same = within(seconds, lambda: local.traces_alike() and local.repeats())
    except Unusable:
        raise
    except concurrent.futures.TimeoutError:
        raise Unusable(f"{subject}: the function itself takes longer than {seconds:g} seconds") from None
    except Exception as error:
        _called(subject, seconds)
        message = f"{subject}: jax.jit cannot trace the function: {type(error).__name__}: {first_line(error)}"
        raise Unusable(f"{message} Static arguments of a custom_vjp belong in nondiff_argnums.") from error
    if not same:  # which may be in the words of JAX alone
        pairs = zip(*(real_outputs(_called(subject, seconds)) for _ in range(2)), strict=True)
        if not all(np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True) for a, b in pairs):
            raise Unusable(f"{subject}: the function is not deterministic: two calls with the same arguments differ")


def _called(subject, seconds):
    """What the function gives when it is called without jit."""
    try:
        return within(seconds, lambda: subject.function(*subject.arrays()))
    except concurrent.futures.TimeoutError:
        raise Unusable(f"{subject}: the function itself takes longer than {seconds:g} seconds") from None
    except Exception as error:
        message = f"{subject}: the function rejects its example arguments: {type(error).__name__}: {error}"
        raise Unusable(message) from error


def _raises(session, chosen, seconds) -> list[Finding]:
    """What a derivative raises when it is traced, once for all checks; what has no derivative at all is refused."""
    local = session.local(session.subject.example, session.subject.dtype)
    try:
        within(seconds, lambda: local.by_hand)
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
            make(check="structure", **_raised(error, seconds)),
            *(make(check=name, verdict="abstained", message=message) for name in others),
        ]


def _one(session, name, seconds) -> list[Finding]:
    """The findings of one check, whatever becomes of it."""
    make = {"subject": str(session.subject), "check": name, "leaf": "", "dtype": session.subject.dtype}
    found: list[Finding] = []  # and kept, where what comes next takes too long
    try:
        within(seconds, lambda: found.extend(iter(CHECKS[name](session))))
        return found
    except CannotTell as reason:
        return [*found, Finding(**make, verdict="abstained", message=str(reason))]
    except Exception as error:
        return [*found, Finding(**make, **_raised(error, seconds))]


def _raised(error, seconds) -> dict:
    """What is said of what went wrong instead of giving cotangents; what takes long may be right."""
    said = f"{type(error).__name__}: {first_line(error)}"
    if isinstance(error, concurrent.futures.TimeoutError):
        return {"verdict": "abstained", "message": f"{GIVEN_UP} {seconds:g} seconds; seconds= allows more"}
    if _of_our_own(error):
        return {"verdict": "abstained", "message": f"this check itself failed, which is a mistake of its own: {said}"}
    if isinstance(error, MemoryError):
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


def _helped(work, seconds):
    """What comes of it in time: words and lines for a failure are a help, and no reason to hang with what hangs."""
    try:
        return within(seconds, work)
    except concurrent.futures.TimeoutError:
        return None


def _worst(findings) -> list[Finding]:
    """One finding for each check, leaf and dtype: the worst."""
    worst: dict = {}
    for finding in findings:
        key = finding.check, finding.leaf, finding.dtype
        if key not in worst or severity(finding) > severity(worst[key]):
            worst[key] = finding
    return list(worst.values())
