"""A derivative written by hand with what is known of it: right, or wrong and how.

A case is a function without arguments that makes the function to be checked; its docstring says what was done.

    @wrong("factor", args="f32[6,4] i32[6]<4")
    def mean_forgotten():
        ...
        return function
"""

import dataclasses
from collections.abc import Callable

import jax

# What a diagnosis can say; a wrong case names those that would be right to say about it.
KINDS = (
    "sign",  # minus everywhere
    "factor",  # a constant, a length or an option too many or too few
    "permuted",  # transposed, reversed, shifted, or permuted axes
    "exchanged",  # the cotangents of two leaves
    "missing_sum",  # over a broadcast axis
    "missing_term",  # a mean or a projection was not subtracted; a constant was added
    "missing_path",  # one use of a value held constant
    "counted_twice",  # one use of a value counted twice
    "local_derivative",  # one local derivative is another function than it should be
    "ignores_cotangent",  # as if the cotangent were ones, or only its sum mattered
    "dropped",  # zero everywhere
    "wrong_residual",  # computed at another value: an input for an output, a stale or a later one
    "epsilon",  # in the wrong place or of another size
    "kink",  # wrong at ties, zeros, clip edges alone
    "located",  # wrong at the last element, one row, one parity, one index
    "shape",  # wrong at some shapes alone: length one, batch of one, not divisible by a block, added batch axes
    "values",  # wrong at large, small, negative or otherwise particular values
    "dtype",  # wrong in one dtype alone
    "cancellation",  # digits lost where the truth keeps them
    "not_finite",  # NaN or infinite where the truth is finite
    "nonlinear",  # not linear in the cotangent: clipped, squared, rounded
    "impure",  # depends on what ran before, on a global, on a clock or a random state
    "transform",  # wrong under jit, vmap, scan or a second derivative alone
    "structure",  # shape, dtype or structure of the cotangents; a cotangent for an integer
    "value",  # the forward pass gives another value than the function
    "raised",  # the derivative raises
)


@dataclasses.dataclass(frozen=True)
class Case:
    """One function to check: how to make it, its arguments as a specification, and what would be said of it."""

    name: str
    make: Callable
    args: str
    says: tuple[str, ...]
    truth: Callable | None = None
    argnums: int | tuple | None = None
    about: str = ""


CASES: dict[str, Case] = {}


def wrong(*says: str, args: str, truth: Callable | None = None, argnums=None) -> Callable:
    """Register a wrong derivative, with every kind of diagnosis that would be right to give."""
    unknown = set(says) - set(KINDS)
    assert says and not unknown, f"{unknown or 'nothing'}: kinds are {KINDS}"
    return _register(says, args, truth, argnums)


def right(*, args: str, truth: Callable | None = None, argnums=None) -> Callable:
    """Register a right derivative."""
    return _register((), args, truth, argnums)


def _register(says, args, truth, argnums):
    def register(make):
        assert make.__name__ not in CASES, f"two cases are called {make.__name__}"
        CASES[make.__name__] = Case(make.__name__, make, args, says, truth, argnums, make.__doc__ or "")
        return make

    return register


def by_hand(function: Callable, forward: Callable, backward: Callable, nondiff_argnums=()) -> Callable:
    """A `jax.custom_vjp` of these three."""
    made = jax.custom_vjp(function, nondiff_argnums=nondiff_argnums)
    made.defvjp(forward, backward)
    return made
