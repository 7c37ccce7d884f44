"""Mistakes that show in the whole Jacobian under test beside the true one: which output an element listens to.

A derivative is linear in its cotangent, so one call for each element of the output says all about it.
"""

import math

import jax
import numpy as np

from . import places
from .bench import Bench
from .failure import Explanation, most, over
from .graph import Hooks, wide

OUTPUTS = 128  # elements of all outputs together
ASKED = 16  # of those, where each is judged
NUMBERS = 2**16  # in a Jacobian
SIMPLE = 12  # fractions of whole numbers up to this count as simple


class Jacobian:
    """∂output/∂leaf as it is taken for, and as it is: outputs by elements of the leaf, what is allowed below it."""

    def __init__(self, bench: Bench):
        failure = bench.failure
        self.failure, self.leaf = failure, failure.leaf
        bars = [wide(a) for a in jax.tree.leaves(bench.cotangent)]
        self.shape = bars[0].shape if len(bars) == 1 else (sum(a.size for a in bars),)
        self._structure, self._shapes = jax.tree.structure(bench.cotangent), [a.shape for a in bars]
        count = math.prod(self.shape)
        if bench.graph is None:
            rows = [failure.at(bench.primals, self._cotangent(row))[self.leaf] for row in np.eye(count)]
            self.taken, self.true = (np.stack([np.ravel(row[i]) for row in rows]) for i in (0, 1))
        else:
            got = [failure.answer(bench.primals, self._cotangent(row))[self.leaf] for row in np.eye(count)]
            self.taken = np.stack([np.ravel(np.asarray(a, np.float64)) for a in got])
            self.true = self._of_the_definition(bench, count)
        self.allowed = np.where(np.isfinite(failure.allowance), failure.allowance, np.inf).ravel()
        flat = np.concatenate([a.ravel() for a in bars])
        here = (flat @ self.taken).reshape(failure.got.shape)
        self.linear = np.isfinite(self.taken).all() and most(over(here, failure.got, 4 * failure.allowance)) <= 1

    def _cotangent(self, row):
        ends = np.cumsum([math.prod(shape) for shape in self._shapes])[:-1]
        parts = [part.reshape(shape) for part, shape in zip(np.split(row, ends), self._shapes, strict=True)]
        return self._structure.unflatten(parts)

    def _of_the_definition(self, bench, count):
        graph, place = bench.graph, list(bench.failure.leaves).index(self.leaf)
        ends = np.cumsum([math.prod(shape) for shape in self._shapes])[:-1].tolist()

        def row(numbers, floats, others, _):
            parts = [p.reshape(s) for p, s in zip(jax.numpy.split(numbers, ends), self._shapes, strict=True)]
            return graph.pull(Hooks(), floats, others, parts)

        return graph.rows(row)(np.eye(count), bench.primals, bench.cotangent)[place].reshape(count, -1)

    def near(self, a, b):
        """Elementwise, whether two Jacobians are the same but for rounding."""
        return np.abs(a - b) <= 2 * self.allowed

    def pair(self, output, element) -> str:
        """The name of one derivative, as in ∂y[0, 1]/∂x[2]."""

        def indexed(shape, flat):
            return list(map(int, np.unravel_index(flat, shape))) if shape else ""

        which, among = 0, output
        while among >= math.prod(self._shapes[which]):
            among -= math.prod(self._shapes[which])
            which += 1
        y = f"y[{which}]" if len(self._shapes) > 1 else "y"
        return f"∂{y}{indexed(self._shapes[which], among)}/∂{self.leaf}{indexed(self.failure.truth.shape, element)}"

    def by_output(self, rows) -> list[np.ndarray]:
        """What is known of every element of all outputs, in the shape of each."""
        ends = np.cumsum([math.prod(shape) for shape in self._shapes])[:-1]
        return [part.reshape(shape) for part, shape in zip(np.split(rows, ends), self._shapes, strict=True)]


