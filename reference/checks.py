"""What a correct derivative fulfils: named checks of one subject, each a generator of findings.

A check that does not apply raises `CannotTell` and says why; nothing is skipped in silence.  The first line of its
docstring is what `manual-backprop explain checks` prints.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from .allowance import SLACK, least, unit
from .discrepancy import discrepancy
from .estimates import Abstains
from .finding import Finding
from .oracles import ORACLES, adjoint, adjoint_differences
from .points import constants
from .pullback import pull
from .session import CannotTell, Session, malformed, output_names
from .subject import Subject
from .trials import KINKED, other_lengths, other_values
from .widening import coarsest, kind

CHECKS: dict[str, Callable[[Session], Iterator[Finding]]] = {}
LANES = 2


def named(check: Callable) -> Callable:
    """Register a check by its name."""
    CHECKS[check.__name__] = check
    return check


def _dtypes(session) -> list[str]:
    """The example's own dtype, then float64 where the function computes in it throughout."""
    own = session.subject.dtype
    return [own] if own == "float64" else [own, *_sharp(session)]


def _sharp(session) -> list[str]:
    """float64, unless the function, or its derivative, falls back to fewer digits inside, or refuses it."""
    if not hasattr(session, "_sharp"):
        session._sharp = ["float64"] if _keeps_float64(session) else []
    return session._sharp


def _keeps_float64(session) -> bool:
    example = session.example[0]
    try:
        local = session.local(example.primals, "float64")
        with local.precision():
            cast = session.subject.cast(example.primals, "float64")
            traced = jax.make_jaxpr(local.pullback)(cast, local.cast_outputs(example.cotangent))
        return coarsest(traced) == "float64" and all(o.dtype == np.float64 for o in local.outputs)
    except Exception:  # a function of single precision only is none the worse for it
        return False


# --- against the definition ------------------------------------------------------------------------------------------


@named
def value(session: Session) -> Iterator[Finding]:
    """The forward pass gives the value of the function itself."""
    for dtype in _dtypes(session):
        for trial in session.example[:1]:
            for finding in session.judge("value", trial, dtype, session.answer(trial, dtype)):
                if finding.leaf in output_names(len(trial.cotangent)):
                    yield finding


@named
def structure(session: Session) -> Iterator[Finding]:
    """Every float argument gets a cotangent of its own shape and dtype; integers and keys get none."""
    trial, dtype = session.example[0], session.subject.dtype
    _, bars = session.answer(trial, dtype)
    for name, bar, primal, chosen in zip(
        session.subject.names,
        bars,
        session.subject.cast(trial.primals, dtype),
        session.subject.differentiated,
        strict=True,
    ):
        make = functools.partial(Finding, str(session.subject), "structure", name, dtype, example=trial.words)
        if chosen:
            fault = malformed(bar, primal)
            weak = fault is None and getattr(bar, "weak_type", False)
            fault = "the cotangent is weakly typed, the argument is not" if weak else fault
            yield make("wrong", ratio=np.inf, message=fault, fault="structure") if fault else make("right")


@named
def truth(session: Session) -> Iterator[Finding]:
    """Every cotangent equals the derivative of the definition, by autodiff in float64, at the example's values."""
    for dtype in _dtypes(session):
        for trial in session.example:
            yield from session.judge("truth", trial, dtype, session.answer(trial, dtype), outputs=False)


@named
def values(session: Session) -> Iterator[Finding]:
    """The same at other values: zeros, ties, equal rows, large, tiny, mixed sizes, the edges of the definition."""
    yield from _at_values(session, [v for v in session.profile.values if v not in KINKED], "values")


@named
def kinks(session: Session) -> Iterator[Finding]:
    """At ties, zeros and edges: JAX's choice of derivative, or another between the one-sided ones."""
    yield from _at_values(session, [v for v in session.profile.values if v in KINKED], "kinks")


