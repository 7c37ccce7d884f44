"""Walking through a traced function equation by equation, into loops, branches and calls."""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from manual_backprop.signature import kind_of

from .written import written_at


def names(text: str) -> frozenset:
    """A set of names, written with spaces between them."""
    return frozenset(text.split())


LONGER = 4
FOLDS = ("reduce", "scatter", "select_and", "cum")  # their inner function folds pairs of elements


def open_jaxpr(closed) -> tuple:
    """The equations' holder and its constants, whether or not this version of JAX keeps them apart."""
    return getattr(closed, "jaxpr", closed), getattr(closed, "consts", ())


def inner_jaxprs(equation) -> list:
    """Every function inside an equation: bodies of loops, branches, calls."""
    values = [v for value in equation.params.values() for v in (value if isinstance(value, tuple | list) else [value])]
    return [value for value in values if hasattr(getattr(value, "jaxpr", value), "eqns")]


def equations(closed) -> Iterator:
    """Every equation of a traced function, then those of the functions inside, level by level."""
    todo = [closed]
    for function in todo:
        for equation in open_jaxpr(function)[0].eqns:
            todo += inner_jaxprs(equation)
            yield equation


def called(equation):
    """The function that an equation merely calls, or None: `jit`, a checkpoint, a function with a derivative by hand.

    A derivative written by hand is passed over: what is called is the primal.
    """
    inner = inner_jaxprs(equation)
    if len(inner) != 1 or equation.primitive.name.startswith(FOLDS):
        return None
    return inner[0] if len(open_jaxpr(inner[0])[0].invars) == len(equation.invars) else None


def settles(closed) -> bool:
    """Whether a traced function has a loop that goes on until some number is small enough."""
    return closed is not None and any(_searches(e.params) for e in equations(closed) if e.primitive.name == "while")


def repeats(closed) -> bool:
    """Whether a traced function has a loop that does the same to the same for a number of steps, as Newton's may."""
    return closed is not None and any(
        _repeats(e.params, len(e.invars)) for e in equations(closed) if e.primitive.name == "scan"
    )


def _repeats(loop, inputs: int) -> bool:
    """Whether one loop reads and gives nothing step by step."""
    consts, carried = parts_of_scan(loop)
    return inputs == consts + carried and len(loop["jaxpr"].out_avals) == carried


def _searches(loop) -> bool:
    """Whether one loop does."""
    asking = (_asks(inner) and not _counts(loop, inner) for inner in equations(loop["cond_jaxpr"]))
    return any(asking) or bool(_flags(loop))


def settled(closed, arguments):
    """Whether the loops of a function end because a number became small enough: not at a limit of steps, not at once.

    Loops inside of other loops, and in branches, are not asked.
    """
    ends = []

    def loop(params, inputs, inside):
        outputs = _while(params, inputs, inside)
        ask, _, start, _ = _parts_of_while(params, inputs)
        before, after = (_compared(params, [*ask, *carry]) for carry in (start, outputs))
        if not before and (flags := _flags(params)):  # where none goes on from the start, nothing is searched
            before, after = ([carry[i] for i in flags] for carry in (start, outputs))
            before, after = [*before, True], [*after, walk(params["cond_jaxpr"], [*ask, *start])[0]]
        ends.append(jnp.any(jnp.asarray([jnp.any(x != y) for x, y in zip(before, after, strict=True)] or [True])))
        return outputs

    walk(closed, arguments, control=_CONTROL | {"while": loop})
    return jnp.all(jnp.asarray([True, *ends]))


def _compared(loop, arguments) -> list:
    """What each comparison of floats in the condition of a loop says."""
    found = []

    def noted(equation, inputs):
        outputs = bind(equation, inputs)
        if _asks(equation) and not _counts(loop, equation):
            found.append(outputs[0])
        return outputs

    walk(loop["cond_jaxpr"], arguments, noted)
    return found


def _flags(loop) -> list[int]:
    """Which booleans and integers that a loop carries are asked by its condition, and set by comparing floats."""
    ask, body = loop["cond_jaxpr"].jaxpr, loop["body_jaxpr"].jaxpr
    still = [True] * loop["body_nconsts"] + _counters(loop)[0]
    known = {id(atom) for atom, counts in zip(body.invars, still, strict=True) if counts}

    def compares(equation):
        inside = (inner for function in inner_jaxprs(equation) for inner in equations(function))
        here = _asks(equation) and not all(hasattr(atom, "val") or id(atom) in known for atom in equation.invars)
        return here or any(map(_asks, inside))

    asked, carried = _behind(ask, ask.outvars)[1], ask.invars[loop["cond_nconsts"] :]
    return [
        i
        for i, (atom, out) in enumerate(zip(carried, body.outvars, strict=True))
        if id(atom) in asked and kind_of(atom.aval) != "float" and any(map(compares, _behind(body, [out])[0]))
    ]


