"""The checks of the contract for the terminal: all of them with one line each, or one with all of its words."""

import difflib
import inspect

from rich.rule import Rule as Line
from rich.table import Table
from rich.text import Text

from ..architecture import ExpressionError
from ..reference.checks import CHECKS


def checks(name: str) -> list:
    """What rich prints of 'checks', or of one as 'truth' or 'check:truth'; nothing of what is no check."""
    if name == "checks":
        listed = Table.grid(padding=(0, 2, 0, 0))
        for check in CHECKS:
            listed.add_row(Text(check, style="bold"), Text(_words(check).splitlines()[0]))
        return [listed]
    wanted = name.removeprefix("check:")
    if wanted in CHECKS:
        return [Line(Text(wanted, style="bold"), align="left"), Text(_words(wanted))]
    if wanted == name:
        return []
    close = difflib.get_close_matches(wanted, CHECKS) or CHECKS
    raise ExpressionError(f"no check is called {wanted!r}; did you mean {', '.join(close)}?")


def _words(name):
    return inspect.getdoc(CHECKS[name])


__all__ = ["checks"]