def _at_values(session, words, check):
    near = _constants(session)
    for i, kind_of_values in enumerate(words):
        example = session.subject.example
        primals = other_values(example, session.subject.differentiated, kind_of_values, near, session.seed)
        trial = session.trial(primals, kind_of_values, 100 + i)
        for dtype in _dtypes(session):
            yield from session.judge(check, trial, dtype, session.answer(trial, dtype), outputs=True)


def _constants(session) -> tuple:
    local = session.local(session.example[0].primals, session.subject.dtype)
    with jax.enable_x64(True):
        found = constants(jax.make_jaxpr(local.definition)(*session.example[0].primals))
    return tuple(sorted({a for a in {*found, *(-b for b in found)} if abs(a) < 64}))


# --- against other oracles -------------------------------------------------------------------------------------------


def _against(session, name):
    """The cotangents against an oracle, which is allowed the error that it states."""
    trial = session.example[0]
    dtype = _dtypes(session)[-1]
    local, answer = session.local(trial.primals, dtype), session.answer(trial, dtype)
    allowances = session.measured(trial, dtype).allowance[1]
    at = session.rounded(trial, dtype)
    try:
        estimate = ORACLES[name].__wrapped__(local.definition)(at.primals, at.cotangent)
    except Abstains as reason:
        raise CannotTell(reason.reason) from None
    for i, leaf in enumerate(session.subject.names):
        if not session.subject.differentiated[i] or allowances[i] is None:
            continue
        make = functools.partial(Finding, str(session.subject), name, leaf, dtype, example=trial.words)
        got = np.asarray(answer[1][i], np.float64)
        room = SLACK * estimate.error[i]
        nearest = np.clip(got, estimate.value[i] - room, estimate.value[i] + room)
        apart = discrepancy(got, nearest, allowances[i], local.unit)
        if apart is None or not np.isfinite(room).any():
            yield make("abstained", message="the oracle cannot tell here")
        else:
            yield make("wrong" if apart.ratio > 1 else "right", **vars(apart))


@named
def jacobian(session: Session) -> Iterator[Finding]:
    """The cotangents equal the whole Jacobian, by forward mode, contracted with the cotangent."""
    yield from _against(session, "jacfwd")


@named
def differences(session: Session) -> Iterator[Finding]:
    """The cotangents equal differences of the function, extrapolated to step zero: no autodiff is involved."""
    yield from _against(session, "richardson")


@named
def complex_step(session: Session) -> Iterator[Finding]:
    """The cotangents equal steps off the real axis, where the function is holomorphic."""
    yield from _against(session, "complex_step")


@named
def adjoint_identity(session: Session) -> Iterator[Finding]:
    """⟨J v, ȳ⟩ = ⟨v, x̄⟩ for random v, with J v by forward mode, and by differences where that does not apply."""
    trial = session.example[0]
    dtype = _dtypes(session)[-1]
    local, bars = session.local(trial.primals, dtype), session.answer(trial, dtype)[1]
    allowances = session.measured(trial, dtype).allowance[1]
    at = session.rounded(trial, dtype)
    full = _filled(session, bars)
    for oracle in (adjoint, adjoint_differences):
        try:
            identity = oracle.__wrapped__(local.definition)(at.primals, at.cotangent, primals_bar=full)
            break
        except Abstains as abstention:
            reason = abstention.reason
    else:
        raise CannotTell(reason)
    floats = [i for i, a in enumerate(trial.primals) if kind(a.dtype) == "float"]
    if not all(session.subject.differentiated[i] for i in floats):
        raise CannotTell("an argument that is not differentiated moves the output too")
    room = np.concatenate([np.ravel(allowances[i]) for i in floats])
    allowed = SLACK * identity.error + np.abs(identity.directions) @ np.where(np.isfinite(room), room, np.inf)
    off = np.abs(identity.discrepancy)
    ratio = float(np.max(np.where(np.isfinite(allowed) & (off > 0), off / allowed, 0), initial=0))
    make = functools.partial(Finding, str(session.subject), "adjoint_identity", "all arguments", dtype)
    yield make("wrong" if ratio > 1 else "right", absolute=float(np.max(off)), ratio=ratio, example=trial.words)