def _behind(jaxpr, results) -> tuple[list, set]:
    """The equations that some results need, and the `id` of all atoms that these read."""
    read, found = set(map(id, results)), []
    for equation in reversed(jaxpr.eqns):
        if any(id(out) in read for out in equation.outvars):
            found.append(equation)
            read.update(map(id, equation.invars))
    return found, read


def _asks(equation) -> bool:
    """Whether it compares floats."""
    return equation.primitive.name in _COMPARES and kind_of(equation.invars[0].aval) == "float"


def _counts(loop, comparison) -> bool:
    """Whether what a condition compares stays as it is, or is counted."""
    ask, counted = loop["cond_jaxpr"].jaxpr.invars, [True] * loop["cond_nconsts"] + _counters(loop)[0]
    known = {id(atom) for atom, counts in zip(ask, counted, strict=True) if counts}
    return all(hasattr(atom, "val") or id(atom) in known for atom in comparison.invars)


def _counters(loop) -> tuple[list[bool], frozenset]:
    """Which numbers of a loop stay as they are, or move by the same number in every step; the equations that do it."""
    body, steps = loop["body_jaxpr"].jaxpr, set()
    made = {id(out): equation for equation in body.eqns for out in equation.outvars}

    def evenly(after, before):
        if after is before or hasattr(after, "val"):
            return True
        step = made.get(id(after))
        if step is None or step.primitive.name not in ("add", "sub", "select_n"):
            return False
        if step.primitive.name == "select_n":  # lanes under vmap, each of which ends where it has to
            return all(evenly(case, before) for case in step.invars[1:])
        adds = any(a is before for a in step.invars) and all(a is before or hasattr(a, "val") for a in step.invars)
        steps.update({id(step)} if adds else ())
        return adds

    return list(map(evenly, body.outvars, body.invars[loop["body_nconsts"] :])), frozenset(steps)


def on_and_on(closed, arguments, steps: bool) -> list:
    """Run a traced function, every loop that ends when something is found going on for longer.

    steps  whether one that does the same for a number of steps does, too
    """
    return walk(closed, arguments, control=_ON_AND_ON | {"scan": _repeated if steps else _scan})


def bind(equation, inputs, **changed) -> list:
    """The outputs of one equation, with some of its parameters changed."""
    params = equation.params | changed
    if params.get("vmap_method", "") is None:  # of a callback: nobody said how it takes several points
        params["vmap_method"] = "sequential"
    outputs = equation.primitive.bind(*inputs, **equation.primitive.get_bind_params(params))
    return list(outputs) if equation.primitive.multiple_results else [outputs]


