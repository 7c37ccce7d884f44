"""The sections of a page as plain values, each computed from a record alone; templates only lay them out."""

import collections
import dataclasses
import statistics

from . import figures
from .compare import FAILING
from .record import VERDICTS, Record
from .words import count, duration, exact, number, some, ulps

SHOWN = 100  # subjects whose failures are laid out in full; the table of all findings has the others
LARGEST = 8

_SEVERITY = {"abstained": 0, "right": 1, "wrong": 2, "raised": 3}
_ORDER = {"target": 0, "rule": 1, "architecture": 2, "training": 3}


_FINDING = ("absolute", "relative", "ulps", "ratio", "mean_ratio", "spread", "points", "worst", "diagnosis", "message")
_FINDING += ("reproduction", "example")
_CURVE = ("network", "divergence_ulps", "allowance_ulps", "accuracy_by_hand", "accuracy_autodiff", "message")
_CURVE += ("largest_divergence_ulps", "seconds_by_hand", "seconds_autodiff")


def completed(record: Record) -> Record:
    """The same record with null for every field that a line may leave out."""
    fields = {"findings": _FINDING, "curves": _CURVE, "lowerings": ("message",)}
    lines = {name: [dict.fromkeys(may) | line for line in getattr(record, name)] for name, may in fields.items()}
    return dataclasses.replace(record, **lines)


def badness(finding: dict) -> tuple:
    """What makes one finding worse than another: its verdict, then its ratio."""
    ratio = finding["ratio"]
    return _SEVERITY[finding["verdict"]], float("inf") if ratio is None or ratio != ratio else ratio


def summary(record: Record) -> dict:
    judged = [*record.findings, *record.curves]
    counts = collections.Counter(line["verdict"] for line in judged)
    failing = [f for f in judged if f["verdict"] in ("wrong", "raised")]
    bad = {verdict: _subjects(f for f in failing if f["verdict"] == verdict) for verdict in ("wrong", "raised")}
    sentences = [f"{_nouns(bad[verdict])} {verb}" for verdict, verb in _verbs(bad)]
    names = list(dict.fromkeys(f["subject"] for f in failing if f.get("family") != "architecture"))
    head, versions, end = record.header, record.header.get("versions") or {}, record.end or {}
    if not judged:
        sentence = "Nothing was judged"
    elif sentences:
        sentence = "; ".join(sentences)
    else:
        sentence = "Every derivative judged is right" if counts["right"] else "Nothing could be judged"
    lanes, start = [], 0.0
    for verdict in VERDICTS:
        width = 100 * counts[verdict] / max(len(judged), 1)
        lanes.append({"verdict": verdict, "x": round(start, 3), "width": round(width, 3)})
        start += width
    targets, rules = (len({f["subject"] for f in record.findings if f["family"] == of}) for of in ("target", "rule"))
    facts = {
        "targets": count(targets) if targets else None,
        "rules": count(rules) if rules or not targets else None,
        "architectures": count(_architectures(record)) if _architectures(record) or not targets else None,
        "dtypes": ", ".join(dtypes_of(record)) or None,
        "seed": head.get("seed"),
        "platform": ", ".join(str(head[name]) for name in ("platform", "device") if head.get(name)) or None,
        "took": duration(end.get("seconds")),
        "made": str(head.get("created", "")).replace("T", " ").replace("+00:00", " UTC") or None,
    }
    return {
        "sentence": sentence + ("." if record.finished or not record.header else ", as far as the run came."),
        "standing": "raised" if bad["raised"] and not bad["wrong"] else "wrong" if failing else "right",
        "interrupted": bool(record.header) and not record.finished,
        "names": names,
        "counts": {verdict: counts[verdict] for verdict in VERDICTS},
        "lanes": lanes,
        "facts": {name: value for name, value in facts.items() if value is not None},
        "command": head.get("command"),
        "environment": {**versions, **(head.get("environment") or {})},
        "lowerings": len(record.lowerings),
        "not_lowering": sum(not line["lowers"] for line in record.lowerings),
    }


def _verbs(bad):
    for verdict, verb in (("wrong", ("is wrong", "are wrong")), ("raised", ("raised", "raised"))):
        if bad[verdict]:
            yield verdict, verb[sum(bad[verdict].values()) != 1]


