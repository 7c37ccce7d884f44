"""What the lines of a record hold, declared once: whoever writes a record and whoever reads one relies on it.

A line of a kind that is not declared, and a field that is not, are kept and held against nothing.  A number is
`float`, whole or not, finite or not; `int` counts; a field that need not be there may also be null.
"""

import functools
import types
import typing
from typing import Any, Literal, NotRequired, TypedDict, Union

Verdict = Literal["right", "wrong", "raised", "abstained"]
Number = float | None
Text = str | None
LARGEST = 2**63  # counts lie below, so that each is also a float


class Size(float):
    """How far or how large: not below zero, perhaps infinite or not a number."""


class Cost(float):
    """A time or an effort: finite, and zero or large enough for a logarithmic axis."""


class Header(TypedDict):
    format: int
    created: str
    versions: NotRequired[dict[str, Text]]
    environment: NotRequired[dict[str, Any]]
    platform: NotRequired[Text]
    device: NotRequired[Text]
    seed: NotRequired[int | None]
    command: NotRequired[Text]
    architectures: NotRequired[int | None]
    precisions: NotRequired[list[str]]


class Worst(TypedDict, total=False):
    index: list[int] | None
    got: Number
    expected: Number


class Finding(TypedDict):
    family: str
    subject: str
    check: str
    leaf: str
    dtype: str
    verdict: Verdict
    absolute: NotRequired[Size | None]
    relative: NotRequired[Size | None]
    ulps: NotRequired[Size | None]
    ratio: NotRequired[Size | None]
    mean_ratio: NotRequired[Size | None]
    spread: NotRequired[Size | None]
    points: NotRequired[int | None]
    abstained: NotRequired[int | None]
    worst: NotRequired[Worst | None]
    diagnosis: NotRequired[Text]
    message: NotRequired[Text]
    example: NotRequired[Text]
    reproduction: NotRequired[Text]


class Curve(TypedDict):
    subject: str
    verdict: Verdict
    steps: list[int]
    loss_by_hand: list[Number]
    loss_autodiff: list[Number]
    network: NotRequired[Text]
    message: NotRequired[Text]
    divergence_ulps: NotRequired[list[Number] | None]
    allowance_ulps: NotRequired[list[Number] | None]
    loss_divergence_ulps: NotRequired[list[Number] | None]
    loss_allowance_ulps: NotRequired[list[Number] | None]
    largest_divergence_ulps: NotRequired[Number]
    accuracy_by_hand: NotRequired[Number]
    accuracy_autodiff: NotRequired[Number]
    seconds_by_hand: NotRequired[Cost | None]
    seconds_autodiff: NotRequired[Cost | None]


class Lowering(TypedDict):
    subject: str
    part: str
    platform: str
    lowers: bool
    message: NotRequired[Text]


class Coverage(TypedDict):
    pairs_possible: int
    pairs_seen: int
    missing: list[tuple[str, str]]
    architectures: NotRequired[int | None]
    architectures_per_second: NotRequired[Cost | None]


class Deviation(TypedDict, total=False):
    what: Text
    found: Number
    predicted: Number


class Claim(TypedDict):
    number: str
    title: str
    verdict: Verdict
    formula: NotRequired[Text]
    shapes: NotRequired[Text]
    checks: NotRequired[int | None]
    ulps: NotRequired[Size | None]
    ratio: NotRequired[Size | None]
    deviations: NotRequired[list[Deviation] | None]
    message: NotRequired[Text]


class Order(TypedDict, total=False):
    order: Text
    multiplications: int
    flops: Cost | None
    seconds: Cost | None


class Association(TypedDict):
    sweep: str
    forward: Order
    reverse: Order
    optimal: NotRequired[Order]
    lengths: NotRequired[list[int]]
    width: NotRequired[int]
    depth: NotRequired[int]


class End(TypedDict):
    finished: bool
    seconds: NotRequired[Cost | None]
    architectures: NotRequired[int | None]
    architectures_per_second: NotRequired[Cost | None]


KINDS = {each.__name__.lower(): each for each in (Header, Finding, Curve, Lowering, Coverage, Claim, Association, End)}
VERDICTS = typing.get_args(Verdict)

