"""What the annotations of a function say of its primals: kinds, shapes, domains and static options.

    x: Float[Array, "*batch i"]                              any floating dtype, any leading axes
    labels: Annotated[Int[Array, "*batch"], Lt("c")]         integers in 0 … c − 1, c an axis of another primal
    t: Annotated[Float[Array, "n"], Gt(0), Sorted]           positive and ascending
    params: Cell                                             a NamedTuple, dataclass or TypedDict of such fields
    eps: Annotated[float, Ge(0), Try(1e-5, 1e-1)]            keyword-only: a static option and the values to try

Equal names are equal lengths.  A dimension is a name, a number, a product such as `2*d`, or `*name` for any
number of axes; what else jaxtyping knows (`...`, `#d`, `n+1`, `rows=4`, `_`) is refused where it is read.
"""

import dataclasses
import inspect
import itertools
import math
import re
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import numpy as np
from annotated_types import Ge, Gt, Interval, Le, Lt

from .options import OneOf, Option, SignatureError, Try, option_of

type_hints = typing.get_type_hints
LENGTHS = 2**31  # every length is below: beyond, XLA's indices end


class Sorted:
    """The values ascend along the last axis."""


@dataclasses.dataclass(frozen=True, init=False)
class Kinks:
    """Where the derivative along this primal is a convention; drawn values lie there now and then."""

    points: tuple[float, ...]

    def __init__(self, *points):
        object.__setattr__(self, "points", points)


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One array of a primal: its kind, its shape (names before sizes are known, lengths after) and its domain."""

    kind: Literal["float", "integer", "boolean", "key"]
    shape: tuple
    domain: tuple = ()

    def __str__(self):
        return f"{self.kind}[{', '.join(map(str, self.shape))}]"


def is_leaf(node) -> bool:
    return isinstance(node, Leaf)


@dataclasses.dataclass(frozen=True)
class Signature:
    """The primals of a function by name, each a tree of leaves; its static options; its output's leaves.

    options     the values to try of each option
    defaults    the value of each option that is not given
    allowed     what else each option may be
    """

    primals: Mapping[str, Any]
    options: Mapping[str, tuple]
    defaults: Mapping[str, Any]
    output: Any
    allowed: Mapping[str, Option] = dataclasses.field(default_factory=dict)

    @property
    def sizes(self) -> tuple[str, ...]:
        """Every name of a length, in order of appearance; `*name` stands for any number of axes."""
        leaves = jax.tree.leaves(list(self.primals.values()), is_leaf=is_leaf)
        return tuple(dict.fromkeys(name for leaf in leaves for name in _names(leaf)))

    @property
    def free_sizes(self) -> tuple[str, ...]:
        """The lengths that the first primal's shape leaves open: what a layer is asked for, as in dense(3)."""
        first = jax.tree.leaves(next(iter(self.primals.values())), is_leaf=is_leaf)
        known = {name for leaf in first for dim in leaf.shape for name in _dim_names(dim)}
        return tuple(name for name in self.sizes if name not in known)


def signature_of(function: Callable) -> Signature:
    """Read a function's annotations: positional parameters are primals, keyword-only ones static options."""
    name = function.__name__
    try:
        hints = type_hints(function, include_extras=True)
    except NameError as error:
        raise SignatureError(f"{name}: an annotation names {error.name}, which is not defined here") from None
    primals, allowed = {}, {}
    for parameter in inspect.signature(function).parameters.values():
        where = f"{name}: {parameter.name}"
        if parameter.kind is parameter.KEYWORD_ONLY:
            allowed[parameter.name] = option_of(hints.get(parameter.name, object), parameter.default, where)
        elif parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise SignatureError(f"{name}: *{parameter.name} cannot be annotated; name each primal")
        elif parameter.name not in hints:
            raise SignatureError(f'{where} has no annotation; write e.g. {parameter.name}: Float[Array, "n"]')
        else:
            primals[parameter.name] = leaves_of(hints[parameter.name], where)
    if not primals:
        raise SignatureError(f"{name} takes no primal: nothing to differentiate")
    if "return" not in hints:
        raise SignatureError(f'{name}: the output has no annotation; write e.g. -> Float[Array, "n"]')
    options, defaults = ({k: getattr(o, of) for k, o in allowed.items()} for of in ("tried", "default"))
    signature = Signature(primals, options, defaults, leaves_of(hints["return"], f"{name}: the output"), allowed)
    for leaf in jax.tree.leaves(signature.output, is_leaf=is_leaf):
        if unknown := [length for length in _names(leaf) if length not in signature.sizes]:
            raise SignatureError(f"{name}: the output has the length {unknown[0]}, which no primal has")
    return signature


