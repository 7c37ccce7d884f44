"""Other lengths than the example's."""

import contextlib
import functools
import math
from collections.abc import Iterator

import numpy as np

from manual_backprop.signature import kind_of

from ..allowance import scale, unit
from ..finding import CannotTell, Finding
from ..session import Session
from ..tracing.interpreter import equations
from ..tracing.widening import kind
from ..trials import batch
from ..trials.bounds import beyond_the_end
from ..trials.lengths import ELEMENTS, longer, other_lengths, replaced, set_apart
from .naming import first_line, named, takes

MORE = 3  # places that an array is longer by, to see whether they are read
FILLINGS = (0.5, -1000.0, 1000.0)  # by whatever stands there


@named
def shapes(session: Session) -> Iterator[Finding]:
    """Other lengths: none to three, odd, long; where the function takes them, its derivative is right there too."""
    fixed: set[int] = set()  # as they are found out
    tried = yield from _judged(session, _reshaped(session), fixed)
    if fixed:
        tried += yield from _judged(session, _reshaped(session, fixed), set())
    if not tried:
        raise CannotTell("the function takes no other lengths than the example's")


def _judged(session, reshaped, fixed: set[int]):
    """The findings at these trials, but for those that are wrong beside a length that is found to be fixed."""
    dtype, tried, unread = session.subject.dtype, 0, functools.cache(lambda: _unread(session))
    for i, (words, primals) in enumerate(reshaped):
        try:
            trial = session.trial(primals, words, 200 + i)
            if beyond_the_end(session.local(primals, dtype).equations):
                continue
        except Exception:  # the function does not take arguments of these shapes
            continue
        try:
            found = list(session.judge("shapes", trial, dtype, once=True))
            if any(f.verdict == "wrong" for f in found) and (beyond := _changed(session, primals) & unread()):
                fixed |= beyond
                session.failed = [failed for failed in session.failed if failed.trial is not trial]
                continue
            yield from found
            tried += 1
        except CannotTell:
            continue
        except Exception as error:  # lengths that nobody asked for: to refuse them is no wrong gradient
            if not takes(session, primals, dtype):
                continue
            tried += 1
            message = f"with {words} the derivative raises {type(error).__name__}: {first_line(error)}"
            yield Finding(str(session.subject), "shapes", words, dtype, "abstained", message=message, example=words)
    return tried


def _changed(session, primals) -> set[int]:
    """The lengths of the example that are others in these primals."""
    pairs = zip(map(np.shape, session.subject.example), map(np.shape, primals), strict=True)
    return {n for before, after in pairs for n, m in zip(before, after, strict=False) if n != m}


def _unread(session) -> set[int]:
    """The lengths beyond which the definition reads nothing, as of three coordinates that it takes one by one."""
    lengths = {n for a in session.subject.example for n in np.shape(a) if n > 1}
    return {n for n in lengths if _reads_no_more(session, n)}


def _reads_no_more(session, length) -> bool:
    """Whether whatever stands there leaves every output as it is; of integers alone nobody can tell."""
    subject, dtype = session.subject, session.subject.dtype
    if not any(kind(a.dtype) == "float" and length in np.shape(a) for a in subject.example):
        return False
    for _, primals in replaced(subject.example, session.uses, {length: length + MORE}, f"beyond {length}"):
        try:
            local = session.local(primals, dtype)
            first, *others = (local.plainly(_filled(session, primals, length, n)) for n in FILLINGS)
        except Exception:  # the function does not take it
            return False
        return all(np.array_equal(a, b, equal_nan=True) for other in others for a, b in zip(first, other, strict=True))
    return False


def _filled(session, primals, length, number) -> tuple:
    """The primals with numbers of a size at all places that the example has not, no two of them in proportion.

    Indices of the axes that are longer now are of any place.
    """
    rng = np.random.default_rng(0)

    def one(a, longer, use):
        if kind_of(a) == "integer" and length in use.lengths:
            return rng.integers(0, length + MORE, np.shape(longer)).astype(longer.dtype)
        if kind(longer.dtype) != "float":
            return longer
        known = tuple(slice(0, n) if n == length else slice(None) for n in np.shape(a))
        made = number * rng.uniform(0.5, 1.5, np.shape(longer))
        made[known] = longer[known]
        return made

    return tuple(map(one, session.subject.example, primals, session.uses))


def _reshaped(session, fixed=frozenset()):
    """(words, primals) of other lengths, but for those that are fixed."""
    made = _of_any_length(session, fixed)
    return [(words, primals) for words, primals in made if not fixed or not _changed(session, primals) & fixed]


