"""A record: one run as JSON Lines, a header and then one object per line.

    {"kind": "header", "format": 1, "created": …, "versions": {…}, "platform": "cpu", "seed": 17, "command": …}
    {"kind": "finding", "family": "rule", "subject": "layer_norm", "check": "vjp", "leaf": "gamma", "dtype": …}
    {"kind": "curve" | "lowering" | "coverage", …}
    {"kind": "end", "finished": true, "seconds": 252.1, …}

A finding is the worst of all the points of its key (family, subject, check, leaf, dtype).  JSON has no word for
infinity, so numbers that are not finite are spelt "nan", "inf" and "-inf" and become floats again on loading.
Kinds that this version does not know are kept and ignored; what the others hold is declared in `lines`.
"""

import contextlib
import dataclasses
import datetime
import itertools
import json
import math
import os
import pathlib
from collections.abc import Iterable

from .lines import VERDICTS as VERDICTS
from .lines import problem, short

FORMAT = 1

_UNSPELT = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
# Fields whose text is text, even where it reads "nan".
_TEXT = {"kind", "family", "subject", "check", "leaf", "dtype", "verdict", "diagnosis", "message", "reproduction"}
_TEXT |= {"example", "network", "part", "platform", "device", "created", "command", "versions", "environment"}
_TEXT |= {"precisions", "missing", "number", "title", "formula", "shapes", "what", "sweep", "order"}
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

    Lines go to a temporary file beside `path`, which takes its place at the end.  Leaving by an exception, Ctrl-C
    included, ends the record with `finished: false`, and such a record takes no older one's place: it stands beside
    it, as in run.interrupted.jsonl.  `path` then says where.  Where the disk is full, the lines written are kept.
    """

    def __init__(self, path: str | os.PathLike, header: dict):
        self.path = pathlib.Path(path)
        self._header = {"kind": "header", "format": FORMAT, "created": _now()} | header
        self._partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        self._file = None
        self._end = None
        self._size = 0

    def __enter__(self) -> "Recorder":
        header = _encoded(self._header, f"the header of {self.path}")[1]
        if self.path.is_dir():
            raise RecordError(f"{self.path} is a folder; name a file to write the record to")
        try:
            self._file = open(self._partial, "wb", buffering=0)
        except OSError as error:
            raise RecordError(f"cannot write a record to {self.path}: {error.strerror}; choose another place") from None
        try:
            self._write(header)
        except BaseException:
            self._file.close()
            self._partial.unlink(missing_ok=True)
            raise
        return self

    def add(self, line: dict) -> None:
        """Append one line at once, so that a run that is killed still leaves all it has found."""
        if self._file is None or self._file.closed:
            raise RecordError(f"the record {self.path} is not open; add lines inside `with Recorder(...)`")
        if self._end:
            raise RecordError(f"the record {self.path} has its end already; add every other line before it")
        read, row = _encoded(line, f"a line for {self.path}")
        if read["kind"] == "header":
            raise RecordError(f"a line for {self.path}: a second header; a record has the one given to Recorder")
        self._write(row)
        self._end = read if read["kind"] == "end" else None

    def __exit__(self, kind, error, traceback):
        # A second Ctrl-C while this runs is the only way to lose the renaming; the lines stay in the partial file.
        if not self._end:
            with contextlib.suppress(RecordError):  # without room for it, a record without an end is unfinished as well
                self._write(_encoded({"kind": "end", "finished": False}, "the end")[1])
        try:
            self._file.close()
            self.path = self.path if self._end and self._end["finished"] else _free(self.path)
            os.replace(self._partial, self.path)
        except OSError as refused:
            raise RecordError(
                f"cannot write a record to {self.path}: {refused.strerror}; its lines are in {self._partial}"
            ) from None

    def _write(self, row):
        try:
            written = self._file.write(row)
            if written == len(row):
                self._size += written
                return
            reason = "no room for another line"
        except OSError as error:
            reason = error.strerror
        self._file.truncate(self._size)  # whole lines only
        self._file.seek(self._size)
        raise RecordError(
            f"cannot write to {self.path}: {reason}; what was recorded so far is kept: make room and run again"
        )


def _free(path):
    """The path itself, or, where a record stands there, the first free name beside it."""
    names = itertools.chain([""], [".interrupted"], (f".interrupted-{i}" for i in itertools.count(2)))
    return next(free for name in names if not (free := path.with_name(f"{path.stem}{name}{path.suffix}")).exists())


def _encoded(line, where) -> tuple[dict, bytes]:
    """A line as it will be read again, and its bytes; RecordError where readers could not rely on it."""
    text = json.dumps(_spell(line), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    read = _unspell(json.loads(text))
    if found := problem(read):
        raise RecordError(f"{where}: {found}")
    # A lone surrogate becomes \udXXX, which is how JSON spells it too.
    return read, text.encode("utf-8", errors="backslashreplace") + b"\n"


def write(path: str | os.PathLike, lines: Iterable[dict]) -> pathlib.Path:
    """Write whole lines, the header first, as one record; the path says where it stands, as with `Recorder`."""
    first, *rest = list(lines) or [{}]
    if first.get("kind") != "header":
        raise RecordError(f"a record starts with its header, but {short(first)} came first")
    with Recorder(path, first) as recorder:
        for line in rest:
            recorder.add(line)
    return recorder.path


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
    except (ValueError, RecursionError) as error:
        if cut_off:
            raise RecordError(
                f"{where}: the line is cut off; delete it to keep what stands above, or {_AGAIN}"
            ) from None
        raise RecordError(f"{where}: not JSON ({error}); delete the line, or {_AGAIN}") from None
    if found := problem(line):
        raise RecordError(f"{where}: {found}; {_AGAIN}")
    return line


def _refuse_constant(name):
    raise ValueError(f"{name} is not a JSON number")


def _sorted_by_kind(lines):
    header, *rest = lines
    apart = ("finding", "curve", "lowering", "coverage", "end")
    of = {kind: [line for line in rest if line["kind"] == kind] for kind in apart}
    others = [line for line in rest if line["kind"] not in apart]
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
    raise RecordError(f"{short(value)} is a {type(value).__name__}; a record holds numbers, text, lists and objects")


def _unspell(value, name=None):
    if isinstance(value, str):
        return value if name in _TEXT else _UNSPELT.get(value, value)
    if isinstance(value, list):
        return value if name in _TEXT else [_unspell(inner) for inner in value]
    if isinstance(value, dict):
        return value if name in _TEXT else {inner: _unspell(value[inner], inner) for inner in value}
    return value


def _now():
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
