"""Where in a network the first wrong cotangent enters: the layer, and its argument.

The hand-written halves of the network run once, every layer recorded with the primals that it read and the cotangent
that reached it.  Each layer is then judged alone, at what it was given: a cotangent that came wrong from above is no
fault of the layers below.  Loops run step by step, so the step is told as well.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from manual_backprop.combinators import Network
from manual_backprop.rule import Rule
from manual_backprop.signature import kind_of

from . import contract
from .allowance import round_to, yardsticks
from .finding import Finding
from .points import Point


@dataclasses.dataclass(frozen=True)
class Location:
    """The layer of a network that is wrong by itself.

    path       which part at every level, counted from 0 as written; the steps of loops are not counted
    layer      the rule there: an elementary one, or a combinator whose layers are right
    leaf       the argument whose cotangent is wrong, or y where the value is
    point      what the layer was given, and the cotangent that reached it
    step       in a loop, its step
    """

    path: tuple[int, ...]
    layer: Rule
    leaf: str
    finding: Finding
    point: Point
    step: int | None = None

    def __str__(self):
        where = "the network as a whole" if not self.path else f"layer path {'.'.join(map(str, self.path))}"
        step = "" if self.step is None else f" in step {self.step} of its loop"
        what = f"argument {self.leaf}" if self.finding.check == "vjp" else self.leaf
        return f"enters at {where} ({self.layer}){step}, {what if self.leaf else 'which raises'}"


@dataclasses.dataclass
class _Record:
    """One call of one layer: what it was given, and what it gave."""

    path: tuple[int, ...]
    layer: Rule
    primals: tuple
    out: Any
    cotangent: Any = None
    bars: Any = None
    raised: Exception | None = None
    step: int | None = None


def locate(network: Rule, point: Point, dtype: str) -> Location | None:
    """Where the first wrong cotangent of a network enters at a point; None where no layer is wrong by itself.

    Values are judged on the way forward, cotangents on the way back; combinators come after all elementary layers, so
    that one is blamed only where what it joins is right.
    """
    forwards, backwards = _recorded(network, point, dtype)
    for record in backwards:
        if record.raised is not None:
            message = f"{type(record.raised).__name__}: {record.raised}".split("\n")[0]
            finding = Finding(str(record.layer), "vjp", "", dtype, "raised", message=message)
            return Location(record.path, record.layer, "", finding, _point(record), record.step)
    for check, records in (("value", forwards), ("vjp", backwards)):
        for record in sorted(records, key=lambda record: isinstance(record.layer, Network)):
            for finding in _judged(record, dtype):
                if finding.verdict == "wrong" and finding.check == check:
                    at = _point(record)
                    return Location(record.path, record.layer, finding.leaf, finding, at, record.step)
    return None


def _recorded(network, point, dtype):
    """The records of all layers in the order in which they ended: of the forward passes, and of the backward passes."""
    forwards, backwards = [], []
    rule = _Recorder(forwards, backwards).around(network, ())
    primals, cotangent = round_to((point.primals, point.cotangent), dtype)
    # Without jit loops run in Python, one step after the other; every elementary layer is compiled all the same.
    with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"), jax.disable_jit():
        _, residuals = rule.forward(*primals)
        try:
            rule.backward(residuals, cotangent)
        except Exception as error:
            if not backwards or backwards[-1].raised is None:
                raise
            backwards[:] = [next(r for r in backwards if r.raised is error)]
    _number(backwards)
    return forwards, backwards


@dataclasses.dataclass
class _Recorder:
    forwards: list
    backwards: list

    def around(self, layer: Rule, path) -> Rule:
        """The same layer, all its parts recorded.  Residuals carry the record, so each backward pass finds its own."""
        inner = layer
        if isinstance(layer, Network):
            parts = (self.around(part, (*path, i)) for i, part in enumerate(layer.layers))
            inner = layer.combinator(*parts, *layer.arguments)
        run = inner if isinstance(layer, Network) else contract.quick(layer)
        return _Recording(self, layer, run, path)


class _Recording(Rule):
    """A layer that records every forward and backward pass."""

    def __init__(self, recorder, layer, run, path):
        self.recorder, self.layer, self.run, self.path = recorder, layer, run, path
        self.definition, self.shapes, self._identity = layer.definition, layer.shapes, layer._identity
        self.compiles = not isinstance(layer, Network)

    @property
    def input(self):
        return self.layer.input

    def __str__(self):
        return str(self.layer)

    def forward(self, *primals):
        with jax.disable_jit(not self.compiles):
            out, residuals = self.run.forward(*primals)
        self.recorder.forwards.append(_Record(self.path, self.layer, primals, out))
        return out, (primals, out, residuals)

    def backward(self, residuals, cotangent):
        primals, out, residuals = residuals
        record = _Record(self.path, self.layer, primals, out, cotangent)
        try:
            with jax.disable_jit(not self.compiles):
                record.bars = self.run.backward(residuals, cotangent)
        except Exception as error:
            record.raised = error
            raise
        finally:
            self.recorder.backwards.append(record)
        return record.bars


def _number(backwards):
    """Count the steps of layers that ran more than once: backward passes come last step first."""
    calls: dict = {}
    for record in reversed(backwards):
        calls.setdefault(record.path, []).append(record)
    for records in calls.values():
        if len(records) > 1:
            for step, record in enumerate(records):
                record.step = step


def _judged(record, dtype) -> Iterator[Finding]:
    at = _point(record)
    try:
        measured = yardsticks(record.layer, at.primals, at.cotangent, (dtype,))[dtype]
    except Exception:  # a definition that does not run at what reached it tells nothing of the derivative
        return
    leaves = jax.tree.leaves(measured.truth)
    if all(np.isfinite(leaf).all() for leaf in leaves):
        bars = record.bars if isinstance(record.bars, tuple | list) else (record.bars,)
        yield from contract.against_autodiff(record.layer, at, (record.out, bars), measured, dtype)


def _point(record) -> Point:
    """What the layer was given, floats in float64."""
    cotangent = record.out if record.cotangent is None else record.cotangent
    wide = jax.tree.map(_wide, (tuple(record.primals), cotangent))
    return Point(*wide, jax.tree.map(np.shape, record.primals[0]), "normal", 0)


def _wide(array):
    if kind_of(array) == "key":
        return array
    array = np.asarray(array)
    return array.astype(np.float64) if kind_of(array) == "float" else array


__all__ = ["Location", "locate"]
