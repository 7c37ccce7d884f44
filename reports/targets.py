"""The section of targets: functions that are not of the catalogue, each under every check of the contract."""

import collections

from .record import Record
from .sections import abstentions, badness
from .words import number, ulps


def targets(record: Record) -> dict | None:
    """One row a target and one column a check, with the worst finding of both; None where there is no target."""
    findings = [finding for finding in record.findings if finding["family"] == "target"]
    if not findings:
        return None
    checks = list(dict.fromkeys(finding["check"] for finding in findings))
    by_target = collections.defaultdict(lambda: collections.defaultdict(list))
    for finding in findings:
        by_target[finding["subject"]][finding["check"]].append(finding)
    rows = []
    for name, of in by_target.items():
        worst = {check: max(group, key=badness) for check, group in of.items()}
        rows.append(
            {
                "name": name,
                "failing": any(finding["verdict"] in ("wrong", "raised") for finding in worst.values()),
                "cells": [_cell(worst.get(check)) for check in checks],
            }
        )
    rows.sort(key=lambda row: (not row["failing"], row["name"]))
    return {"checks": checks, "rows": rows, "abstentions": abstentions(findings)}


def _cell(finding):
    if finding is None:
        return None
    verdict, where = finding["verdict"], " ".join(filter(None, (finding["leaf"], finding["dtype"])))
    told = f"{ulps(finding['ulps'])} ulps, {number(finding['ratio'])} of what is allowed"
    told = told if verdict in ("right", "wrong") and not finding["message"] else finding["message"] or ""
    return {"verdict": verdict, "title": f"{verdict}, at worst {where}: {told}"}
