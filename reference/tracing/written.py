"""Where a traced function was written: kept when it is walked through and traced again."""

import contextlib
import pathlib

import jax

JAX = str(pathlib.Path(jax.__file__).parent)


def of_library(closed) -> bool:
    """Whether a traced function is JAX's own: its equations then carry the lines of whoever traced it first."""
    info = getattr(getattr(closed, "jaxpr", closed), "debug_info", None)
    return str(getattr(info, "func_filename", None) or getattr(info, "func_src_info", "")).find(JAX) >= 0


def written_at(equation, closed):
    """Whatever is traced inside of this context counts as written where the equation of a function was.

    An equation of JAX's own functions counts as written where the function is called.
    """
    traceback = getattr(getattr(equation, "source_info", None), "traceback", None)
    if traceback is not None and not of_library(closed):
        with contextlib.suppress(ImportError):  # JAX has no public name for it; without it, lines are not told
            from jax._src.source_info_util import user_context

            return user_context(traceback)
    return contextlib.nullcontext()