def _filled(session, bars):
    return tuple(
        np.zeros(np.shape(a)) if bar is None and kind(a.dtype) == "float" else bar
        for a, bar in zip(session.example[0].primals, bars, strict=True)
    )


@named
def taylor(session: Session) -> Iterator[Finding]:
    """What is left of ⟨ȳ, f(x + h v) − f(x)⟩ − h ⟨x̄, v⟩ falls with h²: halving h divides it by four, not by two."""
    trial = session.example[0]
    dtype = _dtypes(session)[-1]
    local, bars = session.local(trial.primals, dtype), session.answer(trial, dtype)[1]
    at = session.rounded(trial, dtype)
    rng = np.random.default_rng(session.seed)
    chosen = session.subject.differentiated
    floats = [i for i, a in enumerate(at.primals) if kind(a.dtype) == "float" and chosen[i]]
    v = {i: rng.normal(size=np.shape(at.primals[i])) * np.maximum(np.abs(at.primals[i]), 2.0**-4) for i in floats}
    steps = 2.0 ** -np.arange(2.0, 16.0)
    with jax.enable_x64(True):
        program = jax.jit(
            lambda h: sum(
                jnp.sum(c * o)
                for c, o in zip(
                    at.cotangent,
                    local.definition(*(a + h * v[i] if i in v else a for i, a in enumerate(at.primals))),
                    strict=True,
                )
            )
        )
        along = np.asarray([float(program(h)) for h in (0.0, *steps)])
    slope = sum(float(np.vdot(np.asarray(bars[i], np.float64), v[i])) for i in floats)
    left = np.abs(along[1:] - along[0] - steps * slope)
    floor = 64 * np.finfo(np.float64).eps * max(np.max(np.abs(along)), 1e-300) + steps * unit(local.unit) * SLACK * sum(
        float(np.sum(np.abs(np.asarray(bars[i], np.float64) * v[i]))) for i in floats
    )
    use = np.isfinite(left) & (left > 8 * floor)
    if use.sum() < 4:
        raise CannotTell("the function is straight, or its remainder drowns in rounding")
    order = float(np.polyfit(np.log2(steps[use][-4:]), np.log2(left[use][-4:]), 1)[0])
    make = functools.partial(Finding, str(session.subject), "taylor", "all arguments", dtype, example=trial.words)
    said = f"the remainder falls with h^{order:.2f}; with a right derivative it is h^2"
    yield make("right", message=said) if order > 1.5 else make("wrong", ratio=np.inf, message=said)


# --- linear in the cotangent -----------------------------------------------------------------------------------------


def _linear(session, check, combine, message):
    """Cotangents that a linear function would give, from those that it gave: the judge is the rounding at the truth."""
    trial = session.example[0]
    dtype = _dtypes(session)[-1]
    local, outputs = session.local(trial.primals, dtype), session.answer(trial, dtype)
    allowances = session.measured(trial, dtype).allowance[1]
    for cotangent, expected, power in combine(trial, outputs[1]):
        bars = local.hand(trial.primals, cotangent)[1]
        for i, leaf in enumerate(session.subject.names):
            if not session.subject.differentiated[i] or allowances[i] is None or malformed(bars[i], outputs[1][i]):
                continue
            allowed = (
                2 * np.where(np.isfinite(allowances[i]), allowances[i], np.inf) + SLACK * least(local.unit) / power
            )
            apart = discrepancy(np.asarray(bars[i], np.float64) / power, expected(i), allowed, local.unit)
            make = functools.partial(Finding, str(session.subject), check, leaf, dtype, example=trial.words)
            if apart and apart.ratio > 1:
                yield make("wrong", **vars(apart), message=message.format(power=power), fault="nonlinear")
            else:
                yield make("right", **(vars(apart) if apart else {}))


