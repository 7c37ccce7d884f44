"""What became worse between two records: a baseline and the current one.

Three things are always a failure, whatever the baseline says: a finding that is wrong, one that raised, and one that
the baseline judged and the current record does not.  A baseline therefore cannot bless a wrong gradient.  A finding
that is right both times may have grown; `growth` says when.

Architectures are random.  Under equal seeds they are compared by expression; otherwise only as one sample per dtype.
"""

import collections
import dataclasses
from collections.abc import Iterable

from .growth import ANY, grown
from .record import Record, key_of

FAILING = frozenset({"wrong", "raised", "grown", "uncovered", "does not lower"})


@dataclasses.dataclass(frozen=True)
class Change:
    """One difference; `key` is (family, subject, check, leaf, dtype) with "*" for all of them.

    Failing kinds: wrong, raised, grown, uncovered, does not lower.  For information: fixed, covered, environment.
    """

    kind: str
    key: tuple[str, ...]
    before: dict | None
    after: dict | None
    sentence: str

    def __str__(self):
        return self.sentence


def failures(changes: Iterable[Change]) -> list[Change]:
    """The changes that make a comparison fail."""
    return [change for change in changes if change.kind in FAILING]


def compare(baseline: Record, current: Record) -> list[Change]:
    """Every difference that matters, failures first, those of architectures after those of rules."""
    changes = [*_environment(baseline, current), *_verdicts(baseline, current), *_coverage(baseline, current)]
    changes += [*_curves(baseline, current), *_lowerings(baseline, current)]
    if baseline.header.get("platform") == current.header.get("platform"):
        changes += _growth(baseline, current)
    order = ["wrong", "raised", "grown", "uncovered", "does not lower", "environment", "fixed", "covered"]
    return sorted(changes, key=lambda change: (order.index(change.kind), change.key[0] == "architecture", change.key))


def _environment(baseline, current):
    """Where the two runs were made differently: said, so that nobody reads a new compiler as a new mistake."""
    before, after = ({**record.header.get("versions", {})} for record in (baseline, current))
    for name in ("platform", "device", "seed"):
        before[name], after[name] = baseline.header.get(name), current.header.get(name)
    for name in before | after:
        if before.get(name) != after.get(name):
            note = "; growth is not judged across platforms" if name == "platform" else ""
            sentence = f"{name} was {_known(before.get(name))} in the baseline and is {_known(after.get(name))}{note}"
            yield Change("environment", (ANY,) * 5, {name: before.get(name)}, {name: after.get(name)}, sentence)
    if not current.finished:
        yield Change(
            "environment", (ANY,) * 5, None, None, "the current run was interrupted: it judged what it reached"
        )


def _known(value):
    return "unknown" if value is None else value


def _verdicts(baseline, current):
    """Everything wrong or raised now, and everything that was and no longer is."""
    before = {key_of(finding): finding for finding in baseline.findings}
    for finding in current.findings:
        key = key_of(finding)
        old, now = before.get(key), finding["verdict"]
        was = old["verdict"] if old else None
        if now in ("wrong", "raised"):
            history = "; the baseline says the same, which excuses nothing" if was == now else _was(was)
            because = f": {reason}" if (reason := finding.get("diagnosis") or finding.get("message")) else ""
            yield Change(now, key, old, finding, f"{_name(key)} {_is(now)}{history}{because}")
        elif was in ("wrong", "raised") and now == "right":
            yield Change("fixed", key, old, finding, f"{_name(key)} is right{_was(was)}")
        elif was in ("right", "wrong", "raised") and now == "abstained":
            because = f": {finding['message']}" if finding.get("message") else ""
            yield Change(
                "uncovered", key, old, finding, f"{_name(key)} is no longer judged (abstained){_was(was)}{because}"
            )


def _is(verdict):
    return "raised" if verdict == "raised" else f"is {verdict}"


def _was(verdict):
    return ", not in the baseline" if verdict is None else f", {verdict} in the baseline"


def _coverage(baseline, current):
    """What only one of the records has, said once for a whole dtype, subject or check rather than for each leaf."""
    yield from _only("uncovered", "is no longer covered", _covered(baseline), _covered(current, abstained=True))
    yield from _only("covered", "is newly covered", _covered(current), _covered(baseline))


