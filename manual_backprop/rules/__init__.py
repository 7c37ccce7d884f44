"""The catalogue: every rule in the modules of this folder, by name."""

import importlib
import pkgutil

from ..rule import Elementary

RULES: dict[str, Elementary] = {}

for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("_"):
        for _value in vars(importlib.import_module(f"{__name__}.{_module.name}")).values():
            if isinstance(_value, Elementary) and RULES.setdefault(_value.name, _value) is not _value:
                raise ImportError(f"two rules are called {_value.name}")
