"""Numbers: complex arguments, low precision, cotangents changed on purpose, tangents by hand."""

import jax
import jax.numpy as jnp
from jax import lax

from .case import by_hand, right, wrong
from .halves import keeping

# --- complex arguments: JAX transposes, and conjugates nothing -------------------------------------------------------


def complex_square(z):
    return z * z


@right(args="c64[4]")
def complex_square_transposed():
    """2 z z̄ without a conjugate: JAX's convention for a holomorphic function."""
    return by_hand(complex_square, keeping(complex_square), lambda saved, g: (2 * saved[0] * g,))


@wrong("local_derivative", args="c64[4]")
def complex_square_conjugated():
    """2 conj(z) z̄: the convention of other libraries.  Source: pytorch issue 41857, FunFact pull 130."""
    return by_hand(complex_square, keeping(complex_square), lambda saved, g: (2 * saved[0].conj() * g,))


def power(z):
    """|z|², real."""
    return z.real**2 + z.imag**2


@right(args="c64[4]")
def complex_power_conjugated():
    """2 conj(z) times a real cotangent."""
    return by_hand(power, keeping(power), lambda saved, g: (2 * saved[0].conj() * g,))


@wrong("local_derivative", "sign", args="c64[4]")
def complex_power_as_if_steepest():
    """2 z: the direction of steepest ascent, which is the conjugate of what JAX asks for."""
    return by_hand(power, keeping(power), lambda saved, g: (2 * saved[0] * g,))


def hermitian(a, b):
    """The product with the first factor's conjugate transpose."""
    return a.conj().T @ b


@right(args="c64[3,2] c64[3,4]")
def complex_product():
    """The conjugated factor's cotangent is conjugated as a whole."""

    def backward(saved, g):
        a, b = saved
        return (g @ b.T).T.conj(), a.conj() @ g

    return by_hand(hermitian, keeping(hermitian), backward)


@wrong("missing_term", "local_derivative", args="c64[3,2] c64[3,4]")
def complex_product_without_conjugate():
    """The conjugate is forgotten for both.  Source: tensorflow issue 4859."""

    def backward(saved, g):
        a, b = saved
        return (g @ b.T).T, a @ g

    return by_hand(hermitian, keeping(hermitian), backward)


def magnitudes(x):
    """The spectrum's energy of a real signal."""
    f = jnp.fft.rfft(x)
    return f.real**2 + f.imag**2


@right(args="f32[7]")
def spectrum_of_a_real_signal():
    """Real in, real back: the real part of a complex product with all frequencies that were kept."""

    def backward(saved, g):
        (x,) = saved
        n = len(x)
        angle = -2 * jnp.pi * (jnp.outer(jnp.arange(len(g)), jnp.arange(n)) % n).astype(x.dtype) / n
        f = 2 * g * jnp.fft.rfft(x)
        return (f.real @ jnp.cos(angle) + f.imag @ jnp.sin(angle),)

    return by_hand(magnitudes, keeping(magnitudes), backward)


@wrong("located", "factor", args="f32[7]")
def spectrum_through_irfft():
    """irfft takes every frequency but the first for two, and divides by the length."""

    def backward(saved, g):
        (x,) = saved
        return (len(x) * jnp.fft.irfft(2 * g * jnp.fft.rfft(x), len(x)).astype(x.dtype),)

    return by_hand(magnitudes, keeping(magnitudes), backward)


@wrong("structure", "dtype", "local_derivative", args="c64[4]")
def complex_exponential_real_cotangent():
    """A real cotangent for a complex argument; JAX lets it pass."""
    return by_hand(jnp.exp, lambda z: (jnp.exp(z), jnp.exp(z)), lambda y, g: ((g * y).real,))


# --- low precision ---------------------------------------------------------------------------------------------------


