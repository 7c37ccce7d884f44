"""From failed judgements to words: each wrong leaf explained at the simplest of its failures."""

import dataclasses
import functools

from .culprits import culprits
from .diagnosis import Explanation, Failure, diagnose
from .finding import Finding
from .reducing import reduce
from .result import Result
from .script import script, snippet
from .session import Failed
from .trials import Trial

SHRINKING = 3.0  # seconds for making a failure small
EXPLAINED = 3  # failures of one leaf that are explained before the simplest is chosen


def severity(finding):
    """How much a finding says, among those of one check: to be sorted by."""
    return ("abstained", "right", "raised", "wrong").index(finding.verdict), finding.ratio


def explained(session, findings) -> list[Finding]:
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
    of_leaf = {f.check: f for f in sorted(findings, key=severity) if f.leaf == leaf}
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


def reproduced(session, findings) -> list[Finding]:
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