@named
def homogeneous(session: Session) -> Iterator[Finding]:
    """A cotangent 2ᵏ times as large gives cotangents 2ᵏ times as large: none is clipped, rounded or dropped."""

    def combine(trial, bars):
        for power in (
            (2.0**14, 2.0**-14) if session.subject.dtype in ("float32", "float64", "bfloat16") else (8.0, 0.125)
        ):
            yield (
                tuple(c * power for c in trial.cotangent),
                lambda i: np.asarray(bars[i], np.float64),
                power,
            )

    message = "a cotangent {power:g} times as large does not give cotangents {power:g} times as large"
    yield from _linear(session, "homogeneous", combine, message)


@named
def additive(session: Session) -> Iterator[Finding]:
    """The cotangents of a sum are the sum of the cotangents: the cotangent is not ignored, squared or taken as ones."""
    local = session.local(session.example[0].primals, _dtypes(session)[-1])

    def combine(trial, bars):
        other = session.trial(trial.primals, trial.words, 7).cotangent
        theirs = local.hand(trial.primals, other)[1]
        total = tuple(a + b for a, b in zip(trial.cotangent, other, strict=True))
        yield total, lambda i: np.asarray(bars[i], np.float64) + np.asarray(theirs[i], np.float64), 1.0

    yield from _linear(session, "additive", combine, "the cotangents of a sum are not the sum of the cotangents")


@named
def zero(session: Session) -> Iterator[Finding]:
    """A cotangent of zero gives exactly zero."""
    trial = session.example[0]
    dtype = session.subject.dtype
    bars = session.local(trial.primals, dtype).hand(trial.primals, tuple(0 * c for c in trial.cotangent))[1]
    for leaf, bar, chosen in zip(session.subject.names, bars, session.subject.differentiated, strict=True):
        make = functools.partial(Finding, str(session.subject), "zero", leaf, dtype, example=trial.words)
        if chosen:
            largest = np.max(np.abs(np.asarray(bar, np.float64)), initial=0)
            message = f"the cotangent is {largest:.3g} where that of the output is zero"
            yield make("right") if largest == 0 else make("wrong", ratio=np.inf, message=message, fault="nonlinear")


# --- wherever it runs ------------------------------------------------------------------------------------------------


@named
def eager(session: Session) -> Iterator[Finding]:
    """Without jit the derivative gives the same as under jit."""
    trial, dtype = session.example[0], session.subject.dtype
    answer = session.local(trial.primals, dtype).hand(trial.primals, trial.cotangent, eager=True)
    yield from _transformed(session, "eager", trial, dtype, answer, "wrong without jit, right under it")


@named
def repeatable(session: Session) -> Iterator[Finding]:
    """Two calls give the same to the last bit, whatever ran between them, interleaved with another forward pass."""
    trial, other = session.example[0], session.example[1 % len(session.example)]
    dtype = session.subject.dtype
    primals = other_values(trial.primals, session.subject.differentiated, "fresh", seed=session.seed + 1)
    other = session.trial(primals, "fresh", 8)
    local = session.local(trial.primals, dtype)
    first = local.hand(trial.primals, trial.cotangent, eager=True)[1]
    with local.precision(), jax.default_matmul_precision("highest"):
        pulls = [local.forward_pass(t.primals) for t in (trial, other)]
        second = pulls[0](local.cast_outputs(trial.cotangent))
        pulls[1](local.cast_outputs(other.cotangent))
    third = local.hand(trial.primals, trial.cotangent, eager=True)[1]
    for leaf, a, b, c, chosen in zip(
        session.subject.names, first, second, third, session.subject.differentiated, strict=True
    ):
        make = functools.partial(Finding, str(session.subject), "repeatable", leaf, dtype, example=trial.words)
        if chosen:
            same = [np.array_equal(np.asarray(a), np.asarray(x), equal_nan=True) for x in (b, c)]
            when = "after another forward pass" if not same[0] else "when it is called again"
            message = f"other cotangents {when}: the derivative depends on what ran before"
            yield make("right") if all(same) else make("wrong", ratio=np.inf, message=message, fault="impure")