def _of_any_length(session, fixed):
    takes, thorough = session.takes, session.profile.thorough
    made = list(other_lengths(session.subject.example, session.uses, takes, thorough, fixed))
    none = [m for m in made if m[0].startswith("length 0 ")]
    if thorough:
        return [*(m for m in made if m not in none or not session.is_kernel), *_in_a_batch(session)]
    if session.profile.name != "default":
        return []
    ones = [m for m in made if m[0].startswith("length 1 ")]
    others = [m for m in made if m not in ones and m not in none]
    if (
        session.is_kernel
    ):  # it reads no more than its blocks of what is longer, is slow, and may run for ever on nothing
        return [*others, *ones[:3], *_in_a_batch(session)]
    ones = [*ones[:3], *_spread(session)]
    apart = set_apart(session.subject.example, session.subject.names, session.uses, takes)
    return [*others, *apart, *ones, *none[:1], *_longer(session, fixed), *_in_a_batch(session)]


def _longer(session, fixed):
    """Longer than a block, unless the function grows with it as a loop of Python's does."""
    local = session.local(session.subject.example, session.subject.dtype)

    def made_of(primals):
        with local.precision():
            shapes = [np.shape(a) for a in primals]
            functions = {session.subject, session.subject.traceable}
            return [equation for f in functions for equation in equations(session.traced(shapes, f))]

    def small(primals):
        if any(np.size(a) > ELEMENTS for a in primals):
            return False
        try:
            made = made_of(primals)
        except Exception:  # the function does not take them
            return False
        largest = max((math.prod(out.aval.shape) for equation in made for out in equation.outvars), default=0)
        shapes = [np.shape(a) for a in primals]
        return len(made) <= 2 * len(known) and largest <= ELEMENTS and session.takes(shapes)

    try:
        known = made_of(session.subject.example)
    except Exception:
        return
    primitives = [equation.primitive.name for equation in known]
    yield from longer(session.subject.example, session.uses, primitives, small, fixed)


def _in_a_batch(session):
    """The example in a batch, where the function takes it for one: it gives of all what it gives of each."""
    subject, dtype = session.subject, session.subject.dtype
    for alone, words in ((False, "every array"), (True, "the arrays with most axes")):
        lanes, axes = batch(subject.example, subject.differentiated, session.uses, session.seed, alone)
        primals = tuple(a[0] if axis is None else np.stack(a) for axis, *a in zip(axes, *lanes, strict=True))
        if not session.takes(map(np.shape, primals)):
            continue
        with contextlib.suppress(Exception):  # whatever a function says of what it does not take
            each = zip(*(session.local(lane, dtype).plainly(lane) for lane in lanes), strict=True)
            together = session.local(primals, dtype).plainly(primals)
            if all(_alike(a, np.stack(b), dtype) for a, b in zip(together, each, strict=True)):
                yield f"a batch of {len(lanes)} in front of {words}", primals
                return


def _spread(session):
    """An argument that has a length 1 in the example has it elsewhere too, if it is spread over others (broadcast)."""
    subject, dtype = session.subject, session.subject.dtype
    example = subject.example

    def with_one(i, a):
        return *example[:i], a, *example[i + 1 :]

    def outputs(primals):
        return session.local(primals, dtype).plainly(primals)

    def fits(primals):
        bars = session.local(primals, dtype).by_hand[1][1]
        return all(bar is None or bar.shape == np.shape(a) for a, bar in zip(primals, bars, strict=True))

    for i, a in enumerate(example):
        known = {n for j, other in enumerate(example) if j != i for n in np.shape(other)}
        small = a
        meant = subject.differentiated[i] and 1 in np.shape(a)
        for axis in [axis for axis, n in enumerate(np.shape(a)) if meant and n > 1 and n in known]:
            one = np.take(small, [0], axis)
            with contextlib.suppress(Exception):  # whatever either has against it
                narrow, wide = with_one(i, one), with_one(i, np.broadcast_to(one, np.shape(a)))
                if fits(narrow) and all(_alike(*o, dtype) for o in zip(outputs(narrow), outputs(wide), strict=True)):
                    small = one
        if small is not a:
            words = f"shape {np.shape(small)} for {np.shape(a)} in {subject.names[i]}"
            yield words, with_one(i, small)


def _alike(a, b, dtype) -> bool:
    """Whether they are the same to half of their digits."""
    a, b = (np.asarray(each, np.float64) for each in (a, b))
    return a.shape == b.shape and bool(np.all(np.abs(a - b) <= np.sqrt(unit(dtype)) * scale(b)))
