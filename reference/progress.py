"""What is being checked, and for how long already, once that takes longer than one likes to wait.

Shown on a terminal or in a notebook, on standard error, and gone when it is done; a log wants none of it.
"""

import contextlib
import contextvars
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

PATIENCE = 2.0  # seconds, before anything is shown
_which = contextvars.ContextVar("which of several", default="")


class _Shown:
    """A spinner that appears late, if at all."""

    def __init__(self, what: str):
        self.what, self.words, self.spinner = what, what, None
        self.lock = threading.Lock()

    def at(self, part: str) -> None:
        with self.lock:
            self.words = f"{self.what}: {part}"
            if self.spinner:
                self.spinner.update(self.spinner.task_ids[0], description=self.words)

    def appear(self) -> None:
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
        # What a function prints goes above the spinner, where both go to the same terminal.
        onto = {"console": Console(stderr=True), "redirect_stdout": sys.stdout.isatty()}
        with self.lock:
            self.spinner = Progress(*columns, transient=True, **onto)
            self.spinner.add_task(self.words, total=None)
            self.spinner.tasks[0].start_time -= PATIENCE
            self.spinner.start()


@contextlib.contextmanager
def progress(what: str) -> Iterator[Callable[[str], None]]:
    """Shows what is worked on, where somebody looks; gives a function that says which part of it."""
    if not (sys.stderr.isatty() or "ipykernel" in sys.modules):
        yield lambda part: None
        return
    shown = _Shown(_which.get() + what)
    timer = threading.Timer(PATIENCE, shown.appear)
    timer.daemon = True
    timer.start()
    try:
        yield shown.at
    finally:
        timer.cancel()
        timer.join()
        if shown.spinner:
            shown.spinner.stop()


def numbered(items: Sequence) -> Iterator:
    """The items; what is shown while one is worked on says which of them it is."""
    for i, item in enumerate(items, 1):
        token = _which.set(f"{i} of {len(items)} · " if len(items) > 1 else "")
        try:
            yield item
        finally:
            _which.reset(token)
