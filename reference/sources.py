"""A function as source text that stands alone: with its derivative by hand, and all that these two refer to.

Nothing is taken for granted: whoever uses the text runs it and looks whether it gives the same.
"""

import ast
import builtins
import dataclasses
import dis
import enum
import functools
import inspect
import itertools
import sys
import textwrap
import types

import jax
import jax.numpy as jnp
import numpy as np

from . import literals
from .literals import NotText

LINES = 200  # of source, beyond which it is no help
WIDTH = 110
LIBRARIES = frozenset({"jax", "jaxlib", "numpy", "scipy", "ml_dtypes", *sys.stdlib_module_names})
PUBLIC = ("jax", "jax.numpy", "jax.lax", "jax.nn", "jax.random", "jax.tree", "jax.tree_util", "jax.scipy.special")
PUBLIC += ("jax.scipy.linalg", "jax.custom_batching", "numpy", "functools", "math", "operator", "itertools")
BY_HAND = (jax.custom_vjp, jax.custom_jvp, jax.custom_batching.custom_vmap)
WRAPPED = type(jax.jit(lambda x: x))


def _tight(text) -> str:
    """Statements that follow each other stand together, and definitions apart."""
    blocks = text.split("\n\n\n")
    lines = blocks[0]
    for before, block in itertools.pairwise(blocks):
        plain = not any(b.startswith(("def ", "@", "class ", "#")) for b in (before, block))
        lines += ("\n" if plain else "\n\n\n") + block
    return lines


