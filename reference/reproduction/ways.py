"""The ways in which a derivative is called, as lines of Python: plainly, under vmap, in a loop, twice, …

Each gives `got`, and `expected` where what it is held against is another call; elsewhere that is a number.
"""

import dataclasses
import re
from collections.abc import Callable

TAKEN = ("allowed", "expected", "got", "derivative", "outputs", "off", "inside", "nested", "batched", "placed", "mesh")
TAKEN += ("jax", "jnp", "np", "sys", "base64", "zlib", "twice", "pull", "value", "run", "fields", "arguments", "known")


@dataclasses.dataclass(frozen=True)
class Call:
    """The names that a call has in the text.

    function    of all variables, giving one output or a list of them
    variables   one for each real leaf of the arguments, `chosen` those that are differentiated, `bars` the cotangents
    index       which of the chosen, or of the outputs where that is what is wrong
    """

    function: str
    variables: tuple[str, ...]
    chosen: tuple[str, ...]
    bars: tuple[str, ...]
    plain: bool
    index: int
    is_output: bool = False
    sequence: str = "[{}]"
    derived: str = "derivative"

    @property
    def all(self) -> str:
        return ", ".join([*self.variables, *self.bars])

    @property
    def bar(self) -> str:
        return self.bars[0] if self.plain else self.sequence.format(", ".join(self.bars))

    def vjp(self, function: str, of=lambda name: name) -> str:
        """jax.vjp of a function of all variables, with respect to the chosen ones."""
        chosen, every = ", ".join(self.chosen), ", ".join(map(of, self.variables))
        whole = self.chosen == self.variables
        inside = function if whole else f"lambda {chosen}: {function}({', '.join(self._rest(of))})"
        return f"jax.vjp({inside}, {every if whole else ', '.join(map(of, self.chosen))})"

    def _rest(self, of):
        return [name if name in self.chosen else of(name) for name in self.variables]

    def derivative(self, more: str = "") -> str:
        """The definition of `derivative`."""
        function = "function" if more else self.function
        return f"def {self.derived}({self.all}{more}):\n    return {self.vjp(function)}[1]({self.bar})"


@dataclasses.dataclass(frozen=True)
class Way:
    """One way to call a derivative.

    definitions   a call -> functions that the steps use
    steps         a call -> lines that assign `got`, and perhaps `expected`
    lanes         variables that have two lanes, or None where nothing is mapped over
    others        prefix of names for arguments of another call, if one is needed
    exact         whether the two have to be equal to the last bit
    compiled      whether it could run compiled as a whole
    """

    name: str
    words: str
    definitions: Callable[[Call], str]
    steps: Callable[[Call], list[str]]
    lanes: tuple[str, ...] | None = None
    others: bool = False
    exact: bool = False
    compiled: bool = True
    same: bool = True  # the second lane has the arguments of the first
    devices: bool = False


def _plain(call):
    if call.is_output:
        return f"def value({', '.join(call.variables)}):\n    return {call.vjp(call.function)}[0]"
    return call.derivative()


def _at(call):
    return f"[{call.index}]"


def _compiled(call):
    if call.is_output:
        return f"jax.jit(value)({', '.join(call.variables)}){'' if call.plain else _at(call)}"
    return f"jax.jit({call.derived})({call.all}){_at(call)}"


def _eager(call):
    return re.sub(r"jax\.jit\((\w+)\)", r"\1", _compiled(call), count=1)


JIT = Way("jit", "", _plain, lambda call: [f"got = {_compiled(call)}"])
EAGER = Way("eager", "without jit", _plain, lambda call: [f"got = {_eager(call)}"], compiled=False)


# --- where it runs ---------------------------------------------------------------------------------------------------


def vmap(lanes: tuple[str, ...], over: str, same: bool) -> Way:
    """Under vmap over these variables, against one call for each lane."""

    def axes(call):
        return "(" + ", ".join("0" if name in (*lanes, *call.bars) else "None" for name in _names(call)) + ")"

    def definitions(call):
        return f"{call.derivative()}\n\n\nbatched = jax.jit(jax.vmap(derivative, in_axes={axes(call)}))"

    def steps(call):
        each = ", ".join(f"{name}[n]" if name in (*lanes, *call.bars) else name for name in _names(call))
        return [
            f"got = batched({call.all}){_at(call)}",
            f"expected = jnp.stack([jax.jit(derivative)({each}){_at(call)} for n in range(2)])",
        ]

    return Way("vmap", f"under vmap over {over}", definitions, steps, lanes=lanes, same=same)


def _names(call):
    return [*call.variables, *call.bars]


INSIDE = {
    "cond": "jax.lax.cond(True, {f}, {f}, {a})",
    "scan": "jax.tree.map(lambda y: y[0], jax.lax.scan(lambda carry, _: (carry, {f}({a})), 0, None, length=1)[1])",
    "checkpoint": "jax.checkpoint({f})({a})",
}


