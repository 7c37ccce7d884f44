"""Static options: the type and the domain that an annotation gives them, and the values that are tried.

    eps: Annotated[float, Ge(0), Try(1e-5, 1e-1)] = 1e-5     a finite number of at least 0; checks try these two
    padding: Literal["valid", "same"]                        one of a few, all of them tried
    approximate: bool = True                                 True or False, both tried

A value is held against its option in one place, `Option.checked`, which also makes plain Python values of NumPy's and
JAX's scalars: an option must be hashable, and known before anything is traced.
"""

import dataclasses
import inspect
import sys
import types
import typing
from typing import Any, Literal

import jax


class SignatureError(TypeError):
    """A call, an annotation or a size that does not fit: what came, what was expected, what to do."""


@dataclasses.dataclass(frozen=True, init=False)
class OneOf:
    """The value is one of a few."""

    values: tuple

    def __init__(self, *values):
        object.__setattr__(self, "values", values)


@dataclasses.dataclass(frozen=True, init=False)
class Try:
    """Values of an option that checks try; others of its domain are allowed."""

    values: tuple

    def __init__(self, *values):
        object.__setattr__(self, "values", values)


_BOUNDS = {
    "gt": ("above", lambda value, bound: value > bound),
    "ge": ("of at least", lambda value, bound: value >= bound),
    "lt": ("below", lambda value, bound: value < bound),
    "le": ("of at most", lambda value, bound: value <= bound),
}
_NAMES = {bool: "True or False", int: "a whole number", float: "a finite number", str: "text", type(None): "None"}
_NOTHING = object()


@dataclasses.dataclass(frozen=True)
class Option:
    """A static option: its types (`object` for any), the domain of its values, those to try, and its default."""

    types: tuple
    domain: tuple = ()
    tried: tuple = ()
    default: Any = None

    @property
    def wanted(self) -> str:
        """What the annotation allows, in words."""
        for constraint in self.domain:
            if isinstance(constraint, OneOf):
                return " or ".join(map(repr, constraint.values))
        kinds = " or ".join(_NAMES.get(each, f"a {each.__name__}") for each in self.types)
        return " ".join([kinds, " and ".join(f"{_BOUNDS[side][0]} {bound}" for side, bound in self._bounds())]).strip()

    def checked(self, value, where: str):
        """The value as a plain Python one; SignatureError where the annotation does not allow it."""
        value = _plain(value, where)
        for each in self.types:
            fitting = _as(each, value)
            if fitting is not _NOTHING and self._holds(fitting):
                return fitting
        raise SignatureError(f"{where} is {_short(value)}, but {self.wanted} was expected")

    def _holds(self, value):
        for constraint in self.domain:
            if isinstance(constraint, OneOf) and not any(_same(value, one) for one in constraint.values):
                return False
        numeric = isinstance(value, int | float)
        return not numeric or all(_BOUNDS[side][1](value, bound) for side, bound in self._bounds())

    def _bounds(self):
        for constraint in self.domain:
            for side in _BOUNDS:
                if getattr(constraint, side, None) is not None:
                    yield side, getattr(constraint, side)


def option_of(hint, default, where: str) -> Option:
    """Read the annotation and the default of a keyword-only parameter; without an annotation any value fits."""
    domain: list = []
    if typing.get_origin(hint) is typing.Annotated:
        hint, *domain = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        kinds, domain = dict.fromkeys(map(type, choices)), [OneOf(*choices), *domain]
    elif typing.get_origin(hint) in (typing.Union, types.UnionType):
        kinds = dict.fromkeys(map(_kind, typing.get_args(hint)))
    else:
        kinds = {_kind(hint): None}
    offered = next((c.values for c in domain if isinstance(c, Try | OneOf)), (False, True) if bool in kinds else ())
    if default is inspect.Parameter.empty and not offered:
        raise SignatureError(f"{where} has neither a default nor values to try; annotate it with Literal or Try")
    default = offered[0] if default is inspect.Parameter.empty else default
    option = Option(tuple(kinds), tuple(domain))
    default = option.checked(default, f"{where}: the default")
    tried = tuple(option.checked(value, f"{where}: a value to try") for value in offered or (default,))
    return dataclasses.replace(option, tried=tried, default=default)


def _same(one, other):
    """Equal and of one kind: True is not 1, but 1 and 1.0 are the same number."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _kind(hint):
    """What `isinstance` is asked: float for float, tuple for tuple[int, ...], object where there is no annotation."""
    hint = typing.get_origin(hint) or hint
    return hint if isinstance(hint, type) else object


def _as(kind: type, value):
    """The value as one of this type, or _NOTHING: a whole number is a float, True is no number."""
    if kind is float and type(value) in (int, float):
        return float(value) if abs(value) <= sys.float_info.max else _NOTHING
    if kind in (bool, int, float):
        return value if type(value) is kind else _NOTHING
    return value if isinstance(value, kind) else _NOTHING


def _plain(value, where):
    """A hashable Python value; scalars of NumPy and JAX become Python's."""
    if isinstance(value, jax.core.Tracer):
        raise SignatureError(
            f"{where} is traced, but a static option must be known beforehand: "
            "close over its value, or name it in static_argnames"
        )
    try:
        if hasattr(value, "dtype") and getattr(value, "shape", None) == ():
            value = value.item()
        hash(value)
    except (TypeError, NotImplementedError, AttributeError):
        raise SignatureError(
            f"{where} is {_short(value)}, a {type(value).__name__}, but a static option must be hashable; "
            "a tuple serves for a list"
        ) from None
    return value


def _short(value):
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."
