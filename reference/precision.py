"""Float64 on loan, and what rounding does to a computation: measured, not guessed.

`with_rounding(f)` runs f beside copies of itself in which every arithmetic result is moved by a random rounding
error, and reports how far the answers scatter.  Cancellation shows, whichever step it hides in; sums and reshapes
of exact numbers cost nothing.

Source: Vignes, 'A stochastic arithmetic for reliable scientific computation', 1993; Parker, 'Monte Carlo
arithmetic', 1997.
"""

import contextlib
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .programs import compiled as compiled  # what is traced here is compiled so
from .programs import side_by_side
from .tracing.interpreter import bind, equations, names, walk

# XLA's elementary functions on CPU in float64, each against 50 digits at 300 points: at most 2.1 units of eps
# (sinh); add, multiply and divide are right to half a unit.  Special functions summed from series, measured in the
# same way against |f| + |x f′| at 2000 points: at most 30 (lgamma).  log1p: at most 121, just above 1 − √2.
ULPS = 2.0
SERIES_ULPS = 32.0
LOG1P_ULPS = 128.0
COPIES = 8
NOISE_LENGTH = 8191  # prime, so that the windows of arrays whose sizes are powers of two do not line up


# These move, compare or select values; they do not round.
EXACT = names(
    "abs argmax argmin and bitcast_convert_type broadcast_in_dim ceil clamp concatenate conj copy copy_p cummax cummin "
    "device_put dynamic_slice dynamic_update_slice eq expand_dims floor full gather ge gt imag iota is_finite le lt "
    "max min ne neg not optimization_barrier or pad pvary random_bits random_unwrap random_wrap real reduce_and "
    "reduce_max reduce_min reduce_or reduce_precision rem reshape rev round scatter select_and_gather_add select_n "
    "sharding_constraint sign slice sort split squeeze stop_gradient top_k transpose xor"
)
# These round once for every element they give.  All other primitives (sums, products of matrices, decompositions,
# special functions by series) may lose digits inside, as if their operands had been rounded as well.
ELEMENTWISE = names(
    "acos acosh add add_any asin asinh atan atan2 atanh cbrt complex convert_element_type cos div erf exp "
    "expm1 integer_pow log log1p logistic mul nextafter pow rsqrt sin sqrt square sub tan tanh"
)

SERIES = names(
    "bessel_i0e bessel_i1e digamma igamma igamma_grad_a igammac lgamma polygamma random_gamma_grad "
    "regularized_incomplete_beta zeta"
)

ORDERS = {"polygamma": 1}  # how many operands come first that are whole numbers, though floats hold them
ULPS_OF = dict.fromkeys(SERIES, SERIES_ULPS) | {"log1p": LOG1P_ULPS}


@contextlib.contextmanager
def float64():
    """64-bit JAX inside the block, and whatever it was before outside.

    >>> with float64():
    ...     print(jnp.ones(2).dtype)
    float64
    """
    with jax.enable_x64(True):
        yield


def widen(array) -> np.ndarray:
    """The same numbers as a NumPy float64 array; exact from every narrower float.

    >>> print(widen(jnp.bfloat16(0.5)).dtype)
    float64
    """
    return np.asarray(array).astype(np.float64)


def with_rounding(function: Callable, copies: int = COPIES) -> Callable:
    """function(*arrays) -> arrays becomes (*arrays) -> (values, errors): two lists of arrays.

    `errors` holds, element by element, the largest distance of a copy's answer from the answer, or half a unit in
    the last place of the answer where that is more.

    >>> (value,), (error,) = with_rounding(lambda x: [(1.0 + x) - 1.0])(jnp.float32(1e-3))
    >>> print(bool(error > 50 * 1.2e-7 * value))  # a thousand times smaller than 1, so three digits are gone
    True
    """

    return lambda *arrays: rounded(jax.make_jaxpr(function)(*arrays), copies)(*arrays)


def rounded(closed, copies: int = COPIES, relative: float | None = None) -> Callable:
    """As `with_rounding`, of a function that is traced already, compiled: (*arrays) -> (values, errors).

    relative  how far every result is moved, where that is not by the rounding of its own dtype
    """

    @compiled
    def run(noise, *arrays):
        flat = jax.tree.leaves(arrays)
        rows = side_by_side(lambda noise: evaluate(closed, flat, Noise(noise, relative)), flat)(noise)
        return [row[0] for row in rows], [_scatter(row) for row in rows]

    # No constant, since a compiler takes long over so many numbers.
    return lambda *arrays: run(_noise(copies, jax.config.jax_enable_x64), *arrays)


