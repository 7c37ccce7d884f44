"""From failed judgements to words: each wrong leaf explained at the simplest of its failures."""

import dataclasses
import functools
import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np

from manual_backprop.signature import kind_of

from .diagnosis import Explanation, Failure, diagnose
from .diagnosis.failure import most, over
from .diagnosis.occasions import of_length, of_values
from .diagnosis.source import line, own_lines
from .finding import Finding
from .judge import Failed
from .tracing.interpreter import equations
from .tracing.widening import kind
from .trials import Trial
from .trials.lengths import other_lengths, replaced

EXPLAINED = 3  # failures of one leaf that are explained before the simplest is chosen
SECONDS = 10.0  # for all leaves; after that, what shows at a glance
FOR_ONE = 4.0
LENGTHS = 3  # of the example, that are replaced one by one
ELSEWHERE = 2  # failures at other lengths, and as many at other values, that an explanation has to hold for
TOLD = ("truth", "values", "kinks", "shapes")  # checks whose failures tell of a trial


def severity(finding):
    """How much a finding says, among those of one check: to be sorted by."""
    return ("abstained", "right", "raised", "wrong").index(finding.verdict), finding.ratio


def explained(session, findings) -> list[Finding]:
    """The findings with diagnoses: each wrong leaf explained at the simplest of its failures."""
    failures: dict[str, list[Failed]] = {}
    for failed in session.failed:
        failures.setdefault(failed.finding.leaf, []).append(failed)
    until = time.process_time() + SECONDS
    said = {leaf: _said(session, leaf, some, findings, until) for leaf, some in failures.items()}

    def one(finding):
        if finding.verdict != "wrong" or finding.fault or not said.get(finding.leaf):
            return finding
        explanation = said[finding.leaf]
        return dataclasses.replace(finding, diagnosis=str(explanation), fault=explanation.kind)

    found = list(map(one, findings))
    if any(finding.diagnosis for finding in found):
        return found
    return [dataclasses.replace(f, diagnosis=f.message) if f.verdict == "wrong" and f.fault else f for f in found]


def _said(session, leaf, failures, findings, until):
    """What the checks say together about a wrong leaf, and else what its numbers say."""
    if leaf in session.subject.output_names(len(session.example[0].cotangent)):
        if session.subject.outside:
            return Explanation("value", "the function gives another value than truth")
        return Explanation("value", "the forward pass gives another value than the function itself")
    of_leaf = {f.check: f for f in sorted(findings, key=severity) if f.leaf == leaf}
    wrong = {name for name, finding in of_leaf.items() if finding.verdict == "wrong"}
    if "repeatable" in wrong and of_leaf["repeatable"].fault == "impure":
        return Explanation("impure", of_leaf["repeatable"].message)
    eager = of_leaf.get("eager")  # which tries the first of the example's cotangents
    first = [f for f in failures if f.trial is session.example[0] and f.dtype == session.subject.dtype]
    if "truth" in wrong and first and eager and eager.verdict == "right" and _other_without_jit(session, first[0]):
        return Explanation("transform", "wrong under jit, right without it")
    found = _explain(session, failures, until)
    bent = wrong & {"homogeneous", "additive", "zero"}
    if bent and (found is None or found.kind not in ("nonlinear", *BENDS)):
        first = of_leaf[min(bent)]
        return Explanation(first.fault or "nonlinear", first.message)
    return found


def _other_without_jit(session, failed) -> bool:
    """Whether what is computed without jit differs by more than rounding."""
    place = session.subject.names.index(failed.finding.leaf)
    local = session.local(failed.trial.primals, failed.dtype)
    eager = np.asarray(local.hand(failed.trial.primals, failed.trial.cotangent, eager=True)[1][place], np.float64)
    apart = np.abs(eager - np.asarray(failed.answer[1][place], np.float64))
    return bool(np.any(~(apart <= failed.measured.allowance[1][place])))


