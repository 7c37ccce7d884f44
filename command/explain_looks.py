"""How explanations look on a terminal: headings, tables, matrices, and numbers short enough to read."""

from collections.abc import Iterator

import jax
import numpy as np
from rich import box
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..derivations.layouts import by
from ..signature import kind_of

WIDEST = 12  # columns of a matrix that is printed; a wider one is told by its shape


def heading(text: str) -> Padding:
    return Padding(Text(text, style="bold underline"), (1, 0, 0, 0))


def matrix_of(name: str, value: np.ndarray) -> Iterator[Text]:
    """A matrix below its name, one that is too wide by its shape alone."""
    value = np.asarray(value)
    if value.ndim == 0:
        yield Text(f"  {name} = {value:.6g}" if value.dtype.kind == "f" else f"  {name} = {value}")
    elif value.size == 0:
        yield Text(f"  {name}: {by(value.shape)}, no numbers", style="dim")
    elif value.shape[-1] > WIDEST or value.size > WIDEST**2:
        yield Text(f"  {name}  {by(value.shape)}, too wide to print", style="dim")
    else:
        yield Text(f"  {name}  {by(value.shape)}", style="cyan")
        lines = np.array2string(value, precision=4, suppress_small=True, max_line_width=200).replace("\n\n", "\n")
        yield Text("\n".join("      " + line for line in lines.splitlines()))


def barred(name: str) -> str:
    """The name of a cotangent: a bar over the first letter.

    >>> barred("w²")
    'w̄²'
    """
    return f"{name[0]}\u0304{name[1:]}"


def table(columns: list[str], rows) -> Table:
    """A plain table; no cell is read as markup, since [i, o] is a shape."""
    made = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), show_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    return made


def short(tree):
    """Floats with two decimals, where that leaves none of them at zero."""

    def rounded(a):
        if kind_of(a) != "float" or np.any(np.abs(a) < 0.01):
            return a
        return np.round(a, 2)

    return jax.tree.map(rounded, tree)


__all__ = ["WIDEST", "barred", "heading", "matrix_of", "short", "table"]
