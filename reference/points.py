"""Points at which a rule is checked: primals in their domains, and a cotangent that is never constant.

A point is made from an expression, the input's shape, a kind of values and a seed, and from nothing else, so these
four reproduce it anywhere.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import numpy as np

from manual_backprop.signature import Kinks, Leaf, OneOf, SignatureError, Sorted, is_leaf, kind_of, unify, with_sizes

from .tracing.interpreter import inner_jaxprs, open_jaxpr

LENGTHS = (1, 2, 3, 5)
BATCHES = ((), (1,), (3,), (2, 3))
VALUES = ("normal", "tied", "zero", "large", "tiny", "mixed", "kinks", "wide")
SMALLEST, LARGEST = -40, 8  # powers of two between which the sizes of 'wide' values lie
LONG = 131  # prime, so that no block and no stride divides it

# How the lengths of a rule are chosen: odd ones that all differ, so that a transposed or exchanged axis shows; 1
# everywhere; drawn from LENGTHS and BATCHES; leading axes; all alike; one beyond every block; none.
CHOICES = ("odd", "one", "drawn", "batched", "square", "long", "empty")
# The axes that `*name` stands for, and the lengths of the other names in turn; what is not said is drawn.
SIZES = {
    "odd": ((3, 2), (5, 4, 7, 3)),
    "one": ((), (1,)),
    "batched": ((2, 1, 3), ()),
    "square": ((4, 4), (4,)),
    "long": ((LONG,), (LONG,)),
    "short": ((2,), (2, 3)),  # beside a long one
    "empty": ((0,), ()),
}


@dataclasses.dataclass(frozen=True)
class Point:
    """Primals (NumPy float64, integers, keys) and an output cotangent, with the recipe that made them."""

    primals: tuple
    cotangent: Any
    input: Any
    values: str
    seed: int

    @property
    def example(self) -> str:
        return f"input={self.input} values={self.values} seed={self.seed}"


def point(rule, input, values: str = "normal", seed: int = 0) -> Point:
    """The point of a rule for an input of this shape (a tuple of lengths, or a tuple of such tuples)."""
    if values not in VALUES:
        raise SignatureError(f"values is {values!r}; it is one of {', '.join(VALUES)}")
    x = input_leaves(rule, input)
    parameters, output = rule.shapes(x)
    rng = np.random.default_rng([seed, VALUES.index(values)])
    often = _constants(rule, input) if values == "kinks" else ()
    primals = jax.tree.map(lambda leaf: draw(leaf, rng, values, often), (x, *parameters), is_leaf=is_leaf)
    cotangent = jax.tree.map(lambda leaf: _cotangent(leaf, rng), output, is_leaf=is_leaf)
    return Point(primals, cotangent, input, values, seed)


def input_leaves(rule, shape):
    """The leaves of a rule's input for a given shape, with the kinds and domains that the rule declares."""
    leaves, structure = jax.tree.flatten(rule.input, is_leaf=is_leaf)
    try:
        shapes = structure.flatten_up_to(shape)
    except (ValueError, TypeError):
        shapes = [None]
    if not all(isinstance(lengths, tuple) and all(type(n) is int for n in lengths) for lengths in shapes):
        wanted = "one shape, such as (3, 4)" if is_leaf(rule.input) else f"{len(leaves)} shapes, as in ((3, 4), (3, 4))"
        raise SignatureError(f"input is {shape}, but {rule} reads {wanted}")
    sizes: dict = {}
    for leaf, lengths in zip(leaves, shapes, strict=True):
        try:
            sizes = unify(leaf, lengths, sizes)
        except SignatureError as error:
            raise SignatureError(f"input has {error} by {rule}") from None
    return with_sizes(rule.input, sizes)


@functools.lru_cache(256)
def _constants(rule, input) -> tuple[float, ...]:
    """The float constants of a rule's definition, of either sign, and 0 and 1: where an undeclared kink may lie."""
    if not hasattr(rule, "signature"):
        return ()  # what flows into the layers of a network is not drawn
    primals = point(rule, input).primals
    try:
        with jax.enable_x64(True):
            found = constants(jax.make_jaxpr(rule.definition)(*primals))
    except Exception:  # a definition that raises is a finding where it is checked
        found = set()
    near = {size for size in {0.0, 1.0, *map(abs, found)} if size <= 2.0**LARGEST}
    return tuple(sorted(sign * size for size in near for sign in (-1.0, 1.0)))


def constants(closed) -> set[float]:
    """Every finite single number of a floating dtype that stands in a traced function, its inner ones included."""
    jaxpr, captured = open_jaxpr(closed)
    written = [np.asarray(atom.val) for equation in jaxpr.eqns for atom in equation.invars if hasattr(atom, "val")]
    single = [a for a in (*written, *captured) if np.shape(a) == () and kind_of(a) == "float" and np.isfinite(a)]
    inner = [constants(body) for equation in jaxpr.eqns for body in inner_jaxprs(equation)]
    return set().union(map(float, single), *inner)


def draw(leaf: Leaf, rng: np.random.Generator, values: str, often: tuple[float, ...] = ()):
    """One array of a leaf's kind and shape, inside its domain; with kinks also numbers of `often`."""
    if leaf.kind == "key":
        return (
            jax.random.split(jax.random.key(int(rng.integers(2**31))), leaf.shape)
            if leaf.shape
            else jax.random.key(int(rng.integers(2**31)))
        )
    if leaf.kind == "boolean":
        return rng.random(leaf.shape) < 0.5
    if leaf.kind == "integer":
        return rng.integers(*whole_numbers(leaf), size=leaf.shape)
    return np.asarray(_into_domain(leaf, _reals(leaf.shape, rng, values), rng, values, often), np.float64)


