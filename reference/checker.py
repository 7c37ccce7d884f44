"""`check` and `assert_correct`: the whole contract on one function, and what it found, for people and for programs."""

import concurrent.futures
import dataclasses
import functools
import os
import threading
import time
from collections.abc import Callable, Iterable

import jax
import numpy as np

from .blame import blamed
from .checks import CHECKS
from .culprits import culprits
from .diagnosis import Explanation, Failure, diagnose
from .finding import Finding
from .reducing import reduce
from .result import Result
from .script import script, snippet
from .session import PROFILES, CannotTell, Failed, Session
from .subject import Subject, Unusable, real_outputs
from .trials import Trial

SECONDS = 60.0  # for one check, before it is given up
FIRST = ("value", "structure", "truth", "values", "kinks")  # what they measure, the others use
SHRINKING = 3.0  # seconds for making a failure small
EXPLAINED = 3  # failures of one leaf that are explained before the simplest is chosen


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
    truth      a plain implementation of the same function, where the function's own primal cannot be differentiated
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
    _callable_at_all(subject, seconds)
    session = Session(subject, PROFILES[profile], seed)
    _traceable(session)
    findings: list[Finding] = []
    first = [name for name in chosen if name in FIRST]
    for check_name in first:
        findings += _one(session, check_name, seconds)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # XLA compiles outside of Python's lock
        for found in pool.map(
            lambda check_name: _one(session, check_name, seconds), [n for n in chosen if n not in FIRST]
        ):
            findings += found
    left_out = functools.partial(Finding, str(subject), leaf="", dtype=subject.dtype, verdict="abstained")
    findings += [
        left_out(check=n, message=f"left out by the {profile} profile; checks={n!r} asks for it") for n in without
    ]
    findings = _explained(session, blamed(_worst(findings)))
    if reproduce:
        findings = _reproduced(session, findings)
    return Result(str(subject), tuple(findings), tuple(session.outside), time.monotonic() - start)


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


def _callable_at_all(subject, seconds):
    try:
        first, again = (_within(seconds, lambda: subject.function(*subject.arrays())) for _ in range(2))
    except concurrent.futures.TimeoutError:
        raise Unusable(f"{subject}: the function itself takes longer than {seconds:g} seconds") from None
    except Exception as error:
        message = f"{subject}: the function rejects its example arguments: {type(error).__name__}: {error}"
        raise Unusable(message) from error
    pairs = zip(real_outputs(first), real_outputs(again), strict=True)
    if not all(np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True) for a, b in pairs):
        raise Unusable(f"{subject}: the function is not deterministic: two calls with the same arguments differ")


def _traceable(session):
    try:
        session.local(session.subject.example, session.subject.dtype)
    except Unusable:
        raise
    except Exception as error:
        first = (str(error).strip().split("\n") or [""])[0]
        message = f"{session.subject}: jax.jit cannot trace the function: {type(error).__name__}: {first}"
        raise Unusable(f"{message} Static arguments of a custom_vjp belong in nondiff_argnums.") from error


def _one(session, name, seconds) -> list[Finding]:
    """The findings of one check, whatever becomes of it."""
    make = {"subject": str(session.subject), "check": name, "leaf": "", "dtype": session.subject.dtype}
    try:
        return _within(seconds, lambda: list(CHECKS[name](session)))
    except CannotTell as reason:
        return [Finding(**make, verdict="abstained", message=str(reason))]
    except concurrent.futures.TimeoutError:
        message = f"given up after {seconds:g} seconds; seconds= allows more"
        return [Finding(**make, verdict="raised", message=message)]
    except MemoryError:
        return [Finding(**make, verdict="raised", message="out of memory; give smaller example arguments")]
    except Exception as error:
        first = (str(error).strip().split("\n") or [""])[0]
        fault = "impure" if isinstance(error, jax.errors.UnexpectedTracerError) else "raised"
        return [Finding(**make, verdict="raised", message=f"{type(error).__name__}: {first}", fault=fault)]


def _within(seconds, work):
    """work(), in a thread that is left alone when its time is over: what hangs inside XLA cannot be stopped."""
    done: concurrent.futures.Future = concurrent.futures.Future()

    def run():
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return done.result(timeout=seconds)


def _worst(findings) -> list[Finding]:
    """One finding for each check, leaf and dtype: the worst."""
    worst: dict = {}
    for finding in findings:
        key = finding.check, finding.leaf, finding.dtype
        if key not in worst or _order(finding) > _order(worst[key]):
            worst[key] = finding
    return list(worst.values())


def _order(finding):
    return ("abstained", "right", "raised", "wrong").index(finding.verdict), finding.ratio


def _explained(session, findings) -> list[Finding]:
    """The findings with diagnoses: each wrong leaf explained at the simplest of its failures."""
    failures: dict[str, list[Failed]] = {}
    for failed in session.failed:
        failures.setdefault(failed.finding.leaf, []).append(failed)
    said = {leaf: _said(session, leaf, some, findings) for leaf, some in failures.items()}

    def one(finding):
        if finding.verdict != "wrong" or finding.fault or not said.get(finding.leaf):
            return finding
        explanation = said[finding.leaf]
        return dataclasses.replace(finding, diagnosis=str(explanation), fault=explanation.kind)

    return list(map(one, findings))


