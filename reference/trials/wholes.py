"""Integers, booleans and masks like the example's: what the function asks of them, and others that may be tried.

Indices that the example has once are tried twice, for what is written twice has to add; a label that the function
compares with a constant is tried as that constant, for padding has to be ignored in both halves, and so is a lone
number, which may have a formula of its own there; a mask is tried with rows that are empty and rows that are full.
What the function makes of these its definition says: where that is not finite, nothing is judged.
"""

import dataclasses

import numpy as np

from manual_backprop.signature import kind_of

from ..tracing.interpreter import inner_jaxprs, names, open_jaxpr

FEW = 2**16  # integers of a smaller range are listed


@dataclasses.dataclass(frozen=True)
class Use:
    """What a function does with one of its integers, or with a lone number.

    constants  what it is compared with: an index of padding, a label to be ignored, a power with a limit of its own
    places     where things are written to, so that of equal ones one alone would last: they have to differ
    lengths    of the axes that it is an index of
    """

    constants: frozenset = frozenset()
    places: bool = True
    lengths: frozenset = frozenset()


# --- what a function does with its integers --------------------------------------------------------------------------


def uses(closed, bounds: bool = True) -> list[Use]:
    """Of every argument of a traced function, what it does with it where it is an integer or a lone number.

    bounds  whether what lies beyond a bound that it is compared with counts as well
    """
    jaxpr, _ = open_jaxpr(closed)
    seen = _Seen([set() for _ in jaxpr.invars], set(), [set() for _ in jaxpr.invars], bounds)
    _follow(closed, [_Known(frozenset([i]), i) for i in range(len(jaxpr.invars))], seen)
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


@dataclasses.dataclass(frozen=True)
class _Known:
    """What is known of a value.

    sources  the arguments that its integers come from
    own      the argument whose numbers these are, as they are
    number   the single number that it holds
    """

    sources: frozenset = frozenset()
    own: int | None = None
    number: float | None = None


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
        if not set(equation.outvars) & wrapping:
            _note(equation, inputs, seen)
        for inner in inner_jaxprs(equation):
            count = len(open_jaxpr(inner)[0].invars)
            handed = inputs[len(inputs) - count :] if count <= len(inputs) else [_Known(from_all)] * count
            found = _follow(inner, handed, seen)
            looped = equation.primitive.name in ("scan", "while")
            if looped and any(value.sources - from_all for value in found):
                from_all = from_all.union(*(value.sources for value in found))
        kept = inputs[0] if equation.primitive.name in _KEEPS and inputs else _Known()
        for out in equation.outvars:
            whole = hasattr(out.aval, "dtype") and kind_of(out.aval) == "integer"
            known[out] = _Known(from_all if whole else frozenset(), kept.own, kept.number)
    return [read(atom) for atom in jaxpr.outvars]


_KEEPS = names("abs broadcast_in_dim convert_element_type reshape squeeze copy pvary stop_gradient")


def _wrapping(jaxpr) -> set:
    """The comparisons by which an index that is negative is counted from the end: they choose a sum with a length."""
    made = {out: equation for equation in jaxpr.eqns for out in equation.outvars}
    found = set()
    for equation in jaxpr.eqns:
        first, *cases = [a for a in equation.invars if not hasattr(a, "val")] or [None]
        chosen_by = made.get(first) if equation.primitive.name == "select_n" else None
        if chosen_by is not None and chosen_by.primitive.name == "lt":
            added = [case for case in cases if case in made and made[case].primitive.name == "add"]
            if any(kind_of(case.aval) == "integer" for case in added):
                found.add(first)
    return found


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


COMPARISONS = {"eq": 0, "ne": 0, "lt": -1, "ge": -1, "gt": 1, "le": 1}  # which neighbour is on the other side


def _marks(name, number, beside, whole, bounds):
    """What a comparison with a number makes special: that number, and of a bound both of its sides."""
    side = COMPARISONS[name] * (-1 if beside else 1)
    if not side or not bounds:
        return {number} if not side else set()
    return {number, number + side} if whole else {number, number / 2, number * 2}


# --- others like these -----------------------------------------------------------------------------------------------


def other_integers(rng, a, words: str, use: Use = Use(), lengths=()):
    """Integers like these, for one of the kinds of values: the range is kept, and so is what they are good for.

    A permutation stays one, offsets into an array stay offsets, what ascends ascends, places stay different.
    """
    a = np.asarray(a)
    if not a.size:
        return a
    return _cast(_others(rng, a, words, use, lengths), a)


def _cast(drawn, a):
    info = np.iinfo(a.dtype)
    return np.clip(drawn, info.min, info.max).astype(a.dtype)


def _others(rng, a, words, use, lengths):
    low, high = int(a.min()), int(a.max())
    special = sorted(use.constants)
    if a.size == 1:
        return np.full(a.shape, _lone(rng, low, words, special))
    if is_permutation(a) and a.shape[-1] in lengths:
        return rng.permuted(a, axis=-1)
    if are_offsets(a, lengths):
        inner = np.sort(rng.integers(0, high + 1, size=a.size - 2))
        return np.concatenate([[0], inner, [high]])
    if use.places and all_differ(a):
        return rng.permutation(np.ravel(a)).reshape(a.shape)
    most = max(high, 1) if not (use.lengths or use.places) else high  # what tells things apart tells two
    drawn = _drawn(rng, a, words, _pool(a, low, most), special)
    return np.sort(drawn, axis=-1) if ascends(a) else drawn