class Collected:
    """Definitions, each after what it needs at once; functions may refer to what comes later.

    Names in `taken` have another meaning.  NotText where a source is not at hand, or goes beyond jax, NumPy and the
    standard library.
    """

    def __init__(self, taken):
        self.imports, self.parts = set(), []
        self.names = {id(jax): "jax", id(jnp): "jnp", id(np): "np"}
        self.used = {"jax", "jnp", "np", *taken}
        self.alive = []  # ids are of objects that live

    @property
    def text(self) -> str:
        return _tight("\n\n\n".join(self.parts))

    @property
    def imported_lines(self) -> str:
        return "\n".join(sorted(self.imports))

    def name(self, thing, wish: str) -> str:
        """The name under which a thing is at hand, once all that it needs is defined."""
        if id(thing) in self.names:
            return self.names[id(thing)]
        if isinstance(thing, types.ModuleType):
            return self.module(thing, wish)
        if imported := self.imported(thing, wish):
            return imported
        if isinstance(thing, BY_HAND):
            return self.by_hand(thing, wish)
        if isinstance(thing, types.FunctionType | WRAPPED):
            return self.function(thing, wish)
        if isinstance(thing, type):
            return self.kind(thing, wish)
        text = self.value(thing)
        if id(thing) in self.names or isinstance(thing, types.MethodType | enum.Enum):
            return text
        name = self.take(thing, wish)
        self.parts.append(f"{name} = {text}")
        return name

    def take(self, thing, wish) -> str:
        """A name that nothing else has."""
        (name,) = literals.identifiers([wish], {*self.used, *dir(builtins)})
        self.used.add(name)
        self.names[id(thing)] = name
        self.alive.append(thing)
        return name

    # --- what is imported --------------------------------------------------------------------------------------------

    def module(self, module, wish) -> str:
        if module.__name__.split(".")[0] not in LIBRARIES:
            raise NotText(f"it refers to the module {module.__name__}")
        name, parent = self.take(module, wish), module.__name__.rpartition(".")
        if name == module.__name__:
            self.imports.add(f"import {name}")
        elif parent[0] and name == parent[2]:
            self.imports.add(f"from {parent[0]} import {name}")
        else:
            self.imports.add(f"import {module.__name__} as {name}")
        return name

    def imported(self, thing, wish) -> str | None:
        """A thing of a library, by its public name."""
        if not callable(thing) or (getattr(thing, "__module__", None) or "jax").split(".")[0] not in LIBRARIES:
            return None
        own = getattr(thing, "__module__", None)
        for module in (*PUBLIC, *((own,) if own else ())):
            for name in dict.fromkeys((getattr(thing, "__name__", wish), wish)):
                if getattr(sys.modules.get(module), name, None) is thing:
                    return self._from(thing, module, name)
        return None

    def _from(self, thing, module, name) -> str:
        if short := {"jax": "jax", "jax.numpy": "jnp", "numpy": "np"}.get(module):
            self.names[id(thing)] = f"{short}.{name}"
            self.alive.append(thing)
            return f"{short}.{name}"
        given = self.take(thing, name)
        self.imports.add(f"from {module} import {name}" + (f" as {given}" if given != name else ""))
        return given

    # --- what is defined ---------------------------------------------------------------------------------------------

    def by_hand(self, thing, wish) -> str:
        """A function with a derivative by hand, or a rule for vmap of its own."""
        raw, kind = thing.fun, type(thing).__name__
        options = {
            name: value
            for name in ("nondiff_argnums", "nondiff_argnames")
            if (value := tuple(getattr(thing, name, ()) or ()))
        }
        maker = "jax.custom_batching.custom_vmap" if kind == "custom_vmap" else f"jax.{kind}"
        halves = {"custom_vjp": ("fwd", "bwd"), "custom_jvp": ("jvp",), "custom_vmap": ("vmap_rule",)}[kind]
        rules = [getattr(thing, half, None) for half in halves]
        if any(rule is None for rule in rules) or getattr(thing, "symbolic_zeros", False):
            raise NotText(f"a {kind} of an unusual kind")
        refers = [value for rule in rules if isinstance(rule, types.FunctionType) for value in _refers(rule).values()]
        apart = id(raw) in self.names or any(value is raw for value in refers) or self.imported(raw, wish)
        if _is_def(raw) and not apart:
            more = "".join(f", {name}={value}" for name, value in options.items())
            if options:
                self.names.setdefault(id(functools.partial), "functools.partial")
                self.imports.add("import functools")
            name = self.take(thing, raw.__name__)
            self.define(raw, name, f"@functools.partial({maker}{more})" if options else f"@{maker}")
        else:
            text = self.expression(raw, "definition")
            name = self.take(thing, wish if wish.isidentifier() else "function")
            more = "".join(f", {name}={value}" for name, value in options.items())
            self.parts.append(f"{name} = {maker}({text}{more})")
        method = {"custom_vjp": "defvjp", "custom_jvp": "defjvp", "custom_vmap": "def_vmap"}[kind]
        wishes = ("forward", "backward") if kind == "custom_vjp" else ("pushforward",)
        texts = [self.expression(rule, wish) for rule, wish in zip(rules, wishes, strict=True)]
        call = f"{name}.{method}({', '.join(texts)})"
        if len(call) > WIDTH:
            call = f"{name}.{method}(\n" + "".join(f"    {text},\n" for text in texts) + ")"
        self.parts.append(call)
        return name

    def expression(self, thing, wish) -> str:
        """A short lambda as it stands, and the name of everything else."""
        if isinstance(thing, types.FunctionType) and id(thing) not in self.names and thing.__name__ == "<lambda>":
            text = self.lambda_text(thing)
            if "\n" not in text and len(text) < WIDTH - 30:
                return text
        return self.name(thing, wish)

    def function(self, thing, wish) -> str:
        raw = getattr(thing, "__wrapped__", None)
        if raw is None:
            if _is_def(thing):
                return self.define(thing, self.take(thing, wish if thing.__name__ == "_" else thing.__name__))
            name = self.take(thing, wish if wish.isidentifier() else "function")
            self.parts.append(f"{name} = {self.lambda_text(thing)}")
            return name
        node = _written(raw)[0] if isinstance(raw, types.FunctionType) else None
        if isinstance(node, ast.FunctionDef) and len(node.decorator_list) == 1:
            scope = raw.__globals__ | _refers(raw)
            bound = {name: scope[name] for name in _loaded(node.decorator_list[0]) if name in scope}
            decorator = self.written(raw, node.decorator_list[0], bound)
            return self.define(raw, self.take(thing, raw.__name__), f"@{decorator}")
        if isinstance(thing, WRAPPED):
            text = self.expression(raw, wish)
            name = self.take(thing, f"{text}_jitted" if text.isidentifier() else wish)
            self.parts.append(f"{name} = jax.jit({text})")
            return name
        raise NotText(f"{wish} is wrapped in a way of its own")

    def define(self, function, name, decorator: str = "") -> str:
        """A `def`, without its own decorators and docstring."""
        node, _ = _written(function)
        edits = [(*node.name_span, name)] if node.name != name else []
        body = node.body
        documented = len(body) > 1 and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
        if documented and isinstance(body[0].value.value, str):
            edits.append(((body[0].lineno, body[0].col_offset), (body[1].lineno, body[1].col_offset), ""))
        given = dict(zip(node.args.defaults[::-1], (function.__defaults__ or ())[::-1], strict=True))
        kwonly = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
        given |= {d: function.__kwdefaults__[a.arg] for a, d in kwonly if d is not None}
        for default, value in given.items():
            if any(_loaded(default)):
                edits.append((*_span(default), self.value(value)))
        text = self.written(function, node, _refers(function), edits)
        self.parts.append(f"{decorator}\n{text}" if decorator else text)
        return name

    def lambda_text(self, function) -> str:
        text = self.written(function, _written(function)[0], _refers(function))
        return f"({text})" if "\n" in text else text

    def kind(self, thing, wish) -> str:
        """A class at the top of a module, with its decorators."""
        module = sys.modules.get(thing.__module__)
        node = next((n for n in _tree(module).body if isinstance(n, ast.ClassDef) and n.name == thing.__name__), None)
        if node is None or getattr(module, thing.__name__, None) is not thing:
            raise NotText(f"the class {thing.__name__}")
        name = self.take(thing, thing.__name__)
        if name != thing.__name__:
            raise NotText(f"two things called {thing.__name__}")
        bound = {name: vars(module)[name] for name in _loaded(node) if name in vars(module) and name != thing.__name__}
        parts = [*(f"@{self.written(thing, d, bound)}" for d in node.decorator_list), self.written(thing, node, bound)]
        self.parts.append("\n".join(parts))
        return name

    def written(self, thing, node, bound: dict, edits=()) -> str:
        """The text of a node, with the names that what it refers to has here."""
        edits = [*edits, *_without_annotations(node, _lines_of(thing))]
        renamed = {name: given for name, value in bound.items() if (given := self.name(value, name)) != name}
        edits += [(*_span(inner), renamed[inner.id]) for inner in _free(node) if inner.id in renamed]
        return _edited(_lines_of(thing), node, edits)

    # --- values ------------------------------------------------------------------------------------------------------

    def value(self, thing) -> str:
        """A value as an expression."""
        if id(thing) in self.names:
            return self.names[id(thing)]
        if thing is None or isinstance(thing, bool | int | str | bytes) or thing is Ellipsis:
            return repr(thing)
        if isinstance(thing, float):
            return literals.number(np.float64(thing))
        if isinstance(thing, np.dtype):
            return literals.dtype_of(thing)
        if isinstance(thing, np.ndarray | np.generic) or (
            isinstance(thing, jax.Array) and not isinstance(thing, jax.core.Tracer)
        ):
            text = literals.array(thing)
            if "zlib" in text:
                raise NotText("it refers to a large array")
            return f"jnp.asarray({text})" if isinstance(thing, jax.Array) else text
        if type(thing) in (tuple, list, set, frozenset):
            inside = ", ".join(map(self.value, thing))
            return {
                tuple: f"({inside}{',' if len(thing) == 1 else ''})",
                list: f"[{inside}]",
                set: f"{{{inside}}}" if inside else "set()",
                frozenset: f"frozenset({{{inside}}})" if inside else "frozenset()",
            }[type(thing)]
        if type(thing) is dict:
            try:
                return "{" + ", ".join(f"{self.value(k)}: {self.value(v)}" for k, v in thing.items()) + "}"
            except NotText:
                return "{}"  # what was kept in it while it ran: it starts empty
        if isinstance(thing, itertools.count):
            return f"{self.name(itertools.count, 'count')}()"
        if isinstance(thing, functools.partial):
            parts = [*map(self.value, thing.args), *(f"{k}={self.value(v)}" for k, v in thing.keywords.items())]
            return (
                f"{self.name(functools.partial, 'partial')}({', '.join([self.name(thing.func, 'function'), *parts])})"
            )
        if isinstance(thing, types.MethodType):
            return f"{self.name(thing.__self__, type(thing.__self__).__name__.lower())}.{thing.__name__}"
        if isinstance(thing, enum.Enum):
            return f"{self.name(type(thing), type(thing).__name__)}.{thing.name}"
        if callable(thing) and isinstance(thing, (types.FunctionType, type, WRAPPED, *BY_HAND)):
            return self.name(thing, getattr(thing, "__name__", "function"))
        return self.instance(thing)

    def instance(self, thing) -> str:
        """An object of a class of the user's own: a tuple or a dataclass by its fields, others by what they hold."""
        made = self.name(type(thing), type(thing).__name__)
        if type(thing).__module__.split(".")[0] in LIBRARIES or not made.isidentifier():
            raise NotText(f"it refers to a {type(thing).__name__}")
        fields = getattr(thing, "_fields", None)
        if dataclasses.is_dataclass(thing):
            fields = [field.name for field in dataclasses.fields(thing) if field.init]
        if fields is not None:
            return f"{made}({', '.join(f'{name}={self.value(getattr(thing, name))}' for name in fields)})"
        if not hasattr(thing, "__dict__"):
            raise NotText(f"it refers to a {type(thing).__name__}")
        held = ", ".join(f"{name!r}: {self.value(value)}" for name, value in vars(thing).items())
        name = self.take(thing, made.lower())
        self.parts.append(f"{name} = object.__new__({made})\nvars({name}).update({{{held}}})")
        return name