def _said(session, leaf, failures, findings):
    """What the checks say together about a wrong leaf, and else what its numbers say."""
    if leaf in session.subject.output_names(len(session.example[0].cotangent)):
        return Explanation("value", "the forward pass gives another value than the function itself")
    of_leaf = {f.check: f for f in sorted(findings, key=_order) if f.leaf == leaf}
    wrong = {name for name, finding in of_leaf.items() if finding.verdict == "wrong"}
    if "repeatable" in wrong and of_leaf["repeatable"].fault == "impure":
        return Explanation("impure", of_leaf["repeatable"].message)
    if "truth" in wrong and of_leaf.get("eager") and of_leaf["eager"].verdict == "right":
        return Explanation("transform", "wrong under jit, right without it")
    found = _explain(session, failures)
    nonlinear = wrong & {"homogeneous", "additive", "zero"}
    if nonlinear and (found is None or found.kind not in ("ignores_cotangent", "not_finite")):
        return Explanation("nonlinear", of_leaf[min(nonlinear)].message)
    return found


# What a leaf that is right at the example fails alone, the kind of mistake that this is, and words for it.
ALONE = (
    ({"kinks"}, "kink", "wrong only at {words}"),
    ({"values"}, "values", "wrong only at {words} values"),
    ({"values", "kinks"}, "values", "wrong only at {words}"),
    ({"shapes"}, "shape", "wrong only at other lengths: {words}"),
    ({"precision"}, "dtype", "wrong in {dtypes} alone"),
)
PRECISE = ("not_finite", "cancellation", "structure")  # kinds that say more than where


def _explain(session, failures: list[Failed]):
    """The first explanation that the simplest failures of one leaf have, and where alone it fails, if it does."""
    failures = sorted(failures, key=lambda f: (f.finding.check != "truth", f.trial.sparse, f.dtype != "float64"))
    found = next(filter(None, (_diagnosis(session, failed) for failed in failures[:EXPLAINED])), None)
    where = {failed.finding.check for failed in failures}
    for checks, kind, text in ALONE:
        if where <= checks:
            words = text.format(
                words=", ".join(dict.fromkeys(f.trial.words for f in failures)),
                dtypes=", ".join(dict.fromkeys(f.dtype for f in failures)),
            )
            if found is None:
                return Explanation(kind, words)
            return Explanation(found.kind if found.kind in PRECISE else kind, f"{words}: {found.text}", found.where)
    vague = found is None or found.kind == "located"
    return (_of_digits(session, failures) if vague else None) or found


def _of_digits(session, failures):
    """What is right in float64 and wrong in the dtype of the example loses digits there."""
    tried = {dtype for _, dtype in session.tried}
    wrong = {failed.dtype for failed in failures}
    if "float64" in tried - wrong:
        return Explanation("cancellation", f"digits are lost: wrong in {', '.join(sorted(wrong))}, right in float64")
    return None


def _reproduced(session, findings) -> list[Finding]:
    """The findings, the one that says most among them with lines that reproduce it at the smallest arguments found."""
    main = Result("", tuple(findings)).diagnosis
    failures = [f for f in session.failed if main and f.finding.leaf == main.leaf]
    if not failures:
        return findings
    own = [f for f in failures if f.dtype == session.subject.dtype and not f.trial.sparse] or failures
    try:
        smallest = reduce(session, own[0], SHRINKING)
        text = snippet(session, smallest) or script(session, smallest)
        named = "; ".join(map(str, culprits(session, own[0])))
    except Exception:  # a reproduction is a help; that there is none is no finding about the derivative
        return findings
    diagnosis = "; ".join(filter(None, (named, main.diagnosis))) or None
    better = dataclasses.replace(main, reproduction=text, diagnosis=diagnosis)
    return [better if finding is main else finding for finding in findings]


def _diagnosis(session, failed):
    try:
        return diagnose(_failure(session, failed))
    except Exception:  # a diagnosis is a help; that it failed is no finding about the derivative
        return None


def _failure(session, failed: Failed) -> Failure:
    """A failed judgement as the diagnosis takes it."""
    subject, dtype = session.subject, failed.dtype
    at = session.rounded(failed.trial, dtype)
    judged = functools.partial(_judged_leaves, session, failed.finding.leaf, dtype)
    other = "float64" if dtype != "float64" else subject.dtype
    right_in = [other] if other != dtype and _is_right(session, failed, other) else []

    def anywhere(primals, cotangent):
        trial = Trial(tuple(primals), tuple(cotangent), "elsewhere")
        answer = session.local(trial.primals, dtype).hand(trial.primals, trial.cotangent)
        return judged(answer, session.measure(trial, dtype))

    return Failure(
        failed.finding.leaf,
        judged(failed.answer, failed.measured),
        primals=at.primals,
        cotangent=at.cotangent,
        names=tuple(subject.names),
        dtype=session.local(at.primals, dtype).unit,
        definition=session.local(at.primals, dtype).definition,
        right_in=tuple(right_in),
        at=anywhere,
    )


def _is_right(session, failed, dtype) -> bool:
    """Whether the same leaf was tried at the same trial in another dtype and not found wrong."""
    wrong = {(f.dtype, f.trial.words) for f in session.failed if f.finding.leaf == failed.finding.leaf}
    return (failed.finding.check, dtype) in session.tried and (dtype, failed.trial.words) not in wrong


def _judged_leaves(session, leaf, dtype, answer, measured):
    """(what came, the truth, the allowance) of every output, or of every cotangent, by name."""
    subject = session.subject
    outputs = subject.output_names(len(answer[0]))
    part = 0 if leaf in outputs else 1
    names = outputs if part == 0 else subject.names
    chosen = [True] * len(outputs) if part == 0 else subject.differentiated
    rows = zip(names, chosen, answer[part], measured.truth[part], measured.allowance[part], strict=True)
    known = {name: (got, truth, allowance) for name, c, got, truth, allowance in rows if c}
    return Failure.among(leaf, *({n: v[i] for n, v in known.items()} for i in range(3))).leaves