def _lone(rng, number, words, special):
    """A count, an index, an exponent: nothing, one, fewer, and what it is compared with."""
    if words == "edges" and special:
        return rng.choice(special)
    fewer = {"zeros": 0, "nothing but zeros": 0, "ties": 1, "mixed sizes": rng.integers(max(number, 0) + 1)}
    return min(fewer.get(words, number), number)


def _pool(a, low, high):
    """What may be drawn: from zero to the largest, and every negative number of the example."""
    rest = np.arange(0 if high - max(low, 0) < FEW else max(low, 0), high + 1) if 0 <= high < FEW else np.unique(a)
    return np.union1d(rest, np.unique(a)) if low < 0 else rest


def _drawn(rng, a, words, pool, special):
    ends = [pool[0], pool[-1], *special]
    if words == "ties":
        return rng.choice(rng.choice(pool, 2), size=a.shape)
    if words == "zeros":
        return np.where(
            rng.random(a.shape) < 0.5, max(pool[0], 0) if pool[0] <= 0 else pool[0], rng.choice(pool, a.shape)
        )
    if words == "nothing but zeros":
        return np.full(a.shape, pool[0])  # zero, or the number that stands for none
    if words == "equal rows":
        return np.full(a.shape, rng.choice(ends[1:]))
    if words == "edges":
        return _half(rng, rng.choice(pool, a.shape), [*rng.permutation(special), pool[0], pool[-1]])
    return rng.choice(pool, a.shape)


def _half(rng, drawn, special):
    """Half of the numbers are special ones, in turn."""
    places = rng.permutation(drawn.size)[: (drawn.size + 1) // 2]
    drawn.reshape(-1)[places] = np.resize(special, places.size)
    return drawn


def is_permutation(a) -> bool:
    """Whether every row holds 0, 1, …, n - 1 in some order, for more than two of them."""
    n = a.shape[-1] if a.ndim else 0
    return n > 2 and bool(np.all(np.sort(a, axis=-1) == np.arange(n)))


def are_offsets(a, lengths) -> bool:
    """Whether these ascend from zero to one of the lengths: where the parts of an array begin and end."""
    return a.ndim == 1 and a.size > 2 and a[0] == 0 and int(a[-1]) in lengths and ascends(a)


def all_differ(a) -> bool:
    """Whether no number is there twice."""
    return len(np.unique(a)) == np.size(a)


def ascends(a) -> bool:
    """Whether every row ascends, and does not merely repeat."""
    wide = np.asarray(a).astype(np.int64) if a.dtype.kind != "u" else np.asarray(a).astype(object)
    steps = np.diff(wide, axis=-1) if a.ndim and a.shape[-1] > 1 else np.zeros(0)
    return bool(steps.size) and bool(np.all(steps >= 0)) and bool(np.any(steps > 0))


def within(a, old: int, new: int):
    """Integers below a length that is replaced by a shorter one, kept below that: labels, indices of rows."""
    inside = np.size(a) and np.min(a) >= 0 and np.max(a) < old
    return a % new if inside and 0 < new <= np.max(a) else a


# --- masks -----------------------------------------------------------------------------------------------------------


def other_mask(rng, a, words: str):
    """A mask of such a shape; rows with a single one, with all ones in front, triangles and symmetry stay."""
    b = np.asarray(a).astype(bool)
    if not b.size or _is_triangle(b):
        return b
    if b.ndim and b.shape[-1] > 1:
        if np.all(b.sum(-1) == 1):
            return np.arange(b.shape[-1]) == rng.integers(b.shape[-1], size=(*b.shape[:-1], 1))
        for turned in (slice(None), slice(None, None, -1)):
            if not (b == b.ravel()[0]).all() and np.all(np.diff(b[..., turned].astype(int), axis=-1) <= 0):
                return _in_front(rng, b, words)[..., turned]
    drawn = _mask(rng, b.shape, words)
    if b.ndim > 1 and b.shape[-1] == b.shape[-2] > 1 and np.array_equal(b, np.swapaxes(b, -1, -2)) and not b.all():
        return drawn | np.swapaxes(drawn, -1, -2)
    return drawn


def _mask(rng, shape, words):
    if words in ("nothing but zeros", "equal rows"):
        return np.full(shape, words == "equal rows")
    drawn = rng.random(shape) < 0.5
    if words in ("zeros", "ties", "edges") and len(shape) > 1:
        kind_of_row = rng.random((*shape[:-1], 1))
        drawn = np.where(kind_of_row < 0.4, False, np.where(kind_of_row > 0.8, True, drawn))
    return drawn


def _in_front(rng, b, words):
    """Rows of ones followed by zeros."""
    n = b.shape[-1]
    most = {"nothing but zeros": 0, "equal rows": n}.get(words)
    counts = rng.integers(n + 1, size=(*b.shape[:-1], 1)) if most is None else most
    return np.broadcast_to(np.arange(n) < counts, b.shape)


def _is_triangle(b):
    square = b.ndim >= 2 and b.shape[-1] == b.shape[-2] > 1
    return square and any(
        np.array_equal(b, np.broadcast_to(half(np.ones(b.shape[-2:], bool)), b.shape)) for half in (np.tril, np.triu)
    )
