"""Values as source text that gives the same values back, bit by bit, with jax and NumPy alone."""

import ast
import base64
import dataclasses
import functools
import importlib.metadata
import keyword
import pathlib
import re
import sys
import sysconfig
import textwrap
import zlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from ..tracing.widening import kind

WIDTH = 100  # of a line of numbers
WRITTEN = 256  # numbers of an array that are written out; more are packed
OTHERS = 16  # numbers of a large array that are assigned one by one
NUMPY = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
BUILT_IN = {"bool": "bool", "complex64": "np.complex64", "complex128": "np.complex128"}


class NotText(Exception):  # noqa: N818 - the caller takes another road
    """A value that no text gives back."""


# --- arrays ----------------------------------------------------------------------------------------------------------


def array(value) -> str:
    """An array, or an array of PRNG keys, as an expression of `np`, `jnp` and `jax`.

    >>> print(array(np.asarray([0.1, 2.0], np.float32)))
    np.array([0.1, 2.0], np.float32)
    """
    if jnp.issubdtype(getattr(value, "dtype", np.float64), jax.dtypes.prng_key):
        impl = str(jax.random.key_impl(value))
        return f"jax.random.wrap_key_data({array(jax.random.key_data(value))}, impl={impl!r})"
    value = np.asarray(value)
    dtype = dtype_of(value.dtype)
    if not value.size:
        return f"np.zeros({value.shape}, {dtype})"
    if value.ndim and value.size > 1 and value.tobytes() == value.flat[0].tobytes() * value.size:
        shape, one = _shape(value.shape), number(value.flat[0])
        known = {"1.0": "ones", "1": "ones", "0.0": "zeros", "0": "zeros", "True": "ones", "False": "zeros"}.get(one)
        return f"np.{known}({shape}, {dtype})" if known else f"np.full({shape}, {one}, {dtype})"
    if value.size > WRITTEN:
        shape = value.shape
        return f"np.frombuffer({packed(value.tobytes())}, {dtype}).reshape({shape})"
    flat = f"np.array({_nested(value)}, {dtype})"
    return flat if len(flat) <= WIDTH else f"np.array(\n{textwrap.indent(_lines(value), '    ')},\n    {dtype},\n)"