def _transformed(session, check, trial, dtype, answer, message):
    for finding in session.judge(check, trial, dtype, answer, outputs=False):
        if finding.verdict == "wrong":
            plainly = _wrong_plainly(session)
            finding = dataclasses.replace(
                finding,
                message=None if finding.leaf in plainly else message,
                fault=None if finding.leaf in plainly else "transform",
            )
        yield finding


def _wrong_plainly(session):
    """The leaves that are wrong at the example without any transformation."""
    trial, dtype = session.example[0], session.subject.dtype
    plain = session.judge("truth", trial, dtype, session.answer(trial, dtype), remember=False)
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
        results = jax.jit(everything)(stacked, cts)
    for way, trials, (out, bars) in zip(ways, mixed, results, strict=True):
        over = "all arguments" if len(way) == len(floats) else session.subject.names[way[0]]
        for k, trial in enumerate(trials):
            lane = tuple(o[k] for o in out), tuple(None if b is None else b[k] for b in bars)
            yield from _transformed(session, "vmap", trial, dtype, lane, f"wrong under vmap over {over} alone")


@named
def nested(session: Session) -> Iterator[Finding]:
    """Inside scan, cond and checkpoint the derivative is the same."""
    trial, dtype = session.example[0], session.subject.dtype
    local = session.local(trial.primals, dtype)
    chosen = session.subject.differentiated
    cast = session.subject.cast(trial.primals, dtype)
    cotangent = local.cast_outputs(trial.cotangent)

    def inside(wrap):
        def pulled(cast, cotangent):
            def of_chosen(*floats):
                rest = iter(floats)
                return wrap(tuple(next(rest) if c else p for c, p in zip(chosen, cast, strict=True)))

            out, pull = jax.vjp(of_chosen, *(p for c, p in zip(chosen, cast, strict=True) if c))
            bars = iter(pull(cotangent))
            return out, tuple(next(bars) if c else None for c in chosen)

        return pulled

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
        results = jax.jit(lambda p, c: {name: inside(way)(p, c) for name, way in ways.items()})(cast, cotangent)
    for name, answer in results.items():
        yield from _transformed(session, "nested", trial, dtype, answer, f"wrong inside {name} alone")


# --- derivatives of the derivative -----------------------------------------------------------------------------------


@named
def second_order(session: Session) -> Iterator[Finding]:
    """Differentiating the backward pass equals differentiating the definition twice."""
    trial, dtype = session.example[0], _dtypes(session)[-1]
    local = session.local(trial.primals, dtype)
    if session.measured(trial, dtype) and not local.reverse:
        raise CannotTell(f"autodiff of the definition does not apply: {local.why}")
    chosen, names = session.subject.differentiated, session.subject.names
    count = len(trial.primals)

    def bars_of(pullback):
        def function(*both):
            bars = pullback(both[:count], both[count:])[1]
            return tuple(bar for bar, c in zip(bars, chosen, strict=True) if c)

        return function

    def twice(*both):
        return pull(local.definition, both[:count], both[count:])

    with local.precision():
        cast = (*session.subject.cast(trial.primals, dtype), *local.cast_outputs(trial.cotangent))
    derived = Subject(bars_of(local.pullback), cast, truth=None, name=f"the derivative of {session.subject}")
    derived.names = [*names, *(f"cotangent of {name}" for name in output_names(len(trial.cotangent)))]
    derived.definition = lambda *both: tuple(bar for bar, c in zip(twice(*both)[1], chosen, strict=True) if c)
    inner = Session(derived, session.profile, session.seed)
    try:
        at = inner.trial(
            tuple(np.asarray(a, np.float64) if kind(a.dtype) == "float" else a for a in cast), trial.words, 11
        )
        answer = inner.answer(at, dtype)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise CannotTell(f"the backward pass cannot be differentiated: {_first(error)}") from None
    for finding in inner.judge("second_order", at, dtype, answer, outputs=False):
        wrong = {"message": "the backward pass, differentiated, is not the second derivative", "fault": "transform"}
        yield dataclasses.replace(
            finding, subject=str(session.subject), **(wrong if finding.verdict == "wrong" else {})
        )