def walk(
    closed,
    arguments,
    apply: Callable = bind,
    constant: Callable = lambda value: value,
    enter: Callable = called,
    control: dict | None = None,
    plainly: frozenset = frozenset(),
) -> list:
    """Run a traced function with `apply(equation, inputs) -> outputs` for every equation that computes.

    Loops, branches and what `enter` gives of a call are entered; constants pass through `constant`.  Where `apply` has
    a method `during(step)`, that is what applies in a step of a loop; where it `moves` results at random, a loop goes
    on for as long as it would without.  `control` are loops and branches in other words; `plainly` names equations
    by their `id` that are left as they are.
    """
    run = control or (_PACED if getattr(apply, "moves", False) else _CONTROL)
    jaxpr, constants = open_jaxpr(closed)
    start = [*map(constant, constants), *arguments]
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], start, strict=True))

    def read(atom):
        return constant(_literal(atom)) if hasattr(atom, "val") else known[atom]

    def inside(closed, arguments, step=None, **more):
        during = apply if step is None or not hasattr(apply, "during") else apply.during(step)
        return walk(closed, arguments, during, constant, enter, **more)

    for equation in jaxpr.eqns:
        with written_at(equation, closed):
            inputs = [read(atom) for atom in equation.invars]
            if equation.primitive.name in _CONTROL:
                outputs = run[equation.primitive.name](equation.params, inputs, inside)
            elif (function := enter(equation)) is not None:
                outputs = inside(function, inputs, control=control)
            else:
                outputs = (bind if id(equation) in plainly else apply)(equation, inputs)
            known.update(zip(equation.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _literal(atom):
    """A number written in the equations, in the dtype that it had when they were traced."""
    return np.asarray(atom.val, atom.aval.dtype) if np.isscalar(atom.val) or np.ndim(atom.val) == 0 else atom.val


def parts_of_scan(params) -> tuple[int, int]:
    """How many inputs stay as they are, and how many are carried, as any version of JAX writes it."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    return tuple(len(part) for part in params["ft_in"].unpack())[:2]


def _scan(params, inputs, inside):
    consts, carried = parts_of_scan(params)
    fixed, start, steps = inputs[:consts], inputs[consts : consts + carried], inputs[consts + carried :]

    def body(counted, now):  # the number of a step is carried, so that what only repeats is still seen to
        step, carry = counted
        outputs = inside(params["jaxpr"], [*fixed, *carry, *now], step)
        return (step + 1, outputs[:carried]), outputs[carried:]

    (_, carry), outputs = lax.scan(body, (0, start), steps, length=params["length"], reverse=params["reverse"])
    return [*carry, *outputs]


def _while(params, inputs, inside):
    ask, fixed, start, together = _parts_of_while(params, inputs)

    def goes_on(carry):
        return inside(params["cond_jaxpr"], [*ask, *carry])[0]

    def body(carry):
        new = inside(params["body_jaxpr"], [*fixed, *carry])
        return new if together else [_where(goes_on(carry), a, b) for a, b in zip(new, carry, strict=True)]

    return lax.while_loop(goes_on if together else lambda carry: jnp.any(goes_on(carry)), body, start)


def _paced(params, inputs, inside):
    """Beside the same loop where nothing is moved, which says when to end: what moves may never be small enough.

    Nor does a counter move.
    """
    ask, fixed, start, together = _parts_of_while(params, inputs)
    _, steps = _counters(params)

    def goes_on(still):
        return walk(params["cond_jaxpr"], [*ask, *still])[0]

    def body(both):
        still, moved = ([*fixed, *carry] for carry in both)
        new = walk(params["body_jaxpr"], still), inside(params["body_jaxpr"], moved, plainly=steps)
        return new if together else jax.tree.map(functools.partial(_where, goes_on(both[0])), new, both)

    return lax.while_loop(lambda both: jnp.any(goes_on(both[0])), body, (start, start))[1]


def _repeated(params, inputs, inside):
    """The same for LONGER times as many steps, where every step does the same."""
    longer = _repeats(params, len(inputs))
    return _scan(params | {"length": (1 + LONGER * longer) * params["length"]}, inputs, inside)


def _longer(params, inputs, inside):
    """A search, and then LONGER times as many steps again, which nothing ends: what it would find if it went on."""
    if not _searches(params):
        return _while(params, inputs, inside)
    ask, fixed, start, _ = _parts_of_while(params, inputs)

    def goes_on(carry):
        return inside(params["cond_jaxpr"], [*ask, *carry])[0]

    def step(carry):
        return inside(params["body_jaxpr"], [*fixed, *carry])

    count, carry = lax.while_loop(
        lambda counted: jnp.any(goes_on(counted[1])), lambda counted: (counted[0] + 1, step(counted[1])), (0, start)
    )
    return lax.fori_loop(0, LONGER * count, lambda _, carry: step(carry), carry)


def _parts_of_while(params, inputs):
    """What its condition and its body are given, what it starts from, and whether all lanes go on together."""
    split = params["cond_nconsts"]
    middle = split + params["body_nconsts"]
    return inputs[:split], inputs[split:middle], inputs[middle:], params["cond_jaxpr"].out_avals[0].shape == ()


def _where(still, new, old):
    """Under vmap each lane goes on for as long as it has to, and keeps what it has from then on."""
    return lax.select(lax.broadcast_in_dim(still, jnp.shape(new), range(jnp.ndim(still))), new, old)


def _cond(params, inputs, inside):
    branches = [lambda *inputs, b=branch: inside(b, inputs) for branch in params["branches"]]
    return lax.switch(inputs[0], branches, *inputs[1:])


_COMPARES = names("gt ge lt le")
_CONTROL = {"scan": _scan, "while": _while, "cond": _cond}
_PACED = _CONTROL | {"while": _paced}
_ON_AND_ON = _CONTROL | {"while": _longer}
