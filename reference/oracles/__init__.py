"""Oracles: the cotangents of a plain function, found without its hand-written derivative, and how far to trust them.

    oracle(f)(primals, cotangent) -> Estimate(value, error)

`primals` is the tuple of f's arguments, `cotangent` a tree like f's output.  `value` and `error` are trees like
`primals` of NumPy float64 arrays, with None for integers, booleans and keys.  `error` says element by element how
far `value` may be from the true cotangent: rounding is measured (see `precision`), truncation is estimated, and
an element that cannot be told has an infinite error.  An oracle that does not apply raises `Abstains`.

All work is in float64.  Each oracle keeps what it compiled, one program per function, shapes and dtypes.
"""

import jax
import jax.numpy as jnp

from manual_backprop.signature import kind_of

from ..precision import compiled, rounded
from ..tracing.interpreter import FOLDS, inner_jaxprs, names, open_jaxpr, walk
from .differences import COORDINATES, adjoint_differences, domains_of, richardson
from .estimates import Abstains, Estimate, Identity, oracle

JACOBIAN_ENTRIES = 2**20  # above: outputs times inputs is more than a contraction is worth
IMAGINARY_STEP = 2.0**-330  # its square vanishes beside any primal, and it is itself far above underflow
BATCH_ELEMENTS = 2**20  # elements of perturbed primals held at a time


# --- autodiff --------------------------------------------------------------------------------------------------------


def _autodiff(view, function):
    """Compile function(floats, others, cotangents) -> one cotangent per float leaf, with its rounding or without."""
    traced = view.trace(function, view.output_avals())
    programs, alone = {None: rounded(traced)}, compiled(lambda *arrays: walk(traced, jax.tree.leaves(arrays)))

    def compute(floats, others, cotangents, domains=None, doubt=True, relative=None):
        if not doubt:
            return Estimate(view.tree(alone(floats, others, cotangents)), None)
        program = programs.get(relative) or programs.setdefault(relative, rounded(traced, relative=relative))
        values, errors = program(floats, others, cotangents)
        return Estimate(view.tree(values), view.tree(errors))

    return compute


@oracle
def vjp(view):
    """Reverse mode, one pass: jax.vjp."""

    def function(floats, others, bars):
        ys, pullback = jax.vjp(lambda floats: view(floats, others), floats)
        return pullback([bar.astype(y.dtype) for bar, y in zip(bars, ys, strict=True)])[0]

    return _autodiff(view, function)


@oracle
def grad(view):
    """Reverse mode of a function with one scalar output, times the cotangent: jax.grad."""
    if [output.shape for output in view.outputs] != [()]:
        raise Abstains("grad", "the output is not one scalar")

    def function(floats, others, bars):
        return [a * bars[0] for a in jax.grad(lambda floats: view(floats, others)[0])(floats)]

    return _autodiff(view, function)


@oracle
def jacrev(view):
    """The whole Jacobian by reverse mode, contracted with the cotangent: jax.jacrev."""
    return _jacobian(view, jax.jacrev)


@oracle
def jacfwd(view):
    """The whole Jacobian by forward mode, contracted with the cotangent: jax.jacfwd."""
    return _jacobian(view, jax.jacfwd)


def _jacobian(view, transform):
    entries = sum(view.sizes) * sum(view.output_sizes)
    if entries > JACOBIAN_ENTRIES:
        raise Abstains(view.name, f"the Jacobian has {entries} entries, more than {JACOBIAN_ENTRIES}")

    def function(floats, others, bars):
        jacobian = transform(lambda floats: view(floats, others))(floats)
        columns = zip(*jacobian, strict=True) if jacobian else [()] * len(floats)
        return [
            sum(
                (jnp.tensordot(bar, block, bar.ndim) for bar, block in zip(bars, blocks, strict=True)), jnp.zeros(shape)
            )
            for blocks, shape in zip(columns, view.shapes, strict=True)
        ]

    return _autodiff(view, function)


# --- the complex step ------------------------------------------------------------------------------------------------

# Analytic in every complex operand.  What merely moves values is analytic too.
HOLOMORPHIC = names(
    "acos acosh add add_any asin asinh atan atanh broadcast_in_dim concatenate convert_element_type copy copy_p "
    "conv_general_dilated cos cumprod cumsum div dot_general dynamic_slice dynamic_update_slice exp exp2 expand_dims "
    "fft gather integer_pow log log1p logistic mul neg optimization_barrier pad pow reduce_prod reduce_sum reshape rev "
    "rsqrt scatter scatter-add select_n sin sinh slice split sqrt square squeeze stop_gradient sub tan tanh transpose "
    "triangular_solve"
)
# Analytic as well, but XLA computes the imaginary part by a subtraction that cancels.
CANCELLING = names("cosh expm1")


