"""The same wherever it runs: without jit, again, under vmap, inside loops and branches, on several devices."""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from ..finding import CannotTell, Finding
from ..programs import compiled
from ..session import Session
from ..trials import other_values
from .naming import first_line, named

LANES = 2
WITHOUT_JIT = "wrong without jit, right under it"
STALE = "wrong after a forward pass elsewhere: the derivative depends on what ran before"


@named
def eager(session: Session) -> Iterator[Finding]:
    """Without jit the derivative gives the same as under jit."""
    trial, dtype = session.example[0], session.subject.dtype
    answer = session.local(trial.primals, dtype).hand(trial.primals, trial.cotangent, eager=True)
    yield from _transformed(session, "eager", trial, dtype, answer, WITHOUT_JIT)


@named
def repeatable(session: Session) -> Iterator[Finding]:
    """Two calls give the same to the last bit, whatever ran between them, interleaved with another forward pass."""
    trial, dtype = session.example[0], session.subject.dtype
    primals = other_values(trial.primals, session.subject.differentiated, "fresh", seed=session.seed + 1)
    other = session.trial(primals, "fresh", 8)
    local = session.local(trial.primals, dtype)
    first = local.hand(trial.primals, trial.cotangent, eager=True)[1]
    with local.precision(), jax.default_matmul_precision("highest"):
        pulls = [local.forward_pass(t.primals) for t in (trial, other)]
        second = pulls[0](local.cast_outputs(trial.cotangent))
        theirs = pulls[1].out, pulls[1](local.cast_outputs(other.cotangent))
    outputs, third = local.hand(trial.primals, trial.cotangent, eager=True)
    for leaf, a, b, c, chosen in zip(
        session.subject.names, first, second, third, session.subject.differentiated, strict=True
    ):
        make = functools.partial(Finding, str(session.subject), "repeatable", leaf, dtype, example=trial.words)
        if chosen:
            same = [np.array_equal(np.asarray(a), np.asarray(x), equal_nan=True) for x in (b, c)]
            when = "after another forward pass" if not same[0] else "when it is called again"
            message = f"other cotangents {when}: the derivative depends on what ran before"
            yield make("right") if all(same) else make("wrong", ratio=np.inf, message=message, fault="impure")
    elsewhere = session.judge("repeatable", other, dtype, theirs, outputs=False, remember=False)
    wrong = [finding for finding in elsewhere if finding.verdict == "wrong"]
    plainly = _wrong_plainly(session, other) if wrong else ()  # then it is wrong at those values, whatever ran before
    eagerly = _wrong_plainly(session, trial, (outputs, third)) if wrong else ()
    for finding in wrong:
        if finding.leaf not in plainly:
            said = (WITHOUT_JIT, "transform") if finding.leaf in eagerly else (STALE, "impure")
            yield dataclasses.replace(finding, message=said[0], fault=said[1])


def _transformed(session, check, trial, dtype, answer, message):
    """What was computed under a transformation, judged; what is wrong there alone is put down to it."""
    findings = list(session.judge(check, trial, dtype, answer, outputs=False))
    plainly = _wrong_plainly(session) if any(finding.verdict == "wrong" for finding in findings) else ()
    for finding in findings:
        if finding.verdict == "wrong":
            alone = finding.leaf not in plainly
            found = {"message": message, "fault": "transform"} if alone else {"message": None, "fault": None}
            finding = dataclasses.replace(finding, **found)
        yield finding


def _wrong_plainly(session, trial=None, answer=None):
    """The leaves that are wrong at a trial, or at the example, without any transformation, or in what came."""
    trial, dtype = trial or session.example[0], session.subject.dtype
    plain = session.judge("truth", trial, dtype, answer, remember=False)
    return {finding.leaf for finding in plain if not finding.ok}