def _reals(shape, rng, values):
    normal = rng.normal(size=shape)
    if values == "tied":
        return rng.choice([-1.5, 0.1, 0.7, 2.0], size=shape)
    if values == "zero":
        return normal * (rng.random(shape) < 0.5)
    if values == "mixed":
        return normal * 2.0 ** rng.integers(-8, 6, size=shape)
    if values == "wide":
        return np.copysign(2.0 ** _wide(shape, rng), normal)
    return normal * {"large": 32.0, "tiny": 2.0**-10}.get(values, 1.0)


def _wide(shape, rng):
    """Exponents from SMALLEST to LARGEST in equal steps, in random order, each moved by up to one."""
    size = math.prod(shape)
    steps = np.linspace(LARGEST, SMALLEST, size) if size > 1 else rng.uniform(SMALLEST, LARGEST, size)
    return rng.permutation(steps).reshape(shape) - rng.random(shape)


def _into_domain(leaf, x, rng, values, often):
    for constraint in leaf.domain:
        if isinstance(constraint, OneOf):
            return rng.choice(constraint.values, size=leaf.shape)
    low, high = _bounds(leaf)
    off = 0.0 if values == "wide" else 2.0**-8
    if math.isfinite(low) and math.isfinite(high):
        x = low + (high - low) / (1 + np.exp(-x))
    elif math.isfinite(low):
        x = low + np.abs(x) + off
    elif math.isfinite(high):
        x = high - np.abs(x) - off
    if values == "kinks":
        inside = [number for number in often if low < number < high]
        for points in (inside, *(c.points for c in leaf.domain if isinstance(c, Kinks))):
            if points:  # each as often as any other
                spread = rng.permutation(np.resize(rng.permutation(points), x.size)).reshape(leaf.shape)
                x = np.where(rng.random(leaf.shape) < 0.5, spread, x)
    return np.sort(x, axis=-1) if any(c is Sorted or isinstance(c, Sorted) for c in leaf.domain) else x


def whole_numbers(leaf: Leaf) -> tuple[int, int]:
    """The integers that a domain holds: the first of them, and the first above; without bounds 0 … 7."""
    low, high = _bounds(leaf)
    excluded, included = ([getattr(c, name, None) for c in leaf.domain] for name in ("gt", "le"))
    first = low if math.isinf(low) else math.floor(low) + 1 if low in excluded else math.ceil(low)
    stop = high if math.isinf(high) else math.floor(high) + 1 if high in included else math.ceil(high)
    if math.isinf(first):
        first = 0 if stop > 0 else stop - 8
    return first, first + 8 if math.isinf(stop) else stop


def _bounds(leaf):
    low, high = -math.inf, math.inf
    for c in leaf.domain:
        low = max(low, *(v for v in (getattr(c, "gt", None), getattr(c, "ge", None)) if v is not None), -math.inf)
        if isinstance(getattr(c, "lt", None), str):
            raise SignatureError(f"values below {c.lt}, whose length is not known: bind it, as in name(5, 3)")
        high = min(high, *(v for v in (getattr(c, "lt", None), getattr(c, "le", None)) if v is not None), math.inf)
    return low, high


def _cotangent(leaf, rng):
    """Normal, or now and then a single one: an error in one element then stands alone."""
    if rng.random() < 0.8 or not math.prod(leaf.shape):
        return rng.normal(size=leaf.shape)
    one_hot = np.zeros(math.prod(leaf.shape))
    one_hot[rng.integers(one_hot.size)] = rng.normal()
    return one_hot.reshape(leaf.shape)


def instances(rule, count: int, seed: int):
    """(rule with every length and option bound, input shape) for `count` of CHOICES: odd first, then one everywhere.

    Where a choice does not apply, and after the cheap ones, lengths are drawn.
    """
    for i in range(count):
        choice = CHOICES[i] if i < CHOICES.index("long") else "drawn"
        yield next(chosen(rule, choice, seed + i), None) or next(chosen(rule, "drawn", seed + i))


def chosen(rule, choice: str, seed: int):
    """The instances of one of CHOICES: 'long' has one for every length, and a choice that does not apply has none."""
    rng = np.random.default_rng([seed, CHOICES.index(choice)])
    names = rule.signature.sizes
    if choice in ("batched", "empty") and not any(name.startswith("*") for name in names):
        return
    for long in names if choice == "long" else ("",):
        options = {k: choices[rng.integers(len(choices))] for k, choices in rule.signature.options.items()}
        sizes = {
            name: _size(name, "short" if long not in ("", name) else choice, i, rng) for i, name in enumerate(names)
        }
        bound = rule.bind(**{n: s for n, s in sizes.items() if n in rule.signature.free_sizes}, **options)
        yield bound, _shape(with_sizes(rule.input, sizes))


def _size(name, choice, position, rng):
    batch, lengths = SIZES.get(choice, (None, ()))
    if name.startswith("*"):
        return BATCHES[rng.integers(len(BATCHES))] if batch is None else batch
    return lengths[position % len(lengths)] if lengths else LENGTHS[rng.integers(len(LENGTHS))]


def _shape(tree):
    return tree.shape if is_leaf(tree) else tuple(_shape(part) for part in tree)
