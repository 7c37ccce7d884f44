"""What a correct derivative fulfils, as checks that yield findings.

A check takes a rule and a point, and compares; it neither prints nor asserts.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator

import jax
import numpy as np

from manual_backprop.combinators import Network
from manual_backprop.rule import Opaque
from manual_backprop.signature import kind_of

from .allowance import (
    COPIES,
    DTYPES,
    SLACK,
    Yardstick,
    copies,
    least,
    round_to,
    with_more_copies,
    yardsticks,
)
from .diagnosis import Failure, diagnose
from .discrepancy import discrepancy, tells
from .finding import Finding
from .oracles import ORACLES, Abstains, adjoint, adjoint_differences
from .points import Point
from .precision import compiled
from .pullback import stacked_pullback, to_numpy

MISSING = object()
IDENTITIES = {"adjoint": adjoint, "adjoint_differences": adjoint_differences}
# jax.vjp is what every check starts from.
INDEPENDENT = (*(name for name in ORACLES if name != "vjp"), *IDENTITIES, "homogeneous")


def contract(
    rule, point: Point, dtypes: Iterable[str] = DTYPES, oracles: Iterable[str] = (), optimised: bool = False
) -> Iterator[Finding]:
    """Every check of a rule at a point: value, structure and cotangents in each dtype, these oracles in float64.

    optimised   compile a rule as its users run it; otherwise quickly, in a quarter of the time
    """
    dtypes = tuple(dtypes)
    try:
        measured = yardsticks(rule, point.primals, point.cotangent, dtypes)
    except Exception as error:
        yield _raised(rule, point, "definition", dtypes[0], error)
        return
    for dtype in dtypes:
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(measured[dtype].truth)):
            reason = "the definition or its derivative is not finite at this point, so it cannot be the truth"
            yield Finding(str(rule), "vjp", "", dtype, "abstained", message=reason, example=point.example)
            continue
        try:
            answer = by_hand(rule, point, dtype, optimised)
        except Exception as error:  # whatever a rule raises is a finding, and the run goes on
            yield _raised(rule, point, "vjp", dtype, error)
            continue
        if not isinstance(answer[1], tuple | list):
            came = f"backward gave {type(answer[1]).__name__}; it returns a tuple of one cotangent per primal"
            yield Finding(str(rule), "vjp", "", dtype, "wrong", ratio=np.inf, message=came, example=point.example)
            continue
        yield from against_autodiff(rule, point, answer, measured[dtype], dtype)
        if dtype == "float64":
            for oracle in oracles:
                yield from _against(oracle, optimised)(rule, point, answer, measured[dtype])


def _against(oracle: str, optimised: bool):
    if oracle == "homogeneous":
        return functools.partial(homogeneous, optimised=optimised)
    return functools.partial(against_identity if oracle in IDENTITIES else against_oracle, oracle=oracle)


def by_hand(rule, point: Point, dtype: str, optimised: bool = False):
    """The output and the cotangents that the hand-written halves give, in a dtype."""
    primals, cotangent = round_to((point.primals, point.cotangent), dtype)
    with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
        return _both_halves(rule, optimised)(primals, cotangent)


@functools.lru_cache(64)  # rules; what is compiled for the others is dropped
def _both_halves(rule, optimised):
    """Forward, then backward: one program for a rule that is one piece, a chain of shared ones for a network."""
    pieces = rule.map(quick)
    halves = rule if isinstance(pieces, Opaque) else pieces

    def run(primals, cotangent):
        out, residuals = halves.forward(*primals)
        return out, halves.backward(residuals, cotangent)

    if halves is not rule:
        return run
    return jax.jit(run) if optimised else compiled(run)


@functools.cache
def quick(piece):
    return Opaque(piece, compiled)


def against_autodiff(rule, point: Point, answer, yardstick: Yardstick, dtype: str) -> Iterator[Finding]:
    """The value against the definition's, and every cotangent against `jax.vjp` of it in float64."""
    out, bars = answer
    name_all = functools.partial(_named, primal_names(rule))
    truths, allowances = name_all(yardstick.truth), name_all(yardstick.allowance)
    like, got = name_all((point.cotangent, point.primals)), name_all((out, tuple(bars)))
    scope = _scope(rule, point)
    overflows = functools.cache(lambda: _overflows(rule, point, dtype))
    alongside = functools.cache(lambda: _alongside(rule, point, dtype))
    for name in [*like, *(extra for extra in got if extra not in like)]:
        check = "value" if _is_output(name) else "vjp"
        make = functools.partial(Finding, str(rule), check, name, dtype, example=point.example)
        fault = _malformed(got.get(name, MISSING), like.get(name, MISSING), truths.get(name), dtype)
        if fault:
            yield make("wrong", ratio=np.inf, message=fault)
        elif truths[name] is not None:
            value, truth, allowance = np.asarray(got[name], np.float64), truths[name], allowances[name]
            more = with_more_copies(yardstick, rule, point.primals, point.cotangent, dtype)
            allowed = (name_all(each.allowance)[name] for each in itertools.chain([yardstick], more))
            apart = _apart(value, truth, allowed, dtype)
            if apart and apart.ratio > 1 and isinstance(rule, Network) and check == "vjp" and not overflows():
                near, room = (name_all(tree)[name] for tree in (alongside().truth, alongside().allowance))
                beside = discrepancy(value, near, room, dtype)
                if np.isfinite(near).all() and beside and beside.ratio <= 1:
                    truth, allowance, apart = near, room, beside
            if apart is None:
                yield make("abstained", message="rounding alone moves the truth without bound at this point")
            elif apart.ratio <= 1 and not tells(truth, allowance, dtype):
                yield make("abstained", message="rounding alone moves the truth by as much as its size at this point")
            elif apart.ratio <= 1:
                yield make("right", **vars(apart))
            elif isinstance(rule, Network) and overflows():
                yield make("abstained", message=f"the definition leaves the range of {dtype} at this point")
            else:
                told = diagnose(Failure.among(name, got, truths, allowances, dtype=dtype, scope=scope))
                yield make("wrong", **vars(apart), diagnosis=told and str(told))