@named
def vmap(session: Session) -> Iterator[Finding]:
    """vmap over all arguments, and over each one alone, equals a loop."""
    dtype = session.subject.dtype
    base = session.example[0]
    primals = other_values(base.primals, session.subject.differentiated, "fresh", seed=session.seed + 2)
    lanes = [base, session.trial(primals, "fresh", 9)]
    local = session.local(base.primals, dtype)
    floats = [i for i, chosen in enumerate(session.subject.differentiated) if chosen]
    ways = [tuple(floats), *((i,) for i in floats if len(floats) > 1)]
    ways = ways if session.profile.thorough else ways[:4]
    mixed = [
        [
            dataclasses.replace(
                lanes[k], primals=tuple(lanes[k if i in way else 0].primals[i] for i in range(len(base.primals)))
            )
            for k in range(LANES)
        ]
        for way in ways
    ]

    def everything(stacked, cotangents):
        return [
            jax.vmap(local.pullback, in_axes=(tuple(0 if i in way else None for i in range(len(base.primals))), 0))(
                s, c
            )
            for way, s, c in zip(ways, stacked, cotangents, strict=True)
        ]

    stacked = [
        tuple(
            np.stack([session.subject.cast(t.primals, dtype)[i] for t in trials])
            if i in way
            else session.subject.cast(trials[0].primals, dtype)[i]
            for i in range(len(base.primals))
        )
        for way, trials in zip(ways, mixed, strict=True)
    ]
    cts = [
        tuple(np.stack(parts) for parts in zip(*(local.cast_outputs(t.cotangent) for t in trials), strict=True))
        for trials in mixed
    ]
    with local.precision(), jax.default_matmul_precision("highest"):
        try:
            results = jax.device_get(compiled(everything)(stacked, cts))
        except Exception as error:
            _must_be_mapped(session, stacked[0], ways[0], error)
            raise
    for way, trials, (out, bars) in zip(ways, mixed, results, strict=True):
        over = "all arguments" if len(way) == len(floats) else session.subject.names[way[0]]
        for k, trial in enumerate(trials):
            lane = tuple(o[k] for o in out), tuple(None if b is None else b[k] for b in bars)
            yield from _transformed(session, "vmap", trial, dtype, lane, f"wrong only under vmap over {over}")


def _must_be_mapped(session, stacked, way, error):
    """What cannot be mapped without its derivative either, is no fault of that."""
    try:
        jax.eval_shape(jax.vmap(session.subject, [0 if i in way else None for i in range(len(stacked))]), *stacked)
    except Exception:
        raise CannotTell(f"the function itself does not go under vmap: {first_line(error)}") from None


PARTS = 4  # of the leaves, each differentiated without the others, and of the outputs, each used without them


@named
def alone(session: Session) -> Iterator[Finding]:
    """Where other arguments are held constant, or other outputs are not used, an argument gets the same cotangent."""
    trial, dtype = session.example[0], session.subject.dtype
    leaves = [i for i, chosen in enumerate(session.subject.differentiated) if chosen]
    if len(leaves) < 2 and len(trial.cotangent) < 2:
        raise CannotTell(
            "one argument is differentiated and one output is made of it: they are alone wherever they are"
        )
    if len(trial.cotangent) > 1:
        yield from _of_one_output(session)
    if len(leaves) < 2:
        return
    local = session.local(trial.primals, dtype)
    parts = [list(part) for part in np.array_split(leaves, min(len(leaves), PARTS))]

    def each(cast, cotangent):
        bars = {}
        for part in parts:
            given = dict(enumerate(cast))

            def of_part(*some, part=part, given=given):
                return session.subject(*(given | dict(zip(part, some, strict=True))).values())

            bars |= zip(part, jax.vjp(of_part, *(cast[i] for i in part))[1](cotangent), strict=True)
        return tuple(bars.get(i) for i in range(len(cast)))

    with local.precision(), jax.default_matmul_precision("highest"):
        cast = session.subject.cast(trial.primals, dtype)
        bars = compiled(each)(cast, local.cast_outputs(trial.cotangent))
    answer = session.answer(trial, dtype)[0], bars
    message = "wrong only where no other argument is differentiated"
    yield from _transformed(session, "alone", trial, dtype, answer, message)