# The numbers that each kind of number may be, and how a kind is called.
_NUMBERS = {
    int: lambda value: value >= 0,
    float: lambda value: True,
    Size: lambda value: not value < 0,
    Cost: lambda value: value == 0 or 1 / LARGEST <= value < LARGEST,
}
_SIMPLE = {bool: "true or false", int: "a whole number of at least 0", float: "a number", str: "text"}
_SIMPLE |= {Size: "a number of at least 0", Cost: "a finite number of at least 0", type(None): "null"}


def problem(line) -> str | None:
    """What keeps readers from relying on a line; None if nothing does."""
    if not isinstance(line, dict) or not isinstance(line.get("kind"), str):
        return f'{short(line)} came, but every line is an object with a "kind"'
    found = _misfit(line, KINDS[line["kind"]], "") if line["kind"] in KINDS else None
    return found or _TOGETHER.get(line["kind"], lambda line: None)(line)


def _series(curve) -> str | None:
    """Series without a number for each step."""
    for name, series in curve.items():
        if isinstance(series, list) and series and len(series) != len(curve["steps"]):
            return f"{name!r} has {len(series)} numbers, but there are {len(curve['steps'])} steps"
    return None


def _swept(association) -> str | None:
    """A sweep over widths or depths whose lines have neither."""
    missing = [name for name in ("width", "depth") if not association.get(name)]
    return f"an association without {missing[0]!r}" if missing and association["sweep"] != "random" else None


_TOGETHER = {"curve": _series, "association": _swept}  # what fields must be to each other


def short(value) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


@functools.cache
def _fields(typed) -> dict:
    return {name: _bare(hint) for name, hint in typing.get_type_hints(typed).items()}


def _bare(hint):
    return typing.get_args(hint)[0] if typing.get_origin(hint) is NotRequired else hint


def _misfit(value, hint, place: str) -> str | None:
    """The first part of a value that is not as declared, as a sentence; None if all is."""
    arms = typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)
    for arm in arms:
        if _outer(value, arm):
            return _inner(value, arm, place)
    return f"{place!r} is {short(value)}, but {' or '.join(map(_words, arms))} was expected"


def _outer(value, hint) -> bool:
    """Whether a value is of this form at all, whatever it holds."""
    origin = typing.get_origin(hint) or hint
    if origin is Any:
        return True
    if origin is Literal:
        return value in typing.get_args(hint)
    if typing.is_typeddict(origin) or origin is dict:
        return isinstance(value, dict)
    if origin in (list, tuple):
        return isinstance(value, list) and (origin is list or len(value) == len(typing.get_args(hint)))
    if origin in _NUMBERS:
        whole = isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST
        return (whole or (isinstance(value, float) and origin is not int)) and _NUMBERS[origin](value)
    return isinstance(value, origin)


def _inner(value, hint, place):
    """What is wrong inside a value whose form is right."""
    if typing.is_typeddict(hint):
        for name in hint.__required_keys__ - value.keys():
            return f"a {hint.__name__.lower()} without {name!r}"
        parts = [(value[name], of, name) for name, of in _fields(hint).items() if name in value]
    elif typing.get_origin(hint) is dict:
        parts = [(part, typing.get_args(hint)[1], name) for name, part in value.items()]
    elif typing.get_origin(hint) in (list, tuple):
        of = typing.get_args(hint) if typing.get_origin(hint) is tuple else typing.get_args(hint) * len(value)
        parts = [(part, each, str(i)) for i, (part, each) in enumerate(zip(value, of, strict=True))]
    else:
        parts = []
    found = (_misfit(part, of, f"{place}.{name}" if place else name) for part, of, name in parts)
    return next(filter(None, found), None)


def _words(hint) -> str:
    if typing.get_origin(hint) is Literal:
        return f"one of {', '.join(typing.get_args(hint))}"
    if typing.get_origin(hint) is tuple:
        return f"a list of {len(typing.get_args(hint))}"
    return _SIMPLE.get(hint) or ("a list" if typing.get_origin(hint) is list else "an object")
