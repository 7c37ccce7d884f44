"""Against the definition: value, form, cotangents at the example, at other values, at kinks."""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from manual_backprop.signature import kind_of

from ..finding import Finding
from ..judge import malformed
from ..points import constants
from ..session import Session
from ..tracing.interpreter import equations
from ..trials import KINKED, marks, other_values, partners, with_its_own_integers, with_rows_of
from ..trials.kept import ends
from .naming import dtypes, named


@named
def value(session: Session) -> Iterator[Finding]:
    """The forward pass gives the value of the function itself."""
    for dtype in dtypes(session):
        for trial in session.example[:1]:
            for finding in session.judge("value", trial, dtype):
                if finding.leaf in session.subject.output_names(len(trial.cotangent)):
                    yield finding


@named
def structure(session: Session) -> Iterator[Finding]:
    """Every float argument gets a cotangent of its own shape and dtype; integers and keys get none."""
    trial, dtype = session.example[0], session.subject.dtype
    _, bars = session.answer(trial, dtype)
    dropped = _dropped(session, trial)
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
        elif name in dropped:
            message = "it has no cotangent, and JAX drops the floats that came back for it; return None"
            found = make("wrong", ratio=np.inf, message=message, fault="structure")
            yield dataclasses.replace(found, dtype=str(primal.dtype))


def _dropped(session, trial) -> list[str]:
    """The integers that the backward pass itself gives floats for: JAX drops them, so that nothing else shows it."""
    subject, dtype = session.subject, session.subject.dtype
    function, local = subject.function, session.local(trial.primals, dtype)
    if not isinstance(function, jax.custom_vjp) or function.symbolic_zeros:
        return []
    with local.precision():
        args = subject.assemble(map(jax.device_put, subject.cast(trial.primals, dtype)))
        given = [i for i in range(len(args)) if i not in subject.static]
        whole = [place for place, i in enumerate(given) if kind_of(args[i]) == "integer"]

        def bars():
            out, kept = function.fwd(*args)
            found = function.bwd(*(args[i] for i in sorted(subject.static)), kept, jax.tree.map(_cotangent, out))
            return [found[place] if kind_of(found[place]) == "float" else None for place in whole]

        try:
            heard = [bar is not None for bar in jax.eval_shape(bars)]
            heard = [np.any(bar) for bar in bars()] if any(heard) else heard
        except Exception:  # as of what runs under jit alone, or in float32; the form is judged elsewhere
            return []
    leaves = [len(jax.tree.leaves(a, is_leaf=lambda part: part is None)) for a in args]
    names = {leaf.place: leaf.name for leaf in subject.leaves}
    return [names[sum(leaves[: given[place]])] for place, h in zip(whole, heard, strict=True) if h]


def _cotangent(out):
    inexact = jnp.issubdtype(jnp.result_type(out), jnp.inexact)
    return jnp.ones_like(out) if inexact else np.zeros(np.shape(out), jax.dtypes.float0)


@named
def truth(session: Session) -> Iterator[Finding]:
    """Every cotangent equals the derivative of the definition, by autodiff in float64, at the example's values."""
    for dtype in dtypes(session):
        for trial in session.example:
            yield from session.judge("truth", trial, dtype, outputs=False)


@named
def values(session: Session) -> Iterator[Finding]:
    """The same at other values: zeros, ties, equal rows, large, tiny, far from zero, of mixed sizes, on its edges."""
    yield from _at_values(session, [v for v in session.profile.values if v not in KINKED], "values")


@named
def kinks(session: Session) -> Iterator[Finding]:
    """At ties, zeros and edges: JAX's choice of derivative, or another between the one-sided ones."""
    yield from _at_values(session, [v for v in session.profile.values if v in KINKED], "kinks")