def _only(kind, verb, here, there):
    """The keys that are here and not there, each as wide as what is missing is."""
    known = set().union(*map(_wildcards, there))
    missing = collections.Counter(
        next((wide for wide in _wildcards(key) if wide not in known), key) for key in here - there
    )
    for key, count in missing.items():
        lines = ({"findings": count}, None) if kind == "uncovered" else (None, {"findings": count})
        yield Change(kind, key, *lines, _name(key, verb))


def _wildcards(key):
    """The wider keys that a key belongs to, widest first."""
    family, subject, check, leaf, dtype = key
    return [
        (ANY, ANY, ANY, ANY, dtype),
        (family, ANY, ANY, ANY, ANY),
        (family, ANY, ANY, ANY, dtype),
        (family, subject, ANY, ANY, ANY),
        (family, subject, ANY, ANY, dtype),
        (family, subject, check, ANY, ANY),
        (family, subject, ANY, leaf, ANY),
        (family, subject, check, ANY, dtype),
        (family, subject, check, leaf, ANY),
    ]


def _covered(record, abstained=False):
    """The keys that a record judges; of architectures only the dtypes, since their expressions are random."""
    return {
        (key[0], ANY, ANY, ANY, key[4]) if key[0] == "architecture" else key
        for key, finding in ((key_of(finding), finding) for finding in record.findings)
        if abstained or finding["verdict"] != "abstained"
    }


def _growth(baseline, current):
    before, after = ({key_of(finding): finding for finding in record.findings} for record in (baseline, current))
    for key, (old, new) in grown(baseline, current).items():
        sentence = f"{_name(key, 'has grown')}: mean ratio {old.mean:.2g} -> {new.mean:.2g}, worst {old.worst:.2g} -> "
        lines = [{**(findings.get(key) or {}), "sample": vars(one)} for findings, one in ((before, old), (after, new))]
        yield Change("grown", key, *lines, f"{sentence}{new.worst:.2g} of the allowance")


def _name(key, verb=None):
    """A key as words: `layer_norm gamma (vjp, float32)`, `everything in bfloat16`, `architectures in float32`."""
    family, subject, check, leaf, dtype = key
    if subject == ANY:
        what = {ANY: "everything", "architecture": "architectures"}.get(family, f"every {family}")
        what = what if dtype == ANY else f"{what} in {dtype}"
        verb = verb and _plural(verb) if family == "architecture" else verb
    else:
        details = ", ".join(part for part in (check, dtype) if part != ANY)
        what = (subject if leaf == ANY else f"{subject} {leaf}") + (f" ({details})" if details else "")
    return f"{what} {verb}" if verb else what


def _plural(verb):
    return {"is": "are", "has": "have"}[verb.split()[0]] + verb[verb.index(" ") :]


def _curves(baseline, current):
    after = {curve["subject"]: curve for curve in current.curves}
    before = {curve["subject"]: curve for curve in baseline.curves}
    for subject in before | after:
        old, new = before.get(subject), after.get(subject)
        key = ("training", subject, ANY, ANY, ANY)
        was = old["verdict"] if old else None
        if new is None:
            yield Change("uncovered", key, old, new, f"training on {subject} is no longer covered")
        elif new["verdict"] in ("wrong", "raised"):
            yield Change(new["verdict"], key, old, new, f"training on {subject} {_is(new['verdict'])}{_was(was)}")
        elif was in ("wrong", "raised"):
            yield Change("fixed", key, old, new, f"training on {subject} {_is(new['verdict'])}{_was(was)}")
        elif old is None:
            yield Change("covered", key, old, new, f"training on {subject} is newly covered")


def _lowerings(baseline, current):
    def by_key(record):
        return {(line["subject"], line["part"], line["platform"]): line for line in record.lowerings}

    before, after = by_key(baseline), by_key(current)
    for subject, part, platform in before:
        old, new = before[subject, part, platform], after.get((subject, part, platform))
        key = ("lowering", subject, part, ANY, platform)
        if new is None:
            sentence = f"whether {subject} {part} lowers for {platform} is no longer covered"
            yield Change("uncovered", key, old, new, sentence)
        elif old["lowers"] and not new["lowers"]:
            because = f": {new['message']}" if new.get("message") else ""
            sentence = f"{subject} {part} does not lower for {platform}, and did in the baseline{because}"
            yield Change("does not lower", key, old, new, sentence)
        elif new["lowers"] and not old["lowers"]:
            yield Change("fixed", key, old, new, f"{subject} {part} lowers for {platform}, and did not in the baseline")
