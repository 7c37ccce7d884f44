"""Work that is given up after a time, and how a process ends that gave some up.

Its thread is told to stop, and does so between two lines of Python.  What hangs inside of XLA never comes to that and
is left alone; Python, ending beside such a thread, may abort.
"""

import atexit
import concurrent.futures
import ctypes
import os
import sys
import threading
from collections.abc import Callable

import numpy as np

LAST_WAIT = 5.0  # seconds, for a thread to come to its end when the process does
_given_up: list[threading.Thread] = []


def within(seconds: float, work: Callable):
    """work(), in a thread of its own; a TimeoutError when its time is over."""
    done: concurrent.futures.Future = concurrent.futures.Future()

    def run():
        try:
            with np.errstate(all="ignore"):  # what is not finite is judged; NumPy need not say it as well
                done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        return done.result(timeout=seconds)
    except concurrent.futures.TimeoutError:
        _given_up.append(thread)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(_GivenUp))
        raise


class _GivenUp(BaseException):
    """Raised inside of what is given up."""


@atexit.register
def _wait_for_the_rest():
    for thread in _given_up:
        thread.join(timeout=LAST_WAIT)


def leave(code: int) -> None:
    """End the process with this code where something given up still runs; else do nothing."""
    if any(thread.is_alive() for thread in _given_up):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