class Ungraphed:
    """A failure whose definition cannot be taken apart: the truth for one element of the output is asked for."""

    graph = None

    def __init__(self, failure):
        self.failure, self.primals, self.cotangent = failure, failure.primals, failure.cotangent


def jacobian_of(bench: Bench | Ungraphed) -> Jacobian | None:
    """Where it is small, and linear as a Jacobian is."""
    if not hasattr(bench, "jacobian"):
        failure = bench.failure
        count = sum(wide(a).size for a in jax.tree.leaves(bench.cotangent))
        small = (
            0 < count <= (ASKED if bench.graph is None else OUTPUTS)
            and count * failure.truth.size <= NUMBERS
            and not np.iscomplexobj(failure.truth)
        )
        bench.jacobian = None
        if small and (failure.at if bench.graph is None else failure.answer) is not None:
            try:
                found = Jacobian(bench)
                bench.jacobian = found if found.linear else None
            except Exception:  # it may raise for other cotangents, which explains nothing
                bench.jacobian = None
    return bench.jacobian


def scaled(bench: Bench):
    """Every element of the output, or of the leaf, counts with a factor of its own."""
    jacobian = jacobian_of(bench)
    if jacobian is None or jacobian.taken.size < 2:
        return None
    for axis, shape, what in (
        (1, jacobian.shape, "the output's cotangent"),
        (0, bench.failure.truth.shape, f"the cotangent of {jacobian.leaf}"),
    ):
        true, taken = jacobian.true, jacobian.taken
        with np.errstate(all="ignore"):
            factors = np.sum(true * taken, axis, keepdims=True) / np.sum(true * true, axis, keepdims=True)
        factors = np.where(np.isfinite(factors), factors, 1.0)
        if jacobian.near(factors * true, taken).all():
            silent = ~np.any(true, axis).reshape(shape)
            free = np.count_nonzero(true, axis).max() == 1  # some factor fits whatever stands there
            return _of_factors(jacobian, factors.reshape(shape), what, silent, free)
    return None


def _of_factors(jacobian, factors, what, silent, free):
    """Words for factors of which not all are one; `silent` are those that would not show, `free` if any would fit."""
    resolution = _resolution(jacobian)
    wrong = np.abs(factors - 1) > resolution
    told = None if (wrong | silent).all() else places.place(wrong)
    if not factors[wrong].all():
        heard = told and not factors[wrong].any()
        return Explanation("located", f"{what} is not heard {told[1]}") if heard else None
    named = [_fraction(float(f), resolution) for f in np.sort(factors[wrong].ravel())]
    named = list(dict.fromkeys(named))
    whole = np.all((jacobian.true == 0) | jacobian.near(np.abs(jacobian.true), 1))  # what is moved, and not computed
    if named == ["2"] and whole:
        return Explanation("counted_twice", f"{what} is counted twice{f' {told[1]}' if told else ''}")
    if all(named) and (not free or len(named) == 1):
        said = f"{what} is off by a factor of {', '.join(named[:4])}{', …' if len(named) > 4 else ''}"
        if told and len(named) == 1:
            return Explanation("located", f"{said} {told[1]} alone")
        return Explanation("factor", f"{said}, not the same at every place")
    if free:
        return None
    worst = np.unravel_index(np.argmax(np.abs(factors - 1)), factors.shape)
    text = f"{what} is multiplied by one function too many or too few: off by a factor of {factors[worst]:.4g}"
    return Explanation("local_derivative", f"{text} at {list(map(int, worst))}")


def _resolution(jacobian) -> float:
    """How far rounding may carry a factor."""
    largest = np.max(np.abs(jacobian.true), axis=0, initial=0)
    with np.errstate(all="ignore"):
        share = np.where(largest > 0, jacobian.allowed / largest, np.inf)
    return 4 * float(np.min(share, initial=1.0))


def _fraction(value: float, resolution: float) -> str | None:
    for q in range(1, SIMPLE + 1):
        p = round(value * q)
        if abs(p) <= SIMPLE and abs(value - p / q) <= resolution:
            return f"{p} / {q}" if q > 1 else f"{p}"
    return None


