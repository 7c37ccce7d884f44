"""Static options other than those given: what the backward pass takes for granted, the forward pass was told."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from ..explaining import explained
from ..finding import CannotTell, Finding
from ..session import Session
from ..trials.options import another
from . import definition
from .naming import named

VALUES = ("fresh", "zeros", "minute", "edges", "wide")  # where an epsilon shows, a slope, a threshold
MOST = 6  # options
ASKED = (definition.truth, definition.values, definition.kinks)


@named
def options(session: Session) -> Iterator[Finding]:
    """The same with other static options: flags turned, numbers changed, where the function takes them."""
    given, tried = list(session.subject.options()), 0
    if not given:
        raise CannotTell("no argument is a static option: a flag, or a number that is no array")
    if session.failed:
        raise CannotTell("it is wrong with the options given")
    rng = np.random.default_rng(session.seed)
    profile = dataclasses.replace(session.profile, values=VALUES, cotangents=2)
    for name, place, value in given[:MOST]:
        other = another(value, rng)
        try:
            variant = Session(session.subject.with_option(place, other), profile, session.seed)
            _ = variant.local(variant.subject.example, variant.subject.dtype).by_hand
            found = [finding for check in ASKED for finding in check(variant)]
        except Exception:  # the function takes no such option, or its derivative none yet
            continue
        tried += 1
        session.variants.append(variant)
        yield from _told(explained(variant, found), f"{name}={_short(other)}", f"{name}={_short(value)}")
    if not tried:
        raise CannotTell("the function takes no other options than those given")


def _told(findings, words, given) -> Iterator[Finding]:
    for finding in findings:
        more = {"check": "options", "example": f"{finding.example} with {words}"}
        if finding.verdict == "wrong":
            said = f"wrong with {words}, right with {given}"
            more["diagnosis"] = f"{said}: {finding.diagnosis}" if finding.diagnosis else said
            more["fault"] = finding.fault or "values"
        yield dataclasses.replace(finding, **more)


def _short(value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
