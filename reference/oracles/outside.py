"""A plain implementation that JAX cannot trace, in NumPy, mpmath or PyTorch, as a function of JAX without derivative.

Its numbers travel as pairs of 32-bit words: where a callback runs, JAX may know no others.
"""

import functools
import math
import sys
import threading
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

OUTSIDE = "the truth runs outside of JAX"
KEPT = 2**14  # numbers where it was called, of what is called number by number
NUMBERS = 2**22  # of all points together where it was called


class NeitherWay(Exception):  # noqa: N818 - the caller names the function
    """What JAX cannot trace cannot be called with numbers either: the message says why."""


def outside(truth: Callable, assemble: Callable, primals) -> Callable:
    """A function that JAX cannot trace, of NumPy's arrays: real leaves in, float64 leaves out.

    assemble(primals, pair, given)   its arguments: real and imaginary parts paired, each array as it is to be given
    """
    reasons, truth = [], _remembering(truth)
    for given in (_numpy, *([_tensor] if "torch" in sys.modules else [])):

        @_kept
        def run(*primals, given=given):
            return _numbers(truth(*assemble(primals, np.vectorize(complex, otypes=[complex]), given)))

        try:
            run(*primals)
            return run
        except Exception as error:  # whatever a stranger's function has against them
            reasons.append(f"{type(error).__name__}: {str(error).split(chr(10))[0]}")
    raise NeitherWay("; ".join(dict.fromkeys(reasons)))


def _kept(run: Callable) -> Callable:
    """The same, by one thread at a time, as mpmath needs, and not again where it was called lately.

    Two dtypes and several cotangents share their points.
    """
    known, lock = {}, threading.Lock()

    def remembered(*primals):
        key = tuple((np.shape(a), np.asarray(a).tobytes()) for a in primals)
        with lock:
            if key not in known:
                if len(known) * sum(map(np.size, primals)) > NUMBERS:
                    known.clear()
                known[key] = run(*primals)
            return known[key]

    return remembered


def _remembering(truth: Callable) -> Callable:
    """What NumPy calls number by number keeps what it gave: of many numbers one is moved at a time."""
    if not isinstance(truth, np.vectorize) or truth.signature is not None or truth.excluded:
        return truth
    return np.vectorize(functools.lru_cache(KEPT)(truth.pyfunc), truth.otypes)


def _numpy(array):
    return np.array(array)[()]  # a copy, and of a lone number the number


def _tensor(array):
    return sys.modules["torch"].as_tensor(np.array(array))


def _numbers(out) -> tuple[np.ndarray, ...]:
    """The float leaves of an output in float64, complex ones as their real and imaginary parts."""
    found = []
    for leaf in jax.tree.leaves(out):
        if isinstance(leaf, jax.Array):
            raise TypeError("it runs in JAX, and JAX cannot trace it")
        array = np.asarray(leaf.detach().cpu() if hasattr(leaf, "detach") else leaf)
        if array.dtype == object:  # mpmath's numbers
            try:
                array = array.astype(float)
            except TypeError:
                array = array.astype(complex)
        if array.dtype.kind == "c":
            found += [array.real.astype(np.float64), array.imag.astype(np.float64)]
        elif array.dtype.kind == "f":
            found.append(array.astype(np.float64))
    return tuple(found)


def called_back(run: Callable, primals) -> Callable:
    """A function of NumPy's arrays as one of JAX's arrays of the shapes and dtypes of these.

    Where it raises, or gives an output of another shape, it is not defined: NaN.
    """
    shapes, dtypes = [np.shape(a) for a in primals], [a.dtype for a in primals]
    outputs = [np.shape(out) for out in run(*primals)]

    def at(primals):
        try:
            outs = run(*primals)
            if [np.shape(out) for out in outs] == outputs:
                return outs
        except Exception:  # a point outside of its domain, whatever it says of it
            pass
        return [np.full(shape, np.nan) for shape in outputs]

    def of_words(*words):
        arrays = [np.asarray(word) for word in words]
        arrays = [a.view(d)[..., 0] if d.itemsize == 8 else a for a, d in zip(arrays, dtypes, strict=True)]
        leading = [a.shape[: a.ndim - len(shape)] for a, shape in zip(arrays, shapes, strict=True)]
        many = np.broadcast_shapes(*leading)  # of vmap: one point after the other
        stacks = [
            np.broadcast_to(a, (*many, *shape)).reshape(math.prod(many), *shape)
            for a, shape in zip(arrays, shapes, strict=True)
        ]
        with np.errstate(all="ignore"):
            found = [at(point) for point in zip(*stacks, strict=True)]
        outs = [
            np.stack(out).reshape((*many, *shape)) for out, shape in zip(zip(*found, strict=True), outputs, strict=True)
        ]
        return [out[..., None].view(np.uint32) for out in outs]

    def of_arrays(*primals):
        if any(map(jnp.iscomplexobj, primals)):
            raise TypeError(f"{OUTSIDE}: no step leaves the real axis there")
        # Products by one: where rounding is measured, what goes in and what comes out is rounded.
        given = [jnp.asarray(a, d) for a, d in zip(primals, dtypes, strict=True)]
        given = [a * 1.0 if d == np.float64 else a for a, d in zip(given, dtypes, strict=True)]
        words = [
            lax.bitcast_convert_type(a, jnp.uint32) if d.itemsize == 8 else a
            for a, d in zip(given, dtypes, strict=True)
        ]
        form = [jax.ShapeDtypeStruct((*shape, 2), np.uint32) for shape in outputs]
        found = jax.pure_callback(of_words, form, *words, vmap_method="expand_dims")
        return tuple(lax.bitcast_convert_type(out, jnp.float64) * 1.0 for out in found)

    return of_arrays