def moved(bench: Bench):
    """Some elements of the output are not heard, or the right numbers stand at the wrong places."""
    jacobian = jacobian_of(bench)
    if jacobian is None or jacobian.taken.size < 4:
        return None
    true, taken, leaf = jacobian.true, jacobian.taken, jacobian.leaf
    wrong = ~jacobian.near(taken, true)
    left, lost = np.count_nonzero(taken, axis=0), wrong.any(axis=0)
    if not lost.any():
        return None
    if not np.any(taken[wrong]) and left[lost].all():
        if (left[lost] == 1).all():
            text = f"of all places that an element of {leaf} goes to, one alone is heard, and not their sum"
            return Explanation("missing_sum", f"{text}: {_value(jacobian, wrong)}")
        text = f"{wrong.sum()} of {np.count_nonzero(true)} derivatives are taken for zero"
        return Explanation("missing_path", f"{text}: {_value(jacobian, wrong)}")
    most_allowed = np.max(jacobian.allowed[np.isfinite(jacobian.allowed)], initial=0)
    for axis, of in ((1, "element of the output"), (0, f"element of {leaf}")):
        apart = np.abs(np.sort(taken, axis=axis) - np.sort(true, axis=axis))
        if (apart <= 2 * most_allowed).all() and np.count_nonzero(true[wrong]) > 1:
            text = f"the right numbers in the wrong places, for every {of}: {_value(jacobian, wrong)}"
            return Explanation("permuted", text)
    return None


def untransposed(bench: Bench):
    """The matrix as it is, where its transpose is due."""
    jacobian = jacobian_of(bench)
    if jacobian is None or jacobian.true.shape[0] != jacobian.true.shape[1]:
        return None
    if jacobian.near(jacobian.taken, jacobian.true.T).all() and not jacobian.near(jacobian.true, jacobian.true.T).all():
        return Explanation("permuted", "the cotangent goes through the Jacobian itself in place of its transpose")
    return None


def heard(bench: Bench):
    """What comes from some elements of the output is wrong, and from the others right."""
    jacobian = jacobian_of(bench)
    if jacobian is None or jacobian.taken.size < 4:
        return None
    wrong = ~jacobian.near(jacobian.taken, jacobian.true)
    rows, silent = jacobian.by_output(wrong.any(axis=1)), jacobian.by_output(~np.any(jacobian.true, axis=1))
    bad = [i for i, part in enumerate(rows) if part.any()]
    if not bad or len(bad) == len(rows) > 1:
        return None
    told = [None if (rows[i] | silent[i]).all() else places.place(rows[i]) for i in bad]
    if len(rows) == 1:
        text = told[0] and f"what comes from the output is wrong {told[0][1]} alone"
    else:
        each = (f"y[{i}]{f' {at[1]}' if at else ''}" for i, at in zip(bad, told, strict=True))
        text = f"what comes from {' and '.join(each)} is wrong, and from the other outputs right"
    return Explanation("located", f"{text}: {_value(jacobian, wrong)}") if text else None


def differs(bench: Bench):
    """The entry of the Jacobian that is farthest from the truth, where nothing simpler can be said."""
    jacobian = jacobian_of(bench)
    if jacobian is None:
        return None
    wrong = ~jacobian.near(jacobian.taken, jacobian.true)
    if not wrong.any():
        return None
    text = f"another function's derivative: {wrong.sum()} of {wrong.size} entries of the Jacobian are wrong"
    return Explanation("local_derivative", f"{text}; {_value(jacobian, wrong)}", vague=True)


def _value(jacobian, wrong) -> str:
    off = np.where(wrong, np.abs(jacobian.taken - jacobian.true), 0)
    place = np.unravel_index(np.argmax(off), off.shape)
    return f"{jacobian.pair(*place)} is {jacobian.true[place]:.4g}, and taken for {jacobian.taken[place]:.4g}"
