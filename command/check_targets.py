"""`manual-backprop check` on functions of the user's own: what it prints, records and returns."""

import contextlib
import pathlib
import sys
import threading
import time
from collections.abc import Sequence

import click

from manual_backprop.reports import page, record

from . import targets
from .environment import header
from .targets import Target, Unusable

PATIENCE = 2.0  # seconds before progress is shown
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
            for i, target in enumerate(chosen, 1):
                outcome, lines = _told(target, f"{i} of {len(chosen)}" if len(chosen) > 1 else "", verbose)
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


def _told(target: Target, place: str, verbose: bool) -> tuple[str, list[dict]]:
    """Check one target and say what came: its outcome, and its lines for the record."""
    try:
        with _progress(f"{target} {place}"):
            result = targets.checked(target)
    except Unusable as error:
        click.echo(f"Error: {error}", err=True)
        return "unusable", [targets.unusable_line(target, str(error))]
    for finding in targets.findings_of(result) if verbose else ():
        click.echo(str(finding))
    click.echo(str(result))
    return ("right" if result.ok else "wrong"), list(targets.lines_of(result))


@contextlib.contextmanager
def _progress(what: str):
    """Say what is checked, and for how long already, once that takes longer than one likes to wait."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    if not console.is_terminal:  # a log wants no spinner; each target has its line there when it is done
        yield
        return
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    # What a target prints goes above the spinner, where both go to the same terminal.
    progress = Progress(*columns, console=console, transient=True, redirect_stdout=sys.stdout.isatty())
    progress.add_task(what, total=None)
    timer = threading.Timer(PATIENCE, progress.start)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        progress.stop()


__all__ = ["asked", "run"]