def _is_output(name) -> bool:
    return name.split("[")[0] == "y"


def _apart(value, truth, allowed: Iterable[np.ndarray], dtype):
    """The discrepancy within the first of these allowances that explains it, as long as the next ones might."""
    for allowance in allowed:
        apart = discrepancy(value, truth, allowance, dtype)
        if apart is None or not 1 < apart.ratio <= SLACK:
            break
    return apart


def _alongside(rule, point, dtype) -> Yardstick:
    """The yardstick of a network whose pieces each read what came by hand, and not what the definition gives.

    Where rounding takes a value to a narrow place, as between the corners of hard_tanh, no copy need have come by it.
    """
    came = []

    def noted(forward):
        def run(*primals):
            out, residuals = forward(*primals)
            came.append(out)
            return out, residuals

        return run

    primals, cotangent = round_to((point.primals, point.cotangent), dtype)
    with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
        rule.map(lambda piece: Opaque(quick(piece), noted)).forward(*primals)
    return yardsticks(rule, primals, cotangent, (dtype,), came=came)[dtype]


def against_oracle(rule, point: Point, answer, yardstick: Yardstick, oracle: str) -> Iterator[Finding]:
    """The cotangents in float64 against an independent oracle, which is allowed the error that it states."""
    make = functools.partial(Finding, str(rule), oracle, dtype="float64", example=point.example)
    names = primal_names(rule)
    bars = tuple(answer[1])
    try:
        estimate = ORACLES[oracle](rule.definition)(point.primals, point.cotangent)
    except Abstains as reason:
        yield make(leaf="", verdict="abstained", message=str(reason))
        return
    value, error = _leaves(estimate.value, names), _leaves(estimate.error, names)
    allowances = _leaves(yardstick.allowance[1], names)
    for name, bar in _leaves(bars, names).items():
        if bar is not None and value[name] is not None and np.shape(bar) == np.shape(value[name]):
            got, error_here = np.asarray(bar, np.float64), SLACK * error[name]
            # The nearest number that the oracle does not exclude: where it cannot tell, it has nothing to object.
            nearest = np.clip(got, value[name] - error_here, value[name] + error_here)
            apart = discrepancy(got, nearest, allowances[name], "float64")
            if apart:
                yield make(leaf=name, verdict="wrong" if apart.ratio > 1 else "right", **vars(apart))


def against_identity(rule, point: Point, answer, yardstick: Yardstick, oracle: str) -> Iterator[Finding]:
    """⟨J v, ȳ⟩ = ⟨v, x̄⟩ for random v: the cotangents of all primals together, in float64."""
    make = functools.partial(Finding, str(rule), oracle, "all primals", "float64", example=point.example)
    bars = [bar for bar in jax.tree.leaves(answer[1]) if kind_of(bar) == "float"]
    allowances = jax.tree.leaves(yardstick.allowance[1])
    if [np.shape(bar) for bar in bars] != [allowance.shape for allowance in allowances]:
        return  # malformed cotangents are a finding already
    try:
        identity = IDENTITIES[oracle](rule.definition)(point.primals, point.cotangent, primals_bar=answer[1])
    except Abstains as abstention:
        yield make("abstained", message=abstention.reason)
        return
    allowed = SLACK * identity.error + np.abs(identity.directions) @ np.concatenate([a.ravel() for a in allowances])
    off = np.where(np.isfinite(allowed), np.abs(identity.discrepancy), 0)
    ratio = float(np.max(np.where(off, off / allowed, 0), initial=0))
    if np.isfinite(allowed).any():
        yield make("wrong" if ratio > 1 else "right", absolute=float(np.max(off)), ratio=ratio)


