"""Which line of the user's source an equation of a traced function comes from, and what stands there."""

import contextlib
import dataclasses
import functools
import linecache
import pathlib

from ..tracing.written import JAX

LIBRARIES = (JAX, str(pathlib.Path(__file__).parents[1]))
LONGEST = 60  # of a line that is quoted


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of source."""

    file: str
    number: int

    def __str__(self):
        return f"{pathlib.Path(self.file).name}:{self.number}"

    @functools.cached_property
    def code(self) -> str:
        text = linecache.getline(self.file, self.number).strip()
        return text if len(text) <= LONGEST else f"{text[: LONGEST - 2].rstrip()} …"


@contextlib.contextmanager
def own_lines():
    """What is traced inside keeps the lines of a backward pass written by hand.

    JAX lets all that a backward pass does count as written where the function was called.
    """
    try:
        from jax._src import source_info_util  # JAX has no public name for it

        known = source_info_util.user_context
    except (ImportError, AttributeError):  # without it, these lines are not told
        yield
        return
    source_info_util.user_context = lambda traceback, **more: known(None, **more)
    try:
        yield
    finally:
        source_info_util.user_context = known


def line(equation, around: Line | None = None) -> Line | None:
    """Where the user wrote what became this equation, or the call that it is a part of."""
    traceback = getattr(getattr(equation, "source_info", None), "traceback", None)
    for frame in getattr(traceback, "frames", ()):
        if not frame.file_name.startswith((*LIBRARIES, "<")):
            return Line(frame.file_name, frame.line_num)
    return around
