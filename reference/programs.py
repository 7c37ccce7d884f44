"""Programs compiled quickly, unless their arguments are large, of which only those used last stay in memory.

On a CPU a compiled program holds 1.4 MB, however small it is, and a run over random networks compiles some for every
new combination of lengths.  Most of these never come back, so the one that was used longest ago goes first.
"""

import collections
import math
import threading
import weakref
from collections.abc import Callable

import jax
import numpy as np

KEPT = 2000  # programs: 3 GB on a CPU
LARGE = 2**20  # numbers among the arguments: then running costs more than compiling, and memory is short

# For programs that run a few times, compiling is what costs.  Measured on the pullback of layer_norm: 240 ms of CPU
# time by default, 50 ms with these; the numbers differ by rounding.
QUICKLY = {
    "xla_backend_optimization_level": 0,
    "xla_cpu_use_fusion_emitters": False,
    "xla_cpu_parallel_codegen_split_count": 1,
}


class _Programs(dict):
    """The programs of one function, by the structure, shapes and dtypes of its arguments."""

    __slots__ = ("__weakref__",)


_recent: collections.OrderedDict = collections.OrderedDict()  # (whose, which) -> a reference; the last was used last
_lock = threading.Lock()


def compiled(function: Callable) -> Callable:
    """`jax.jit`, compiled quickly rather than to run quickly, and anew where the program was dropped."""
    programs = _Programs()

    def run(*arguments):
        leaves, structure = jax.tree.flatten(arguments)
        key = structure, tuple((np.shape(a), getattr(a, "dtype", type(a))) for a in leaves)
        try:
            return _program(function, programs, key, leaves)(*arguments)
        except jax.errors.JaxRuntimeError as error:
            if not _leave_out_unknown(error):
                raise
            programs.clear()
            return run(*arguments)

    return run


def side_by_side(function: Callable, shared=()) -> Callable:
    """`jax.vmap` over all arguments; one point after another where something in the function does not go under it.

    A primitive that somebody wrote may have no rule for several points, or none for several of one operand.  Points
    that are large, with what all of them share, come one after another, too: side by side they need as many times the
    memory, and are no faster.
    """

    def run(*stacks):
        points = len(jax.tree.leaves(stacks)[0])
        if _numbers(jax.tree.leaves(stacks)) + points * _numbers(jax.tree.leaves(shared)) > LARGE:
            return jax.lax.map(lambda point: function(*point), stacks)
        try:
            return jax.vmap(function)(*stacks)
        except Exception:  # whatever that rule raises; what the function itself raises comes again
            return jax.lax.map(lambda point: function(*point), stacks)

    return run


def _numbers(arrays) -> int:
    return sum(math.prod(np.shape(a)) for a in arrays)


def _program(function, programs, key, arguments):
    with _lock:
        program = programs.get(key)
        if program is None:
            # A new function each, since JAX shares what it compiled between those that jit the same one.
            options = {} if _numbers(arguments) > LARGE else dict(_options)
            program = programs[key] = jax.jit(lambda *arguments: function(*arguments), compiler_options=options)
        place = id(programs), key
        _recent[place] = weakref.ref(programs)
        _recent.move_to_end(place)
        dropped = []
        while len(_recent) > KEPT:
            (_, oldest), owner = _recent.popitem(last=False)
            dropped.append((owner() or {}).pop(oldest, None))
        return program


_options = dict(QUICKLY)  # but for those that this version of XLA turned out not to know


def _leave_out_unknown(error) -> bool:
    """Forget the options that this version of XLA says it does not know; whether there was one."""
    unknown = [name for name in tuple(_options) if name in str(error)]
    for name in unknown:
        _options.pop(name, None)
    return bool(unknown)
