"""A function as it was traced in some dtype, run in float64: the same constants, choices and random bits, no rounding.

Derivatives written by hand inside it are passed over: what is run, and what autodiff sees, is the primal.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .interpreter import bind, called, equations, inner_jaxprs, names, open_jaxpr, walk

WIDE = {"float": jnp.float64, "complex": jnp.complex128}
CONTROL = names("scan while cond")
SCATTERS = {
    "scatter": lax.scatter,
    "scatter-add": lax.scatter_add,
    "scatter_add": lax.scatter_add,
    "scatter-mul": lax.scatter_mul,
    "scatter_mul": lax.scatter_mul,
    "scatter_min": lax.scatter_min,
    "scatter-min": lax.scatter_min,
    "scatter_max": lax.scatter_max,
    "scatter-max": lax.scatter_max,
}
# These read the bits of a float, or ask for its dtype by other means: they run as they are, in the dtype they know.
VERBATIM = names("bitcast_convert_type random_bits reduce_precision nextafter")
DTYPE_PARAMS = names("dtype new_dtype preferred_element_type out_dtype accumulation_dtype")


class CannotWiden(Exception):  # noqa: N818 - the caller runs the function in float64 from the start instead
    """An equation whose dtypes are fixed inside, such as a kernel."""


def kind(dtype) -> str:
    """'float', 'complex' or something that has no cotangent."""
    if dtype is None or jax.dtypes.issubdtype(dtype, jax.dtypes.extended):
        return "other"
    dtype = jnp.dtype(dtype)
    if jnp.issubdtype(dtype, jnp.floating):
        return "float"
    return "complex" if jnp.issubdtype(dtype, jnp.complexfloating) else "other"


def widen(value):
    """A float or complex array in double precision, everything else as it is."""
    dtype = getattr(value, "dtype", None)
    wide = WIDE.get(kind(dtype) if dtype is not None else kind(np.result_type(value)))
    return value if wide is None else jnp.asarray(value).astype(wide)


def check_widens(closed) -> None:
    """Refuse a function that holds an equation whose dtypes are fixed inside."""
    for equation in open_jaxpr(closed)[0].eqns:
        name, inner = equation.primitive.name, inner_jaxprs(equation)
        if name in CONTROL or called(equation) is not None:
            for function in inner:
                check_widens(function)
        elif (inner and name not in SCATTERS and name not in _FOLDING_ALONE) or "callback" in name or "ffi" in name:
            raise CannotWiden(name)


_FOLDING_ALONE = names(
    "reduce_sum reduce_max reduce_min reduce_prod reduce_and reduce_or cumsum cumprod cummax cummin cumlogsumexp "
    "reduce_window_sum reduce_window_max reduce_window_min select_and_scatter_add"
)


def widened(closed, apply=None):
    """The traced function as a function of double precision arrays; integers, booleans and keys stay what they are."""
    check_widens(closed)
    apply = apply or _wide_bind
    avals = [atom.aval for atom in open_jaxpr(closed)[0].invars]

    def run(*arguments):
        start = [widen(a) if kind(t.dtype) in WIDE else _whole(a, t) for a, t in zip(arguments, avals, strict=True)]
        return tuple(walk(closed, start, apply, widen))

    return run


def _wide_bind(equation, inputs):
    name, params = equation.primitive.name, equation.params
    if name in VERBATIM:
        narrow = [_cast(value, atom.aval) for value, atom in zip(inputs, equation.invars, strict=True)]
        return [widen(value) for value in bind(equation, narrow)]
    if name in SAMPLERS:
        return [SAMPLERS[name](equation, *inputs)]
    if name in SCATTERS:
        keep = {k: params[k] for k in ("dimension_numbers", "indices_are_sorted", "unique_indices", "mode")}
        return [SCATTERS[name](*inputs, **keep)]
    changed = {
        key: WIDE[kind(params[key])]
        for key in DTYPE_PARAMS
        if params.get(key) is not None and kind(params[key]) in WIDE
    }
    if name == "convert_element_type" and kind(params["new_dtype"]) in WIDE:
        return [jnp.asarray(inputs[0]).astype(changed["new_dtype"])]
    return bind(equation, inputs, **changed)


def _gamma(equation, key, shape):
    """A gamma variate, the very one that is drawn in the dtype; its derivative is not that of the steps that drew it.

    A quantile stays the same quantile: dz/da = −(∂P(a, z)/∂a) / p(z; a), as JAX has it (Figurnov, Mohamed and Mnih,
    Implicit reparameterization gradients, 2018).
    """
    still = lax.stop_gradient(shape)
    drawn = lax.stop_gradient(widen(bind(equation, [key, _cast(still, equation.invars[1].aval)])[0]))
    log = equation.params["log_space"]
    slope = lax.random_gamma_grad(still, jnp.exp(drawn) if log else drawn)
    return drawn + (slope / jnp.exp(drawn) if log else slope) * (shape - still)


SAMPLERS = {"random_gamma": _gamma}


def steadied(closed):
    """The same, every maximum over an axis held constant.

    Softmax and its like subtract a maximum for safety, and are the same functions of whatever is subtracted.  Autodiff
    through it cancels what rounding left before, which no other way to compute the derivative does.
    """

    def apply(equation, inputs):
        outputs = _wide_bind(equation, inputs)
        return list(map(lax.stop_gradient, outputs)) if equation.primitive.name == "reduce_max" else outputs

    return widened(closed, apply)


def unstopped(closed):
    """The same of a function that is traced in double precision already, no gradient stopped."""

    def apply(equation, inputs):
        return list(inputs) if equation.primitive.name == "stop_gradient" else bind(equation, inputs)

    return lambda *arguments: tuple(walk(closed, arguments, apply))


def _whole(value, aval):
    extended = jax.dtypes.issubdtype(aval.dtype, jax.dtypes.extended)
    return value if extended else jnp.asarray(value).astype(aval.dtype)


def _cast(value, aval):
    return value.astype(aval.dtype) if kind(aval.dtype) in WIDE else value


def coarsest(closed) -> str | None:
    """The float dtype of the fewest digits in which a traced function computes anything."""
    found = set()
    for equation in equations(closed):
        for atom in (*equation.invars, *equation.outvars):
            dtype = getattr(atom.aval, "dtype", None)
            if dtype is not None and kind(dtype) in WIDE and np.size(getattr(atom, "val", ())) != 1:
                found.add(jnp.finfo(dtype).dtype)
    return str(max(found, key=lambda dtype: jnp.finfo(dtype).eps)) if found else None
