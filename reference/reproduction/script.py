"""A wrong derivative as a Python script that needs nothing but jax and NumPy, and fails by itself.

The function comes as source where that is at hand, is imported where it can be, is otherwise taken along as it was
compiled, and else left to be filled in.  Every script has been run: it fails, and it fails in the way that it says.
It passes once the derivative in it, or in the module that it is imported from, is right.
"""

import contextlib
import io
import platform
import re
import textwrap
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from ..finding import CannotTell
from ..judge import Failed
from ..session import Session
from . import literals, sources
from .literals import NotText
from .replay import Case, shows
from .sources import LIBRARIES, Collected
from .ways import TAKEN, Way

LONGEST = 12_000  # characters of arguments, or of what was compiled, that a script may hold


class Text(NamedTuple):
    """The parts of a script: what is imported, the function, how it is called."""

    imports: str
    function: str
    definitions: str
    values: str
    steps: str
    path: str = ""
    given: tuple = ()  # (name, function) of what is left to be filled in

    @property
    def body(self) -> str:
        parts = (self.function, self.definitions, f"{self.values}\n\n{self.steps}".strip())
        return "\n\n\n".join(filter(None, parts))


def script(session: Session, failed: Failed, way: Way | None = None, outer: Case | None = None) -> str:
    """A standalone script that fails as long as this cotangent is wrong.

    way     how the derivative is called; the plainest in which it is wrong, if left out
    outer   of a second derivative, the case of the first

    CannotTell where no call shows the failure, or no text gives it back.
    """
    case = Case(session, failed, outer)
    known = way or shows(case)
    tried = [known] if known else case.ways()
    if known is None and failed.finding.fault != "impure":  # what ran before may hide that, where it is not run anew
        raise CannotTell("no call by itself shows this failure")
    reasons = []
    for form in (_written, _imported, _exported, _named):
        for one in tried:
            try:
                text = form(case, one)
                lines = _failing(case, one, text, known is not None)
            except NotText as reason:
                reasons.append(str(reason))
                continue
            if lines is not None:
                return _script(case, one, text, lines)
    raise CannotTell(f"no text gives it back: {'; '.join(dict.fromkeys(reasons)) or 'run anew, it does not fail'}")


def _script(case, way, text, lines) -> str:
    whole = f"{text.body}\n" + "\n".join(lines)
    used = f"{text.path}\n{whole}"
    needed = [f"import {name}" for name in ("base64", "sys", "zlib") if re.search(rf"\b{name}\.", used)]
    needed += ["import jax"]
    needed += ["import jax.numpy as jnp"] if re.search(r"\bjnp\b", whole) else []
    needed += ["import numpy as np"] if re.search(r"\bnp\b", whole) else []
    others = [line for line in text.imports.split("\n") if line and line not in needed]
    installed = [line for line in others if line.split()[1].split(".")[0] in LIBRARIES]
    own = [line for line in others if line not in installed]
    settings = ['jax.config.update("jax_enable_x64", True)'] if case.wide else []
    if jax.default_backend() != "cpu":
        settings += ['jax.config.update("jax_default_matmul_precision", "highest")']
    if way.devices and jax.default_backend() == "cpu":
        settings += [f'jax.config.update("jax_num_cpu_devices", {len(jax.devices())})']
    order, how = "second " if case.outer else "", f", {way.words}" if way.words else ""
    what = f"raises{how}" if case.raises else f"is wrong: {case.what} in {case.failed.dtype}{how}"
    made = f"jax {jax.__version__} on {jax.default_backend()}, Python {platform.python_version()}"
    words = f"The {order}derivative of {case.base.name} {what}."
    more = f", and {text.given[0][0]}" if text.given else ""
    needs = f"Needs jax and NumPy{more}; fails as long as that is so.  (Found with {made}.)"
    head = [textwrap.indent(textwrap.fill(line, literals.WIDTH - 2), "# ") for line in (words, needs)]
    standard, others = _sorted(needed + installed)
    blocks = [
        "\n".join(head),
        "\n".join(standard),
        "\n".join(others),
        "\n".join([*settings, *([text.path] if text.path else []), *own]),
    ]
    return "\n\n".join(filter(None, blocks)) + "\n\n\n" + whole.strip() + "\n"


