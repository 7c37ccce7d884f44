"""Work that is given up after a time, or when it is interrupted, and how a process ends that gave some up.

Its thread is told to stop, and does so between two lines of Python.  What hangs inside of XLA never comes to that and
is left alone.  What XLA compiles comes back, and Python aborts where that happens while it ends: it is waited for.
A finalizer or a weak reference's callback swallows what is raised in it: the thread is told again after that.
"""

import atexit
import concurrent.futures
import contextlib
import contextvars
import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable

import jax
import numpy as np

LAST_WAIT = 5.0  # seconds, for threads to come to their end when the process does
COMPILING = 600.0  # the same for those that compile, and will come back
AGAIN = 0.02  # seconds, for what has swallowed it to return
_given_up: list[threading.Thread] = []


class Patience:
    """So many seconds for each piece of work, which may all be given up at once.

    What a caller has set for its own thread, all work finds set: 64-bit JAX, a mesh, context variables.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._wide, self._mesh = jax.config.jax_enable_x64, _mesh()
        self._context = contextvars.copy_context()
        self._begun: list[tuple[threading.Thread, concurrent.futures.Future]] = []
        self._over = False

    def within(self, work: Callable):
        """work(), in a thread of its own; a TimeoutError when its time is over."""
        done: concurrent.futures.Future = concurrent.futures.Future()

        def run():
            try:
                # What is not finite is judged; NumPy need not say it as well.
                meshed = jax.set_mesh(self._mesh) if self._mesh else contextlib.nullcontext()
                with np.errstate(all="ignore"), jax.enable_x64(self._wide), meshed:
                    done.set_result(work())
            except SystemExit as error:
                done.set_exception(Left(f"calls sys.exit({error.code!r})"))
            except BaseException as error:
                done.set_exception(error)

        thread = threading.Thread(target=self._context.copy().run, args=(run,), daemon=True)
        self._begun.append((thread, done))
        thread.start()
        if self._over:
            _give_up(thread, done)
        try:
            return done.result(timeout=self.seconds)
        except (concurrent.futures.TimeoutError, KeyboardInterrupt):
            _give_up(thread, done)
            raise

    def give_up(self) -> None:
        """Give up all that runs, and all that begins from now on."""
        self._over = True
        for thread, done in self._begun:
            _give_up(thread, done)


def _mesh():
    """The mesh that `jax.set_mesh` has set, if there is one."""
    with contextlib.suppress(ValueError):  # within jit nobody may ask
        mesh = jax.sharding.get_mesh()
        return None if mesh.empty else mesh


class Left(RuntimeError):  # noqa: N818 - as GeneratorExit, what was about to happen
    """Something was about to end the process."""


class _GivenUp(BaseException):
    """Raised inside of what is given up."""


def _give_up(thread, done):
    if thread.is_alive() and not done.done():
        _given_up.append(thread)
        _hear_what_is_swallowed()
        _tell(thread)


def _tell(thread):
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(_GivenUp))


def _hear_what_is_swallowed():
    """Python gives it to this hook; whoever has set one goes on hearing of all else."""
    others = sys.unraisablehook
    if getattr(others, "hears", None) is _tell:
        return

    def hook(unraisable):
        if unraisable.exc_type is not _GivenUp:
            others(unraisable)
        elif (thread := threading.current_thread()).is_alive():
            threading.Timer(AGAIN, _tell, [thread]).start()

    hook.hears = _tell
    sys.unraisablehook = hook


@atexit.register
def _wait_for_the_rest():
    last = time.monotonic() + LAST_WAIT
    for thread in _given_up:
        thread.join(timeout=max(0.0, last - time.monotonic()))
    last = time.monotonic() + COMPILING
    for thread in filter(_compiles, _given_up):
        thread.join(timeout=max(0.0, last - time.monotonic()))


def _compiles(thread) -> bool:
    frame = sys._current_frames().get(thread.ident)
    while frame is not None and "compile" not in frame.f_code.co_name:
        frame = frame.f_back
    return frame is not None


def leave(code: int) -> None:
    """End the process with this code where something given up still runs; else do nothing."""
    if any(thread.is_alive() for thread in _given_up):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