# --- other dtypes and lengths ----------------------------------------------------------------------------------------


@named
def precision(session: Session) -> Iterator[Finding]:
    """In half precision too the cotangents are right, beside what autodiff of the definition loses there."""
    others = [d for d in ("bfloat16", "float16", "float32") if d != session.subject.dtype][: session.profile.dtypes]
    if not others:
        raise CannotTell("this profile tries the example's dtype and float64 alone")
    trial, refused = session.example[0], []
    for dtype in others:
        try:
            answer = session.answer(trial, dtype)
            findings = list(session.judge("precision", trial, dtype, answer, outputs=False))
        except (TypeError, ValueError, NotImplementedError) as error:
            refused.append(f"{dtype}: {_first(error)}")
            continue
        if any(f.verdict == "wrong" for f in findings):
            theirs = session.local(trial.primals, dtype).autodiff(trial.primals, trial.cotangent)
            judged = session.judge("precision", trial, dtype, theirs, outputs=False, remember=False)
            bad = {finding.leaf for finding in judged if not finding.ok}
            excuse = {
                "verdict": "abstained",
                "message": f"autodiff of the definition fails in {dtype} too",
                "diagnosis": None,
            }
            findings = [dataclasses.replace(f, **excuse) if f.leaf in bad and not f.ok else f for f in findings]
        yield from findings
    if len(refused) == len(others):
        raise CannotTell(f"the function refuses other dtypes ({'; '.join(refused)})")


@named
def shapes(session: Session) -> Iterator[Finding]:
    """Other lengths: one, odd, none; where the function takes them, its derivative is right there too."""
    dtype, tried = session.subject.dtype, 0
    for i, (words, primals) in enumerate(_reshaped(session)):
        try:
            session.local(primals, dtype)
            trial = session.trial(primals, words, 200 + i)
        except Exception:  # the function does not take arguments of these shapes
            continue
        tried += 1
        try:
            yield from session.judge("shapes", trial, dtype, session.answer(trial, dtype))
        except CannotTell:
            continue
        except Exception as error:
            message = f"{words}: {type(error).__name__}: {_first(error)}"
            yield Finding(
                str(session.subject), "shapes", "", dtype, "raised", message=message, example=words, fault="raised"
            )
    if not tried:
        raise CannotTell("the function takes no other lengths than the example's")


def _reshaped(session):
    made = list(other_lengths(session.subject.example, session.subject.differentiated, session.profile.thorough))
    if session.profile.thorough:
        return made
    odd = [m for m in made if m[0] == "odd lengths"]
    ones = [m for m in made if m[0].startswith("length 1")]
    none = [m for m in made if m[0].startswith("length 0")]
    most = 3 if session.profile.name == "default" else 0
    return [*odd, *ones[:most], *none[:1]] if most else []


# --- where it runs and what it keeps ---------------------------------------------------------------------------------


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
    yield from _transformed(session, "sharded", trial, dtype, answer, "wrong when sharded over devices alone")


@named
def residuals(session: Session) -> Iterator[Finding]:
    """The bytes that the forward pass keeps for the backward pass, beside those that autodiff keeps."""
    trial, dtype = session.example[0], session.subject.dtype
    local = session.local(trial.primals, dtype)
    with local.precision():
        cast = session.subject.cast(trial.primals, dtype)
        kept = local.forward_pass(trial.primals).kept
        total = sum(int(np.prod(a.shape)) * a.dtype.itemsize for a in kept if hasattr(a.dtype, "itemsize"))
        given = sum(a.nbytes for a in cast if hasattr(a, "nbytes"))
    message = f"{total} bytes are kept; the arguments have {given}"
    yield Finding(str(session.subject), "residuals", "", dtype, "right", message=message, example=trial.words)


def _first(error) -> str:
    return (str(error).strip().split("\n") or [""])[0][:200]