def _sorted(lines) -> tuple[list[str], list[str]]:
    """Imports as one sorts them by hand: of the standard library, and of others, each with `import` first."""
    lines = sorted(dict.fromkeys(lines), key=lambda line: (line.startswith("from"), line))
    ours = {line: line.split()[1].split(".")[0] in ("jax", "jaxlib", "numpy", "scipy", "ml_dtypes") for line in lines}
    return [line for line in lines if not ours[line]], [line for line in lines if ours[line]]


def _failing(case, way, text, compare: bool) -> list[str] | None:
    """The last lines of a script that was run and fails as the function does; None where it does not."""
    given: dict = {"__name__": "reproduction"} | dict(text.given)
    exec("import base64, sys, zlib\nimport jax\nimport jax.numpy as jnp\nimport numpy as np", given)
    with case.settings(), contextlib.redirect_stdout(io.StringIO()):
        try:
            exec(f"{text.imports}\n{text.body}", given)
        except Exception as error:
            return [f"# raises {type(error).__name__}"] if case.raises else None
        if case.raises:
            return None
        if compare and not case.same(way, given["got"]):
            return None
        return case.verdict(way, given)


# --- the ways in which a function comes ------------------------------------------------------------------------------


def _lines(case, way, call, raw=None) -> tuple[str, str]:
    """The values and the steps of a way as text."""
    values = case.values(way) | (raw or {})
    used = "\n".join([way.definitions(call), *way.steps(call)])
    named = {name: value for name, value in values.items() if re.search(rf"\b{name}\b", used)}
    assigned = "\n".join(literals.assigned(name, value) for name, value in named.items())
    if len(assigned) > LONGEST:
        raise NotText(f"the arguments take {len(assigned)} characters")
    return assigned, "\n".join(way.steps(call))


def _taken(case):
    return {*TAKEN, *case.variables, *case.bars, *(f"other_{name}" for name in (*case.variables, *case.bars))}


def _joined(*parts) -> str:
    return "\n\n\n".join(filter(None, parts))


def _written(case, way) -> Text:
    """The function and its derivative as they are written."""
    made = Collected(_taken(case))
    wish = case.base.name if case.base.name.isidentifier() else "function"
    name = made.name(case.base.function, wish)
    text, call = case.function(
        name, lambda thing: made.name(thing, getattr(thing, "__name__", type(thing).__name__.lower()))
    )
    values, steps = _lines(case, way, call)
    if made.text.count("\n") > sources.LINES:
        raise NotText(f"its source has {made.text.count(chr(10))} lines")
    function = made.text
    with contextlib.suppress(NotText):
        module, path = literals.importable(case.base.function)
        renamed = f" as {name}" if path != name else ""
        if "." not in path:
            function += f"\n\n# from {module} import {path}{renamed}  # in place of the above: as it stands there now"
    return Text(made.imported_lines, function, _joined(text, way.definitions(call)), values, steps)


def _imported(case, way) -> Text:
    """The function by its name."""
    imports: dict = {}

    def namer(thing):
        return literals.named(thing, imports)

    name = namer(case.base.function)
    text, call = case.function(name, namer)
    if clash := set(imports) & _taken(case):
        raise NotText(f"the name {min(clash)} has another meaning in the script")
    folders = dict.fromkeys(filter(None, map(literals.needs_path, imports.values())))
    values, steps = _lines(case, way, call)
    return Text(
        "\n".join(f"from {module} import {root}" for root, module in imports.items()),
        "",
        _joined(text, way.definitions(call)),
        values,
        steps,
        "\n".join(f"sys.path.insert(0, {folder!r})" for folder in folders),
    )


