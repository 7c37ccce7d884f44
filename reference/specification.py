"""A language for example arguments: one line of text from which the arguments of a function are drawn.

    f32[4,8] i32[4]<10                  one specification for each argument, white space between them

    array     dtype[length, …] and any of  >a  >=a  <b  <=b  sorted  distinct,  without white space between
    dtype     f16 bf16 f32 f64 f8_e4m3fn f8_e5m2 · i8 i16 i32 i64 u8 u16 u32 · bool · c64 c128
    key       key or key[n]: one random key, or n of them
    static    a Python literal: 3  -0.5  True  None  'mean'
    tuple     (f32[3], f32[2])  (f32[3],)  ()
    list      [f32[3], 2]
    dict      {w: f32[3,2], b: f32[], 'a name': i32[2]<3}

Floats without bounds are standard normal, integers without bounds 0 … 7; `f32[]` is a single number.  A bound holds
in the dtype that is drawn: `f16[3]>0` has no zero that rounding made.  `sorted` ascends along the last axis; the
elements of a `distinct` array all differ.

    >>> specs = parse("f32[2,3] i32[4]<10 {w: f64[3]>0, keep: 0.5}")
    >>> x, labels, params = draw(specs, np.random.default_rng(0))
    >>> print(x.shape, x.dtype, labels.max() < 10, params["w"].min() > 0, params["keep"])
    (2, 3) float32 True True 0.5
    >>> print(specs)
    f32[2,3] i32[4]<10 {w: f64[3]>0, keep: 0.5}
"""

import ast
import dataclasses
import re

import jax.numpy as jnp
import numpy as np

from manual_backprop.signature import Ge, Gt, Le, Leaf, Lt, SignatureError, Sorted

from . import points

FLOATS = {name: f"float{name[1:]}" for name in ("f16", "f32", "f64", "f8_e4m3fn", "f8_e5m2")} | {"bf16": "bfloat16"}
INTEGERS = {name: f"int{name[1:]}" for name in ("i8", "i16", "i32", "i64")}
INTEGERS |= {name: f"uint{name[1:]}" for name in ("u8", "u16", "u32")}
COMPLEX = {"c64": "complex64", "c128": "complex128"}
DTYPES = {**FLOATS, **INTEGERS, **COMPLEX, "bool": "bool", "key": "key"}

COMPARISONS = {">=": Ge, "<=": Le, ">": Gt, "<": Lt}
REDRAWS = 100  # how often repeated elements of a `distinct` array are drawn anew


class Distinct:
    """The elements all differ."""


MODIFIERS = {"sorted": Sorted, "distinct": Distinct}


class Arguments(tuple):
    """Specifications, one for each argument; its text is what it was parsed from, in the usual spacing."""

    __slots__ = ()

    def __str__(self):
        return " ".join(map(_text, self))


@dataclasses.dataclass(frozen=True)
class Array:
    """One array: a dtype by its short name, and a leaf with kind, shape and domain."""

    dtype: str
    leaf: Leaf

    def __str__(self):
        shape = f"[{','.join(map(str, self.leaf.shape))}]" if self.leaf.shape or self.dtype != "key" else ""
        return self.dtype + shape + "".join(map(_constraint, self.leaf.domain))

    def draw(self, rng: np.random.Generator, values: str = "normal"):
        """One such array, of NumPy save for keys."""
        if self.leaf.kind in ("key", "boolean"):
            return points.draw(self.leaf, rng, values)
        array = self._distinct(rng, values) if Distinct in self.leaf.domain else self._once(rng, values)
        if values == "normal" and self.dtype in FLOATS and array.size > 1:
            array = _telling(array, *_range(self))
        return np.sort(array, axis=-1) if Sorted in self.leaf.domain else array

    def _once(self, rng, values):
        dtype = jnp.dtype(DTYPES[self.dtype])
        drawn = points.draw(self.leaf, rng, values)
        if self.dtype in COMPLEX:
            return (drawn + 1j * points.draw(self.leaf, rng, values)).astype(dtype)
        return np.clip(drawn, *_range(self)).astype(dtype) if self.leaf.kind == "float" else drawn.astype(dtype)

    def _distinct(self, rng, values):
        size = int(np.prod(self.leaf.shape))
        if self.leaf.kind == "integer":
            low, high = _range(self)
            drawn = low + rng.choice(high + 1 - low, size, replace=False)
            return drawn.astype(DTYPES[self.dtype]).reshape(self.leaf.shape)
        flat = self._once(rng, values).ravel()
        for _ in range(REDRAWS):
            repeated = np.setdiff1d(np.arange(size), np.unique(flat, return_index=True)[1])
            if not repeated.size:
                return flat.reshape(self.leaf.shape)
            flat[repeated] = self._once(rng, "normal").ravel()[repeated]
        raise SignatureError(f"{self} asks for {size} different numbers, and {self.dtype} has too few of them there")


