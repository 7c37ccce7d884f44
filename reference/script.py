"""A wrong cotangent as a Python script that fails by itself, and as a few lines to paste.

`script` needs nothing but jax and NumPy: the function is imported where it can be, and is otherwise taken along as
it was compiled.  The truth, and the rounding that it is allowed, stand in it as numbers, so neither an oracle nor this
package is needed to see the failure, and the script passes once the derivative is right.
"""

import platform
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from . import literals
from .literals import NotText
from .replay import TAKEN, Case, shows
from .session import CannotTell, Failed, Session
from .widening import kind

FEW = 64  # numbers that lines to paste may hold
FLOATS = "[y for y in jax.tree.leaves({call}) if jnp.issubdtype(jnp.result_type(y), jnp.floating)]"


def script(session: Session, failed: Failed, way: str | None = None) -> str:
    """A standalone script that raises an AssertionError as long as this cotangent is wrong.

    way    'jit' or 'eager'; the one that shows the failure, if left out

    CannotTell where a plain call does not show the failure, or the function can neither be imported nor exported.
    """
    case = Case(session, failed)
    way = way or shows(session, failed)
    if way is None:
        raise CannotTell("a plain call does not show this failure, under jit or without")
    try:
        function = _imported(case, way)
    except NotText as reason:
        if way == "eager":
            raise CannotTell(f"it fails without jit alone, and {reason}, so it cannot be taken along") from None
        function = _exported(case, str(reason))
    expected, allowed = literals.array(case.expected), literals.array(case.allowed)
    numbers = function + expected + allowed
    what = f"the output {case.leaf}" if case.is_output else f"the cotangent of {case.leaf}"
    return _SCRIPT.format(
        subject=session.subject,
        words=repr(what),
        what=what,
        dtype=failed.dtype,
        made=f"jax {jax.__version__} on {jax.default_backend()}, Python {platform.python_version()}",
        wide=case.wide,
        standard="".join(f"import {name}\n" for name in ("base64", "sys", "zlib") if f"{name}." in numbers) + "\n",
        function=function.strip(),
        given=str(case.like.dtype),
        near="  # the middle between the one-sided derivatives: the point is a kink" if case.kinked else "",
        expected=expected,
        allowed=allowed,
    )


def snippet(session: Session, failed: Failed) -> str | None:
    """Three to eight lines that fail where the function is at hand by its name; None where they would be long."""
    case = Case(session, failed)
    numbers = sum(np.size(a) for a in (*case.primals, *case.cotangent, case.expected))
    complex_outputs = any(kind(y.dtype) == "complex" for y in jax.tree.leaves(case.output))
    if numbers > FEW or case.is_output or complex_outputs or not session.subject.name.isidentifier():
        return None
    try:
        call = case.call(session.subject.name, {})
    except NotText:
        return None
    x = case.variables[case.place]
    plain = jax.tree.structure(case.output) == jax.tree.structure(0)
    function = call if plain else FLOATS.format(call=call)
    function = session.subject.name if function == f"{session.subject.name}({x})" else f"lambda {x}: {function}"
    bars = [literals.array(bar) for bar in case.cotangent]
    lines = ['jax.config.update("jax_enable_x64", True)'] if case.wide else []
    lines += [f"{name} = {literals.array(a)}" for name, a in zip(case.variables, case.primals, strict=True)]
    lines += [
        f"y_bar = {bars[0] if plain else '[' + ', '.join(bars) + ']'}",
        f"got = np.asarray(jax.vjp({function}, {x})[1](y_bar)[0], np.float64)",
        f"expected, allowed = {literals.array(case.expected)}, {literals.array(case.allowed)}",
        "assert (abs(got - expected) <= allowed).all(), got",
    ]
    return "\n".join(lines)


# --- the two ways in which a function comes --------------------------------------------------------------------------


def _assigned(names, values) -> str:
    return "\n".join(f"{name} = {literals.array(value)}" for name, value in zip(names, values, strict=True))


def _imported(case, way) -> str:
    """The function by its name, and its derivative taken in the script."""
    imports: dict = {}
    name = literals.named(case.subject.function, imports)
    call = case.call(name, imports)
    if clash := set(imports) & {*TAKEN, *case.variables}:
        raise NotText(f"the name {min(clash)} has another meaning in the script")
    folders = dict.fromkeys(filter(None, map(literals.needs_path, imports.values())))
    parts = "((y.real, y.imag) if jnp.iscomplexobj(y) else (y,))"
    floats = FLOATS.format(call=call)
    if any(kind(y.dtype) == "complex" for y in jax.tree.leaves(case.output)):
        floats = floats.replace("[y for y in", "[part for y in").replace(" if jnp", f" for part in {parts} if jnp")
        floats = floats.replace("result_type(y)", "result_type(part)")
    names = case.variables
    chosen = [name for name, c in zip(names, case.subject.differentiated, strict=True) if c]
    result = f"outputs[{case.index}]" if case.is_output else f"pull(cotangent)[{chosen.index(names[case.place])}]"
    return _IMPORTED.format(
        path="".join(f"sys.path.insert(0, {folder!r})\n" for folder in folders),
        imports="\n".join(f"from {module} import {root}" for root, module in imports.items()),
        values=_assigned(case.variables, case.primals),
        cotangent=",\n    ".join(textwrap.indent(literals.array(bar), "    ").strip() for bar in case.cotangent),
        names=", ".join(names),
        chosen=", ".join(chosen),
        of_chosen="function" if chosen == names else f"lambda {', '.join(chosen)}: function({', '.join(names)})",
        floats=floats,
        result=result,
        run="jax.jit(derivative)" if way == "jit" else "derivative",
    )


