"""What a function does with its integers and lone numbers: what it compares them with, and where it looks them up.

Traced, equation by equation; nothing runs.
"""

import dataclasses

import numpy as np

from manual_backprop.signature import kind_of

from ..tracing.interpreter import inner_jaxprs, names, open_jaxpr, parts_of_scan


@dataclasses.dataclass(frozen=True)
class Use:
    """What a function does with one of its integers, or with a lone number.

    constants  what it is compared with: an index of padding, a label to be ignored, a power with a limit of its own;
               the last index of an array that it is looked up in, and the last class that it may be
    places     where things are written to, so that of equal ones one alone would last: they have to differ
    lengths    of the axes that it is an index of
    """

    constants: frozenset = frozenset()
    places: bool = True
    lengths: frozenset = frozenset()


def uses(closed, bounds: bool = True) -> list[Use]:
    """Of every argument of a traced function, what it does with it where it is an integer or a lone number.

    bounds  whether the sides of a bound that it is compared with count as well, and the last place there is
    """
    jaxpr, _ = open_jaxpr(closed)
    seen = _Seen([set() for _ in jaxpr.invars], set(), [set() for _ in jaxpr.invars], bounds, {})
    _follow(closed, [_Known(frozenset([i]), i, index=(i, 0)) for i in range(len(jaxpr.invars))], seen)
    for place, last in seen.last.items() if bounds else ():
        seen.constants[place].update({last} if last >= 0 else ())
    found = enumerate(zip(seen.constants, seen.lengths, strict=True))
    return [Use(frozenset(constants), i in seen.places, frozenset(lengths)) for i, (constants, lengths) in found]


def together(found: list[Use], others: list[Use]) -> list[Use]:
    """What either of two functions does with each argument of the first; the second may have more."""
    both = zip(found, others[: len(found)], strict=True)
    return [dataclasses.replace(a, constants=a.constants | b.constants) for a, b in both]


@dataclasses.dataclass
class _Seen:
    constants: list[set]
    places: set
    lengths: list[set]
    bounds: bool
    last: dict[int, int]  # the largest with which nothing is looked up beyond its end


@dataclasses.dataclass(frozen=True)
class _Known:
    """What is known of a value.

    sources  the arguments that its integers come from
    own      the argument whose numbers these are, as they are
    number   the single number that it holds
    index    the argument that it is an element of, and what was added to that
    count    how far it counts, from zero
    columns  what stands side by side in it along its last axis, as the parts of an index do
    """

    sources: frozenset = frozenset()
    own: int | None = None
    number: float | None = None
    index: tuple[int, int] | None = None
    count: int | None = None
    columns: tuple = ()


def _follow(closed, given, seen):
    """Where the arguments go, equation by equation: what is known of the outputs."""
    jaxpr, constants = open_jaxpr(closed)
    known = dict(zip(jaxpr.invars, given, strict=True))
    known.update(zip(jaxpr.constvars, [_Known(number=_number(c)) for c in constants], strict=False))

    def read(atom):
        return _Known(number=_number(atom.val)) if hasattr(atom, "val") else known.get(atom, _Known())

    wrapping = _wrapping(jaxpr)
    for equation in jaxpr.eqns:
        inputs = list(map(read, equation.invars))
        from_all = frozenset().union(*(value.sources for value in inputs))
        if not wrapping.intersection(equation.outvars):
            _note(equation, inputs, seen)
        for inner in inner_jaxprs(equation):
            count = len(open_jaxpr(inner)[0].invars)
            handed = inputs[len(inputs) - count :] if count <= len(inputs) else [_Known(from_all)] * count
            for i in _carried(equation, len(handed)):  # what a step is handed, the next one need not be
                handed[i] = dataclasses.replace(handed[i], index=None)
            found = _follow(inner, handed, seen)
            looped = equation.primitive.name in ("scan", "while")
            if looped and any(value.sources - from_all for value in found):
                from_all = from_all.union(*(value.sources for value in found))
        kept = _kept(equation, inputs)
        chosen_by, *cases = _selected(equation)
        if not hasattr(chosen_by, "val") and chosen_by in wrapping:  # it is an index that is not negative
            kept = _Known(index=read(cases[0]).index)
        for out in equation.outvars:
            whole = hasattr(out.aval, "dtype") and kind_of(out.aval) == "integer"
            known[out] = dataclasses.replace(kept, sources=from_all if whole else frozenset())
    return [read(atom) for atom in jaxpr.outvars]


def _carried(equation, count) -> range:
    """Which arguments of an inner function are other ones in every step of a loop."""
    if equation.primitive.name == "scan":
        before, carried = parts_of_scan(equation.params)
        return range(before, before + carried)
    return range(count if equation.primitive.name == "while" else 0)


_KEEPS = names("abs broadcast_in_dim convert_element_type reshape squeeze copy pvary stop_gradient")
_CHOOSES = names("slice dynamic_slice rev transpose")  # elements, and no others


def _kept(equation, inputs) -> _Known:
    """What is known of an output by what is known of the inputs, besides where it comes from."""
    name, params = equation.primitive.name, equation.params
    if name in _KEEPS and inputs:
        return inputs[0]
    if name in _CHOOSES:
        return _Known(index=inputs[0].index)
    if name == "iota":
        return _Known(count=params["shape"][params["dimension"]])
    if name in ("add", "sub"):
        first, second = inputs if inputs[1].index is None or name == "sub" else inputs[::-1]
        if first.index is not None and isinstance(second.number, int):
            return _Known(index=(first.index[0], first.index[1] + (second.number if name == "add" else -second.number)))
    if name == "concatenate" and all(np.shape(a.aval)[-1:] == (1,) for a in equation.invars):
        last = params["dimension"] == np.ndim(equation.invars[0].aval) - 1
        return _Known(columns=tuple(inputs) if last else ())
    return _Known()


