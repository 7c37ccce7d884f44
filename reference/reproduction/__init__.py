"""The failure that says most, made small and written as a script that shows it."""

import dataclasses
import functools
import itertools

from ..culprits import culprits
from ..finding import Finding
from ..judge import Failed
from ..result import Result
from .reducing import reduce
from .replay import Case, shows
from .script import script

SHRINKING = 3.0  # seconds for making a failure small
TRIED = 3  # findings, and failures of one leaf, before it is left without a script


def reproduced(session, findings) -> list[Finding]:
    """The findings, the one that says most among them with a script that shows it at the smallest arguments found."""
    result = Result("", tuple(findings))
    main = result.diagnosis
    if main is None:
        return findings
    others = {(f.check, f.leaf): f for f in result.failures if f is not main}
    shown = (one for finding in [main, *others.values()][:TRIED] for one in _shown_by(session, finding))
    text, named = next(filter(None, (_script(*one) for one in shown)), (None, ""))
    diagnosis = "; ".join(filter(None, (named, main.diagnosis))) or None
    better = dataclasses.replace(main, reproduction=text, diagnosis=diagnosis)
    return [better if finding is main else finding for finding in findings]


def _script(session, failed, outer):
    """The script of a failure, and what in it is named as wrong; None where there is none."""
    try:
        way = shows(Case(session, failed, outer))
        smallest = reduce(session, failed, SHRINKING, way, outer) if way else failed
        text = script(session, smallest, way, outer)
        return text, "" if outer or way is None else "; ".join(map(str, culprits(session, failed)))
    except Exception:  # a reproduction is a help; that there is none is no finding about the derivative
        return None


def _shown_by(session, main: Finding):
    """What may show a finding, the best first: session, failure, and the first derivative of a second."""
    trial, dtype = session.example[0], main.dtype
    if main.verdict == "raised":
        yield session, Failed(main, trial, dtype, None, None), None
        return
    answer, measured = session.answer(trial, dtype), session.measured(trial, dtype)
    if main.fault == "impure":
        yield session, Failed(main, trial, dtype, answer, measured), None
    if main.check == "options":
        of_leaf = ((variant, f) for variant in session.variants for f in variant.failed if f.finding.leaf == main.leaf)
        yield from ((variant, failed, None) for variant, failed in itertools.islice(of_leaf, TRIED))
        return
    failures = [f for f in session.failed if f.finding.leaf == main.leaf]
    yield from ((session, f, None) for f in sorted(failures, key=functools.partial(_plainness, session))[:TRIED])
    if main.check == "second_order" and session.inner:
        first = Case(session, Failed(dataclasses.replace(main, index=None), trial, dtype, answer, measured))
        yield from ((session.inner, f, first) for f in session.inner.failed if f.finding.leaf == main.leaf)
    elif not failures:
        yield session, Failed(main, trial, dtype, answer, measured), None


def _plainness(session, failed):
    return failed.dtype != session.subject.dtype, failed.trial.sparse