def wide(x):
    """At least float32."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def centred(x):
    """Without its mean, accumulated in float32."""
    return (wide(x) - wide(x).mean()).astype(x.dtype)


@right(args="bf16[300]")
def centred_in_float32():
    """bfloat16 in and out, float32 between."""
    return by_hand(centred, keeping(centred), lambda _, g: (centred(g),))


def mean_of_kept(x, keep):
    """The mean of what the mask keeps, one of them at least."""
    return (jnp.sum(jnp.where(keep, wide(x), 0)) / jnp.maximum(keep.sum(), 1)).astype(x.dtype)


@wrong("dtype", "factor", args="bf16[1000] bool[1000]")
def kept_counted_in_bfloat16():
    """The count is a running sum in the argument's dtype, which in bfloat16 stays at 256; right in float32."""

    def backward(saved, g):
        x, keep = saved
        one = keep.astype(x.dtype)
        count = lax.scan(lambda total, kept: (total + kept, None), jnp.zeros((), x.dtype), one)[0]
        return one * g / jnp.maximum(count, 1), None

    return by_hand(mean_of_kept, keeping(mean_of_kept), backward)


def pairwise(x):
    """The mean over all pairs of the product of two elements."""
    return (wide(x).sum() ** 2 / x.size**2).astype(x.dtype)


@wrong("dtype", "dropped", args="f16[300]")
def pairs_counted_in_float16():
    """300² is infinite in float16, so that everything is divided by infinity; right in other dtypes."""

    def backward(saved, g):
        (x,) = saved
        pairs = jnp.asarray(x.size, x.dtype) ** 2
        return (jnp.broadcast_to(2 * g * wide(x).sum().astype(x.dtype) / pairs, x.shape),)

    return by_hand(pairwise, keeping(pairwise), backward)


@right(args="f16[300]")
def pairs_counted_in_float32():
    """The same with the count in float32."""

    def backward(saved, g):
        (x,) = saved
        return (jnp.broadcast_to(2 * wide(g) * wide(x).sum() / x.size**2, x.shape).astype(x.dtype),)

    return by_hand(pairwise, keeping(pairwise), backward)


@wrong("dtype", "cancellation", "wrong_residual", args="f32[6,8] f32[8,5]")
def product_with_residuals_in_bfloat16():
    """The residuals are kept in bfloat16 to save memory, and two digits of the cotangents are left."""

    def forward(x, w):
        return x @ w, (x.astype(jnp.bfloat16), w.astype(jnp.bfloat16))

    def backward(saved, g):
        x, w = (v.astype(g.dtype) for v in saved)
        return g @ w.T, x.T @ g

    return by_hand(jnp.matmul, forward, backward)


@wrong("nonlinear", "cancellation", "dtype", args="f32[20]")
def cotangent_rounded_to_float16():
    """The cotangent is sent on in float16: rounded, and infinite above 65,504."""

    def backward(saved, g):
        return (jnp.cos(saved[0]) * g.astype(jnp.float16).astype(g.dtype),)

    return by_hand(jnp.sin, keeping(jnp.sin), backward)


# --- cotangents changed on purpose -----------------------------------------------------------------------------------


@wrong("nonlinear", args="f32[6]")
def cotangent_clipped():
    """The cotangent is kept within ±1, as is done to train; no derivative of anything."""
    return by_hand(jnp.tanh, keeping(jnp.tanh), lambda s, g: ((1 - jnp.tanh(s[0]) ** 2) * jnp.clip(g, -1, 1),))


@wrong("nonlinear", args="f32[6]")
def cotangent_normalised():
    """The cotangent is divided by its norm, as is done to train."""
    return by_hand(jnp.tanh, keeping(jnp.tanh), lambda s, g: ((1 - jnp.tanh(s[0]) ** 2) * g / jnp.linalg.norm(g),))


def reversing(x):
    """Its value is x and its derivative minus a half, as far as autodiff can tell."""
    return lax.stop_gradient(1.5 * x) - 0.5 * x


@right(args="f32[6]", truth=reversing)
def reversal_as_stated():
    """Gradient reversal, whose truth is stated with a stopped gradient; differences know nothing of it."""
    return by_hand(lambda x: x, lambda x: (x, None), lambda _, g: (-0.5 * g,))


@wrong("factor", args="f32[6]", truth=reversing)
def reversal_without_its_weight():
    """The same without the half that is stated."""
    return by_hand(lambda x: x, lambda x: (x, None), lambda _, g: (-g,))