@functools.cache
def _noise(copies, wide):  # wide: the same numbers have another dtype where that is switched off
    """One row of zeros, then rows of random signs."""
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (copies, NOISE_LENGTH))
    return jax.device_put(np.concatenate([np.zeros((1, NOISE_LENGTH)), signs]))


def _scatter(row):
    value = row[0]
    if not jnp.issubdtype(row.dtype, jnp.inexact):
        return jnp.zeros(value.shape)
    half_ulp = jnp.abs(value) * (jnp.finfo(row.dtype).eps / 2) + jnp.finfo(row.dtype).tiny
    apart = jnp.abs(row[1:] - value)
    told = jnp.isfinite(apart)  # the others left the domain of something on the way
    error = jnp.maximum(jnp.max(jnp.where(told, apart, 0), axis=0), half_ulp)
    return jnp.where(told.any(axis=0), error, jnp.inf)


class Noise:
    """Moves arrays by rounding errors; every use reads another window of the same random signs."""

    def __init__(self, signs, relative=None):
        self.signs, self.relative, self.uses = signs, relative, 0
        self._usual = jnp.result_type(float)
        self._factors = self._factor(self._usual, ULPS)  # made here, outside every loop, for nearly all uses

    def __call__(self, array, ulps=ULPS):
        dtype = jnp.result_type(array)
        if not jnp.issubdtype(dtype, jnp.inexact):
            return array
        if jnp.issubdtype(dtype, jnp.complexfloating):
            return lax.complex(self(jnp.real(array), ulps), self(jnp.imag(array), ulps))
        self.uses += 1
        shape = jnp.shape(array)
        start = self.uses * 131 % NOISE_LENGTH
        stop = start + math.prod(shape)
        usual = dtype == self._usual and ulps == ULPS
        factor = self._factors if usual else self._factor(dtype, ulps)
        if stop > NOISE_LENGTH:
            factor = jnp.tile(factor, -(-stop // NOISE_LENGTH))
        return lax.mul(array, lax.reshape(lax.slice(factor, (start,), (stop,)), shape))

    def _factor(self, dtype, ulps):
        return (1 + self.signs * (self.relative or ulps * jnp.finfo(dtype).eps)).astype(dtype)


def evaluate(closed, arguments, noise: Callable) -> list:
    """Run a traced function with every result that rounds passed through `noise(array, ulps)`.

    Operands go through it as well where a primitive may lose digits inside.
    """

    return walk(closed, arguments, _Noisy(noise, _counts(closed)))


def _counts(closed) -> bool:
    """Whether floats become whole numbers somewhere: places in an array, which a rounding error must not move."""
    return any(
        e.primitive.name in COUNTING
        or (e.primitive.name == "convert_element_type" and jnp.issubdtype(e.params["new_dtype"], jnp.integer))
        for e in equations(closed)
    )


COUNTING, WHOLE = names("floor ceil round"), names("add sub mul")


class _Noisy:
    """Evaluates an equation, and moves what it rounds."""

    moves = True

    def __init__(self, noise: Callable, counts: bool = False):
        self.noise, self.counts = noise, counts

    def __call__(self, equation, inputs):
        name = equation.primitive.name
        if self.counts and name in WHOLE:
            (out,) = bind(equation, inputs)
            return [self._unless_whole(inputs, out)]
        rounds, ulps = name not in EXACT, ULPS_OF.get(name, ULPS)
        if rounds and name not in ELEMENTWISE:
            exact = ORDERS.get(name, 0)
            inputs = [*inputs[:exact], *(self.noise(value, ulps) for value in inputs[exact:])]
        if name == "pow" and all(jnp.issubdtype(jnp.result_type(a), jnp.floating) for a in inputs):
            inputs = inputs[0], jnp.where(inputs[0] < 0, lax.round(inputs[1]), inputs[1])  # there is no other power
        outputs = bind(equation, inputs)
        return [self.noise(value, ulps) for value in outputs] if rounds else outputs

    def during(self, step):
        """The same in one step of a loop, if the noise tells its steps apart."""
        return _Noisy(self.noise.during(step), self.counts) if hasattr(self.noise, "during") else self

    def _unless_whole(self, inputs, out):
        """Moved, but for what is exact: a sum or a product of whole numbers, as long as rounding is less than one."""
        moved = self.noise(out, ULPS)
        if not jnp.issubdtype(jnp.result_type(out), jnp.floating):
            return moved
        exact = lax.abs(moved - out) < 1
        for a in inputs:
            exact &= lax.floor(jnp.asarray(a, out.dtype)) == a
        return jnp.where(exact, out, moved)
