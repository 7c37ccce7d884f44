"""Functions of the user's own, named on the command line or listed in pyproject.toml, imported and checked.

    [tool.manual-backprop]
    profile = "quick"                                         # for all targets; seed, seconds and checks as well
    targets = [
        "package.module:function",                            # arguments from its annotations
        {function = "package.module:other", args = "f32[4,8] i32[4]<10", truth = "package.module:plain",
         argnums = [0], profile = "thorough", checks = ["truth", "vmap"], seed = 1},
    ]

What the command line says comes before what a target says, and that before what stands beside the list.
"""

import dataclasses
import difflib
import functools
import importlib
import os
import pathlib
import shlex
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator

from manual_backprop.reference.checker import check
from manual_backprop.reference.checks import CHECKS
from manual_backprop.reference.finding import Finding
from manual_backprop.reference.profiles import PROFILES
from manual_backprop.reference.result import Interrupted, Result
from manual_backprop.reference.specification import parse
from manual_backprop.reference.subject import Unusable
from manual_backprop.signature import SignatureError

from .arguments import arguments
from .lines import line_of

PROJECT = "pyproject.toml"
TABLE = "[tool.manual-backprop]"
LONGEST = 500  # characters of a message that came from elsewhere


@dataclasses.dataclass(frozen=True)
class Target:
    """A function by its name, and how it is checked; what is None is left to `check` and to the annotations."""

    function: str
    args: str | None = None
    truth: str | None = None
    argnums: tuple[int, ...] | None = None
    profile: str | None = None
    checks: tuple[str, ...] | None = None
    seed: int | None = None
    seconds: float | None = None

    def __str__(self):
        return self.function

    def command(self, **changed) -> str:
        """The command that checks the same again."""
        words = ["manual-backprop", "check", self.function]
        for name, value in vars(dataclasses.replace(self, **changed)).items():
            if value is not None and name != "function":
                words += [f"--{name}", ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
        return shlex.join(words)


# --- what is asked for -----------------------------------------------------------------------------------------------

COMMON = ("profile", "checks", "seed", "seconds")
_FORMS: dict[str, tuple[Callable, str]] = {
    "function": (lambda v: isinstance(v, str), "package.module:function"),
    "args": (lambda v: isinstance(v, str), "a text such as 'f32[4,8] i32[4]<10'"),
    "truth": (lambda v: isinstance(v, str), "package.module:function"),
    "argnums": (lambda v: _all(v, int) and min(v, default=0) >= 0, "a list of whole numbers, such as [0, 1]"),
    "profile": (lambda v: v in PROFILES, f"one of {', '.join(PROFILES)}"),
    "checks": (lambda v: _all(v, str), f"a list of names among {', '.join(CHECKS)}"),
    "seed": (lambda v: type(v) is int and v >= 0, "a whole number of at least 0"),
    "seconds": (lambda v: type(v) in (int, float) and v > 0, "a number above 0"),
}


def _all(values, kind) -> bool:
    return isinstance(values, list | tuple) and bool(values) and all(type(v) is kind for v in values)


def given(function: str, **options) -> Target:
    """A target as the command line gives it, lists separated by commas; Unusable names the option that is amiss."""
    try:
        if options.get("argnums") is not None:
            options["argnums"] = tuple(map(int, options["argnums"].split(",")))
    except ValueError:
        raise Unusable(f"--argnums is {options['argnums']!r}; whole numbers were expected, such as 0,1") from None
    if options.get("checks") is not None:
        options["checks"] = tuple(name.strip() for name in options["checks"].split(","))
    if options.get("args") is not None:
        parse(options["args"])
    return _target({"function": function} | {k: v for k, v in options.items() if v is not None}, "", "--")


def listed(folder: pathlib.Path, **options) -> list[Target]:
    """The targets in the pyproject.toml of a folder; none where it has no such table."""
    path = folder / PROJECT
    try:
        table = tomllib.loads(path.read_text("utf-8")).get("tool", {}).get("manual-backprop")
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise Unusable(f"{PROJECT}: {_line(error)}") from None
    if table is None:
        return []
    if not isinstance(table, dict) or not isinstance(table.get("targets"), list) or not table["targets"]:
        came = ", ".join(table) if isinstance(table, dict) else table
        raise Unusable(f'{PROJECT}: {TABLE} needs targets = ["package.module:function", …]; it has {came or "nothing"}')
    common = {name: value for name, value in table.items() if name != "targets"}
    if unknown := [name for name in common if name not in COMMON]:
        raise Unusable(f"{PROJECT}: {TABLE} has {unknown[0]!r}; it may have targets, {', '.join(COMMON)}")
    said = vars(given("", **options))
    said = {name: value for name, value in said.items() if value is not None and name != "function"}
    return [
        _target(common | ({"function": entry} if isinstance(entry, str) else _entry(entry, i)) | said, f"{PROJECT}: ")
        for i, entry in enumerate(table["targets"], 1)
    ]


def _entry(entry, number) -> dict:
    where = f"{PROJECT}: target {number} of {TABLE}"
    if not isinstance(entry, dict) or "function" not in entry:
        raise Unusable(
            f'{where} is {_line(repr(entry), 80)}; "package.module:function" or {{function = …}} was expected'
        )
    if unknown := [name for name in entry if name not in _FORMS]:
        raise Unusable(f"{where} has {unknown[0]!r}; it may have {', '.join(_FORMS)}")
    return entry


def _target(fields: dict, where: str, dashes: str = "") -> Target:
    for name, value in fields.items():
        fits, expected = _FORMS[name]
        if not fits(value):
            raise Unusable(f"{where}{dashes}{name} is {_line(repr(value), 80)}; {expected} was expected")
    for name in fields.get("checks", ()):
        if name not in CHECKS:
            raise Unusable(f"{where}{dashes}checks names {name!r}; {_near(name, CHECKS)}")
    return Target(**{name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()})


# --- the check of one ------------------------------------------------------------------------------------------------


def checked(target: Target) -> Result:
    """What `check` finds about a target; Unusable where there is nothing to check, Interrupted as `check` is."""

    def again(finding):  # the check alone, if it goes by the name that `check` calls it
        return target.command(**({"checks": (finding.check,)} if finding.check in CHECKS else {}))

    function, truth = imported(target.function), target.truth and imported(target.truth)
    options = {name: getattr(target, name) for name in ("argnums", *COMMON) if getattr(target, name) is not None}
    try:
        args = arguments(function, target.args, target.seed or 0)
        result = check(function, *args, truth=truth, name=target.function, **options)
    except Interrupted as stopped:
        raise Interrupted(reproducible(stopped.result, again)) from None
    except (Unusable, SignatureError) as error:
        message = _line(error)
        raise Unusable(message if message.startswith(target.function) else f"{target}: {message}") from None
    except (Exception, SystemExit) as error:
        raise Unusable(f"{target}: {type(error).__name__}: {_line(error)}") from None
    return reproducible(result, again)


def imported(name: str) -> Callable:
    """The function that package.module:function names; the current directory is importable."""
    module, _, path = name.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), *path.split(".")]):
        raise Unusable(f"{name!r} is no name of a function; package.module:function was expected")
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    try:
        found = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise Unusable(f"{name}: {module} cannot be imported: {type(error).__name__}: {_line(error)}") from None
    try:
        found = functools.reduce(getattr, path.split("."), found)
    except AttributeError as error:
        inside = getattr(error.obj, "__dict__", {}).items()
        own = [n for n, v in inside if n[0] != "_" and callable(v) and getattr(v, "__module__", None) == module]
        raise Unusable(f"{name}: {_line(error)}; {_near(error.name, own)}") from None
    if not callable(found):
        raise Unusable(f"{name} is {_line(repr(found), 80)}, which is not callable; a function of arrays was expected")
    return found


