"""A record: one run as JSON Lines, a header and then one object per line.

    {"kind": "header", "format": 1, "created": …, "versions": {…}, "platform": "cpu", "seed": 17, "command": …}
    {"kind": "finding", "family": "rule", "subject": "layer_norm", "check": "vjp", "leaf": "gamma", "dtype": …}
    {"kind": "curve" | "lowering" | "coverage", …}
    {"kind": "end", "finished": true, "seconds": 252.1, …}

A finding is the worst of all the points of its key (family, subject, check, leaf, dtype).  JSON has no word for
infinity, so numbers that are not finite are spelt "nan", "inf" and "-inf" and become floats again on loading.
Kinds that this version does not know are kept and ignored.
"""

import contextlib
import dataclasses
import datetime
import json
import math
import os
import pathlib
from collections.abc import Iterable

# 1: header, finding, curve, lowering, coverage, end.
FORMAT = 1

VERDICTS = ("right", "wrong", "raised", "abstained")
FAMILIES = ("rule", "architecture", "training")

_MAYBE_NUMBER = (int, float, type(None))
# What readers of a record rely on: every other field may be absent.
_FIELDS = {
    "header": {"format": int, "created": str},
    "finding": dict.fromkeys(("family", "subject", "check", "leaf", "dtype", "verdict"), str)
    | dict.fromkeys(("absolute", "relative", "ulps", "ratio", "mean_ratio", "spread"), _MAYBE_NUMBER),
    "curve": {"subject": str, "verdict": str, "steps": list, "loss_by_hand": list, "loss_autodiff": list},
    "lowering": {"subject": str, "part": str, "platform": str, "lowers": bool},
    "coverage": {"pairs_possible": int, "pairs_seen": int, "missing": list},
    "end": {"finished": bool},
}
_OPTIONAL = {"absolute", "relative", "ulps", "ratio", "mean_ratio", "spread"}
_NAMES = {bool: "true or false", int: "a whole number", str: "text", list: "a list", _MAYBE_NUMBER: "a number or null"}

_UNSPELT = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
# Fields whose text is text, even where it reads "nan".
_TEXT = {"kind", "family", "subject", "check", "leaf", "dtype", "verdict", "diagnosis", "message", "reproduction"}
_TEXT |= {"example", "network", "part", "platform", "device", "created", "command", "versions", "environment"}
_TEXT |= {"precisions", "missing"}
_AGAIN = "run again with this file as the output"


class RecordError(ValueError):
    """A record that cannot be read or written: where, what is wrong, and what to do."""


@dataclasses.dataclass(frozen=True)
class Record:
    """One run, its lines sorted by kind; each line is a plain dict."""

    header: dict
    findings: list[dict] = dataclasses.field(default_factory=list)
    curves: list[dict] = dataclasses.field(default_factory=list)
    lowerings: list[dict] = dataclasses.field(default_factory=list)
    coverage: dict | None = None
    end: dict | None = None
    others: list[dict] = dataclasses.field(default_factory=list)

    @property
    def finished(self) -> bool:
        """Whether the run came to its end; a run that was interrupted has judged only what it reached."""
        return bool(self.end and self.end["finished"])

    @property
    def failures(self) -> list[dict]:
        """Every finding and training curve that is wrong or raised."""
        return [line for line in [*self.findings, *self.curves] if line["verdict"] in ("wrong", "raised")]

    @property
    def broken_claims(self) -> list[dict]:
        """Every claim of the derivations that did not come out as predicted."""
        return [line for line in self.others if line["kind"] == "claim" and line["verdict"] != "right"]


def key_of(finding: dict) -> tuple[str, str, str, str, str]:
    """What a finding is about, the same in every run: (family, subject, check, leaf, dtype)."""
    return tuple(finding[name] for name in ("family", "subject", "check", "leaf", "dtype"))


