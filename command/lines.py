"""A finding as a line of the record."""

import dataclasses

from manual_backprop.reference.finding import Finding


def line_of(finding: Finding) -> dict:
    """A finding as a record line of a network; a rule's line names its rule instead."""
    line = dataclasses.asdict(finding)
    index, got, expected = (line.pop(name) for name in ("index", "got", "expected"))
    worst = None if index is None else {"index": list(index), "got": got, "expected": expected}
    return {"kind": "finding", "family": "architecture", **line, "worst": worst}