# What a leaf that is right at the example fails alone, the kind of mistake that this is, and words for it.
ALONE = (
    ({"kinks"}, "kink", "{values}"),
    ({"values"}, "values", "{values}"),
    ({"values", "kinks"}, "values", "{values}"),
    ({"shapes"}, "shape", "wrong only at other lengths: {words}"),
    ({"precision"}, "dtype", "wrong in {dtypes} alone"),
    ({"shapes", "precision"}, "shape", "wrong only at other lengths: {words}"),
    ({"values", "kinks", "shapes", "precision"}, "values", "{values}"),  # other lengths have other values
)
PRECISE = ("not_finite", "cancellation", "structure")  # kinds that say more than where
BENDS = ("ignores_cotangent", "not_finite", "cancellation", "dtype")  # what is not linear in the cotangent, and why


FAR_OUT = ("tiny", "minute", "mixed sizes", "large", "huge", "wide", "far from zero")


def _explain(session, failures: list[Failed], until):
    """The first explanation that the simplest failures of one leaf have, and where alone it fails, if it does."""
    # One element of a cotangent shows where it goes, and little else.
    dense = [failed for failed in failures if not failed.trial.sparse] or failures
    own = ("float64", session.subject.dtype)  # in the others rounding hides more

    def plainness(failed):
        narrow = failed.dtype not in own, failed.dtype != "float64"
        beside = failed.trial.words in FAR_OUT  # where what is wrong is little beside what blows up
        return beside, _rank(failed.finding.check), *narrow, _is_alike(failed.trial), -failed.finding.ratio

    plain = sorted(dense, key=plainness)
    simplest = list({(f.finding.check, f.dtype): f for f in reversed(plain)}.values())[::-1][:EXPLAINED]
    if _rank(simplest[0].finding.check) == 0:  # numbers of other values may fit what is not so here
        simplest = [f for f in simplest if _rank(f.finding.check) == 0]
    where = {failed.finding.check for failed in failures}
    rule, at = (
        _of_lengths(session, failures, False, until) if "shapes" in where <= {"shapes", "precision"} else ("", None)
    )
    simplest = [at] if at else simplest
    found = _rounded(session, simplest[0])
    for failed in simplest:
        if found is None or found.vague:
            other = _diagnosis(session, failed, max(0.0, min(FOR_ONE, until - time.process_time())))
            found = other if found is None or (other and not other.vague) else found
    whole = where <= {"kinks", "values"} and _of_integers(session, simplest[0])
    if whole:
        text = f"wrong only at other values of {whole}"
        return Explanation("values", f"{text}: {found.text}", found.where) if found else Explanation("values", text)
    for checks, fault, text in ALONE:
        if where <= checks:
            values = [f for f in failures if f.finding.check in ("values", "kinks")] or failures
            words = rule or text.format(
                words=", ".join(dict.fromkeys(f.trial.words for f in values)),
                values=of_values(f.trial.words for f in values),
                dtypes=", ".join(dict.fromkeys(f.dtype for f in failures)),
            )
            if found is None:
                return Explanation(fault, words)
            precise = found.kind in PRECISE and (fault, found.kind) != ("dtype", "cancellation")
            return Explanation(found.kind if precise else fault, f"{words}: {found.text}", found.where)
    if found and "the last" in found.text:  # what is left over where a length is cut into blocks
        rule, _ = _of_lengths(session, failures, True, until)
        found = dataclasses.replace(found, text=f"{found.text}; {rule}") if rule else found
    vague = found is None or found.kind == "located"
    return (_of_digits(session, failures) if vague else None) or found


def _of_lengths(session, failures, bad: bool, until):
    """The rule by which a length makes it wrong, and the failure at one such length; none where none fits.

    bad  whether it is wrong at the lengths of the example
    """
    subject, leaf = session.subject, failures[0].finding.leaf
    for given in sorted({n for a in subject.example for n in np.shape(a) if n > 0})[:LENGTHS]:
        found = {}

        def ask(n, given=given, found=found):
            failed = _at_length(session, leaf, given, n) if time.process_time() < until - FOR_ONE else None
            if isinstance(failed, Failed):
                found[n] = failed
            return None if failed is None else bool(failed)

        rule = of_length(given, bad, ask)
        if rule:
            named = sorted(zip(subject.names, subject.example, strict=True), key=lambda pair: pair[0] != leaf)
            axis, name = next((np.shape(a).index(given), name) for name, a in named if given in np.shape(a))
            return "wrong where " + rule[0].format(f"the length of axis {axis} of {name}"), found.get(rule[1])
    return "", None


