"""What an equation of a traced function is called, in the words of the user's source."""

from .graph import Graph, Use

OPERATIONS = {
    "reduce_sum": "sum",
    "reduce_max": "maximum",
    "reduce_min": "minimum",
    "reduce_prod": "product",
    "dot_general": "matrix product",
    "conv_general_dilated": "convolution",
    "mul": "product",
    "div": "quotient",
    "sub": "difference",
    "add": "sum",
    "add_any": "sum",
    "neg": "minus",
    "integer_pow": "power",
    "pow": "power",
    "rsqrt": "1 / sqrt",
    "logistic": "sigmoid",
    "broadcast_in_dim": "broadcast",
    "select_n": "where",
    "max": "maximum",
    "min": "minimum",
    "clamp": "clip",
    "cumsum": "cumulative sum",
    "dynamic_slice": "slice",
    "squeeze": "reshape",
    "expand_dims": "reshape",
    "scan": "loop",
}
PLACES = ("first", "second", "third", "fourth")


def operation(use: Use) -> str:
    """The equation, with the line in which it stands."""
    return of(use.primitive, use.line)


def of(primitive: str, line) -> str:
    name = OPERATIONS.get(primitive, primitive)
    code = line.code if line else ""
    return f"the {name} in `{code}`" if code else f"the {name}"


def taken(use: Use) -> str:
    """What the equation takes here: "the sum in `…`", or one operand of it."""
    floats = [a for a in use.equation.invars if not hasattr(a, "val")]
    if len(floats) < 2 or use.operand >= len(PLACES):
        return operation(use)
    return f"the {place(use.primitive, use.operand)} operand of {operation(use)}"


def place(primitive: str, operand: int) -> str:
    """Which operand it is where it is written: `jnp.where` has first what it takes where the condition holds."""
    operand = {1: 2, 2: 1}.get(operand, operand) if primitive == "select_n" else operand
    return PLACES[operand] if operand < len(PLACES) else f"{operand + 1}th"


def once(use: Use) -> str:
    """The same, with the round where the equation stands in a loop that was unrolled."""
    rounds = [int(step[1:]) + 1 for step in use.path if isinstance(step, str)]
    return f"{taken(use)} in round {', '.join(map(str, rounds))} of the loop" if rounds else taken(use)


def where(use: Use) -> str | None:
    return str(use.line) if use.line else None


def simplest(uses: list[Use], graph: Graph) -> Use:
    """Of uses that mean the same: the first that takes a value which is used elsewhere too, and has a line."""
    return min(uses, key=lambda use: (use.line is None, graph.fans[use.origin] < 2, use.index))