def leaves_of(annotation, where: str):
    """The tree of leaves that an annotation describes."""
    if typing.get_origin(annotation) is typing.Annotated:
        inner, *domain = typing.get_args(annotation)
        tree = leaves_of(inner, where)
        return jax.tree.map(lambda leaf: dataclasses.replace(leaf, domain=leaf.domain + tuple(domain)), tree)
    if hasattr(annotation, "dim_str"):
        return Leaf(_kind(annotation, where), _dims(annotation, where))
    if typing.get_origin(annotation) is tuple:
        return tuple(leaves_of(a, f"{where}[{i}]") for i, a in enumerate(typing.get_args(annotation)))
    if isinstance(annotation, type) and issubclass(annotation, tuple) and hasattr(annotation, "_fields"):
        return annotation(**_fields(annotation, where))
    if typing.is_typeddict(annotation):
        return _fields(annotation, where)
    if dataclasses.is_dataclass(annotation):
        return annotation(**_fields(annotation, where))
    raise SignatureError(
        f"{where}: cannot read the annotation {annotation!r}; use a jaxtyping array, a tuple, a NamedTuple, "
        "a TypedDict or a dataclass registered as a pytree"
    )


def _fields(cls, where):
    return {name: leaves_of(hint, f"{where}.{name}") for name, hint in type_hints(cls, include_extras=True).items()}


def _kind(annotation, where):
    dtypes = annotation.dtypes if isinstance(annotation.dtypes, tuple | list) else ()
    for kind, marker in (("float", "float"), ("integer", "int"), ("boolean", "bool"), ("key", "key")):
        if any(marker in str(dtype) for dtype in dtypes):
            return kind
    raise SignatureError(f"{where}: {annotation.__name__.split('[')[0]} is none of the kinds Float, Int, Bool and Key")


_DIM = re.compile(r"\*?[A-Za-z]\w*|(\d+|[A-Za-z]\w*)(\*(\d+|[A-Za-z]\w*))*")


def _dims(annotation, where):
    dims = tuple(annotation.dim_str.split())
    for dim in dims:
        if not _DIM.fullmatch(dim):
            raise SignatureError(
                f"{where}: cannot read the dimension {dim!r} of {annotation.dim_str!r}; a dimension is a name, a "
                "number, a product such as 2*d, or *name for any number of axes"
            )
    return dims


# --- lengths ---------------------------------------------------------------------------------------------------------


def _dim_names(dim: str) -> list[str]:
    return re.findall(r"\*?[A-Za-z_]\w*", dim) if dim.startswith("*") else re.findall(r"[A-Za-z_]\w*", dim)


def _names(leaf: Leaf):
    for dim in leaf.shape:
        yield from _dim_names(dim)
    for constraint in leaf.domain:
        bound = getattr(constraint, "lt", None)
        if isinstance(bound, str):
            yield bound


def _length(dim: str, sizes: Mapping) -> int | None:
    """The length of one dimension, or None where a name in it is unknown."""
    if any(name not in sizes for name in _dim_names(dim)):
        return None
    return math.prod(int(factor) if factor.isdigit() else sizes[factor] for factor in dim.split("*"))