def _at_length(session, leaf, given, other) -> Failed | bool | None:
    """The failure where one length is another one; False where it is right there, None where it is not taken."""
    dtype = session.subject.dtype
    for words, primals in replaced(
        session.subject.example, session.uses, {given: other}, f"length {other} for {given}"
    ):
        try:
            trial = session.trial(primals, words, 200)
            answer = session.answer(trial, dtype)
            findings = session.judge("shapes", trial, dtype, answer, outputs=False, remember=False)
            of_leaf = [finding for finding in findings if finding.leaf == leaf]
        except Exception:  # lengths that the function does not take
            return None
        wrong = next((finding for finding in of_leaf if finding.verdict == "wrong"), None)
        if wrong:
            return Failed(wrong, trial, dtype, answer, session.measured(trial, dtype))
        return False if any(finding.verdict == "right" for finding in of_leaf) else None
    return None


def _of_integers(session, failed: Failed) -> str:
    """The names of integers that another trial has changed, if with these and the example's floats it is wrong too."""
    subject, dtype = session.subject, failed.dtype
    pairs = list(zip(subject.names, failed.trial.primals, subject.example, strict=True))
    changed = [name for name, a, b in pairs if kind(a.dtype) != "float" and not _equal(a, b)]
    if not changed or any(np.shape(a) != np.shape(b) for _, a, b in pairs):
        return ""
    trial = session.trial(tuple(b if kind(a.dtype) == "float" else a for _, a, b in pairs), "other integers", 11)
    findings = session.judge("truth", trial, dtype, outputs=False, remember=False)
    return ", ".join(changed) if any(f.leaf == failed.finding.leaf and not f.ok for f in findings) else ""


def _equal(a, b) -> bool:
    return kind_of(a) != "key" and np.array_equal(a, b)


def _is_alike(trial) -> bool:
    """Whether there is one number everywhere, so that hardly anything is told from anything else."""
    floats = [a for a in trial.primals if kind(a.dtype) == "float" and np.size(a) > 1]
    return bool(floats) and all((a == a.flat[0]).all() for a in map(np.asarray, floats))


def _rank(check) -> int:
    plain = ("truth", "values", "kinks")
    return plain.index(check) if check in plain else len(plain)


def _rounded(session, failed: Failed):
    """What is right but for rounding: the derivative, as it was traced, run in float64."""
    leaf, names, local = failed.finding.leaf, session.subject.names, session.local(failed.trial.primals, failed.dtype)
    if leaf not in names or failed.dtype == "float64":
        return None
    place, at = names.index(leaf), session.rounded(failed.trial, failed.dtype)
    got = np.asarray(failed.answer[1][place], np.float64)
    truth, allowance = failed.measured.truth[1][place], failed.measured.allowance[1][place]
    try:
        exact = np.asarray(local.formula(at.primals, at.cotangent)[1][place])
    except Exception:  # an equation whose dtypes are fixed inside, or whatever a stranger's function has against it
        return None
    if not np.isfinite(got).all() or not most(over(exact, truth, allowance)) <= 1:
        return None
    narrow = _narrowings(local)
    if narrow:
        dtype, where = narrow[0]
        return Explanation("dtype", f"rounded to {dtype} on the way; without rounding it is right", where)
    known = np.isfinite(truth)
    if not known.any():
        return None
    share = most(np.abs(got - truth)[known]) / (most(np.abs(truth)[known]) or 1.0)
    if share > 1 / 8:
        return Explanation("dtype", f"wrong in {failed.dtype} alone: in float64 the same formula is right")
    left = max(0, round(-np.log10(share))) if share else 0
    text = f"digits are lost: the formula is right, and {left} of its digits are left in {failed.dtype}"
    return Explanation("cancellation", text)


def _narrowings(local):
    """Where a derivative by hand passes to a dtype of fewer digits than its own: the dtype, and the line."""
    with own_lines():
        traced, _ = local.trace_hand()
    found = []
    for equation in equations(traced):
        dtype = equation.params.get("new_dtype")
        if kind(dtype) == "float" and jnp.finfo(dtype).eps > jnp.finfo(local.dtype).eps:
            at = line(equation)
            found.append((str(jnp.dtype(dtype)), at and str(at)))
    return found


