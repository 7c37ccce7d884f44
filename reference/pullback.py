"""The output and the cotangents of a plain function by `jax.vjp`, at one point or at a stack of points."""

import functools
from collections.abc import Callable

import jax
import numpy as np

from ..rule import Opaque
from ..signature import kind_of


def pull(f: Callable, primals: tuple, cotangent):
    """(f(*primals), its cotangents): a tree like the primals, with None for whatever is not floating."""
    floats = jax.tree.map(lambda a: a if kind_of(a) == "float" else None, primals)

    def of_floats(floats):
        return f(*jax.tree.map(lambda a, x: x if a is None else a, floats, primals, is_leaf=lambda a: a is None))

    out, vjp = jax.vjp(of_floats, floats)
    return out, vjp(cotangent)[0]


@functools.cache
def stacked_pullback(rule) -> Callable:
    """`pull` of a rule's definition, for float leaves that carry a leading axis of points.

    Every piece of a network is compiled once per shape and shared by all networks; `jax.vjp` composes the pieces.
    """
    pieces = rule.map(_stacked)
    if isinstance(pieces, Opaque):
        return jax.jit(lambda primals, cotangent: _map_points(functools.partial(pull, rule.definition), primals, cotangent))
    return lambda primals, cotangent: pull(pieces.definition, primals, cotangent)


@functools.cache
def _stacked(rule):
    return Opaque(rule, _stack)


def _stack(function):
    return jax.jit(lambda *primals: _map_points(lambda primals, _: function(*primals), primals, ()))


def _map_points(function, primals, cotangent):
    axes = jax.tree.map(lambda a: 0 if kind_of(a) == "float" else None, primals)
    return jax.vmap(function, in_axes=(axes, 0))(primals, cotangent)


def to_numpy(tree):
    """The same tree as NumPy float64, keys and integers aside (None)."""
    return jax.tree.map(lambda a: np.asarray(a, np.float64) if kind_of(a) == "float" else None, tree)
