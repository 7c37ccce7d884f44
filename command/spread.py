"""Independent pieces of work, side by side.

Tracing holds Python's lock, so threads wait for each other where processes do not: on a CPU every core has a process
of its own.  An accelerator belongs to one process, whose threads at least compile beside each other.
"""

import concurrent.futures
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import connection

import jax


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def on_a_cpu() -> bool:
    """Whether JAX computes on a CPU here."""
    return (jax.config.jax_default_device or jax.devices()[0]).platform == "cpu"


def spread(function: Callable, items: Iterable, processes: int) -> Iterator:
    """function(item) for every item, in order; with more than one process, all of it has to be importable by name."""
    pool = _pool(processes)
    try:
        yield from pool.map(function, items)
    finally:  # who asked may have stopped listening
        pool.shutdown(wait=True, cancel_futures=True)


def _pool(processes):
    if processes <= 1:
        return concurrent.futures.ThreadPoolExecutor(cores())
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    return concurrent.futures.ProcessPoolExecutor(processes, context, _begin)


def _begin():
    """Ctrl-C is for the process that asked, and where that is gone there is nobody to work for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    jax.config.update("jax_platforms", "cpu")
    asking = multiprocessing.parent_process().sentinel
    threading.Thread(target=lambda: (connection.wait([asking]), os._exit(1)), daemon=True).start()
