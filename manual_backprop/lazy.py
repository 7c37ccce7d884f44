"""Names of a package that are loaded when they are first used, so that what needs no arrays does not wait for JAX."""

import importlib
import sys
from collections.abc import Callable, Mapping


def lazily(package: str, homes: Mapping[str, str]) -> tuple[Callable, Callable]:
    """`__getattr__` and `__dir__` of a package, from the module that each of its names lives in.

    >>> find, _ = lazily("manual_backprop", {"lazily": "lazy"})
    >>> print(find("lazily").__name__)
    lazily
    """

    def find(name):
        if name in homes:
            return getattr(importlib.import_module(f"{package}.{homes[name]}"), name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}; it has {', '.join(homes)}")

    def names():
        return [*vars(sys.modules[package]), *homes]

    return find, names