def parse(text: str) -> Arguments:
    """The specifications in a text: arrays, literals, and tuples, lists and dicts of these."""
    return Arguments(_Reader(text).arguments())


def draw(specs: tuple, rng: np.random.Generator, values: str = "normal") -> tuple:
    """Arguments as specified: arrays of the stated dtypes, keys, and static values as they stand."""
    if values not in points.VALUES:
        raise SignatureError(f"values is {values!r}; it is one of {', '.join(points.VALUES)}")
    return tuple(_drawn(spec, rng, values) for spec in specs)


def _drawn(spec, rng, values):
    if isinstance(spec, Array):
        return spec.draw(rng, values)
    if isinstance(spec, dict):
        return {name: _drawn(part, rng, values) for name, part in spec.items()}
    return type(spec)(_drawn(part, rng, values) for part in spec) if isinstance(spec, tuple | list) else spec


# --- text ------------------------------------------------------------------------------------------------------------


def _text(spec) -> str:
    if isinstance(spec, Array):
        return str(spec)
    if isinstance(spec, dict):
        return f"{{{', '.join(f'{_name(name)}: {_text(part)}' for name, part in spec.items())}}}"
    if isinstance(spec, tuple | list):
        inside = ", ".join(map(_text, spec))
        return f"[{inside}]" if isinstance(spec, list) else f"({inside}{',' * (len(spec) == 1)})"
    return repr(spec)


def _name(key) -> str:
    return key if isinstance(key, str) and re.fullmatch(_Reader.WORD, key) else repr(key)


def _constraint(constraint) -> str:
    for text, cls in COMPARISONS.items():
        if isinstance(constraint, cls):
            return f"{text}{getattr(constraint, cls.__name__.lower())}"
    return next(text for text, marker in MODIFIERS.items() if marker is constraint)


