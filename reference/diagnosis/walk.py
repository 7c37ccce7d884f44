"""A traced function run equation by equation, with hooks at every equation that computes."""

import jax.numpy as jnp
import numpy as np
from jax import lax

from ..tracing.interpreter import bind, called, open_jaxpr, parts_of_scan
from ..tracing.written import of_library, written_at
from . import source

UNROLLED = 12  # rounds: longer loops stay loops
EQUATIONS = 120  # in all rounds of a loop that is unrolled


class Hooks:
    """What is done at every equation that computes: nothing."""

    def take(self, path, equation, values, line, loop):
        return values

    def enter(self, path, equation, values, line, loop):
        """Before a loop."""
        return values

    def give(self, path, equation, outs, loop):
        return outs


class Walk:
    """A traced function run equation by equation, with calls entered and short loops unrolled."""

    def __init__(self, closed, hooks: Hooks, opaque: bool):
        self.closed, self.hooks, self.opaque = closed, hooks, opaque

    def __call__(self, *arguments):
        return self._run(self.closed, arguments, (), None, False)

    def _run(self, closed, arguments, path, around, loop):
        jaxpr, constants = open_jaxpr(closed)
        known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*constants, *arguments], strict=True))
        library = bool(around) and of_library(closed)

        def read(atom):
            return _literal(atom) if hasattr(atom, "val") else known[atom]

        for number, equation in enumerate(jaxpr.eqns):
            here = (*path, number)
            line = around if library else source.line(equation, around)
            with written_at(equation, closed):
                outs = self._equation(equation, [read(atom) for atom in equation.invars], here, line, loop)
            known.update(zip(equation.outvars, outs, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, equation, values, path, line, loop):
        name, params = equation.primitive.name, equation.params
        if name not in ("scan", "while", "cond") and not (self.opaque and name.startswith("custom_")):
            inner = called(equation)
            if inner is not None:
                return self._run(inner, values, path, line, loop)
        if name == "scan":
            values = self.hooks.enter(path, equation, values, line, loop)
            return self._scan(params, values, path, line, loop)
        values = self.hooks.take(path, equation, values, line, loop)
        if name == "cond":
            branches = [
                lambda *values, b=branch, i=i: self._run(b, values, (*path, i), line, True)
                for i, branch in enumerate(params["branches"])
            ]
            return lax.switch(values[0], branches, *values[1:])
        return self.hooks.give(path, equation, bind(equation, values), loop)

    def _scan(self, params, values, path, line, loop):
        consts, carried = parts_of_scan(params)
        fixed, carry, steps = values[:consts], values[consts : consts + carried], values[consts + carried :]
        length, body = params["length"], params["jaxpr"]

        def one_round(carry, now, path=path, loop=True):
            outs = self._run(body, [*fixed, *carry, *now], path, line, loop)
            return outs[:carried], outs[carried:]

        if loop or not 0 < length <= UNROLLED or length * _size(body) > EQUATIONS:
            carry, outs = lax.scan(one_round, carry, steps, length=length, reverse=params["reverse"])
            return [*carry, *outs]
        rows = {}
        for t in reversed(range(length)) if params["reverse"] else range(length):
            carry, rows[t] = one_round(carry, [step[t] for step in steps], (*path, f"@{t}"), False)
        return [*carry, *(jnp.stack(row) for row in zip(*(rows[t] for t in range(length)), strict=True))]


def _size(closed) -> int:
    """How many equations there are, those inside of calls counted as well."""
    inner = [called(equation) for equation in open_jaxpr(closed)[0].eqns]
    return sum(1 if function is None else _size(function) for function in inner)


def _literal(atom):
    """A number written in the equations, in the dtype that it had when they were traced."""
    return np.asarray(atom.val, atom.aval.dtype) if np.ndim(atom.val) == 0 else atom.val