class Recorder:
    """Write a record line by line; leaving the `with` block, by whatever road, leaves a whole record behind.

    Lines go to a temporary file beside `path`, which takes its place at the end: an older record there stays
    untouched until the new one is whole.  Leaving by an exception, Ctrl-C included, ends the record with
    `finished: false`.
    """

    def __init__(self, path: str | os.PathLike, header: dict):
        self.path = pathlib.Path(path)
        self._header = {"kind": "header", "format": FORMAT, "created": _now()} | header
        self._partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        self._file = None
        self._ended = False

    def __enter__(self) -> "Recorder":
        if problem := _problem(self._header):
            raise RecordError(f"the header of {self.path}: {problem}")
        if self.path.is_dir():
            raise RecordError(f"{self.path} is a folder; name a file to write the record to")
        try:
            # A lone surrogate becomes \udXXX, which is how JSON spells it too.
            self._file = open(self._partial, "w", encoding="utf-8", errors="backslashreplace", newline="\n")
        except OSError as error:
            raise RecordError(f"cannot write a record to {self.path}: {error.strerror}; choose another place") from None
        try:
            self._write(self._header)
        except BaseException:
            self._abandon()
            raise
        return self

    def add(self, line: dict) -> None:
        """Append one line and flush it, so that a run that is killed still leaves all it has found."""
        if self._file is None or self._file.closed:
            raise RecordError(f"the record {self.path} is not open; add lines inside `with Recorder(...)`")
        if self._ended:
            raise RecordError(f"the record {self.path} has its end already; add every other line before it")
        if problem := _problem(line):
            raise RecordError(f"a line for {self.path}: {problem}")
        if line["kind"] == "header":
            raise RecordError(f"a line for {self.path}: a second header; a record has the one given to Recorder")
        self._write(line)
        self._ended = line["kind"] == "end"

    def __exit__(self, kind, error, traceback):
        # A second Ctrl-C while this runs is the only way to lose the renaming; the lines stay in the partial file.
        if not self._ended:
            self._write({"kind": "end", "finished": False})
        try:
            self._file.close()
            os.replace(self._partial, self.path)
        except OSError as problem:
            raise RecordError(
                f"cannot write a record to {self.path}: {problem.strerror}; its lines are in {self._partial}"
            ) from None

    def _write(self, line):
        text = json.dumps(_spell(line), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        try:
            self._file.write(text + "\n")
            self._file.flush()
        except OSError as error:
            raise RecordError(f"cannot write to {self._partial}: {error.strerror}; make room and run again") from None

    def _abandon(self):
        self._file.close()
        with contextlib.suppress(OSError):
            self._partial.unlink()


def write(path: str | os.PathLike, lines: Iterable[dict]) -> None:
    """Write whole lines, the header first, as one record."""
    first, *rest = list(lines) or [{}]
    if first.get("kind") != "header":
        raise RecordError(f"a record starts with its header, but {_short(first)} came first")
    with Recorder(path, first) as recorder:
        for line in rest:
            recorder.add(line)


def load(path: str | os.PathLike) -> Record:
    """Read a record; damage of any kind is a RecordError that names the line."""
    path = pathlib.Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecordError(f"cannot read the record {path}: {error.strerror}") from None
    if not content.strip():
        raise RecordError(f"{path} is empty; {_AGAIN}")
    rows = content.removesuffix(b"\n").split(b"\n")
    lines = []
    for number, row in enumerate(rows, 1):
        where = f"{path}, line {number}"
        cut_off = number == len(rows) and row.startswith(b"{") and not content.endswith(b"\n")
        line = _parse(row, where, cut_off)
        if (number == 1) != (line["kind"] == "header"):
            problem = "a second header" if number > 1 else f"{line['kind']!r} where the header belongs"
            raise RecordError(f"{where}: {problem}; a record is one run, so keep two runs in two files")
        if number == 1 and line["format"] > FORMAT:
            found = f"format {line['format']}, but this version reads up to {FORMAT}"
            raise RecordError(f"{where}: {found}; install a newer manual-backprop")
        if number > 1 and lines[-1]["kind"] == "end":
            raise RecordError(f"{where}: a line after the end; keep two runs in two files, or {_AGAIN}")
        lines.append(line)
    return _sorted_by_kind(lines)


def _parse(row, where, cut_off):
    try:
        line = _unspell(json.loads(row.decode("utf-8"), parse_constant=_refuse_constant))
    except ValueError as error:
        if cut_off:
            raise RecordError(
                f"{where}: the line is cut off; delete it to keep what stands above, or {_AGAIN}"
            ) from None
        raise RecordError(f"{where}: not JSON ({error}); delete the line, or {_AGAIN}") from None
    if problem := _problem(line):
        raise RecordError(f"{where}: {problem}; {_AGAIN}")
    return line


def _refuse_constant(name):
    raise ValueError(f"{name} is not a JSON number")


def _problem(line):
    """What keeps readers of this kind of line from relying on it; None if nothing does."""
    if not isinstance(line, dict) or not isinstance(line.get("kind"), str):
        return f'{_short(line)} came, but every line is an object with a "kind"'
    for name, expected in _FIELDS.get(line["kind"], {}).items():
        if name not in line:
            if name in _OPTIONAL:
                continue
            return f"a {line['kind']} without {name!r}"
        value = line[name]
        if hasattr(value, "tolist"):  # an array or one of its scalars
            value = value.tolist()
        if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
            return f"{name!r} is {_short(value)}, but {_NAMES[expected]} was expected"
    if line["kind"] in _FIELDS and line.get("verdict", "right") not in VERDICTS:
        return f"verdict {line['verdict']!r}, but a verdict is one of {', '.join(VERDICTS)}"
    return None


def _sorted_by_kind(lines):
    header, *rest = lines
    of = {kind: [line for line in rest if line["kind"] == kind] for kind in _FIELDS}
    others = [line for line in rest if line["kind"] not in _FIELDS]
    last = {kind: (of[kind] or [None])[-1] for kind in ("coverage", "end")}
    return Record(header, of["finding"], of["curve"], of["lowering"], last["coverage"], last["end"], others)


def _spell(value):
    """Plain JSON values: no nan, no infinity, no array scalars."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(float(value))
    if isinstance(value, dict):
        return {str(name): _spell(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_spell(inner) for inner in value]
    if hasattr(value, "tolist"):  # an array or one of its scalars
        return _spell(value.tolist())
    raise RecordError(f"{_short(value)} is a {type(value).__name__}; a record holds numbers, text, lists and objects")


def _unspell(value, name=None):
    if isinstance(value, str):
        return value if name in _TEXT else _UNSPELT.get(value, value)
    if isinstance(value, list):
        return value if name in _TEXT else [_unspell(inner) for inner in value]
    if isinstance(value, dict):
        return value if name in _TEXT else {inner: _unspell(value[inner], inner) for inner in value}
    return value


def _short(value):
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _now():
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