def _wrapping(jaxpr) -> set:
    """The comparisons by which an index that is negative is counted from the end: they choose a sum with a length."""
    made = {out: equation for equation in jaxpr.eqns for out in equation.outvars}
    found = set()
    for first, *cases in map(_selected, jaxpr.eqns):
        chosen_by = None if first is None or hasattr(first, "val") else made.get(first)
        if chosen_by is not None and chosen_by.primitive.name == "lt":
            added = [made[case] for case in cases if not hasattr(case, "val") and case in made]
            if any(kind_of(equation.outvars[0].aval) == "integer" for equation in added if _is("add", equation)):
                found.add(first)
    return found


def _is(name, equation) -> bool:
    return equation.primitive.name == name


def _selected(equation) -> list:
    """What an equation, or `jnp.where`, chooses by, and the cases that it chooses from; [None] of all others."""
    if _is("select_n", equation):
        return list(equation.invars)
    for inner in inner_jaxprs(equation):
        jaxpr, _ = open_jaxpr(inner)
        if len(jaxpr.eqns) == 1 and _is("select_n", jaxpr.eqns[0]) and len(jaxpr.invars) == len(equation.invars):
            outer = dict(zip(jaxpr.invars, equation.invars, strict=True))
            return [a if hasattr(a, "val") else outer[a] for a in jaxpr.eqns[0].invars]
    return [None]


def _number(value):
    """A single number, as one."""
    if getattr(value, "dtype", None) is not None and kind_of(value) not in ("integer", "float"):
        return None
    if np.size(value) != 1 or isinstance(np.ravel(value)[0], bool | np.bool_):
        return None
    one = np.ravel(value)[0]
    return int(one) if isinstance(one, int | np.integer) else float(one) if np.isfinite(float(one)) else None


def _note(equation, inputs, seen):
    name = equation.primitive.name
    if name in COMPARISONS and len(inputs) == 2:
        whole = kind_of(equation.invars[0].aval) == "integer"
        for value, other, beside in ((*inputs, 0), (*inputs[::-1], 1)):
            if other.number is None:
                continue
            for place in value.sources if whole and name in ("eq", "ne") else ():
                seen.constants[place].add(other.number)
            if value.own is not None:
                seen.constants[value.own].update(_marks(name, other.number, beside, whole, seen.bounds))
    for value, last in _looked_up(equation, inputs):
        if value.index is not None:
            place, added = value.index
            seen.last[place] = min(last - added, seen.last.get(place, last - added))
    if name == "cond":  # every branch is a formula of its own
        for place in inputs[0].sources:
            seen.constants[place].update(range(len(equation.params["branches"])))
    if name.startswith(("gather", "scatter")) and len(inputs) > 1:
        numbers, shape = equation.params["dimension_numbers"], np.shape(equation.invars[0].aval)
        axes = numbers.start_index_map if name == "gather" else numbers.scatter_dims_to_operand_dims
        for place in inputs[1].sources:
            seen.lengths[place].update(shape[axis] for axis in axes)
    written = name == "scatter" or (name.startswith(("scatter", "gather")) and equation.params.get("unique_indices"))
    if written and len(inputs) > 1:
        seen.places |= inputs[1].sources


def _looked_up(equation, inputs):
    """Every value that tells a place, with the last place that there is: in an array, or among classes."""
    name, params = equation.primitive.name, equation.params
    shape = np.shape(equation.invars[0].aval) if equation.invars else ()
    for one, other, asks in ((*inputs, "eq ne gt ge"), (*inputs[::-1], "eq ne lt le")) if name in COMPARISONS else ():
        if other.count and name in asks.split():  # as one of so many classes, or as how many count
            yield one, other.count - (name not in ("lt", "gt"))
    if name == "dynamic_slice":
        yield from zip(inputs[1:], np.subtract(shape, params["slice_sizes"]).tolist(), strict=True)
    if name == "dynamic_update_slice":
        yield from zip(inputs[2:], np.subtract(shape, np.shape(equation.invars[1].aval)).tolist(), strict=True)
    if name.startswith(("gather", "scatter")):
        numbers = params["dimension_numbers"]
        axes = numbers.start_index_map if name == "gather" else numbers.scatter_dims_to_operand_dims
        columns = inputs[1].columns or inputs[1:2]
        for value, axis in zip(columns, axes, strict=False) if len(columns) == len(axes) else ():
            if name == "gather":
                yield value, shape[axis] - params["slice_sizes"][axis]
            elif axis in numbers.inserted_window_dims:
                yield value, shape[axis] - 1


COMPARISONS = {"eq": 0, "ne": 0, "lt": -1, "ge": -1, "gt": 1, "le": 1}  # which neighbour is on the other side


def _marks(name, number, beside, whole, bounds):
    """What a comparison with a number makes special: that number, and of a bound both of its sides."""
    side = COMPARISONS[name] * (-1 if beside else 1)
    if not side or not bounds:
        return {number} if not side else set()
    return {number, number + side} if whole else {number, number / 2, number * 2}