def _of_digits(session, failures):
    """What is right in float64 and wrong in the dtype of the example loses digits there."""
    tried = {dtype for _, dtype in session.tried}
    wrong = {failed.dtype for failed in failures}
    if "float64" in tried - wrong:
        return Explanation("cancellation", f"digits are lost: wrong in {', '.join(sorted(wrong))}, right in float64")
    return None


def _diagnosis(session, failed, seconds):
    try:
        return diagnose(_failure(session, failed), seconds)
    except Exception:  # a diagnosis is a help; that it failed is no finding about the derivative
        return None


def _failure(session, failed: Failed) -> Failure:
    """A failed judgement as the diagnosis takes it."""
    subject, dtype, leaf = session.subject, failed.dtype, failed.finding.leaf
    at = session.rounded(failed.trial, dtype)
    judged = functools.partial(_judged_leaves, session, leaf, dtype)
    other = "float64" if dtype != "float64" else subject.dtype
    right_in = [other] if other != dtype and _is_right(session, failed, other) else []

    def anywhere(primals, cotangent):
        trial = Trial(tuple(primals), tuple(cotangent), "elsewhere")
        answer = session.local(trial.primals, dtype).hand(trial.primals, trial.cotangent)
        return judged(answer, session.measure(trial, dtype))

    def answer(primals, cotangent):
        got = session.local(primals, dtype).hand(primals, cotangent)
        return dict(zip(subject.names, got[1], strict=True))

    def halves(primals, cotangent):
        out, pull = subject.vjp(subject, primals)
        bars = dict(zip(subject.names, pull(jax.lax.optimization_barrier(cotangent)), strict=True))
        return out, [bars[name] for name in leaves]

    leaves = judged(failed.answer, failed.measured)
    return Failure(
        leaf,
        leaves,
        primals=at.primals,
        cotangent=at.cotangent,
        names=tuple(subject.names),
        dtype=session.local(at.primals, dtype).unit,
        definition=None if subject.outside else session.local(at.primals, dtype).definition,
        right_in=tuple(right_in),
        at=anywhere,
        answer=answer if leaf in subject.names else None,
        outputs=tuple(np.asarray(a, np.float64) for a in failed.measured.truth[0]),
        halves=halves if leaf in subject.names else None,
        elsewhere=functools.cache(lambda: tuple(_elsewhere(session, failed))),
        particular=failed.finding.check in ("values", "kinks") and not _fails_as_given(session, failed),
    )


def _fails_as_given(session, failed) -> bool:
    return any(f.finding.leaf == failed.finding.leaf and f.finding.check == "truth" for f in session.failed)


def _elsewhere(session, failed):
    """The same leaf where it is wrong at other values, and at other lengths, which are sought if none were tried."""
    leaf = failed.finding.leaf
    same = [f for f in session.failed if f.finding.leaf == leaf and f.dtype == failed.dtype and f.finding.check in TOLD]
    some = [f for f in same if not f.trial.sparse and f.trial is not failed.trial]
    reshaped = [f for f in some if _shapes(f.trial) != _shapes(failed.trial)] or _at_other_lengths(session, failed)
    others = [f for f in some if _shapes(f.trial) == _shapes(failed.trial)]
    return [_failure(session, f) for f in [*itertools.islice(reshaped, ELSEWHERE), *others[:ELSEWHERE]]]


def _shapes(trial):
    return [np.shape(a) for a in trial.primals]


def _at_other_lengths(session, failed):
    subject, leaf = session.subject, failed.finding.leaf
    for words, primals in other_lengths(subject.example, session.uses, lambda shapes: True):
        if words.startswith(("length 1 ", "length 0 ")):
            continue
        try:
            trial = session.trial(primals, words, 200)
            answer = session.answer(trial, failed.dtype)
            findings = list(session.judge("shapes", trial, failed.dtype, answer, outputs=False, remember=False))
        except Exception:  # lengths that the function does not take
            continue
        wrong = next((f for f in findings if f.leaf == leaf and f.verdict == "wrong"), None)
        if wrong:
            yield Failed(wrong, trial, failed.dtype, answer, session.measured(trial, failed.dtype))


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