def _exported(case, reason) -> str:
    """The derivative as it was compiled, with keys as the numbers that they are."""
    keys = {i: a for i, a in enumerate(case.primals) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key)}
    raw = [np.asarray(jax.random.key_data(a)) if i in keys else np.asarray(a) for i, a in enumerate(case.primals)]

    def derivative(*arrays):
        primals = list(arrays[: len(raw)])
        for i, key in keys.items():
            primals[i] = jax.random.wrap_key_data(primals[i], impl=jax.random.key_impl(key))
        out, bars = case.local.pullback(tuple(primals), arrays[len(raw) :])
        return [*out, *bars][case.index]

    try:
        with case.local.precision(), jax.default_matmul_precision("highest"):
            made = export.export(jax.jit(derivative))(*raw, *case.cotangent)
    except (ValueError, NotImplementedError, TypeError) as error:
        first = str(error).split("\n")[0]
        raise CannotTell(f"{reason}, and it cannot be taken along as compiled: {first}") from None
    if made.ordered_effects or made.unordered_effects or made.nr_devices != 1:
        raise CannotTell(f"{reason}, and it has effects or runs on several devices")
    names = case.variables
    bars = literals.identifiers([f"cotangent {i}" for i in range(len(case.cotangent))], names)
    return _EXPORTED.format(
        reason=reason,
        version=jax.__version__,
        platform=made.platforms[0],
        values=_assigned([*names, *bars], [*raw, *case.cotangent]),
        arguments=", ".join([*names, *bars]),
        result=_aval(made.out_avals[0]),
        platforms=tuple(made.platforms),
        convention=made.calling_convention_version,
        kept=tuple(made.module_kept_var_idx),
        constants=made.uses_global_constants,
        module=textwrap.indent(literals.packed(made.mlir_module_serialized), "    ").strip(),
    )


def _aval(aval) -> str:
    return f"jax.core.ShapedArray({tuple(aval.shape)}, {literals.dtype_of(aval.dtype)})"


_SCRIPT = '''"""A derivative of {subject} that is wrong: {what} in {dtype}.

Found with {made}.  Needs jax and NumPy; raises an AssertionError as long as it is wrong.
"""

{standard}import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", {wide})
jax.config.update("jax_default_matmul_precision", "highest")

{function}

# The derivative of the definition in float64, and the rounding that {dtype} is allowed.
expected = {expected}{near}
allowed = {allowed}

got, what = np.asarray(got), {words}
assert got.shape == expected.shape, f"{{what}} has the shape {{got.shape}}, expected {{expected.shape}}"
assert str(got.dtype) == "{given}", f"{{what}} has the dtype {{got.dtype}}, expected {given}"
off = np.abs(got.astype(np.float64) - expected)
wrong = ~(off <= allowed) & (allowed < np.inf)
if wrong.any():
    size = np.where(wrong, np.where(np.isnan(off), np.inf, off / allowed), 0)
    worst = tuple(int(i) for i in np.unravel_index(np.argmax(size), size.shape))
    raise AssertionError(
        f"{{what}} is wrong at {{list(worst)}}: got {{float(got[worst]):.9g}}, expected {{expected[worst]:.9g}}, "
        f"allowed to differ by {{allowed[worst]:.3g}}; wrong in {{wrong.sum()}} of {{wrong.size}} elements"
    )
print(what, "is right")
'''

_IMPORTED = """
{path}{imports}

{values}
cotangent = [
    {cotangent},
]


def function({names}):
    return {floats}


def derivative({names}, cotangent):
    outputs, pull = jax.vjp({of_chosen}, {chosen})
    return {result}


got = {run}({names}, cotangent)
"""

_EXPORTED = """
{values}

arguments = ({arguments},)

# {reason},
# so the derivative comes along as jax {version} compiled it for {platform} (StableHLO); other versions may refuse it.
fields = dict(
    fun_name="derivative",
    in_tree=jax.tree.structure((arguments, {{}})),
    in_avals=tuple(jax.core.ShapedArray(np.shape(a), a.dtype) for a in arguments),
    out_tree=jax.tree.structure(0),
    out_avals=({result},),
    in_shardings_hlo=(None,) * len(arguments),
    out_shardings_hlo=(None,),
    _has_named_shardings=False,
    _in_named_shardings=(None,) * len(arguments),
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

got = derivative(*arguments)
"""