def _exported(case, way) -> Text:
    """The derivative as it was compiled, with keys as the numbers that they are."""
    if not way.compiled or case.raises:
        raise NotText(f"what happens {way.words} cannot be taken along as compiled")
    values = case.values(way)
    keys = {name: a for name, a in values.items() if jnp.issubdtype(a.dtype, jax.dtypes.prng_key)}
    raw = {name: np.asarray(jax.random.key_data(a) if name in keys else a) for name, a in values.items()}
    given, _, call = case.space()
    exec(way.definitions(call), given)
    got = way.steps(call)[0].removeprefix("got = ")

    def derivative(*arrays):
        named = dict(zip(raw, arrays, strict=True))
        for name, key in keys.items():
            named[name] = jax.random.wrap_key_data(named[name], impl=jax.random.key_impl(key))
        return eval(got, given | named)

    try:
        with case.settings():
            made = export.export(jax.jit(derivative))(*raw.values())
    except (ValueError, NotImplementedError, TypeError) as error:
        first = str(error).split("\n")[0]
        raise NotText(f"it cannot be taken along as compiled: {first}") from None
    if made.ordered_effects or made.unordered_effects or made.nr_devices != 1:
        raise NotText("it has effects or runs on several devices")
    text = _EXPORTED.format(
        version=jax.__version__,
        platform=made.platforms[0],
        arguments=", ".join(raw),
        result=f"jax.core.ShapedArray({tuple(made.out_avals[0].shape)}, {literals.dtype_of(made.out_avals[0].dtype)})",
        platforms=tuple(made.platforms),
        convention=made.calling_convention_version,
        kept=tuple(made.module_kept_var_idx),
        constants=made.uses_global_constants,
        module=textwrap.indent(literals.packed(made.mlir_module_serialized), "    ").strip(),
    )
    assigned = "\n".join(literals.assigned(name, value) for name, value in raw.items())
    if len(text) + len(assigned) > LONGEST:
        raise NotText(f"compiled it takes {len(text) + len(assigned)} characters")
    steps = f"got = derivative({', '.join(raw)})"
    if "expected" in (after := case.run(way)):
        steps += f"\nexpected = {literals.array(np.asarray(after['expected'], np.float64))}  # where it is right"
    return Text("", "", "", assigned, f"{text.strip()}\n\n{steps}")


def _named(case, way) -> Text:
    """The function by a name that whoever runs it has to give it."""
    name = case.base.name if case.base.name.isidentifier() else "function"

    def namer(thing):
        raise NotText("what is among the arguments has no text")

    text, call = case.function(name, namer)
    values, steps = _lines(case, way, call)
    comment = f"# {name}: the function that was checked, to be defined or imported here"
    return Text("", comment, _joined(text, way.definitions(call)), values, steps, given=((name, case.base.function),))


_EXPORTED = """
# The derivative as jax {version} compiled it for {platform} (StableHLO); other versions may refuse it.
fields = dict(
    fun_name="derivative",
    in_tree=jax.tree.structure((({arguments},), {{}})),
    in_avals=tuple(jax.core.ShapedArray(np.shape(a), a.dtype) for a in ({arguments},)),
    out_tree=jax.tree.structure(0),
    out_avals=({result},),
    in_shardings_hlo=(None,) * len(({arguments},)),
    out_shardings_hlo=(None,),
    _has_named_shardings=False,
    _in_named_shardings=(None,) * len(({arguments},)),
    _out_named_shardings=(None,),
    nr_devices=1,
    platforms={platforms},
    ordered_effects=(),
    unordered_effects=(),
    disabled_safety_checks=(),
    calling_convention_version={convention},
    module_kept_var_idx={kept},
    uses_global_constants={constants},
    _get_vjp=None,
    mlir_module_serialized={module},
)
known = jax.export.Exported.__dataclass_fields__
derivative = jax.export.Exported(**{{name: value for name, value in fields.items() if name in known}}).call
"""
