"""How much a network computes, counted in its jaxpr before anything is drawn or run."""

import math
from collections.abc import Iterator

import jax

from manual_backprop.reference.points import input_leaves
from manual_backprop.rule import Rule
from manual_backprop.sampling import any_input
from manual_backprop.signature import SignatureError, is_leaf

LARGEST = 2**24  # numbers; a check keeps some twenty copies of them, in float64


def affordable(rule: Rule, shape: tuple | None) -> None:
    """Refuse a network that would exhaust memory or patience: too long, too wide, too deep."""
    x = input_leaves(rule, any_input(rule) if shape is None else shape)
    parameters, output = rule.shapes(x)
    computed = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves((x, parameters, output), is_leaf=is_leaf))
    if computed <= LARGEST:
        computed = _computed(rule, (x, *parameters))
    if computed > LARGEST:
        name = str(rule) if len(str(rule)) <= 60 else str(rule)[:57] + "..."
        raise SignatureError(
            f"{name} computes {computed:.2g} numbers, but at most {LARGEST} are checked; "
            "choose smaller lengths, fewer repetitions or a smaller --input"
        )


def _computed(rule, primals):
    try:
        return _numbers(jax.make_jaxpr(rule.definition)(*jax.tree.map(_struct, primals, is_leaf=is_leaf)))
    except ValueError as error:
        if all(math.prod(leaf.shape) for leaf in jax.tree.leaves(primals, is_leaf=is_leaf)):
            return 0  # a definition that raises is a finding, and the check's to tell
        raise SignatureError(
            f"{rule} has no value where an array has no elements ({error}); name other lengths"
        ) from None


def _struct(leaf):
    kinds = {"float": "float32", "integer": "int32", "boolean": "bool", "key": jax.random.key(0).dtype}
    return jax.ShapeDtypeStruct(leaf.shape, kinds[leaf.kind])


def _numbers(jaxpr) -> int:
    """Elements of everything computed; what a loop computes counts once for each turn."""
    return sum(
        sum(math.prod(getattr(out.aval, "shape", ())) for out in equation.outvars)
        + equation.params.get("length", 1) * sum(map(_numbers, _inner(equation.params)))
        for equation in jaxpr.eqns
    )


def _inner(params: dict) -> Iterator:
    for value in params.values():
        yield from (part for part in (value if isinstance(value, tuple) else (value,)) if hasattr(part, "eqns"))