def _solve(dim: str, length: int, sizes: Mapping) -> dict:
    """The sizes that give a dimension this length: `2*d` at 6 gives d = 3."""
    unknown = {name for name in _dim_names(dim) if name not in sizes}
    if len(unknown) == 1:
        (name,) = unknown
        rest = _length(dim, {**sizes, name: 1})
        if rest and length % rest == 0:
            return {**sizes, name: length // rest}
    elif not unknown and _length(dim, sizes) == length:
        return dict(sizes)
    raise SignatureError(f"length {length} where {_explain(dim, sizes)} was expected")


def _explain(dim: str, sizes: Mapping) -> str:
    known = _length(dim, sizes)
    return dim if known is None or dim == str(known) else f"{dim} = {known}"


def unify(leaf: Leaf, shape: tuple[int, ...], sizes: Mapping) -> dict:
    """The sizes, with those added that this shape settles; SignatureError where it does not fit."""
    dims = [str(dim) for dim in leaf.shape]
    variadic = [position for position, dim in enumerate(dims) if dim.startswith("*")]
    extra = len(shape) - len(dims) + len(variadic)
    wanted = "(" + ", ".join(_explain(dim, sizes) if dim[0] != "*" else dim for dim in dims) + ")"
    if extra < 0 or (not variadic and extra):
        raise SignatureError(f"shape {tuple(shape)} where {wanted} was expected")
    try:
        if variadic:
            start, name = variadic[0], dims[variadic[0]]
            batch = tuple(shape[start : start + extra])
            if sizes.get(name, batch) != batch:
                raise SignatureError("")
            sizes = {**sizes, name: batch}
            dims[start : start + 1] = map(str, batch)
        for dim, length in zip(dims, shape, strict=True):
            sizes = _solve(dim, length, sizes)
    except SignatureError:
        raise SignatureError(f"shape {tuple(shape)} where {wanted} was expected") from None
    return dict(sizes)


def with_sizes(tree, sizes: Mapping):
    """The same leaves with lengths for names, in shapes and in domains."""

    def resolve(leaf: Leaf) -> Leaf:
        shape = itertools.chain.from_iterable(
            sizes[dim] if dim.startswith("*") else (_length(dim, sizes),) for dim in leaf.shape
        )
        return Leaf(leaf.kind, tuple(shape), with_bounds(leaf, sizes).domain)

    return jax.tree.map(resolve, tree, is_leaf=is_leaf)


def with_bounds(leaf: Leaf, sizes: Mapping) -> Leaf:
    """The same leaf with a length for every known name that bounds its values."""
    domain = tuple(Lt(sizes.get(c.lt, c.lt)) if isinstance(getattr(c, "lt", None), str) else c for c in leaf.domain)
    return dataclasses.replace(leaf, domain=domain)


def kind_of(array) -> str:
    """The kind of an array-like or of a leaf: float, complex, integer, boolean, key; of anything else, "other"."""
    if is_leaf(array):
        return array.kind
    if not hasattr(array, "dtype") and not isinstance(array, bool | int | float | complex):
        return "other"
    dtype = array.dtype if hasattr(array, "dtype") else np.result_type(array)
    if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        return "key"
    for kind, parent in (("float", np.floating), ("integer", np.integer), ("complex", np.complexfloating)):
        if jax.numpy.issubdtype(dtype, parent):
            return kind
    return "boolean" if jax.numpy.issubdtype(dtype, np.bool_) else "other"


def bind_primals(signature: Signature, primals: tuple, name: str, sizes: Mapping | None = None) -> dict:
    """Hold values against the signature: every size they settle, or a SignatureError that names the argument."""
    if len(primals) != len(signature.primals):
        wanted = ", ".join(signature.primals)
        raise SignatureError(f"{name} takes {len(signature.primals)} primals ({wanted}), but {len(primals)} came")
    known = dict(sizes or {})
    for (primal, tree), value in zip(signature.primals.items(), primals, strict=True):
        known = hold(tree, value, f"{name}: {primal}", known)
    return known


def hold(tree, value, where: str, sizes: Mapping) -> dict:
    """Hold a value, of arrays or of leaves, against its leaves: the sizes, with those added that it settles."""
    if not is_leaf(tree):
        branches, parts = _branches(tree), _branches(value)
        if type(value) is not type(tree) or [path for path, _ in parts] != [path for path, _ in branches]:
            raise SignatureError(f"{where} is {_words(value)}, but {_words(tree)} was expected")
        for (path, branch), (_, part) in zip(branches, parts, strict=True):
            sizes = hold(branch, part, f"{where}{jax.tree_util.keystr(path)}", sizes)
        return dict(sizes)
    kind = kind_of(value)
    if kind == "other":
        raise SignatureError(f"{where} is {_words(value)}; an array was expected")
    if kind != tree.kind:
        raise SignatureError(f"{where} is {kind}, but {tree.kind} was expected")
    try:
        return unify(tree, np.shape(value) if not hasattr(value, "shape") else value.shape, sizes)
    except SignatureError as error:
        raise SignatureError(f"{where} has {error}") from None


def _branches(tree):
    """The children of a node with their paths."""
    return jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: node is not tree)[0]


def _words(value) -> str:
    if hasattr(value, "shape"):
        return str(value) if is_leaf(value) else f"an array of shape {tuple(value.shape)}"
    if isinstance(value, dict):
        return f"a {type(value).__name__} of {', '.join(map(str, value)) or 'nothing'}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return "None" if value is None else f"a {type(value).__name__}"


__all__ = [
    "Ge",
    "Gt",
    "Interval",
    "Kinks",
    "Le",
    "Leaf",
    "Lt",
    "OneOf",
    "Option",
    "Signature",
    "SignatureError",
    "Sorted",
    "Try",
    "bind_primals",
    "hold",
    "is_leaf",
    "kind_of",
    "leaves_of",
    "signature_of",
    "unify",
    "with_bounds",
    "with_sizes",
]
