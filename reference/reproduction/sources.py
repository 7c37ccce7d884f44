"""A function as source text that stands alone: with its derivative by hand, and all that these two refer to.

Nothing is taken for granted: whoever uses the text runs it and looks whether it gives the same.
"""

import ast
import builtins
import dataclasses
import enum
import functools
import itertools
import re
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np

from . import literals
from .literals import NotText
from .nodes import edited, free, is_def, lines_of, loaded, refers, span, tree, without_annotations, written

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


def _unbroken(text) -> str:
    """A definition without empty lines inside, at which an interactive Python would take it to be finished."""
    return text if '"""' in text or "'''" in text else re.sub(r"\n\s*\n", "\n", text)


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
        others = [value for rule in rules if isinstance(rule, types.FunctionType) for value in refers(rule).values()]
        apart = id(raw) in self.names or any(value is raw for value in others) or self.imported(raw, wish)
        if is_def(raw) and not apart:
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
            if is_def(thing):
                return self.define(thing, self.take(thing, wish if thing.__name__ == "_" else thing.__name__))
            name = self.take(thing, wish if wish.isidentifier() else "function")
            self.parts.append(f"{name} = {self.lambda_text(thing)}")
            return name
        node = written(raw) if isinstance(raw, types.FunctionType) else None
        if isinstance(node, ast.FunctionDef) and len(node.decorator_list) == 1:
            scope = raw.__globals__ | refers(raw)
            bound = {name: scope[name] for name in loaded(node.decorator_list[0]) if name in scope}
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
        node = written(function)
        edits = [(*node.name_span, name)] if node.name != name else []
        body = node.body
        documented = len(body) > 1 and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
        if documented and isinstance(body[0].value.value, str):
            edits.append(((body[0].lineno, body[0].col_offset), (body[1].lineno, body[1].col_offset), ""))
        given = dict(zip(node.args.defaults[::-1], (function.__defaults__ or ())[::-1], strict=True))
        kwonly = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
        given |= {d: function.__kwdefaults__[a.arg] for a, d in kwonly if d is not None}
        for default, value in given.items():
            if any(loaded(default)):
                edits.append((*span(default), self.value(value)))
        text = self.written(function, node, refers(function), edits)
        self.parts.append(_unbroken(f"{decorator}\n{text}" if decorator else text))
        return name

    def lambda_text(self, function) -> str:
        text = self.written(function, written(function), refers(function))
        return f"({text})" if "\n" in text else text

    def kind(self, thing, wish) -> str:
        """A class at the top of a module, with its decorators."""
        module = sys.modules.get(thing.__module__)
        node = next((n for n in tree(module).body if isinstance(n, ast.ClassDef) and n.name == thing.__name__), None)
        if node is None or getattr(module, thing.__name__, None) is not thing:
            raise NotText(f"the class {thing.__name__}")
        name = self.take(thing, thing.__name__)
        if name != thing.__name__:
            raise NotText(f"two things called {thing.__name__}")
        bound = {name: vars(module)[name] for name in loaded(node) if name in vars(module) and name != thing.__name__}
        parts = [*(f"@{self.written(thing, d, bound)}" for d in node.decorator_list), self.written(thing, node, bound)]
        self.parts.append(_unbroken("\n".join(parts)))
        return name

    def written(self, thing, node, bound: dict, edits=()) -> str:
        """The text of a node, with the names that what it refers to has here."""
        edits = [*edits, *without_annotations(node, lines_of(thing))]
        renamed = {name: given for name, value in bound.items() if (given := self.name(value, name)) != name}
        edits += [(*span(inner), renamed[inner.id]) for inner in free(node) if inner.id in renamed]
        return edited(lines_of(thing), node, edits)

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