def homogeneous(rule, point: Point, answer, yardstick: Yardstick, optimised: bool = False) -> Iterator[Finding]:
    """backward(residuals, 2ᵏ ȳ) = 2ᵏ backward(residuals, ȳ), far up and down: none is clipped, rounded or dropped."""
    make = functools.partial(Finding, str(rule), "homogeneous", dtype="float64", example=point.example)
    names = primal_names(rule)
    bars, allowances = _leaves(tuple(answer[1]), names), _leaves(yardstick.allowance[1], names)
    for power in (2.0**30, 2.0**-30):
        scaled = dataclasses.replace(point, cotangent=jax.tree.map(lambda a, p=power: a * p, point.cotangent))
        for name, got in _leaves(tuple(by_hand(rule, scaled, "float64", optimised)[1]), names).items():
            expected = bars[name]
            if expected is not None and allowances.get(name) is not None and np.shape(expected) == np.shape(got):
                allowed = allowances[name] + SLACK * least("float64") / power
                apart = discrepancy(np.asarray(got) / power, np.asarray(expected), allowed, "float64")
                if apart:
                    message = f"a cotangent {power:.3g} times as large gives others than {power:.3g} times as large"
                    wrong = {"verdict": "wrong", "message": message} if apart.ratio > 1 else {"verdict": "right"}
                    yield make(leaf=name, **wrong, **vars(apart))


def primal_names(rule) -> list[str]:
    """The names of the primals: a signature's own; in a network x, and params[i] for layer i."""
    signature = getattr(rule, "signature", None)
    return list(signature.primals) if signature else ["x", "params"]


def _overflows(rule, point, dtype) -> bool:
    """Whether the definition or its autodiff, in the dtype itself, leaves its range at the point or a nudge away."""
    finite = []
    stack = round_to(copies((point.primals, point.cotangent), dtype), dtype)
    with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
        still = ((0, 0.0, 0.0),) * COPIES
        _noted(stacked_pullback(rule, still, lambda tree: _noted(tree, finite))(*stack), finite)
    return not all(finite)


def _noted(tree, finite: list):
    finite.extend(bool(np.isfinite(leaf).all()) for leaf in jax.tree.leaves(to_numpy(tree)))
    return tree


def _named(names, pair) -> dict:
    """The leaves of an output, as y, and of a tuple like the primals, by their names."""
    out, bars = pair
    return {**_leaves((out,), ["y"]), **_leaves(bars, names)}


def _leaves(tree, names) -> dict:
    """Every leaf by its key path below the names of the primals; None counts as a leaf."""
    if names == ["x", "params"]:
        branches = {"x": tree[0], "params": tuple(tree[1:])}
    else:
        branches = dict(zip([*names, *(f"primal {i}" for i in range(len(names), len(tree)))], tree, strict=False))
    return {
        name + jax.tree_util.keystr(path): leaf
        for name, branch in branches.items()
        for path, leaf in jax.tree_util.tree_leaves_with_path(branch, is_leaf=lambda a: a is None)
    }


def _malformed(bar, primal, truth, dtype) -> str | None:
    """What is wrong with the form of a cotangent, if anything."""
    if primal is MISSING:
        return "a cotangent for a primal that does not exist"
    if bar is MISSING:
        return "no cotangent came back for this primal"
    if truth is None:
        return None if bar is None else f"a cotangent for a {kind_of(primal)} primal, which has none; return None"
    if bar is None:
        return "None came back for a float primal; return zeros where the derivative vanishes"
    if np.shape(bar) != np.shape(primal):
        return f"the shape is {np.shape(bar)}, but the primal's is {np.shape(primal)}"
    if str(bar.dtype) != dtype:
        return f"the dtype is {bar.dtype}, but the primal's is {dtype}"
    return None


def _scope(rule, point) -> dict[str, float]:
    """The lengths and options by name, which a wrong factor may turn out to equal."""
    scope = {f"{name}": float(v) for name, v in getattr(rule, "options", {}).items() if isinstance(v, int | float)}
    for axis, length in enumerate(np.shape(jax.tree.leaves(point.primals)[0])):
        scope[f"the length {length} of axis {axis}"] = float(length)
    return scope


def _raised(rule, point, check, dtype, error):
    message = f"{type(error).__name__}: {error}".split("\n")[0]
    return Finding(str(rule), check, "", dtype, "raised", message=message, example=point.example)
