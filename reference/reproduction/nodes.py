"""Where functions are written: their nodes, what these refer to, and their text with names changed."""

import ast
import dis
import functools
import inspect
import itertools
import textwrap
import types

from .literals import NotText

COMPREHENSIONS = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


def is_def(thing) -> bool:
    return isinstance(thing, types.FunctionType) and thing.__name__.isidentifier()


def refers(function) -> dict:
    """What a function refers to by name, beyond its own arguments."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    try:
        found = {name: cell.cell_contents for name, cell in cells}
    except ValueError:
        raise NotText("it refers to a name without a value") from None
    for name in _globals(function.__code__):
        if name in function.__globals__:
            found.setdefault(name, function.__globals__[name])
    return found


def _globals(code):
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _globals(constant)


def loaded(node) -> set:
    """The names that a node needs from outside: annotations are not looked at."""
    left_out = {id(inner) for n in ast.walk(node) for a in _annotations(n) for inner in ast.walk(a)}
    return {name.id for name in free(node) if id(name) not in left_out}


def free(node, own=frozenset(), top=True):
    """The names in a node that no function inside of it binds; what the node itself binds is its caller's to know."""
    if isinstance(node, ast.Name):
        if node.id not in own:
            yield node
        return
    if not top and isinstance(node, ast.FunctionDef | ast.Lambda | COMPREHENSIONS):
        own = own | set(_bound(node))
    for child in ast.iter_child_nodes(node):
        yield from free(child, own, False)


def _bound(node):
    """The names that a function or a comprehension binds; those of functions inside of it are taken for its own."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.arg):
            yield inner.arg
        elif isinstance(inner, ast.Name) and not isinstance(inner.ctx, ast.Load):
            yield inner.id


def _annotations(node):
    return [a for a in (getattr(node, "annotation", None), getattr(node, "returns", None)) if a is not None]


def without_annotations(node, lines):
    """Edits that take annotations away, which refer to more than what runs; fields of a class keep one."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.arg) and inner.annotation:
            start = inner.lineno, inner.col_offset + len(inner.arg.encode())
            yield start, span(inner.annotation)[1], ""
        elif isinstance(inner, ast.FunctionDef) and inner.returns:
            number, before = inner.returns.lineno, lines[inner.returns.lineno - 1][: inner.returns.col_offset]
            yield (number, len(before[: before.rindex(b"->")].rstrip())), span(inner.returns)[1], ""
        elif isinstance(inner, ast.AnnAssign) and isinstance(node, ast.ClassDef):
            yield *span(inner.annotation), "object"


def lines_of(thing) -> list[bytes]:
    try:
        lines, _ = inspect.findsource(thing)
    except (OSError, TypeError):
        raise NotText("its source is not at hand") from None
    return "".join(lines).encode().split(b"\n")


@functools.lru_cache(maxsize=32)
def _parsed(text: bytes):
    try:
        return ast.parse(text)
    except SyntaxError:
        raise NotText("its source is not plain Python") from None


def tree(thing):
    return _parsed(b"\n".join(lines_of(thing)))


def written(function):
    """The node of a function."""
    code = function.__code__
    for node in ast.walk(tree(function)):
        if isinstance(node, ast.FunctionDef) and node.name == code.co_name:
            if min([node.lineno, *(d.lineno for d in node.decorator_list)]) == code.co_firstlineno:
                start = (node.lineno, node.col_offset + len("def "))
                node.name_span = (start, (start[0], start[1] + len(node.name.encode())))
                return node
        elif isinstance(node, ast.Lambda) and code.co_name == "<lambda>" and node.lineno == code.co_firstlineno:
            body = (node.body.lineno, node.body.end_lineno, node.body.col_offset, node.body.end_col_offset)
            if body in set(code.co_positions()):
                return node
    raise NotText("its source is not found")


def span(node):
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def edited(lines, node, edits) -> str:
    """The text of a node after replacements of (start, end, text), dedented."""
    starts = list(itertools.accumulate((len(line) + 1 for line in lines), initial=0))
    data = b"\n".join(lines)

    def at(place):
        return starts[place[0] - 1] + place[1]

    first, last = map(at, span(node))
    line_start = at((node.lineno, 0))
    whole = not data[line_start:first].strip()  # a statement brings its indentation, to be taken away
    begin, out = line_start if whole else first, b""
    done = begin
    for start, end, text in sorted((at(s), at(e), t) for s, e, t in edits):
        if start >= done:
            out += data[done:start] + text.encode()
            done = end
    return textwrap.dedent((out + data[done:last]).decode())