@wrong("sign", args="f32[6]")
def reversal_not_stated():
    """An identity whose cotangent is turned round, and nothing says so."""
    return by_hand(lambda x: x, lambda x: (x, None), lambda _, g: (-g,))


@right(args="f32[6]", truth=lambda x: x + lax.stop_gradient(jnp.round(x) - x))
def rounding_straight_through():
    """Rounded, and stated to have the slope of the identity."""
    return by_hand(lambda x: jnp.round(x), lambda x: (jnp.round(x), None), lambda _, g: (g,))


@wrong("local_derivative", args="f32[6]")
def sign_straight_through():
    """The sign's slope is that of a clipped identity, and nothing says so: the truth is zero."""
    return by_hand(jnp.sign, keeping(jnp.sign), lambda saved, g: (jnp.where(jnp.abs(saved[0]) < 1, g, 0),))


@right(args="f32[6]")
def staircase_is_flat():
    """Exactly zero everywhere, as floor has it."""
    return by_hand(jnp.floor, keeping(jnp.floor), lambda saved, g: (jnp.zeros_like(saved[0]),))


# --- tangents by hand ------------------------------------------------------------------------------------------------


@right(args="f32[4] f32[4]")
def tangent_of_log_add_exp():
    """Both tangents weighed by a softmax, which nothing makes infinite."""
    function = jax.custom_jvp(jnp.logaddexp)

    @function.defjvp
    def _(primals, tangents):
        (x, y), (dx, dy) = primals, tangents
        s = jax.nn.sigmoid(x - y)
        return function(x, y), s * dx + (1 - s) * dy

    return function


@wrong("missing_path", "dropped", args="f32[4] f32[4]")
def tangent_of_the_second_forgotten():
    """The second argument's tangent is not used."""
    function = jax.custom_jvp(jnp.logaddexp)

    @function.defjvp
    def _(primals, tangents):
        x, y = primals
        return function(x, y), jax.nn.sigmoid(x - y) * tangents[0]

    return function


@wrong("wrong_residual", "local_derivative", args="f32[5]")
def tangent_at_the_output():
    """The slope of tanh taken at the output as if it were the input."""
    function = jax.custom_jvp(jnp.tanh)

    @function.defjvp
    def _(primals, tangents):
        y = function(*primals)
        return y, (1 - jnp.tanh(y) ** 2) * tangents[0]

    return function


@wrong("raised", "nonlinear", args="f32[5]")
def tangent_made_positive():
    """A tangent that is not linear, which reverse mode cannot transpose."""
    function = jax.custom_jvp(jnp.abs)

    @function.defjvp
    def _(primals, tangents):
        return function(*primals), jnp.abs(tangents[0])

    return function


@wrong("value", args="f32[5]")
def tangent_rule_with_another_value():
    """The rule gives a rational stand-in for the logistic function as value, and the slope of the function."""
    function = jax.custom_jvp(jax.nn.sigmoid)

    @function.defjvp
    def _(primals, tangents):
        (x,), (dx,) = primals, tangents
        y = 0.5 + 0.5 * x / (1 + jnp.abs(x))
        return y, jax.nn.sigmoid(x) * jax.nn.sigmoid(-x) * dx

    return function


@right(args="f32[3]")
def tangent_of_the_norm_at_zero():
    """A norm with slope zero at zero, where plain autodiff gives no number."""
    function = jax.custom_jvp(lambda x: jnp.sqrt(jnp.sum(x**2)))

    @function.defjvp
    def _(primals, tangents):
        (x,), (dx,) = primals, tangents
        y = function(x)
        return y, jnp.sum(x * dx) / jnp.where(y > 0, y, 1)

    return function


@right(args="f32[5]>=0 f32[5]>0")
def tangent_of_x_log_y():
    """x log y, with y's slope x / y; x may be zero."""
    function = jax.custom_jvp(lambda x, y: x * jnp.log(y))
    function.defjvps(lambda dx, _, x, y: dx * jnp.log(y), lambda dy, _, x, y: dy * x / y)
    return function