def _of_one_output(session):
    """Where one output is used: then the cotangents of the others are no arrays of zeros, but symbols of nothing."""
    base, dtype = session.example[0], session.subject.dtype
    local = session.local(base.primals, dtype)
    used = range(min(len(base.cotangent), PARTS))
    trials = [
        dataclasses.replace(base, cotangent=tuple(c if i == j else 0 * c for i, c in enumerate(base.cotangent)))
        for j in used
    ]

    def each(cast, cotangent):
        def of_one(j):
            out, pull_back = jax.vjp(lambda *primals: session.subject(*primals)[j], *cast)
            return out, pull_back(cotangent[j])

        return [of_one(j) for j in used]

    with local.precision(), jax.default_matmul_precision("highest"):
        cast = session.subject.cast(base.primals, dtype)
        found = compiled(each)(cast, local.cast_outputs(base.cotangent))
    for j, (trial, (_, bars)) in enumerate(zip(trials, found, strict=True)):
        answer = session.answer(base, dtype)[0], bars
        name = session.subject.output_names(len(base.cotangent))[j]
        yield from _transformed(
            session, "alone", trial, dtype, answer, f"wrong only where of the outputs no other than {name} is used"
        )


@named
def nested(session: Session) -> Iterator[Finding]:
    """Inside scan, cond and checkpoint the derivative is the same."""
    trial, dtype = session.example[0], session.subject.dtype
    local = session.local(trial.primals, dtype)
    cast = session.subject.cast(trial.primals, dtype)
    cotangent = local.cast_outputs(trial.cotangent)

    def inside(wrap, cast, cotangent):
        out, pull_back = session.subject.vjp(lambda *primals: wrap(primals), cast)
        return out, pull_back(cotangent)

    ways = {
        "cond": lambda p: jax.lax.cond(
            jnp.sum(jnp.ones(1)) > 0,
            lambda: session.subject(*p),
            lambda: tuple(jnp.zeros(o.shape, o.dtype) for o in local.outputs),
        ),
        "scan": lambda p: tuple(
            o[0] for o in jax.lax.scan(lambda carry, _: (carry, session.subject(*p)), 0, None, length=1)[1]
        ),
        "checkpoint": lambda p: jax.checkpoint(lambda *q: session.subject(*q))(*p),
    }
    with local.precision(), jax.default_matmul_precision("highest"):
        results = compiled(lambda p, c: {name: inside(way, p, c) for name, way in ways.items()})(cast, cotangent)
    for name, answer in results.items():
        yield from _transformed(session, "nested", trial, dtype, answer, f"wrong only inside {name}")


@named
def sharded(session: Session) -> Iterator[Finding]:
    """Arguments laid out over several devices give the same cotangents."""
    devices = jax.devices()
    if len(devices) < 2:
        raise CannotTell("there is one device; XLA_FLAGS=--xla_force_host_platform_device_count=8 makes eight of a CPU")
    trial, dtype = session.example[0], session.subject.dtype
    local = session.local(trial.primals, dtype)
    mesh = jax.sharding.Mesh(np.asarray(devices), ("devices",))

    def place(a):
        split = np.ndim(a) and np.shape(a)[0] % len(devices) == 0 and np.shape(a)[0]
        spec = jax.sharding.PartitionSpec("devices" if split else None) if np.ndim(a) else jax.sharding.PartitionSpec()
        return jax.device_put(a, jax.sharding.NamedSharding(mesh, spec))

    with local.precision(), jax.default_matmul_precision("highest"):
        cast = tuple(map(place, session.subject.cast(trial.primals, dtype)))
        answer = jax.jit(local.pullback)(cast, tuple(map(place, local.cast_outputs(trial.cotangent))))
    yield from _transformed(session, "sharded", trial, dtype, answer, "wrong only when sharded over devices")
