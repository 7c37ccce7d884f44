"""A failure as one call: its arguments in their dtype, between what its cotangent may lie, and whether it shows."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np

from ..allowance import SLACK, least, scale, unit
from ..judge import Failed, malformed
from ..kinks import as_far_apart
from ..session import Session
from ..tracing.widening import kind
from ..trials import other_values
from ..trials.kept import keeps
from . import literals
from .literals import Code
from .ways import EAGER, JIT, TAKEN, Call, Way, ways

FOCUS = 32  # numbers that are moved alone to see what is around a kink


def shows(case: "Case") -> Way | None:
    """The plainest way to call the derivative in which it is wrong, if there is one."""
    return next((way for way in case.ways() if case.fails(way)), None)


class Case:
    """What a script has to say of one failure: the arguments in their dtype, and between what the cotangent may lie.

    outer      the failure whose derivative is differentiated here, for a second derivative
    spaces     what was defined to run it, shared by cases of the same functions
    """

    def __init__(self, session: Session, failed: Failed, outer: "Case | None" = None, spaces: dict | None = None):
        self.spaces = {} if spaces is None else spaces
        self.session, self.failed, self.subject, self.outer = session, failed, session.subject, outer
        self.leaf, trial = failed.finding.leaf, failed.trial
        self.local = session.local(trial.primals, failed.dtype)
        self.primals = self.subject.cast(trial.primals, failed.dtype)
        self.cotangent = self.local.cast_outputs(trial.cotangent)
        count = len(self.cotangent)
        self.raises = failed.finding.verdict == "raised"
        self.index = self._index([*self.subject.output_names(count), *self.subject.names])
        self.is_output, self.place = self.index < count, self.index - count
        self.like = self.local.outputs[self.index] if self.is_output else self.primals[self.place]
        self.variables, self.bars = self._names(count)
        self.wide = "float64" in {str(getattr(a, "dtype", "")) for a in (*self.primals, *self.cotangent)}
        if not self.raises:
            self.expected, self.allowed, self.kinked = self._range()

    def _names(self, count):
        if self.outer:
            of = [
                f"{name}_bar_bar" for name, c in zip(self.outer.variables, self.outer.chosen_places, strict=True) if c
            ]
            return (*self.outer.variables, *self.outer.bars), tuple(literals.identifiers(of, TAKEN))
        variables = literals.identifiers(self.subject.names, (*TAKEN, self.subject.name))
        y = "output_bar" if "y_bar" in variables else "y_bar"
        return tuple(variables), (y,) if count == 1 else tuple(f"{y}_{i}" for i in range(count))

    @property
    def chosen_places(self) -> list[bool]:
        return self.subject.differentiated

    @property
    def chosen(self) -> tuple[str, ...]:
        """The variables that are differentiated."""
        return tuple(name for name, c in zip(self.variables, self.chosen_places, strict=True) if c)

    def _index(self, names) -> int:
        """Which leaf it is, outputs first: an argument may be called y as well, and then its numbers tell."""
        found, finding = [i for i, name in enumerate(names) if name == self.leaf], self.failed.finding
        if not found:  # what raised, or is about all arguments
            return len(self.cotangent) + self.chosen_places.index(True)
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
        if not self.is_output and came is not None and np.shape(came) == truth.shape:
            came = np.asarray(came, np.float64)
            middle, wider = self._around(came, expected, allowed, finding.fault == "kink")
            # Equal numbers are judged together as well, which no single element tells: then the truth is asked.
            if (middle is not expected) and _outside(came, middle, wider):
                return middle, wider, True
        return expected, allowed, False

    def _around(self, came, expected, allowed, lost: bool):
        """The middle between the derivatives around a kink, and how far these reach; elsewhere as they are.

        Where the truth is lost, it is what its neighbours tend to that counts.
        """
        trial, dtype = self.failed.trial, self.failed.dtype
        before = sum(np.size(a) for a in trial.primals[: self.place] if kind(a.dtype) == "float")
        off = np.nan_to_num(np.abs(np.ravel(came) - np.ravel(expected)), nan=np.inf)
        focus = [before + int(i) for i in np.argsort(-off)[:FOCUS] if off[i]]
        around, _ = self.session.look_around(trial, dtype, tuple(focus))
        if around is None:
            return expected, allowed
        low, high, u = around[self.place].min(axis=0), around[self.place].max(axis=0), self.local.unit
        with np.errstate(invalid="ignore", over="ignore"):
            rounding = SLACK * (unit(u) * np.maximum(scale(low), scale(high)) + least(u))
            apart = (
                np.isfinite(high - low)
                & as_far_apart(around[self.place])
                & ((high - low > allowed) | np.isinf(allowed) | lost)
            )
            room = np.where(np.isinf(allowed) | lost, np.minimum(allowed, rounding), allowed)
            wider = np.where(apart, (high - low) / 2 + room, allowed)
            middle = np.where(apart, (low + high) / 2, expected)
        return (middle, wider) if apart.any() else (expected, allowed)

    # --- as text -----------------------------------------------------------------------------------------------------

    def function(self, name: str, namer) -> tuple[str, Call]:
        """The definition of a function of all variables, if it needs one, and the call of it."""
        if self.outer:
            text, call = self.outer.function(name, namer)
            text = "\n\n\n".join(filter(None, [text, call.derivative()]))
            return text, self._called(call.derived, False, sequence="({},)", derived="twice")
        plain = jax.tree.structure(self.output) == jax.tree.structure(0) and len(self.cotangent) == 1
        applied = self.applied(name, namer)
        if plain and applied == f"{name}({', '.join(self.variables)})":
            return "", self._called(name, True)
        floats = applied if plain else self._floats(applied)
        return f"def outputs({', '.join(self.variables)}):\n    return {floats}", self._called("outputs", plain)

    def _called(self, function, plain, **more):
        index = self.index if self.is_output else self.chosen.index(self.variables[self.place])
        return Call(function, self.variables, self.chosen, self.bars, plain, index, self.is_output, **more)

    def _floats(self, applied):
        """The float leaves of an output, complex ones as their real and imaginary parts."""
        kinds = [kind(jnp.result_type(y)) for y in jax.tree.leaves(self.output)]
        if set(kinds) == {"float"}:
            return f"jax.tree.leaves({applied})"
        if "complex" not in kinds:
            return f"[y for y in jax.tree.leaves({applied}) if jnp.issubdtype(jnp.result_type(y), jnp.floating)]"
        parts = "((y.real, y.imag) if jnp.iscomplexobj(y) else (y,))"
        leaves = f"for y in jax.tree.leaves({applied}) for part in {parts}"
        return f"[part {leaves} if jnp.issubdtype(jnp.result_type(part), jnp.floating)]"

    def applied(self, function: str, namer) -> str:
        """The call of the function with the variables in their places."""
        leaves, rest = [], iter(self.variables)
        arrays = {leaf.place: leaf for leaf in self.subject.leaves}
        values = jax.tree.leaves(self.subject.args, is_leaf=lambda a: a is None)
        for place, value in enumerate(values):
            if place not in arrays:
                leaves.append(Code(literals.static(value, namer)))
            elif kind(arrays[place].dtype) == "complex":
                leaves.append(Code(f"jax.lax.complex({next(rest)}, {next(rest)})"))
            else:
                leaves.append(Code(next(rest)))
        structure = jax.tree.structure(self.subject.args, is_leaf=lambda a: a is None)
        return f"{function}({', '.join(literals.tree(a, namer) for a in jax.tree.unflatten(structure, leaves))})"

    # --- run ---------------------------------------------------------------------------------------------------------

    def ways(self) -> list[Way]:
        """The ways in which this may show, the plainest first."""
        if self.outer:
            return [JIT, EAGER]
        powers = ("2.0**14", "2.0**-14") if self.failed.dtype != "float16" else ("8.0", "0.125")
        if self.failed.finding.fault == "impure":
            return ways("repeatable", self.chosen, (), ())[2:]
        leaves = [name for name, c in zip(self.subject.names, self.chosen_places, strict=True) if c]
        return ways(self.failed.finding.check, self.chosen, tuple(leaves), powers)

    def values(self, way: Way) -> dict:
        """What the names in the text of a way stand for."""
        own = dict(zip((*self.variables, *self.bars), (*self.primals, *self.cotangent), strict=True))
        if way.lanes is None and not way.others:
            return own
        other = dict(zip(own, self._others(way.same), strict=True))
        if way.lanes is not None:
            lanes = {*way.lanes, *self.bars}
            return {name: np.stack([a, other[name]]) if name in lanes else a for name, a in own.items()}
        used = {*self.chosen} if way.name != "additive" else {*self.bars}
        return own | {f"other_{name}": value for name, value in other.items() if name in used}

    def _others(self, same: bool):
        """Other arguments and another cotangent, in few digits where the arguments keep what they have."""
        trial, chosen = self.failed.trial, self.chosen_places
        fresh = trial.primals if same else other_values(trial.primals, chosen, "fresh", seed=self.session.seed + 1)
        short = [np.round(a, 1) if c else a for a, c in zip(fresh, chosen, strict=True)]
        fits = all(keeps(a, b) for a, b, c in zip(fresh, short, chosen, strict=True) if c)
        primals = self.subject.cast(trial.primals if same else short if fits else fresh, self.failed.dtype)
        return *primals, *(np.asarray(-2 * c.astype(np.float64)).astype(c.dtype) for c in self.cotangent)

    def space(self) -> tuple[dict, str, Call]:
        """Names for running the text with the function at hand as it is."""
        given: dict = {"jax": jax, "jnp": jnp, "np": np, "function": self.base.function}

        def namer(thing):
            name = f"given_{len(given)}"
            given[name] = thing
            return name

        text, call = self.function("function", namer)
        exec(text, given)
        return given, text, call

    @property
    def base(self):
        """The subject whose function is in the text."""
        return self.outer.base if self.outer else self.subject

    @contextlib.contextmanager
    def settings(self):
        """JAX as the script sets it."""
        with self.local.precision(), jax.default_matmul_precision("highest"), np.errstate(all="ignore"):
            yield

    def fails(self, way: Way) -> bool:
        """Whether the derivative is wrong when it is called so."""
        if self.is_plain(way):
            try:
                got = self.came(way)
                return not self.raises and self.wrong(got)
            except Exception:
                return self.raises
        try:
            return self.verdict(way, self.run(way)) is not None
        except Exception:
            return self.raises

    def came(self, way: Way):
        """What comes of the function at hand when it is called so."""
        if not self.is_plain(way):
            return self.run(way)["got"]
        trial = self.failed.trial
        out, bars = self.local.hand(trial.primals, trial.cotangent, eager=way is EAGER)
        return [*out, *bars][self.index]

    def same(self, way: Way, got) -> bool:
        """Whether a text gives what the function at hand gives, but for rounding."""
        came = self.came(way)
        if got is None or came is None or np.shape(got) != np.shape(came):
            return got is came
        allowed = 2 * np.max(self.allowed, initial=0.0)
        off = np.abs(np.asarray(got, np.float64) - np.asarray(came, np.float64))
        return bool(np.all(~(off > allowed)))

    def is_plain(self, way: Way) -> bool:
        """Whether a way is a call of the derivative, as the judge has it."""
        return way in (JIT, EAGER) and not self.outer

    def run(self, way: Way) -> dict:
        """The names after the lines of a way."""
        key = way.words, self.leaf, type(self.outer)
        if key not in self.spaces:
            given, _, call = self.space()
            exec(way.definitions(call), given)
            self.spaces[key] = given, call
        given, call = self.spaces[key]
        with self.settings():
            given = given | self.values(way)
            for step in way.steps(call):
                exec(step, given)
        return given

    # --- what is said of it ------------------------------------------------------------------------------------------

    def verdict(self, way: Way, after: dict) -> list[str] | None:
        """The last lines, which fail where what came is wrong; None where it is right."""
        got, what = after["got"], f"{self.what}{f' {way.words}' if way.words else ''}"
        if "expected" in after:
            return self._compared(way, what, got, np.asarray(after["expected"], np.float64))
        if malformed(got, self.like):
            shape, dtype = np.shape(self.like), self.like.dtype
            lines = [
                f'assert (got.shape, str(got.dtype)) == ({shape}, "{dtype}"), f"{what}: {{got.shape}} {{got.dtype}}"'
            ]
            return [f'assert got is not None, "{what} is None"'] if got is None else lines
        if self.failed.finding.check == "structure" and getattr(got, "weak_type", False):
            return [f'assert not got.weak_type, "{what} is weakly typed, the argument is not"']
        if not self.wrong(got):
            return None
        return _held_against(what, got, self.expected, self.allowed, self.note)

    def _compared(self, way, what, got, expected):
        if way.exact:
            same = np.array_equal(np.asarray(got, np.float64), expected, equal_nan=True)
            lines = ["right = np.asarray(got == expected)", *_message(what, got)]
            return None if same else [*lines, "assert np.all(right), message"]
        allowed = 2 * np.broadcast_to(self.allowed, np.shape(expected))
        if not _outside(got, expected, allowed):
            return None
        return _held_against(what, got, expected, allowed, "what rounding may do", given=True)

    @property
    def what(self) -> str:
        return f"the output {self.leaf}" if self.is_output else f"the cotangent of {self.leaf}"

    @property
    def note(self) -> str:
        if self.is_output:
            return "the definition in float64, and what rounding may do"
        if self.kinked:
            return "the middle between the one-sided derivatives: this is a kink"
        return "the derivative of the definition in float64, and what rounding may do"


def _outside(came, expected, allowed) -> bool:
    if np.shape(came) != np.shape(expected):
        return True
    off = np.abs(np.asarray(came, np.float64) - expected)
    return bool((~(off <= allowed) & (allowed < np.inf)).any())


def _held_against(what, got, expected, allowed, note, given=False) -> list[str]:
    """Lines that compare with the fewest digits that leave no right answer out."""
    wide = np.broadcast_to(np.asarray(allowed, np.float64), np.shape(expected))
    for digits in (1, 2, 3):
        largest = np.max(wide, initial=0.0)
        single = _up(largest, digits) if np.isfinite(largest) else np.inf
        if np.isfinite(single) and _outside(got, expected, rounder := np.full(np.shape(expected), single)):
            shown, allowed_text = rounder, literals.number(np.float64(single))
            break
    else:
        shown, allowed_text = wide, literals.plain(wide)
    if not given and np.size(expected) <= literals.WRITTEN:
        short = _fewer_digits(expected, shown - wide)
        expected = short if _outside(got, short, shown) else expected
    skip = " | np.isinf(allowed)" if np.isinf(shown).any() else ""
    lines = [f"# {note}"]
    if given:
        lines += [f"allowed = {allowed_text}"]
    else:
        both = f"expected, allowed = {literals.plain(expected)}, {allowed_text}"
        apart = [_of_float64(literals.assigned("expected", expected)), f"allowed = {allowed_text}"]
        lines += [both] if len(both) <= literals.WIDTH else apart
    off = "np.float64(got) - np.float64(expected)" if given else "np.float64(got) - expected"
    return [
        *lines,
        f"right = {'(' if skip else ''}abs({off}) <= allowed{')' + skip if skip else ''}",
        *_message(what, got),
        "assert np.all(right), message",
    ]


def _of_float64(text):
    return text.replace(", np.float64)", ")")


def _message(what, got) -> list[str]:
    """What is said where it is wrong: everything, or of many numbers the first that is."""
    if np.size(got) <= literals.WRITTEN:
        return [f'message = f"{what}: got {{got}}, expected {{expected}}"']
    return [
        "at = np.unravel_index(np.argmin(right), np.shape(got))",
        "there = got[at], np.broadcast_to(expected, np.shape(got))[at], list(map(int, at))",
        f'message = "{what}: got {{}}, expected {{}} at {{}}".format(*there)',
    ]


def _up(value, digits) -> float:
    """A number rounded up to so many digits."""
    if not value:
        return 0.0
    step = 10.0 ** (np.floor(np.log10(value)) - digits + 1)
    return float(f"{np.ceil(value * (1 + 1e-12) / step) * step:.{digits}g}")


def _fewer_digits(expected, room):
    """Numbers of as few digits as this room allows them to move."""
    for digits in range(1, 17):
        short = np.asarray([float(f"{a:.{digits}g}") for a in np.ravel(expected)]).reshape(np.shape(expected))
        if np.all(abs(short - expected) <= np.where(np.isfinite(room), room, 0)):
            return short
    return expected
