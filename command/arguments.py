"""Example arguments of a function: as a text says, or as its annotations do.

    @jax.custom_vjp
    def loss(logits: Float[Array, "n c"], labels: Annotated[Int[Array, "n"], Lt("c")], temperature=1.0): ...

Equal names are equal lengths, different names different ones; a parameter with a default keeps it.
"""

import inspect
import typing
from collections.abc import Callable, Iterator

import jax
import numpy as np

from manual_backprop.reference import specification
from manual_backprop.reference.points import SIZES
from manual_backprop.signature import Leaf, Signature, SignatureError, is_leaf, leaves_of, type_hints, with_sizes

GIVE = "give --args, e.g. --args 'f32[4,8] i32[4]<10'"
USUAL = {"float": "f32", "integer": "i32", "boolean": "bool", "key": "key"}
_SHORT = {full: short for short, full in specification.DTYPES.items()}


def arguments(function: Callable, text: str | None, seed: int) -> tuple:
    """Example arguments, drawn by a seed.

    >>> from jaxtyping import Array, Float
    >>> def scale(x: Float[Array, "n d"], by: Float[Array, "d"], offset=0.5): ...
    >>> [argument.shape for argument in arguments(scale, None, seed=0)]
    [(5, 4), (4,)]
    """
    rng = np.random.default_rng(seed)
    if text is not None:
        return specification.draw(specification.parse(text), rng)
    annotated = {name: (leaves_of(hint, name), hint) for name, hint in _annotations(function)}
    trees = {name: tree for name, (tree, _) in annotated.items()}
    if not any(leaf.kind == "float" for leaf in jax.tree.leaves(trees, is_leaf=is_leaf)):
        raise SignatureError(f"no parameter is annotated as an array of floats; {GIVE}")
    batch, lengths = SIZES["odd"]
    starred, plain = [], []
    for name in Signature(trees, {}, {}, ()).sizes:
        (starred if name.startswith("*") else plain).append(name)
    sizes = dict.fromkeys(starred, batch) | {n: lengths[i % len(lengths)] for i, n in enumerate(plain)}
    return tuple(
        jax.tree.map(lambda leaf, hint=hint: _drawn(leaf, hint, rng), with_sizes(tree, sizes), is_leaf=is_leaf)
        for tree, hint in annotated.values()
    )


def _annotations(function) -> Iterator[tuple[str, typing.Any]]:
    """The parameters without defaults, with their annotations."""
    try:
        parameters = inspect.signature(function).parameters.values()
        hints = type_hints(function, include_extras=True)
    except (TypeError, ValueError):
        raise SignatureError(f"its parameters cannot be read; {GIVE}") from None
    except NameError as error:
        raise SignatureError(f"an annotation names {error.name}, which is not defined there; {GIVE}") from None
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or parameter.default != parameter.empty:
            continue
        if parameter.kind is parameter.KEYWORD_ONLY:
            raise SignatureError(f"{parameter.name} has to be given by its name; check a function that sets it")
        if parameter.name not in hints:
            raise SignatureError(f"{parameter.name} has no annotation; {GIVE}")
        try:
            leaves_of(hints[parameter.name], parameter.name)
        except SignatureError as error:
            raise SignatureError(f"{error}; or {GIVE}") from None
        yield parameter.name, hints[parameter.name]


def _drawn(leaf: Leaf, hint, rng):
    """An array of a leaf, in the one dtype that its annotation allows, if it allows but one."""
    while typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    dtypes = getattr(hint, "dtypes", ())
    short = _SHORT.get(dtypes[0]) if len(dtypes) == 1 else None
    return specification.Array(short or USUAL[leaf.kind], leaf).draw(rng)


__all__ = ["arguments"]