def _subjects(findings):
    seen = {(f.get("family", "training"), f["subject"]) for f in findings}
    return collections.Counter(family for family, _ in sorted(seen, key=lambda pair: _ORDER.get(pair[0], 9)))


def _nouns(families):
    nouns = {"rule": "rule", "architecture": "architecture", "training": "training run"}
    parts = [some(n, nouns.get(family, family)) for family, n in families.items()]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def dtypes_of(record: Record) -> list[str]:
    """The dtypes of a record in the order of its header, others after."""
    listed = [str(dtype) for dtype in record.header.get("precisions") or []]
    return list(dict.fromkeys([*listed, *(f["dtype"] for f in record.findings if f["dtype"])]))


def _architectures(record):
    drawn = {f["subject"] for f in record.findings if f["family"] == "architecture"}
    numbers = [(line or {}).get("architectures") or 0 for line in (record.coverage, record.end)]
    return max(len(drawn), *numbers)


def failures(record: Record) -> dict:
    """Everything wrong or raised by subject; of each subject the findings that share a leaf and a reason together."""
    by_subject = collections.defaultdict(list)
    for finding in record.findings:
        if finding["verdict"] in ("wrong", "raised"):
            by_subject[finding["family"], finding["subject"]].append(finding)
    articles = []
    for family, subject in sorted(by_subject, key=lambda key: (_ORDER.get(key[0], 9), key)):
        groups = collections.defaultdict(list)
        for finding in sorted(by_subject[family, subject], key=badness, reverse=True):
            groups[_reason(finding)].append(finding)
        told = sorted(groups.values(), key=lambda group: group[0]["diagnosis"] is None)  # what is explained comes first
        articles.append({"family": family, "subject": subject, "groups": [_group(group) for group in told]})
    curves = [curve for curve in record.curves if curve["verdict"] in ("wrong", "raised")]
    more = articles[SHOWN:]
    return {"articles": articles[:SHOWN], "more": len(more), "curves": curves, "total": len(articles) + len(curves)}


def _reason(finding):
    """What findings share that are told together: the leaf and the diagnosis, or the type of an exception."""
    message = finding["message"] or ""
    if finding["verdict"] == "raised":
        return "raised", message.split(":")[0]
    return finding["leaf"], finding["diagnosis"] or message


def _group(findings):
    lead = findings[0]
    distance = None
    if lead["verdict"] == "wrong":
        distance = f"{number(lead['ulps'])} ulps off, {number(lead['ratio'])} times what is allowed"
    worst = lead["worst"]
    return {
        "lead": lead,
        "distance": distance,
        "worst": worst and {name: exact(worst.get(name)) for name in ("index", "got", "expected")},
        "others": findings[1:],
        "messages": any(other["message"] != lead["message"] for other in findings[1:]),
    }


def rules(record: Record) -> dict:
    """One row a rule: in each dtype the worst finding, and what it is the worst of."""
    dtypes = dtypes_of(record)
    by_rule = collections.defaultdict(list)
    for finding in record.findings:
        if finding["family"] == "rule":
            by_rule[finding["subject"]].append(finding)
    rows = []
    for name, findings in by_rule.items():
        details = collections.defaultdict(list)
        for finding in findings:
            details[finding["leaf"], finding["check"]].append(finding)
        details = sorted(details.items())
        rows.append(
            {
                "name": name,
                "worst": max(map(badness, findings)),
                "cells": _cells(findings, dtypes),
                "checks": len({f["check"] for f in findings}),
                "points": sum(f["points"] or 1 for f in findings),
                "details": [
                    {"leaf": leaf, "check": check, "cells": _cells(of, dtypes)} for (leaf, check), of in details
                ],
            }
        )
    rows.sort(key=lambda row: (row["worst"][0] < _SEVERITY["wrong"], row["name"]))
    others = [finding for finding in record.findings if finding["family"] != "target"]
    return {"dtypes": dtypes, "rows": rows, "abstentions": abstentions(others)}