class _Reader:
    """Reads a text from left to right; every method leaves `at` behind what it read."""

    WORD = r"[A-Za-z_]\w*"
    NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
    STRING = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""

    def __init__(self, text: str):
        self.text, self.at, self.start = text, 0, 0

    def arguments(self) -> list:
        specs = []
        while self.skip():
            specs.append(self.spec())
            if self.at < len(self.text) and not self.text[self.at].isspace():
                self.fail("white space between two arguments", "f32[4,8] i32[4]<10")
        return specs

    def skip(self) -> bool:
        """Whether anything comes after the white space."""
        self.take(r"\s*")
        return self.at < len(self.text)

    def take(self, pattern: str) -> str | None:
        found = re.compile(pattern).match(self.text, self.at)
        if found is None:
            return None
        self.at = found.end()
        return found[0]

    def need(self, pattern: str, expected: str, example: str) -> str:
        found = self.take(pattern)
        return self.fail(expected, example) if found is None else found

    def fail(self, expected: str, example: str):
        """The text stops making sense at `at`: what was expected there."""
        rest = re.compile(r"\S*").match(self.text, self.at)[0]
        other = "before white space" if self.at < len(self.text) else "but the text ends"
        self.refuse(f"{expected} was expected {f'before {rest!r}' if rest else other}", example)

    def refuse(self, problem: str, example: str):
        """The one error of a malformed text: where, which token, what is wrong with it, and an example."""
        token = re.compile(r"\S*").match(self.text, self.start)[0]
        where = f"arguments {self.text!r}, at character {self.at + 1}"
        raise SignatureError(f"{where}: {token!r}: {problem}; for example {example}")

    def spec(self):
        self.start = self.at
        if self.take(r"\("):
            return self.several(r"\)", tuple)
        if self.take(r"\["):
            return self.several(r"\]", list)
        if self.take(r"\{"):
            return self.several(r"\}", dict)
        literal = self.take(rf"{self.STRING}|{self.NUMBER}|(?:True|False|None)\b")
        if literal is not None:
            return self.literal(literal)
        word = self.take(self.WORD)
        if word in DTYPES:
            return self.array(word)
        self.at = self.start
        what = f"a dtype ({', '.join(DTYPES)})"
        if word and self.text.startswith(word + "[", self.at):
            return self.fail(what, "f32[4,8]")
        return self.fail(f"{what}, a literal or a bracket", f"f32[4,8], 0.5 or {word or 'mean'!r} in quotes")

    def literal(self, text: str):
        try:
            return ast.literal_eval(text)
        except (SyntaxError, ValueError):  # such as 007
            self.at = self.start
            return self.refuse("this is no Python literal", "7, -0.5 or 'mean'")

    def several(self, close: str, container: type):
        """The parts of a tuple, list or dict whose opening bracket was read."""
        start, parts, comma = self.start, [], True
        closing = close[-1]
        while True:
            self.skip()
            if self.take(close):
                break
            if not comma:
                self.fail(f"',' or {closing!r}", "(f32[3], f32[2])")
            if self.at == len(self.text):
                self.fail(f"{closing!r} or one more part", "(f32[3], f32[2])")
            parts.append(self.item(dict(parts)) if container is dict else self.spec())
            self.start = start
            self.skip()
            comma = bool(self.take(","))
        if container is tuple and len(parts) == 1 and not comma:
            self.at -= 1
            self.fail("',' in a tuple of one", "(f32[3],)")
        return container(parts)

    def item(self, known: dict) -> tuple:
        at = self.at
        name = self.need(rf"{self.WORD}|{self.STRING}|\d+", "a name", "{w: f32[3], b: f32[]}")
        name = name if re.fullmatch(self.WORD, name) else self.literal(name)
        if name in known:
            self.at = at
            self.refuse(f"the name {name!r} came before", "{w: f32[3], b: f32[]}")
        self.skip()
        self.need(":", f"':' after the name {name!r}", "{w: f32[3], b: f32[]}")
        self.skip()
        return name, self.spec()

    def array(self, dtype: str) -> Array:
        shape = ()
        if dtype != "key" or self.text.startswith("[", self.at):
            self.need(r"\[", f"the lengths of {dtype}, in brackets,", f"{dtype}[4,8], or {dtype}[] for a single one")
            shape = self.lengths(dtype)
        kind = "float" if dtype in (*FLOATS, *COMPLEX) else "integer" if dtype in INTEGERS else dtype
        domain, ordered = [], kind in ("float", "integer") and dtype not in COMPLEX
        while True:
            begin = self.at
            found = self.take("|".join((*COMPARISONS, *MODIFIERS)))
            if not found:
                break
            if (not ordered and found != "distinct") or kind in ("bool", "key"):
                self.at = begin
                self.refuse(f"{found} does not go with {dtype}", f"{dtype}[4] or f32[4]>0")
            domain.append(MODIFIERS[found] if found in MODIFIERS else COMPARISONS[found](self.bound(found, kind)))
        if Sorted in domain and not shape:
            self.at = begin
            self.refuse("there is no axis to sort along", "f32[5]sorted")
        spec = Array(dtype, Leaf({"bool": "boolean"}.get(kind, kind), shape, tuple(domain)))
        if ordered:
            self.check(spec)
        return spec

    def lengths(self, dtype: str) -> tuple[int, ...]:
        lengths = []
        self.take(r"\s*")
        while not self.take(r"\]"):
            if lengths:
                self.need(",", "',' or ']'", f"{dtype}[4,8]")
            lengths.append(int(self.need(r"\s*\d+", "a length", f"{dtype}[4,8]")))
            self.take(r"\s*")
        return tuple(lengths)

    def bound(self, comparison: str, kind: str) -> float:
        example = f"i32[4]{comparison}10" if kind == "integer" else f"f32[4]{comparison}0.5"
        if kind == "integer":
            return int(self.need(r"[-+]?\d+(?![.\deE])", f"an integer after {comparison}", example))
        number = self.need(self.NUMBER, f"a number after {comparison}", example)
        return float(number) if re.search(r"[.eE]", number) else int(number)

    def check(self, spec: Array):
        """Refuse a domain without numbers, or with too few different ones."""
        low, high = _range(spec)
        size = int(np.prod(spec.leaf.shape))
        if low > high:
            self.refuse(f"{spec.dtype} has no number there", f"{spec.dtype}[4]>=2<5")
        if spec.leaf.kind == "integer":
            info = np.iinfo(DTYPES[spec.dtype])
            if low < info.min or high > info.max:
                self.refuse(f"{spec.dtype} holds {info.min} … {info.max}", f"{spec.dtype}[4]>=2<5")
            if Distinct in spec.leaf.domain and size > high + 1 - low:
                self.refuse(f"{size} integers from {low} to {high} cannot all differ", "i32[4]<10distinct")


