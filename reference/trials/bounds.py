"""Whether a function reads or writes beyond the end of an array, at an index that is written in it.

JAX takes the last element then, or none: lengths at which that happens are not what the function is for.
"""

import numpy as np

from manual_backprop.signature import kind_of

from ..tracing.interpreter import called, inner_jaxprs, open_jaxpr

LARGEST = 2**12  # indices: more of them are not followed


def beyond_the_end(closed) -> bool:
    """Whether a traced function has an index, known when it is traced, that its array does not have.

    >>> import jax, jax.numpy as jnp
    >>> [beyond_the_end(jax.make_jaxpr(lambda x: x[3])(jnp.ones(n))) for n in (3, 4)]
    [True, False]
    """
    return _beyond(closed, [None] * len(open_jaxpr(closed)[0].invars))


def _beyond(closed, given) -> bool:
    jaxpr, constants = open_jaxpr(closed)
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*map(_whole, constants), *given], strict=False))
    for equation in jaxpr.eqns:
        inputs = [_whole(a.val) if hasattr(a, "val") else known.get(a) for a in equation.invars]
        if _misses(equation, inputs):
            return True
        for inner in inner_jaxprs(equation):
            unknown = [None] * len(open_jaxpr(inner)[0].invars)
            if _beyond(inner, inputs if inner is called(equation) else unknown):
                return True
        if equation.primitive.name in _FOLDED and not any(a is None for a in inputs):
            known[equation.outvars[0]] = _FOLDED[equation.primitive.name](equation, inputs)
    return False


def _misses(equation, inputs) -> bool:
    """Whether one equation reads or writes where nothing is."""
    name, params = equation.primitive.name, equation.params
    if name not in _STARTS or not inputs:
        return False
    shape = np.shape(equation.invars[0].aval)
    if name.startswith("dynamic"):
        sizes = params["slice_sizes"] if name == "dynamic_slice" else np.shape(equation.invars[1].aval)
        starts = zip(inputs[_STARTS[name] :], shape, sizes, strict=True)
        return any(start is not None and not 0 <= start <= n - size for start, n, size in starts)
    if inputs[1] is None:
        return False
    numbers = params["dimension_numbers"]
    axes = numbers.start_index_map if name == "gather" else numbers.scatter_dims_to_operand_dims
    indices = np.reshape(inputs[1], (-1, len(axes)))
    return bool(np.any((indices < 0) | (indices >= np.array([shape[axis] for axis in axes]))))


def _whole(value):
    """Whole numbers and booleans, as NumPy has them; None for what is no index."""
    small = np.size(value) <= LARGEST and kind_of(value) in ("integer", "boolean")
    return np.asarray(value) if small else None


def _broadcast(equation, inputs):
    shape, axes = equation.params["shape"], equation.params["broadcast_dimensions"]
    placed = dict(zip(axes, np.shape(inputs[0]), strict=True))
    return np.broadcast_to(np.reshape(inputs[0], [placed.get(i, 1) for i in range(len(shape))]), shape)


_STARTS = {"dynamic_slice": 1, "dynamic_update_slice": 2, "gather": 1, "scatter": 1, "scatter-add": 1}
_FOLDED = {  # how an index is wrapped round, and put together
    "lt": lambda _, inputs: np.less(*inputs),
    "add": lambda _, inputs: np.add(*inputs),
    "sub": lambda _, inputs: np.subtract(*inputs),
    "select_n": lambda _, inputs: np.where(inputs[0], *inputs[:0:-1]),
    "convert_element_type": lambda equation, inputs: inputs[0].astype(equation.params["new_dtype"]),
    "reshape": lambda equation, inputs: np.reshape(inputs[0], equation.params["new_sizes"]),
    "squeeze": lambda equation, inputs: np.reshape(inputs[0], equation.outvars[0].aval.shape),
    "concatenate": lambda equation, inputs: np.concatenate(inputs, equation.params["dimension"]),
    "broadcast_in_dim": _broadcast,
}
