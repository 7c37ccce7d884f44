"""Static options other than those given: what the backward pass takes for granted, the forward pass was told."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from ..explaining import explained
from ..finding import CannotTell, Finding
from ..session import Session
from ..trials.options import others
from . import anywhere, definition
from .naming import named

VALUES = ("fresh", "zeros", "minute", "edges", "wide")  # where an epsilon shows, a slope, a threshold
MOST = 6  # options
ASKED = (definition.truth, definition.values, definition.kinks, anywhere.eager)


@named
def options(session: Session) -> Iterator[Finding]:
    """The same with other static options: flags turned, numbers changed, where the function takes them."""
    given, tried, wrong = list(session.subject.options()), 0, set()
    if not given:
        raise CannotTell("no argument is a static option: a flag, or a number that is no array")
    if session.failed:
        raise CannotTell("it is wrong with the options given")
    profile = dataclasses.replace(session.profile, values=VALUES, cotangents=2)
    for changed in _each(given[:MOST], np.random.default_rng(session.seed)):
        if wrong & set(changed):  # one value shows it
            continue
        try:
            variant = Session(session.subject.with_options(changed), profile, session.seed)
            if _has_less_room(variant, session) or _is_idle(variant, session):
                continue
            found = [finding for check in ASKED for finding in check(variant)]
        except Exception:  # the function takes no such option, or its derivative none yet
            continue
        tried += 1
        session.variants.append(variant)
        wrong |= set(changed) if variant.failed else set()
        before = ((name, value) for name, place, value in given if place in changed)
        now = ((name, changed[place]) for name, place, _ in given if place in changed)
        yield from _told(explained(variant, found), _words(now), _words(before))
    if not tried:
        raise CannotTell("the function takes no other options than those given")


def _has_less_room(variant, session) -> bool:
    """Whether an output is smaller than with the options given, and indices may lie beyond its end; traces it, too."""
    primals, dtype = session.subject.example, session.subject.dtype
    _ = variant.local(primals, dtype).by_hand
    pairs = zip(variant.local(primals, dtype).outputs, session.local(primals, dtype).outputs, strict=False)
    return any(np.size(now) < np.size(before) for now, before in pairs)


def _is_idle(variant, session) -> bool:
    """Whether an argument that moves the output with the options given no longer does, as with steps of length zero."""

    def moving(some):
        bars = some.measured(some.example[0], some.subject.dtype).truth[1]
        return [bar is not None and bool(np.any(bar)) for bar in bars]

    return any(before and not now for before, now in zip(moving(session), moving(variant), strict=True))


def _each(given, rng) -> Iterator[dict]:
    """By place: each option changed alone, then all at once."""
    tried = [(place, other) for _, place, value in given for other in others(value, rng)]
    yield from ({place: other} for place, other in tried)
    if len(given) > 1:
        yield dict(reversed(tried))  # of several the first


def _words(options) -> str:
    return ", ".join(f"{name}={_short(value)}" for name, value in options)


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
