"""What the annotations of a function say of its primals: kinds, shapes, domains and static options.

    x: Float[Array, "*batch i"]                              any floating dtype, any leading axes
    labels: Annotated[Int[Array, "*batch"], Lt("c")]         integers in 0 … c − 1, c an axis of another primal
    t: Annotated[Float[Array, "n"], Gt(0), Sorted]           positive and ascending
    params: Cell                                             a NamedTuple, dataclass or TypedDict of such fields
    eps: Annotated[float, OneOf(1e-5, 1e-1)]                 keyword-only: a static option and the values to try

Equal names are equal lengths.  A dimension is a name, a number, a product such as `2*d`, or `*name` for any
number of axes.
"""

import dataclasses
import inspect
import itertools
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import numpy as np
from annotated_types import Ge, Gt, Interval, Le, Lt

type_hints = typing.get_type_hints

LARGEST_LENGTH = 4096  # lengths tried when solving `2*d = 6` for d


class SignatureError(TypeError):
    """A call, an annotation or a size that does not fit: what came, what was expected, what to do."""


class Sorted:
    """The values ascend along the last axis."""


@dataclasses.dataclass(frozen=True, init=False)
class OneOf:
    """The value is one of a few."""

    values: tuple

    def __init__(self, *values):
        object.__setattr__(self, "values", values)


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
    """The primals of a function by name, each a tree of leaves; its static options; its output's leaves."""

    primals: Mapping[str, Any]
    options: Mapping[str, tuple]
    defaults: Mapping[str, Any]
    output: Any

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
    hints = type_hints(function, include_extras=True)
    primals, options, defaults = {}, {}, {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            options[name] = _choices(name, hints.get(name), parameter.default)
            defaults[name] = options[name][0] if parameter.default is parameter.empty else parameter.default
        elif parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise SignatureError(f"{function.__name__}: *{name} cannot be annotated; name each primal")
        elif name not in hints:
            raise SignatureError(f'{function.__name__}: {name} has no annotation; write e.g. {name}: Float[Array, "n"]')
        else:
            primals[name] = leaves_of(hints[name], name)
    if not primals:
        raise SignatureError(f"{function.__name__} takes no primal: nothing to differentiate")
    return Signature(primals, options, defaults, leaves_of(hints["return"], "return") if "return" in hints else None)


def leaves_of(annotation, where: str):
    """The tree of leaves that an annotation describes."""
    if typing.get_origin(annotation) is typing.Annotated:
        inner, *domain = typing.get_args(annotation)
        tree = leaves_of(inner, where)
        return jax.tree.map(lambda leaf: dataclasses.replace(leaf, domain=leaf.domain + tuple(domain)), tree)
    if hasattr(annotation, "dim_str"):
        return Leaf(_kind(annotation, where), tuple(annotation.dim_str.split()))
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
    dtypes = [str(dtype) for dtype in annotation.dtypes] if annotation.dtypes is not any else ["float32"]
    for kind, marker in (("float", "float"), ("integer", "int"), ("boolean", "bool"), ("key", "key")):
        if any(marker in dtype for dtype in dtypes):
            return kind
    raise SignatureError(f"{where}: {annotation} has none of the kinds float, integer, boolean, key")


def _choices(name, hint, default) -> tuple:
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    if typing.get_origin(hint) is typing.Annotated:
        for constraint in typing.get_args(hint)[1:]:
            if isinstance(constraint, OneOf):
                return constraint.values
    if hint is bool:
        return (False, True)
    if default is not inspect.Parameter.empty:
        return (default,)
    raise SignatureError(f"option {name} has neither a default nor values to try; annotate it with Literal or OneOf")


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
    variadic = [position for position, dim in enumerate(leaf.shape) if dim.startswith("*")]
    dims, extra = list(leaf.shape), len(shape) - len(leaf.shape) + len(variadic)
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
    """The kind of an array-like: float, complex, integer, boolean or key."""
    dtype = getattr(array, "dtype", None)
    dtype = np.result_type(array) if dtype is None else dtype
    if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key):
        return "key"
    for kind, parent in (("float", np.floating), ("integer", np.integer), ("complex", np.complexfloating)):
        if jax.numpy.issubdtype(dtype, parent):
            return kind
    return "boolean"


def bind_primals(signature: Signature, primals: tuple, name: str) -> dict:
    """Hold values against the signature: every size they settle, or a SignatureError that names the argument."""
    if len(primals) != len(signature.primals):
        wanted = ", ".join(signature.primals)
        raise SignatureError(f"{name} takes {len(signature.primals)} primals ({wanted}), but {len(primals)} came")
    sizes: dict = {}
    for (primal, tree), value in zip(signature.primals.items(), primals, strict=True):
        leaves, structure = jax.tree.flatten_with_path(tree, is_leaf=is_leaf)
        try:
            values = structure.flatten_up_to(value)
        except (ValueError, TypeError) as error:
            raise SignatureError(f"{name}: {primal} has another structure than annotated: {error}") from None
        for (path, leaf), array in zip(leaves, values, strict=True):
            where = f"{name}: {primal}{jax.tree_util.keystr(path)}"
            if not isinstance(array, types.NoneType | bool | int | float) and not hasattr(array, "shape"):
                raise SignatureError(f"{where} is a {type(array).__name__}; an array was expected")
            if kind_of(array) != leaf.kind:
                raise SignatureError(f"{where} is {kind_of(array)}, but {leaf.kind} was expected")
            try:
                sizes = unify(leaf, np.shape(array), sizes)
            except SignatureError as error:
                raise SignatureError(f"{where} has {error}") from None
    return sizes


__all__ = [
    "Ge",
    "Gt",
    "Interval",
    "Kinks",
    "Le",
    "Leaf",
    "Lt",
    "OneOf",
    "Signature",
    "SignatureError",
    "Sorted",
    "bind_primals",
    "is_leaf",
    "kind_of",
    "leaves_of",
    "signature_of",
    "unify",
    "with_bounds",
    "with_sizes",
]
