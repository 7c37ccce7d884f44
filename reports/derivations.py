"""The derivations of a record as values for the page: every claim with its verdict, and what orders cost.

Both are lines of kinds that the record keeps without knowing them, so nothing here relies on a field being there.
"""

import itertools
import math
import re

import markupsafe

from . import figures, formulas
from .record import Record
from .words import count, number, ulps

PARTS = {
    "A": "The chain as a product of Jacobians",
    "B": "The weight gradient through explicit tensors",
    "C": "Many samples at once",
    "D": "The total derivative",
}
SHOWN = 3  # mistakes told of one claim
ORDERS = ("forward", "reverse")


def derivations(record: Record) -> dict | None:
    """The claims in their parts, and the cost of association; None where a record has neither."""
    lines = [line for line in record.others if line["kind"] == "claim"]
    costs = [line for line in record.others if line["kind"] == "association"]
    if not lines and not costs:
        return None
    claims = [_claim(line) for line in sorted(lines, key=_place)]
    failing = [claim for claim in claims if claim["verdict"] != "right"]
    return {
        "parts": [
            {"letter": letter, "title": PARTS.get(letter, ""), "claims": list(of)}
            for letter, of in itertools.groupby(claims, key=lambda claim: claim["number"][:1])
        ],
        "total": len(claims),
        "failing": failing,
        "checks": count(sum(claim["checks"] for claim in claims)),
        "deviations": count(sum(claim["deviating"] for claim in claims)),
        "panels": [panel for panel in map(_panel, *zip(*_sweeps(costs), strict=True)) if panel] if costs else [],
        "chains": [_chain(line) for line in costs if line.get("sweep") == "random"],
    }


def _place(line):
    letters, digits = re.match(r"(\D*)(\d*)", str(line.get("number", ""))).groups()
    return letters, int(digits or 0)


def _claim(line):
    ratio, deviations = line.get("ratio"), line.get("deviations") or []
    judged = line.get("verdict") in ("right", "wrong")
    gauge = min(ratio, 1.0) if isinstance(ratio, int | float) and ratio == ratio else 0.0
    told: dict = {}  # of each mistake the one that is furthest off
    for each in sorted(deviations, key=lambda each: -_size(each.get("found"))):
        told.setdefault(each.get("what"), each)
    told = list(told.values())[:SHOWN]
    return {
        "number": str(line.get("number", "")),
        "title": line.get("title") or "",
        "formula": markupsafe.Markup(formulas.mathml(str(line.get("formula") or ""))),
        "shapes": line.get("shapes") or "",
        "checks": line.get("checks") or 0,
        "verdict": line.get("verdict", "raised"),
        "message": line.get("message"),
        "exact": judged and ratio == 0 and not line.get("ulps"),
        "ulps": ulps(line.get("ulps")) if judged else "–",
        "ratio": number(ratio),
        "gauge": round(48 * gauge, 1),
        "deviating": len(deviations),
        "deviations": [
            {"what": each.get("what"), **{name: _signed(each.get(name)) for name in ("found", "predicted")}}
            for each in told
        ],
        "more": len(deviations) - len(told),
    }


def _signed(value):
    return number(value, 6).replace("-", "−")


def _size(value):
    return abs(value) if isinstance(value, int | float) and math.isfinite(value) else 0.0


def _sweeps(costs):
    """What is drawn: (lines, the name of what varies, what is measured, how the panel is called)."""
    by_sweep = {name: [line for line in costs if line.get("sweep") == name] for name in ("width", "depth")}
    fixed = {name: next((line.get(other) for line in by_sweep[name]), None) for name, other in _OTHER.items()}
    for name, key, noun in (
        ("width", "multiplications", "multiplications"),
        ("width", "seconds", "seconds"),
        ("depth", "multiplications", "multiplications"),
        ("depth", "seconds", "seconds"),
    ):
        title = f"{noun} by {name}"
        yield by_sweep[name], name, key, (title, f"{_OTHER[name]} {fixed[name]}")


_OTHER = {"width": "depth", "depth": "width"}


def _panel(lines, across, key, titles):
    """Both orders on logarithmic axes, over width or depth."""
    series = {
        order: sorted((line[across], line[order][key]) for line in lines if _size(line.get(order, {}).get(key)) > 0)
        for order in ORDERS
    }
    points = [point for of in series.values() for point in of]
    if len(points) < 4:
        return None
    xs, ys = zip(*points, strict=True)
    across_axis = figures.Axis(min(xs), max(max(xs), 2 * min(xs)), figures.LEFT + 8, figures.WIDTH - 76, log=True)
    low, high = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)))
    up = figures.Axis(10.0**low, 10.0 ** max(high, low + 1), figures.HEIGHT - figures.BOTTOM, figures.TOP, log=True)
    last = {order: of[-1] for order, of in series.items() if of}
    return {
        "title": titles[0],
        "fixed": titles[1],
        "paths": {
            order: "M" + "L".join(f"{across_axis(x):g} {up(y):g}" for x, y in of) for order, of in series.items() if of
        },
        "dots": [
            {"order": order, "x": across_axis(x), "y": up(y), "title": f"{order}, {across} {x}: {number(y, 4)}"}
            for order, of in series.items()
            for x, y in of
        ],
        "ends": [{"order": order, "x": across_axis(x) + 8, "y": up(y) + 4} for order, (x, y) in last.items()],
        "factor": number(last["forward"][1] / last["reverse"][1], 3) if len(last) == 2 else None,
        "x_ticks": [(across_axis(x), str(x)) for x in sorted(set(xs))],
        "y_ticks": up.ticks(4),
    }


def _chain(line):
    cells = []
    for order in ("reverse", "forward", "optimal"):
        found = line.get(order) or {}
        counted, flops = found.get("multiplications"), found.get("flops")
        cells.append(
            {
                "multiplications": count(counted) if isinstance(counted, int) else "–",
                "flops": number(flops / counted, 3) if counted and isinstance(flops, int | float) else "–",
            }
        )
    lengths = line.get("lengths") or []
    return {"lengths": " × ".join(map(str, lengths)), "order": (line.get("optimal") or {}).get("order"), "cells": cells}


__all__ = ["derivations"]
