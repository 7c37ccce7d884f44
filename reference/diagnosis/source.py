"""Which line of the user's source an equation of a traced function comes from, and what stands there."""

import contextlib
import dataclasses
import functools
import itertools
import linecache
import pathlib
import types

from ..tracing.written import JAX

LIBRARIES = (JAX, str(pathlib.Path(__file__).parents[1]))
LONGEST = 60  # of a line that is quoted


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of source, and which expression of it was being evaluated, where Python says so."""

    file: str
    number: int
    at: tuple[types.CodeType, int] | None = dataclasses.field(default=None, compare=False, repr=False)

    def __str__(self):
        return f"{pathlib.Path(self.file).name}:{self.number}"

    @functools.cached_property
    def code(self) -> str:
        text = self._expression or linecache.getline(self.file, self.number).strip()
        return text if len(text) <= LONGEST else f"{text[: LONGEST - 2].rstrip()} …"

    @property
    def _expression(self) -> str:
        """The expression alone, on one line."""
        code, instruction = self.at or (None, 0)
        places = code and next(itertools.islice(code.co_positions(), instruction // 2, None), None)
        if not places or None in places:
            return ""
        first, last, start, end = places
        lines = [linecache.getline(self.file, number).encode() for number in range(first, last + 1)]
        lines[-1] = lines[-1][:end]  # the columns count bytes
        lines[0] = lines[0][start:]
        text = " ".join(line.decode(errors="replace").strip() for line in lines)
        return text.replace("( ", "(").replace(" )", ")").replace(",)", ")")


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
    for i, frame in enumerate(getattr(traceback, "frames", ())):
        if not frame.file_name.startswith((*LIBRARIES, "<")):
            return Line(frame.file_name, frame.line_num, _place(traceback, i))
    return around


def _place(traceback, i):
    """The code and the instruction of one frame, by which Python knows the columns."""
    try:
        codes, instructions = traceback.raw_frames()  # JAX does not promise it
        return codes[i], instructions[i]
    except (AttributeError, IndexError, TypeError, ValueError):
        return None
