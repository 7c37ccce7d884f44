"""A failure as one plain call: its arguments in their dtype, and between what its cotangent may lie."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from . import literals
from .allowance import SLACK, least, scale, unit
from .literals import Code
from .session import Failed, Session
from .widening import kind

FOCUS = 32  # numbers that are moved alone to see what is around a kink
TAKEN = ("allowed", "arguments", "base64", "cotangent", "derivative", "expected", "fields", "function", "got", "jax")
TAKEN += ("jnp", "known", "np", "off", "outputs", "pull", "size", "sys", "what", "worst", "wrong", "y_bar", "zlib")


def shows(session: Session, failed: Failed) -> str | None:
    """'jit' where a plain call under jit gives this wrong cotangent, 'eager' where one without does, else None."""
    case = Case(session, failed)
    for way in ("jit", "eager"):
        out, bars = case.local.hand(failed.trial.primals, failed.trial.cotangent, eager=way == "eager")
        if case.wrong([*out, *bars][case.index]):
            return way
    return None


class Case:
    """What a script has to say of one failure: the arguments in their dtype, and between what the cotangent may lie."""

    def __init__(self, session: Session, failed: Failed):
        self.session, self.failed, self.subject = session, failed, session.subject
        self.leaf, trial = failed.finding.leaf, failed.trial
        self.local = session.local(trial.primals, failed.dtype)
        self.primals = self.subject.cast(trial.primals, failed.dtype)
        self.cotangent = self.local.cast_outputs(trial.cotangent)
        count = len(self.cotangent)
        self.index = self._index([*self.subject.output_names(count), *self.subject.names])
        self.is_output, self.place = self.index < count, self.index - count
        self.like = self.local.outputs[self.index] if self.is_output else self.primals[self.place]
        self.variables = literals.identifiers(self.subject.names, (*TAKEN, self.subject.name))
        self.wide = "float64" in {str(getattr(a, "dtype", "")) for a in (*self.primals, *self.cotangent)}
        self.expected, self.allowed, self.kinked = self._range()

    def _index(self, names) -> int:
        """Which leaf it is, outputs first: an argument may be called y as well, and then its numbers tell."""
        found, finding = [i for i, name in enumerate(names) if name == self.leaf], self.failed.finding
        if len(found) == 1 or finding.index is None:
            return found[-1]
        truths = [*self.failed.measured.truth[0], *self.failed.measured.truth[1]]
        at = finding.index
        return next((i for i in found if len(at) == truths[i].ndim and truths[i][at] == finding.expected), found[-1])

    @functools.cached_property
    def output(self):
        """The form of the function's own output."""
        with self.local.precision():
            return jax.eval_shape(lambda *p: self.subject.function(*self.subject.assemble(p)), *self.primals)

    def wrong(self, got) -> bool:
        """Whether this is wrong, as the script judges it."""
        if got is None or np.shape(got) != np.shape(self.like) or got.dtype != self.like.dtype:
            return True
        return _outside(got, self.expected, self.allowed)

    def _range(self):
        """What is expected, what it is allowed to differ, and whether that spans the derivatives around a kink."""
        measured, finding = self.failed.measured, self.failed.finding
        truth = np.asarray([*measured.truth[0], *measured.truth[1]][self.index])
        allowed = np.asarray([*measured.allowance[0], *measured.allowance[1]][self.index])
        with np.errstate(invalid="ignore", over="ignore"):
            told = np.abs(truth) + allowed <= float(jnp.finfo(self.local.unit).max)
        expected, allowed = np.where(told, truth, 0.0), np.where(told, allowed, np.inf)
        came = [*self.failed.answer[0], *self.failed.answer[1]][self.index]
        if not self.is_output and np.shape(came) == truth.shape:
            came = np.asarray(came, np.float64)
            middle, wider = self._around(came, expected, allowed, finding.fault == "kink")
            # Equal numbers are judged together as well, which no single element tells: then the truth is asked.
            if (middle is not expected) and _outside(came, middle, wider):
                return middle, _shorter(came, middle, wider), True
        return expected, _shorter(came, expected, allowed), False

    def _around(self, came, expected, allowed, lost: bool):
        """The middle between the derivatives around a kink, and how far these reach; elsewhere as they are.

        Where the truth is lost, it is what its neighbours tend to that counts.
        """
        trial, dtype = self.failed.trial, self.failed.dtype
        before = sum(np.size(a) for a in trial.primals[: self.place] if kind(a.dtype) == "float")
        off = np.nan_to_num(np.abs(np.ravel(came) - np.ravel(expected)), nan=np.inf)
        focus = [before + int(i) for i in np.argsort(-off)[:FOCUS] if off[i]]
        around = self.session.neighbourhood(trial, dtype, focus)
        if around is None:
            return expected, allowed
        low, high, u = around[self.place].min(axis=0), around[self.place].max(axis=0), self.local.unit
        with np.errstate(invalid="ignore", over="ignore"):
            rounding = SLACK * (unit(u) * np.maximum(scale(low), scale(high)) + least(u))
            apart = np.isfinite(high - low) & ((high - low > allowed) | np.isinf(allowed) | lost)
            room = np.where(np.isinf(allowed) | lost, np.minimum(allowed, rounding), allowed)
            wider = np.where(apart, (high - low) / 2 + room, allowed)
            middle = np.where(apart, (low + high) / 2, expected)
        return (middle, wider) if apart.any() else (expected, allowed)

    def call(self, function: str, imports: dict) -> str:
        """The call of the function with the variables in their places."""
        leaves, rest = [], iter(self.variables)
        arrays = {leaf.place: leaf for leaf in self.subject.leaves}
        values = jax.tree.leaves(self.subject.args, is_leaf=lambda a: a is None)
        for place, value in enumerate(values):
            if place not in arrays:
                leaves.append(Code(literals.static(value, imports)))
            elif kind(arrays[place].dtype) == "complex":
                leaves.append(Code(f"jax.lax.complex({next(rest)}, {next(rest)})"))
            else:
                leaves.append(Code(next(rest)))
        structure = jax.tree.structure(self.subject.args, is_leaf=lambda a: a is None)
        return f"{function}({', '.join(literals.tree(a, imports) for a in jax.tree.unflatten(structure, leaves))})"


def _outside(came, expected, allowed) -> bool:
    if np.shape(came) != np.shape(expected):
        return True
    off = np.abs(np.asarray(came, np.float64) - expected)
    return bool((~(off <= allowed) & (allowed < np.inf)).any())


def _shorter(came, expected, allowed):
    """Allowances with three digits, rounded up, as long as what came is outside of them all the same."""
    if np.size(allowed) > literals.WRITTEN:
        return allowed
    short = np.asarray([float(f"{a * (1 + 2**-7):.3g}") for a in np.ravel(allowed)]).reshape(np.shape(allowed))
    short = np.where(short >= allowed, short, allowed)
    return short if _outside(came, expected, short) else allowed