def _near(name, known) -> str:
    close = difflib.get_close_matches(name, known)
    return f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(known) or 'none'}"


def _line(text, longest: int = LONGEST) -> str:
    """What came from elsewhere, on one line."""
    line = " ".join(str(text).split())
    return line if len(line) <= longest else f"{line[:longest]}…"


# --- what was found --------------------------------------------------------------------------------------------------


def reproducible(result: Result, command: Callable[[Finding], str]) -> Result:
    """The result, its failures with a command that shows them again, before the script if they have one."""

    def again(finding):
        script = f"# {command(finding)}\n{finding.reproduction}" if finding.reproduction else command(finding)
        return dataclasses.replace(finding, reproduction=script)

    findings = (f if f.ok else again(f) for f in result.findings)
    return dataclasses.replace(result, findings=tuple(findings))


def findings_of(result: Result) -> Iterator[Finding]:
    """The findings of a result, and one that tells where the definition itself is not finite."""
    yield from result.findings
    if result.outside:
        points = ", ".join(f"{words} ({n})" for words, n in Counter(result.outside).items())
        message = f"the definition is not finite here, so nothing was judged: {points}"
        dtype = next((f.dtype for f in result.findings), "")
        yield Finding(result.subject, "domain", "", dtype, "abstained", message=message)


def lines_of(result: Result) -> Iterator[dict]:
    """The same as lines of a record."""
    for finding in findings_of(result):
        yield line_of(finding) | {"family": "target"}


def unusable_line(target: Target, message: str) -> dict:
    """The line of a target that could not be checked."""
    return line_of(Finding(str(target), "usable", "", "", "raised", message=message)) | {"family": "target"}


__all__ = ["Target", "checked", "findings_of", "given", "imported", "lines_of", "listed", "reproducible"]