def _unasked(dtype) -> str:
    """Values at which such a dtype tells nothing.

    In the thousands, what has few digits differs by noise alone.  Far from zero, the truth, which has no more digits
    than double precision, loses what the derivative loses.
    """
    return "far from zero" if dtype == "float64" else "huge"


def _at_values(session, words, check):
    near, example = _constants(session), session.subject.example
    for i, (kind_of_values, only) in enumerate(_each(session, words)):
        primals = other_values(
            example, session.subject.differentiated, kind_of_values, near, session.seed, session.uses, only
        )
        trial = session.trial(primals, kind_of_values, 100 + i)
        if session.leaves_domain(trial):  # perhaps for the integers alone
            trial = session.trial(with_its_own_integers(primals, example), kind_of_values, 100 + i)
        if session.leaves_domain(trial):  # perhaps in some rows alone
            session.outside.append(kind_of_values)
            outputs = session.measured(trial, session.subject.dtype).truth[0]
            trial = session.trial(with_rows_of(example, primals, outputs), kind_of_values, 100 + i)
        if check == "kinks":  # of one sign: outputs may choose among equals each in its own way
            trial = dataclasses.replace(trial, cotangent=tuple(map(np.abs, trial.cotangent)))
        for dtype in dtypes(session):
            if kind_of_values != _unasked(dtype):
                yield from session.judge(check, trial, dtype, outputs=True)


IN_TURN = 4  # arguments of which one alone lies on edges


def _each(session, words):
    """(words, -1), and where several arguments have edges or ends, (words, which one alone has them)."""
    example = session.subject.example
    arrays = [i for i, c in enumerate(session.subject.differentiated) if c and np.ndim(example[i])]
    for kind_of_values in words:
        if kind_of_values == "nothing but edges" and len(arrays) < 2:  # differences of edges are edges, too
            continue
        if kind_of_values == "minute" and session.searches:  # below what it stops at, a search finds nothing
            continue
        if kind_of_values == "ends":
            yield from ((kind_of_values, i) for i in [i for i in arrays if ends(example[i])][:IN_TURN])
            continue
        if kind_of_values == "alike" and not partners(example, session.subject.differentiated):
            continue
        if kind_of_values == "near ends" and not any(ends(example[i]) for i in arrays):
            continue
        if kind_of_values in NOT_FINITE and not NOT_FINITE[kind_of_values](session):
            continue
        if kind_of_values == "marks":
            yield from ((kind_of_values, turn) for turn in range(_marks(session)))
            continue
        yield kind_of_values, -1
        if kind_of_values == "edges" and len(arrays) > 1:
            yield from ((kind_of_values, i) for i in arrays[:IN_TURN])


def _equations(session):
    return equations(session.local(session.example[0].primals, session.subject.dtype).equations)


def _asks_for_infinities(session) -> bool:
    """Whether the definition asks what is finite: then it takes minus infinity, as of a masked score."""
    return any(equation.primitive.name == "is_finite" for equation in _equations(session))


def _asks_for_missing(session) -> bool:
    """Whether the definition compares a number with itself, as none but NaN differs."""
    compared = (equation.invars for equation in _equations(session) if equation.primitive.name == "ne")
    return any(a is b for a, b in compared)


NOT_FINITE = {"infinities": _asks_for_infinities, "infinite rows": _asks_for_infinities, "missing": _asks_for_missing}


def _marks(session) -> int:
    """How many values of lone numbers the function asks for, a few at most."""
    leaves = zip(session.subject.example, session.uses, session.subject.differentiated, strict=True)
    asked = (marks(a, use) for a, use, chosen in leaves if chosen or kind_of(a) == "integer")
    return min(max(map(len, asked), default=0), IN_TURN)


def _constants(session) -> tuple:
    of_definition = session.local(session.example[0].primals, session.subject.dtype).equations
    found = constants(of_definition) | (constants(session.by_hand) if session.by_hand else set())
    return tuple(sorted({a for a in {*found, *(-b for b in found)} if abs(a) < 64}))