def assigned(name: str, value) -> str:
    """Lines that assign an array; of a large one in which nearly all numbers are equal, the others one by one.

    >>> print(assigned("x", np.arange(300) == 7))
    x = np.zeros(300, bool)
    x[7] = True
    """
    if np.size(value) <= WRITTEN or jnp.issubdtype(getattr(value, "dtype", np.float64), jax.dtypes.prng_key):
        return f"{name} = {array(value)}"
    value = np.asarray(value)
    flat = value.ravel()
    most = flat[len(flat) // 2] if np.sum(flat == flat[len(flat) // 2]) > np.sum(flat == flat[0]) else flat[0]
    others = np.flatnonzero(flat != most)
    if len(others) > OTHERS:
        return f"{name} = {array(value)}"
    lines = [f"{name} = {array(np.full_like(value, most))}"]
    for i in others:
        at = ", ".join(str(int(k)) for k in np.unravel_index(i, value.shape))
        lines.append(f"{name}[{at}] = {number(flat[i])}")
    return "\n".join(lines)


def plain(value) -> str:
    """Float64 numbers as an expression, one number where all are equal.

    >>> print(plain(np.asarray([2.0, 2.0])), plain(np.asarray([2.0, 3.0])))
    2.0 np.array([2.0, 3.0])
    """
    value = np.asarray(value, np.float64)
    if value.size and np.all(value == value.flat[0]):
        return number(value.flat[0])
    return array(value).replace(",\n    np.float64,\n)", ",\n)").replace(", np.float64)", ")")


def _shape(shape) -> str:
    return str(shape[0]) if len(shape) == 1 else str(shape)


def dtype_of(dtype) -> str:
    """A dtype as an expression."""
    name = str(np.dtype(dtype))
    if name in NUMPY:
        return f"np.{name}"
    return BUILT_IN.get(name) or (f"jnp.{name}" if hasattr(jnp, name) else f'jnp.dtype("{name}")')


def number(value) -> str:
    """One element of an array: the shortest digits that give it back."""
    if value.dtype == bool:
        return str(bool(value))
    if kind(value.dtype) == "complex":
        return f"complex({number(value.real)}, {number(value.imag)})"
    if kind(value.dtype) != "float":
        return str(int(value))
    exact = float(value)
    if not np.isfinite(exact):
        return "np.nan" if np.isnan(exact) else "np.inf" if exact > 0 else "-np.inf"
    for digits in range(1, 17):
        text = repr(float(f"{exact:.{digits}g}"))
        if np.float64(text).astype(value.dtype) == value:
            return text if np.signbit(exact) == np.signbit(float(text)) else repr(exact)
    return repr(exact)


def packed(data: bytes) -> str:
    """Bytes as an expression, compressed."""
    text = base64.b64encode(zlib.compress(data, 9)).decode()
    lines = "\n".join(f'    "{part}"' for part in textwrap.wrap(text, WIDTH))
    return f"zlib.decompress(base64.b64decode(\n{lines}\n))"


def _nested(value) -> str:
    return number(value[()]) if not value.ndim else f"[{', '.join(map(_nested, value))}]"


def _lines(value) -> str:
    """Nested lists, one line for each row, as far as it fits."""
    if value.ndim <= 1:
        return textwrap.fill(_nested(value), WIDTH, subsequent_indent=" ")
    rows = [_lines(row) for row in value]
    return "[\n" + "".join(f"{textwrap.indent(row, '    ')},\n" for row in rows) + "]"


# --- containers and names --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Code:
    """A piece of source, as a leaf of a tree."""

    text: str


def tree(node, namer: Callable) -> str:
    """Containers of `Code` as an expression; `namer` gives the names of classes and functions in it."""
    inside = functools.partial(tree, namer=namer)
    if isinstance(node, Code):
        return node.text
    if type(node) is list:
        return f"[{', '.join(map(inside, node))}]"
    if type(node) is tuple:
        return f"({', '.join(map(inside, node))}{',' if len(node) == 1 else ''})"
    if type(node) is dict:
        return "{" + ", ".join(f"{static(key, namer)}: {inside(value)}" for key, value in node.items()) + "}"
    fields = getattr(node, "_fields", None) or (
        [field.name for field in dataclasses.fields(node) if field.init] if dataclasses.is_dataclass(node) else None
    )
    if fields is None:
        raise NotText(f"a {type(node).__name__} among the arguments")
    parts = ", ".join(f"{name}={inside(_leaf(getattr(node, name), namer))}" for name in fields)
    return f"{namer(type(node))}({parts})"


def _leaf(value, namer):
    containers = isinstance(value, Code | list | tuple | dict) or dataclasses.is_dataclass(value)
    return value if containers else Code(static(value, namer))


def static(value, namer: Callable) -> str:
    """A static argument as an expression: a literal, or by its name."""
    text = repr(value)
    try:
        same = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return namer(value)
    return text if type(same) is type(value) and same == value else namer(value)


def named(thing, imports: dict) -> str:
    """The name of a function or a class that can be imported; where it comes from is added to `imports`."""
    module, name = importable(thing)
    root = name.split(".")[0]
    if imports.setdefault(root, module) != module:
        raise NotText(f"two things called {root}")
    return name


def importable(thing) -> tuple[str, str]:
    """The module and the qualified name under which a thing is found again; NotText where it is not."""
    module = sys.modules.get(getattr(thing, "__module__", None) or "")
    if module is None or module.__name__ == "__main__" or not getattr(module, "__file__", None):
        raise NotText(f"{_words(thing)} has no module that can be imported")
    name = getattr(thing, "__qualname__", "")
    if _found(module, name) is not thing:
        name = next((name for name, value in vars(module).items() if value is thing and name.isidentifier()), None)
    if name is None or "<" in name:
        raise NotText(f"{_words(thing)} is not found by its name in {module.__name__}")
    if folder_of(module) is None and not _installed(module):
        raise NotText(f"{module.__name__} is imported in a way of its own")
    return module.__name__, name


def folder_of(module) -> str | None:
    """The folder from which a module that is not installed is imported; None where that cannot be told."""
    file = pathlib.Path(module.__file__).resolve()
    parts = module.__name__.split(".")
    at = file.parent if file.stem == "__init__" else file.with_suffix("")
    if list(at.parts[-len(parts) :]) != parts:
        return None
    return str(at.parents[len(parts) - 1])


def needs_path(module_name: str) -> str | None:
    """The folder that has to be on the path for this module, unless it is installed."""
    module = sys.modules[module_name]
    return None if _installed(module) else folder_of(module)


def _installed(module) -> bool:
    file = pathlib.Path(module.__file__).resolve()
    homes = {pathlib.Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib", "stdlib")}
    return any(file.is_relative_to(home) for home in homes) or module.__name__.split(".")[0] in _distributed()


@functools.cache
def _distributed() -> frozenset:
    return frozenset(importlib.metadata.packages_distributions())


def _found(module, name):
    found = module
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def _words(thing) -> str:
    return getattr(thing, "__qualname__", None) or type(thing).__name__


def identifiers(names, taken=()) -> list[str]:
    """Names of variables for names of leaves such as params['w'][0]: each once.

    >>> identifiers(["x", "params['w'][0]", "lambda"])
    ['x', 'params_w_0', 'lambda_']
    """
    given: list[str] = []
    for name in names:
        text = re.sub(r"\W+", "_", name).strip("_") or "leaf"
        text = f"leaf_{text}" if text[0].isdigit() else text
        while keyword.iskeyword(text) or text in taken or text in given:
            text += "_"
        given.append(text)
    return given