def _not_holomorphic(closed) -> str | None:
    """The first primitive that is not analytic in a complex operand, in a function or in the functions it calls."""
    for equation in open_jaxpr(closed)[0].eqns:
        name, inner = equation.primitive.name, inner_jaxprs(equation)
        if inner and not name.startswith(FOLDS):
            found = next(filter(None, map(_not_holomorphic, inner)), None)
        else:
            complex_in = any(kind_of(atom.aval) == "complex" for atom in equation.invars)
            complex_out = all(kind_of(atom.aval) == "complex" for atom in equation.outvars)
            found = name if complex_in and not (name in HOLOMORPHIC and complex_out) else None
        if found:
            return found
    return None


@oracle
def complex_step(view):
    r"""Step off the real axis:  x̄_j = Im ⟨ȳ, f(x + i h e_j)⟩ / h.  No difference is taken, so nothing cancels.

    Holds where f is holomorphic at x and real on the real axis; it abstains elsewhere.

    Source: Squire, Trapp, 'Using complex variables to estimate derivatives of real functions', 1998.
    """
    count = sum(view.sizes)
    if count > COORDINATES:
        raise Abstains("complex_step", f"there are {count} coordinates to step along, more than {COORDINATES}")

    def outputs(j, floats, others):
        steps = view.cut(jnp.where(jnp.arange(count) == j, IMAGINARY_STEP, 0.0))
        return view([jax.lax.complex(a, step) for a, step in zip(floats, steps, strict=True)], others)

    found = _not_holomorphic(view.trace(lambda floats, others: outputs(0, floats, others)))
    if found:
        why = "loses digits at complex operands" if found in CANCELLING else "is not holomorphic"
        raise Abstains("complex_step", f"{found} {why}")

    def function(floats, others, bars):
        def slope(j):
            ys = outputs(j, floats, others)
            on_axis = [jnp.all(jnp.isfinite(y) & (jnp.imag(y) == 0)) for y in ys]
            return sum(jnp.sum(b * (jnp.imag(y) / IMAGINARY_STEP)) for b, y in zip(bars, ys, strict=True)), on_axis

        batch = max(1, BATCH_ELEMENTS // (9 * (count + 1)))
        indices = jnp.arange(-1, count)  # -1 steps nowhere: is f real on the real axis?
        if batch > count:
            slopes, on_axis = jax.vmap(slope)(indices)
        else:
            slopes, on_axis = jax.lax.map(slope, indices, batch_size=batch)
        return [*view.cut(slopes[1:]), *(a[0] for a in on_axis)]

    program = rounded(view.trace(function, view.output_avals()))

    def compute(floats, others, cotangents, domains=None):
        values, errors = program(floats, others, cotangents)
        if not all(values[len(floats) :]):
            raise Abstains("complex_step", "f leaves the real axis or is not finite at this point")
        return Estimate(view.tree(values[: len(floats)]), view.tree(errors[: len(floats)]))

    return compute


# --- the adjoint identity --------------------------------------------------------------------------------------------


@oracle
def adjoint(view):
    r"""The identity that defines a pullback, for random v:  ⟨J v, ȳ⟩ = ⟨v, x̄⟩, with J v by jax.jvp.

    adjoint(f)(primals, cotangent, primals_bar=candidate) -> Identity
    """

    def function(floats, others, bars, tangents):
        ys_dot = jax.jvp(lambda floats: view(floats, others), (floats,), (tangents,))[1]
        return [sum((jnp.sum(bar * y_dot) for bar, y_dot in zip(bars, ys_dot, strict=True)), jnp.zeros(()))]

    program = rounded(view.trace(function, view.output_avals(), view.float_avals()))

    def compute(floats, others, cotangents, *, primals_bar, directions=4, seed=0, domains=None):
        pairs = []
        for v in view.directions(floats, directions, seed):
            (value,), (error,) = program(floats, others, cotangents, view.cut(v))
            pairs.append((v, float(value), float(error)))
        return view.identity(pairs, primals_bar)

    return compute


ORACLES = {o.__name__: o for o in (vjp, grad, jacrev, jacfwd, complex_step, richardson)}

__all__ = [
    "ORACLES",
    "Abstains",
    "Estimate",
    "Identity",
    "adjoint",
    "adjoint_differences",
    "complex_step",
    "domains_of",
    "grad",
    "jacfwd",
    "jacrev",
    "richardson",
    "vjp",
]