def abstentions(findings) -> list[dict]:
    """The reasons for which checks abstained, those of most subjects first."""
    reasons = collections.defaultdict(set)
    for finding in findings:
        if finding["verdict"] == "abstained":
            reason = (finding["message"] or "no reason given").removeprefix(f"{finding['check']} abstains: ")
            reasons[finding["check"], reason].add(finding["subject"])
    told = [
        {"check": check, "reason": reason, "subjects": sorted(subjects)}
        for (check, reason), subjects in reasons.items()
    ]
    return sorted(told, key=lambda abstention: -len(abstention["subjects"]))


def _cells(findings, dtypes):
    return [_cell([f for f in findings if f["dtype"] == dtype]) for dtype in dtypes]


def _cell(findings):
    worst = max(findings, key=badness, default=None)
    if worst is None:
        return None
    ratio = worst["ratio"]
    gauge = 0.0 if ratio is None or ratio != ratio else min(ratio, 1.0)
    judged = worst["verdict"] in ("right", "wrong")
    return {
        "verdict": worst["verdict"],
        "ulps": ulps(worst["ulps"]) if judged else worst["verdict"],
        "sort": list(badness(worst)),
        "gauge": round(48 * gauge, 1) if judged else None,
        "title": f"{worst['verdict']}, {number(ratio)} of what is allowed" if judged else worst["message"] or "",
    }


def architectures(record: Record) -> dict | None:
    findings = [f for f in record.findings if f["family"] == "architecture"]
    coverage = record.coverage
    if not findings and not coverage:
        return None
    measured = [f for f in findings if f["verdict"] in ("right", "wrong") and f["ratio"] is not None]
    low, high = figures.ratio_range([f["ratio"] for f in measured])
    key = "architectures_per_second"
    panels = []
    for dtype in dtypes_of(record):
        ratios = [f["ratio"] for f in measured if f["dtype"] == dtype]
        if ratios:
            stats = {"findings": count(len(ratios)), "zeros": count(ratios.count(0)), "worst": number(max(ratios))}
            stats["median"] = number(statistics.median(ratios))
            panels.append({"dtype": dtype, "chart": figures.histogram(ratios, low, high)} | stats)
    largest: dict[str, dict] = {}
    for finding in sorted(measured, key=badness, reverse=True):
        largest.setdefault(finding["subject"], finding)
    missing = collections.defaultdict(list)
    for first, second in (coverage or {}).get("missing", []):
        missing[first].append(second)
    return {
        "count": _architectures(record),
        "rate": next((number(line[key]) for line in (record.end, coverage) if line and line.get(key)), None),
        "panels": panels,
        "largest": list(largest.values())[:LARGEST],
        "coverage": coverage,
        "missing": dict(missing),
    }


def training(record: Record) -> list[dict]:
    sections = []
    for curve in record.curves:
        steps = curve["steps"]
        loss = {"autodiff": curve["loss_autodiff"], "hand": curve["loss_by_hand"]}
        apart = {"allowance": curve["allowance_ulps"] or [], "divergence": curve["divergence_ulps"] or []}
        sections.append(
            {"curve": curve, "loss": figures.lines(steps, loss), "apart": figures.lines(steps, apart, zero_lane=True)}
        )
    return sections


def lowering(record: Record) -> dict | None:
    if not record.lowerings:
        return None
    platforms = list(dict.fromkeys(line["platform"] for line in record.lowerings))
    by_subject = collections.defaultdict(lambda: collections.defaultdict(list))
    for line in record.lowerings:
        by_subject[line["subject"]][line["platform"]].append(line)
    rows = [{"subject": name, "cells": [of.get(p, []) for p in platforms]} for name, of in sorted(by_subject.items())]
    # A rule that lowers everywhere needs no row of its own.
    plain = [row["subject"] for row in rows if all(c and all(line["lowers"] for line in c) for c in row["cells"])]
    table = [row for row in rows if row["subject"] not in plain]
    return {"platforms": platforms, "rows": table, "plain": plain, "total": len(rows)}


def comparison(changes) -> dict | None:
    """The changes for the worse, those of one kind and subject together, and the others."""
    if changes is None:
        return None
    groups = collections.defaultdict(list)
    for change in changes:
        if change.kind in FAILING:
            groups[change.kind, *change.key[:2]].append(change)
    return {
        "groups": list(groups.values()),
        "total": sum(map(len, groups.values())),
        "other": [change for change in changes if change.kind not in FAILING],
    }
