"""The findings and curves of a record as the data block of a page: columns, repeated text once, large blocks packed."""

import base64
import gzip
import json
import math

from .record import Record
from .words import exact

PACKED_ABOVE = 2**20  # bytes of JSON; below, the block stays readable in the page's source

_TEXT = ("verdict", "family", "subject", "leaf", "check", "dtype", "diagnosis", "message", "example", "reproduction")
_NUMBERS = ("ratio", "ulps", "relative", "absolute", "mean_ratio", "spread", "points")


def data_block(record: Record) -> tuple[str, bool]:
    """JSON for a <script> element and whether it is packed (gzip, then base64)."""
    findings = record.findings
    columns = {name: _words([finding[name] for finding in findings]) for name in _TEXT}
    # What raised or abstained has measured nothing, whatever its fields hold.
    measured = [
        finding if finding["verdict"] in ("right", "wrong") else {"points": finding.get("points")}
        for finding in findings
    ]
    columns |= {name: [_number(finding.get(name)) for finding in measured] for name in _NUMBERS}
    columns["worst"] = _words([_worst(finding["worst"]) for finding in findings])
    curves = [{key: _plain(value) for key, value in curve.items()} for curve in record.curves]
    text = json.dumps({"count": len(findings), "columns": columns, "curves": curves}, separators=(",", ":"))
    # ASCII JSON with "<" spelt out can close no script element and open no comment.
    text = text.replace("<", "\\u003c")
    if len(text) <= PACKED_ABOVE:
        return text, False
    return base64.b64encode(gzip.compress(text.encode(), 9, mtime=0)).decode(), True


def _words(values):
    """A column of text: each word once, and its number for each row; null is no word."""
    words, codes = {}, []
    for value in values:
        codes.append(-1 if value is None else words.setdefault(str(value), len(words)))
    return {"words": list(words), "codes": codes}


def _worst(worst):
    if not worst:
        return None
    where = f"at {worst['index']} " if worst.get("index") is not None else ""
    return f"{where}got {exact(worst.get('got'))}, expected {exact(worst.get('expected'))}"


def _number(value):
    if value is None or isinstance(value, int):
        return value
    return float(f"{value:.4g}") if math.isfinite(value) else str(value)


def _plain(value):
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return _number(value) if isinstance(value, float) else value