def _inside(name) -> Way:
    def definitions(call):
        arguments = ", ".join(call.variables)
        wrapped = INSIDE[name].format(f=call.function, a=arguments)
        return "\n\n\n".join(
            [
                call.derivative(", function"),
                f"def inside({arguments}):\n    return {wrapped}",
                f"def nested({call.all}):\n    return derivative({call.all}, inside)",
            ]
        )

    def steps(call):
        return [
            f"got = jax.jit(nested)({call.all}){_at(call)}",
            f"expected = jax.jit(lambda *a: derivative(*a, {call.function}))({call.all}){_at(call)}",
        ]

    return Way("nested", f"inside {name}", definitions, steps)


def _sharded() -> Way:
    placed = (
        "def placed(a):\n"
        "    split = np.ndim(a) and len(a) and len(a) % mesh.size == 0\n"
        '    spec = jax.sharding.PartitionSpec("devices") if split else jax.sharding.PartitionSpec()\n'
        "    return jax.device_put(a, jax.sharding.NamedSharding(mesh, spec))"
    )
    mesh = 'mesh = jax.sharding.Mesh(np.array(jax.devices()), ("devices",))'

    def steps(call):
        return [
            f"got = jax.jit(derivative)(*map(placed, ({call.all}))){_at(call)}",
            f"expected = {_compiled(call)}",
        ]

    return Way(
        "sharded",
        "sharded over devices",
        lambda call: f"{call.derivative()}\n\n\n{mesh}\n\n\n{placed}",
        steps,
        compiled=False,
        devices=True,
    )


def _alone() -> Way:
    def one(call):
        return dataclasses.replace(call, chosen=(call.chosen[call.index],), index=0)

    return Way(
        "alone",
        "where it alone is differentiated",
        lambda call: one(call).derivative(),
        lambda call: [f"got = {_compiled(one(call))}"],
    )


# --- the cotangent ---------------------------------------------------------------------------------------------------


def _scaled(power: str) -> Way:
    def steps(call):
        given = ", ".join([*call.variables, *(f"{power} * {bar}" for bar in call.bars)])
        return [f"got = jax.jit(derivative)({given}){_at(call)} / {power}", f"expected = {_compiled(call)}"]

    words = f"with a cotangent {power} times as large"
    return Way("homogeneous", words, Call.derivative, steps, compiled=False)


def _summed() -> Way:
    def steps(call):
        other = ", ".join([*call.variables, *(f"other_{bar}" for bar in call.bars)])
        total = ", ".join([*call.variables, *(f"{bar} + other_{bar}" for bar in call.bars)])
        return [
            f"got = jax.jit(derivative)({total}){_at(call)}",
            f"expected = {_compiled(call)} + jax.jit(derivative)({other}){_at(call)}",
        ]

    return Way("additive", "of a sum of cotangents", Call.derivative, steps, others=True, compiled=False)


def _nothing() -> Way:
    def steps(call):
        given = ", ".join([*call.variables, *(f"0 * {bar}" for bar in call.bars)])
        return [f"got = jax.jit(derivative)({given}){_at(call)}", "expected = 0 * got"]

    return Way("zero", "with a cotangent of zero", Call.derivative, steps, exact=True, compiled=False)


# --- state -----------------------------------------------------------------------------------------------------------


def _other(call):
    return lambda name: f"other_{name}" if name in call.chosen else name


AGAIN = Way(
    "again",
    "when it is called again",
    Call.derivative,
    lambda call: [f"expected = {_eager(call)}", f"got = {_eager(call)}"],
    exact=True,
    compiled=False,
)
INTERLEAVED = Way(
    "interleaved",
    "after another forward pass",
    lambda call: "",
    lambda call: [
        f"pull = {call.vjp(call.function)}[1]",
        f"{call.vjp(call.function, _other(call))}  # another forward pass",
        f"got = pull({call.bar}){_at(call)}",
    ],
    others=True,
    same=False,
    compiled=False,
)
ELSEWHERE = Way(
    "elsewhere",
    "after a call with other arguments",
    Call.derivative,
    lambda call: [
        f"derivative({', '.join([*map(_other(call), call.variables), *call.bars])})  # a call with other arguments",
        f"got = {_eager(call)}",
    ],
    others=True,
    same=False,
    compiled=False,
)
TRACED = Way(
    "traced",
    "after a call under jit",
    Call.derivative,
    lambda call: [f"jax.jit(derivative)({call.all})", f"got = {_eager(call)}"],
    compiled=False,
)


def ways(check: str, chosen: tuple[str, ...], names: tuple[str, ...], powers: tuple[str, ...]) -> list[Way]:
    """What may show a failure of a check, the plainest first."""
    return [JIT, EAGER, *PARTICULAR.get(check, lambda *_: [])(chosen, names, powers)]


def _mapped(chosen, names, powers):
    for same in (True, False):
        yield vmap(chosen, "all arguments", same)
        if len(chosen) > 1:
            for variable, name in zip(chosen, names, strict=True):
                yield vmap((variable,), name, same)


PARTICULAR = {
    "alone": lambda *_: [_alone()],
    "vmap": _mapped,
    "nested": lambda *_: map(_inside, INSIDE),
    "sharded": lambda *_: [_sharded()],
    "homogeneous": lambda chosen, names, powers: map(_scaled, powers),
    "additive": lambda *_: [_summed()],
    "zero": lambda *_: [_nothing()],
    "eager": lambda *_: [TRACED],
    "repeatable": lambda *_: [AGAIN, INTERLEAVED, ELSEWHERE, TRACED],
}
