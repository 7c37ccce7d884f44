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

from manual_backprop.reference.diagnosis import KINDS


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
    assert says, f"a wrong case names at least one of {', '.join(KINDS)}"
    assert not unknown, f"{unknown} are no kinds; kinds are {', '.join(KINDS)}"
    return _register(says, args, truth, argnums)


def right(*, args: str, truth: Callable | None = None, argnums=None) -> Callable:
    """Register a right derivative."""
    return _register((), args, truth, argnums)


def _register(says, args, truth, argnums):
    def register(make):
        name = f"{make.__module__.rsplit('.', 1)[-1]}.{make.__name__}"
        assert name not in CASES, f"two cases are called {name}"
        CASES[name] = Case(name, make, args, says, truth, argnums, make.__doc__ or "")
        return make

    return register


def by_hand(function: Callable, forward: Callable, backward: Callable, nondiff_argnums=()) -> Callable:
    """A `jax.custom_vjp` of these three."""
    made = jax.custom_vjp(function, nondiff_argnums=nondiff_argnums)
    made.defvjp(forward, backward)
    return made