# --- domains ---------------------------------------------------------------------------------------------------------


def _range(spec: Array):
    """The smallest and the largest number of the dtype that the domain holds."""
    if spec.leaf.kind == "integer":
        low, high = points.whole_numbers(spec.leaf)
        free = Distinct in spec.leaf.domain and not any(isinstance(c, Lt | Le) for c in spec.leaf.domain)
        return low, (max(high, low + int(np.prod(spec.leaf.shape))) if free else high) - 1
    info = jnp.finfo(DTYPES[spec.dtype])
    low, high = float(info.min), float(info.max)
    for c in spec.leaf.domain:
        if isinstance(c, Gt | Ge):
            low = max(low, -_largest(-getattr(c, type(c).__name__.lower()), isinstance(c, Gt), spec.dtype))
        elif isinstance(c, Lt | Le):
            high = min(high, _largest(getattr(c, type(c).__name__.lower()), isinstance(c, Lt), spec.dtype))
    return low, high


def _telling(array, low, high):
    """The same numbers, of both signs where the domain has both, and not all below one where it goes on.

    What an example keeps to, as probabilities do, is kept wherever other values are tried.
    """
    top = float(jnp.finfo(array.dtype).max)
    if (low, high) == (-top, top) and np.abs(np.sign(array).sum()) == array.size:
        array = np.where(np.arange(array.size).reshape(array.shape) == 0, -array, array)
    if low >= 0 and high == top and array.max() < 1:
        array = (array * (2 / float(array.max()))).astype(array.dtype)
    return array


def _largest(bound: float, strictly: bool, dtype: str) -> float:
    """The largest number of a dtype at or, strictly, below a bound; subnormals aside, which hardware may flush."""
    info, dtype = jnp.finfo(DTYPES[dtype]), jnp.dtype(DTYPES[dtype])
    if strictly and bound == 0:
        return -float(info.tiny)
    edge = np.asarray(np.clip(bound, float(info.min), float(info.max))).astype(dtype)
    if float(edge) > bound or (strictly and float(edge) == bound):
        edge = np.nextafter(edge, np.asarray(float(info.min)).astype(dtype))
    return float(edge)


__all__ = ["Arguments", "Array", "Distinct", "draw", "parse"]
