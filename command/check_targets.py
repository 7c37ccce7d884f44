"""`manual-backprop check` on functions of the user's own: what it prints, records and returns."""

import contextlib
import pathlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence

import click

from manual_backprop.reference.progress import numbered
from manual_backprop.reference.result import Interrupted, Result
from manual_backprop.reports import page, record

from . import targets
from .environment import header
from .targets import Target, Unusable

WRONG, UNUSABLE, STOPPED = 1, 2, 130


def asked(names: Sequence[str], options: dict) -> list[Target]:
    """The targets of a command line: those it names, or else those that pyproject.toml lists."""
    if names:
        return [targets.given(name, **options) for name in names]
    for option in ("args", "truth", "argnums"):
        if options.get(option) is not None:
            raise Unusable(f"--{option} belongs to a target: name one, as in package.module:function")
    return targets.listed(pathlib.Path.cwd(), **options)


def run(chosen: Sequence[Target], folder: pathlib.Path | None, command: str, verbose: bool) -> int:
    """Check each target, whatever becomes of the others.

    Returns 1 where a derivative is wrong or raised, else 2 where a target could not be used, else 0.
    """
    counts, start, interrupted = Counter(), time.monotonic(), False
    seed = {target.seed or 0 for target in chosen}
    choices = {"seed": seed.pop()} if len(seed) == 1 else {}
    recorder = record.Recorder(folder / "record.jsonl", header(command, choices)) if folder else None

    def keep(outcome, lines):
        counts[outcome] += 1
        for line in lines if recorder else ():
            recorder.add(line)

    try:
        with recorder or contextlib.nullcontext():
            for target in numbered(chosen):
                _told(target, verbose, keep)
            if recorder:
                recorder.add({"kind": "end", "finished": True, "seconds": time.monotonic() - start})
    except KeyboardInterrupt:
        interrupted = True
    if len(chosen) > 1 or interrupted:
        click.echo(_counted(counts, len(chosen), interrupted))
    if recorder:
        # What was interrupted stands beside an older record and its page, and replaces neither.
        path = recorder.path
        shown = folder / "index.html" if path.name == "record.jsonl" else path.with_suffix(".html")
        page.write(record.load(path), shown)
        click.echo(f"record  {path}\npage    {shown}")
    return STOPPED if interrupted else WRONG if counts["wrong"] else UNUSABLE if counts["unusable"] else 0


def _told(target: Target, verbose: bool, keep: Callable) -> None:
    """Check one target, say what came and keep it: its outcome, and its lines for the record."""
    try:
        with contextlib.redirect_stdout(sys.stderr):  # what functions print is no part of the report
            result = targets.checked(target)
    except Unusable as error:
        click.echo(f"Error: {error}", err=True)
        keep("unusable", [targets.unusable_line(target, str(error))])
    except Interrupted as stopped:
        _said(stopped.result, verbose, keep)
        raise
    else:
        _said(result, verbose, keep)


def _said(result: Result, verbose: bool, keep: Callable) -> None:
    for finding in targets.findings_of(result) if verbose else ():
        click.echo(str(finding))
    click.echo(str(result))
    keep(_outcome(result), targets.lines_of(result))


def _outcome(result: Result) -> str:
    if result.failures:
        return "wrong"
    return "unfinished" if result.interrupted else "right" if result.judged else "unusable"


def _counted(counts: Counter, asked: int, interrupted: bool) -> str:
    """How many targets came out how, and how many did not."""
    words = [f"{counts[outcome]} {outcome}" for outcome in ("right", "wrong", "unusable")]
    if interrupted:
        words.append(f"{asked - sum(counts.values()) + counts['unfinished']} not checked")
    return f"{'interrupted: ' * interrupted}{asked} target{'s' * (asked != 1)}: {', '.join(words)}"


__all__ = ["asked", "run"]