# --- where things are written ----------------------------------------------------------------------------------------


def _is_def(thing) -> bool:
    return isinstance(thing, types.FunctionType) and thing.__name__.isidentifier()


def _refers(function) -> dict:
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


def _loaded(node) -> set:
    """The names that a node needs from outside: annotations are not looked at."""
    left_out = {id(inner) for n in ast.walk(node) for a in _annotations(n) for inner in ast.walk(a)}
    return {name.id for name in _free(node) if id(name) not in left_out}


def _free(node, own=frozenset(), top=True):
    """The names in a node that no function inside of it binds; what the node itself binds is its caller's to know."""
    if isinstance(node, ast.Name):
        if node.id not in own:
            yield node
        return
    if not top and isinstance(node, ast.FunctionDef | ast.Lambda | COMPREHENSIONS):
        own = own | set(_bound(node))
    for child in ast.iter_child_nodes(node):
        yield from _free(child, own, False)


COMPREHENSIONS = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


def _bound(node):
    """The names that a function or a comprehension binds; those of functions inside of it are taken for its own."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.arg):
            yield inner.arg
        elif isinstance(inner, ast.Name) and not isinstance(inner.ctx, ast.Load):
            yield inner.id


def _annotations(node):
    return [a for a in (getattr(node, "annotation", None), getattr(node, "returns", None)) if a is not None]


def _without_annotations(node, lines):
    """Edits that take annotations away, which refer to more than what runs; fields of a class keep one."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.arg) and inner.annotation:
            start = inner.lineno, inner.col_offset + len(inner.arg.encode())
            yield start, _span(inner.annotation)[1], ""
        elif isinstance(inner, ast.FunctionDef) and inner.returns:
            number, before = inner.returns.lineno, lines[inner.returns.lineno - 1][: inner.returns.col_offset]
            yield (number, len(before[: before.rindex(b"->")].rstrip())), _span(inner.returns)[1], ""
        elif isinstance(inner, ast.AnnAssign) and isinstance(node, ast.ClassDef):
            yield *_span(inner.annotation), "object"


