"""Which of the derivatives written by hand inside a function is the one that is wrong.

One after the other is passed over, so that autodiff goes through its primal, while all others stay in force: the one
without which the cotangent is right was wrong.
"""

import dataclasses
import functools
import pathlib

import jax

from .diagnosis.source import LIBRARIES, Line, line
from .judge import Failed
from .pullback import pull
from .reproduction.replay import Case
from .reproduction.ways import EAGER, JIT
from .session import Session
from .tracing.interpreter import called, inner_jaxprs, open_jaxpr, walk

BY_HAND = ("custom_vjp_call", "custom_jvp_call")
MANY = 16  # derivatives by hand in one function, beyond which one compilation for each is too much


@dataclasses.dataclass(frozen=True)
class Culprit:
    """A function with a wrong derivative inside the function that was checked: where it is written, and called."""

    name: str
    written: Line | None
    called: Line | None
    alone: bool = True  # whether the cotangent is right without it, or others are wrong as well

    def __str__(self):
        at = f" at {self.written}" if self.written else ""
        by = f" (called at {self.called})" if self.called else ""
        which = "is the one that is wrong" if self.alone else "is wrong, and not alone"
        return f"the derivative of {self.name}{at}{by} {which}"


def culprits(session: Session, failed: Failed) -> tuple[Culprit, ...]:
    """The functions inside a function whose derivatives by hand make this cotangent wrong.

    Empty where the function is itself the one with a derivative by hand, or the failure does not show in a plain call.
    """
    case = Case(session, failed)
    if not any(map(case.fails, (JIT, EAGER))):
        return ()
    with case.local.precision():
        traced = jax.make_jaxpr(session.subject)(*case.primals)
    written = _by_hand(traced)
    if not 0 < len(written) <= MANY or _is_itself(traced):
        return ()
    wrong = functools.partial(_wrong, case, traced)
    if wrong(frozenset(written)):
        return ()  # autodiff alone does not mend it
    alone = [key for key in written if not wrong(frozenset({key}))]
    if alone:
        return tuple(_culprit(written[key], True) for key in alone)
    return tuple(_culprit(written[key], False) for key in written if wrong(frozenset(written) - {key}))


def _wrong(case, traced, passed_over) -> bool:
    """Whether the cotangent is wrong where autodiff goes through these primals; so it is if it cannot."""

    def enter(equation):
        return None if _is_by_hand(equation) and _key(equation) not in passed_over else called(equation)

    def run(primals, cotangent):
        out, bars = pull(lambda *p: tuple(walk(traced, p, enter=enter)), primals, cotangent)
        return [*out, *bars][case.index]

    try:
        with case.local.precision(), jax.default_matmul_precision("highest"):
            return case.wrong(jax.jit(run)(case.primals, case.cotangent))
    except Exception:  # a primal that autodiff does not go through
        return True


def _by_hand(closed) -> dict:
    """The calls of functions with a derivative by hand, by where these are written; not those inside of others."""
    found: dict = {}
    for equation in open_jaxpr(closed)[0].eqns:
        if _is_by_hand(equation):
            found.setdefault(_key(equation), equation)
        else:
            for inner in inner_jaxprs(equation):
                found |= {key: other for key, other in _by_hand(inner).items() if key not in found}
    return found


def _is_by_hand(equation) -> bool:
    return equation.primitive.name.startswith(BY_HAND)


def _is_itself(traced) -> bool:
    """Whether a function does nothing but call one that has a derivative by hand."""
    equations = open_jaxpr(traced)[0].eqns
    return len(equations) == 1 and _is_by_hand(equations[0])


def _key(equation) -> str:
    return _source(equation) or str(id(equation))


def _source(equation) -> str:
    """Name and place of the primal, as in 'softmax at model.py:31'."""
    (inner,) = inner_jaxprs(equation)
    info = getattr(open_jaxpr(inner)[0], "debug_info", None)
    return str(getattr(info, "func_src_info", None) or "")


def _culprit(equation, alone) -> Culprit:
    name, _, place = _source(equation).partition(" at ")
    file, _, number = place.rpartition(":")
    written = Line(file, int(number)) if number.isdigit() and pathlib.Path(file).exists() else None
    by = line(equation)
    if written and file.startswith(LIBRARIES):
        return Culprit(name, None, by, alone)
    return Culprit(name or "a function", written, by if by != written else None, alone)
