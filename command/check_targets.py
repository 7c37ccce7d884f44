"""`manual-backprop check` on functions of the user's own: what it prints, records and returns."""

import contextlib
import pathlib
import time
from collections.abc import Sequence

import click

from manual_backprop.reports import page, record

from . import targets
from .environment import header
from .targets import Target, Unusable

WRONG, UNUSABLE, INTERRUPTED = 1, 2, 130


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
    counts = dict.fromkeys(("right", "wrong", "unusable"), 0)
    start, interrupted = time.monotonic(), False
    seed = {target.seed or 0 for target in chosen}
    choices = {"seed": seed.pop()} if len(seed) == 1 else {}
    recorder = record.Recorder(folder / "record.jsonl", header(command, choices)) if folder else None
    try:
        with recorder or contextlib.nullcontext():
            for target in chosen:
                outcome, lines = _told(target, verbose)
                counts[outcome] += 1
                for line in lines if recorder else ():
                    recorder.add(line)
            if recorder:
                recorder.add({"kind": "end", "finished": True, "seconds": time.monotonic() - start})
    except KeyboardInterrupt:
        interrupted = True
    if len(chosen) > 1 or interrupted:
        state = "interrupted: " if interrupted else ""
        click.echo(f"{state}{len(chosen)} targets: {', '.join(f'{n} {outcome}' for outcome, n in counts.items())}")
    if recorder:
        # What was interrupted stands beside an older record and its page, and replaces neither.
        path = recorder.path
        shown = folder / "index.html" if path.name == "record.jsonl" else path.with_suffix(".html")
        page.write(record.load(path), shown)
        click.echo(f"record  {path}\npage    {shown}")
    return INTERRUPTED if interrupted else WRONG if counts["wrong"] else UNUSABLE if counts["unusable"] else 0


def _told(target: Target, verbose: bool) -> tuple[str, list[dict]]:
    """Check one target and say what came: its outcome, and its lines for the record."""
    try:
        result = targets.checked(target)
    except Unusable as error:
        click.echo(f"Error: {error}", err=True)
        return "unusable", [targets.unusable_line(target, str(error))]
    for finding in targets.findings_of(result) if verbose else ():
        click.echo(str(finding))
    click.echo(str(result))
    return ("right" if result.ok else "wrong"), list(targets.lines_of(result))


__all__ = ["asked", "run"]