def _lines_of(thing) -> list[bytes]:
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


def _tree(thing):
    return _parsed(b"\n".join(_lines_of(thing)))


def _written(function):
    """The node of a function, and its text's lines."""
    code, tree = function.__code__, _tree(function)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == code.co_name:
            if min([node.lineno, *(d.lineno for d in node.decorator_list)]) == code.co_firstlineno:
                start = (node.lineno, node.col_offset + len("def "))
                node.name_span = (start, (start[0], start[1] + len(node.name.encode())))
                return node, tree
        elif isinstance(node, ast.Lambda) and code.co_name == "<lambda>" and node.lineno == code.co_firstlineno:
            body = (node.body.lineno, node.body.end_lineno, node.body.col_offset, node.body.end_col_offset)
            if body in set(code.co_positions()):
                return node, tree
    raise NotText("its source is not found")


def _span(node):
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def _edited(lines, node, edits) -> str:
    """The text of a node after replacements of (start, end, text), dedented."""
    starts = list(itertools.accumulate((len(line) + 1 for line in lines), initial=0))
    data = b"\n".join(lines)

    def at(place):
        return starts[place[0] - 1] + place[1]

    first, last = map(at, _span(node))
    line_start = at((node.lineno, 0))
    whole = not data[line_start:first].strip()  # a statement brings its indentation, to be taken away
    begin, out = line_start if whole else first, b""
    done = begin
    for start, end, text in sorted((at(s), at(e), t) for s, e, t in edits):
        if start >= done:
            out += data[done:start] + text.encode()
            done = end
    return textwrap.dedent((out + data[done:last]).decode())
