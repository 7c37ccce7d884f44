"""Activations: every element on its own, without parameters."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .case import by_hand, right, wrong
from .halves import pointwise

ROOT_TWO_PI = math.sqrt(2 * math.pi)
K = math.sqrt(2 / math.pi)  # of the tanh approximation of the GELU


def phi(x):
    return jnp.exp(-(x**2) / 2) / ROOT_TWO_PI


def cap_phi(x):
    return lax.erfc(-x / math.sqrt(2)) / 2


def gelu(x):
    return x * cap_phi(x)


def gelu_tanh(x):
    return x / 2 * (1 + jnp.tanh(K * (x + 0.044715 * x**3)))


def swish(x):
    return x * jax.nn.sigmoid(x)


def mish(x):
    return x * jnp.tanh(jnp.logaddexp(x, 0))


def bent_identity(x):
    return (jnp.sqrt(x**2 + 1) - 1) / 2 + x


def log_sigmoid(x):
    return -jnp.logaddexp(-x, 0)


def softsign(x):
    return x / (1 + jnp.abs(x))


# --- right ------------------------------------------------------------------------------------------------------------


@right(args="f32[16]")
def gelu_product_rule():
    """Both factors of x Φ(x) differentiated."""
    return pointwise(gelu, lambda x: cap_phi(x) + x * phi(x))


@right(args="f32[4,4]")
def gelu_tanh_guarded():
    """The slope of the tanh is zero where it saturates, whatever the polynomial does there."""

    def slope(x):
        t = jnp.tanh(K * (x + 0.044715 * x**3))
        inner = jnp.where(jnp.abs(t) == 1, 0, K * (1 + 3 * 0.044715 * x**2))
        return (1 + t) / 2 + x / 2 * (1 - t) * (1 + t) * inner

    return pointwise(gelu_tanh, slope)


@right(args="f32[3,5]")
def swish_from_sigmoid():
    """The sigmoid is computed again; nothing but x is kept."""

    def slope(x):
        s = jax.nn.sigmoid(x)
        return s + swish(x) * (1 - s)

    return pointwise(swish, slope)


@right(args="f32[12]")
def mish_by_parts():
    """tanh(softplus) and its slope, each from functions that do not overflow."""

    def slope(x):
        t = jnp.tanh(jnp.logaddexp(x, 0))
        return t + x * jax.nn.sigmoid(x) * (1 - t) * (1 + t)

    return pointwise(mish, slope)


@right(args="f32[8]")
def softplus_stable_beside_a_naive_definition():
    """The definition overflows at large x, where value and slope by hand stay finite."""
    return by_hand(
        lambda x: jnp.log(1 + jnp.exp(x)),
        lambda x: (jnp.logaddexp(x, 0), x),
        lambda x, y_bar: (y_bar * jax.nn.sigmoid(x),),
    )


@right(args="f32[9]")
def bent_identity_slope():
    return pointwise(bent_identity, lambda x: x / jnp.sqrt(x**2 + 1) / 2 + 1)


@right(args="f32[7]")
def log_sigmoid_slope():
    return pointwise(log_sigmoid, lambda x: jax.nn.sigmoid(-x))


@right(args="f32[2,6]")
def softsign_forward_mode():
    """A custom_jvp whose slope squares a number below one, so that no dtype overflows."""
    function = jax.custom_jvp(softsign)
    function.defjvps(lambda x_dot, y, x: x_dot * (1 / (1 + jnp.abs(x))) ** 2)
    return function


@right(args="f32[10]")
def relu_one_at_zero():
    """One at the kink, where JAX takes a half: a subgradient too."""
    return pointwise(lambda x: jnp.maximum(x, 0), lambda x: (x >= 0).astype(x.dtype))


@right(args="f32[10]")
def abs_minus_one_at_zero():
    """The left derivative at the kink."""
    return pointwise(jnp.abs, lambda x: jnp.where(x > 0, 1, -1).astype(x.dtype))


@right(args="f32[3,4]")
def softshrink_zero_at_the_edges():
    """Zero on the closed interval [-1/2, 1/2]: a subgradient at both edges."""

    def softshrink(x):
        return jnp.sign(x) * jnp.maximum(jnp.abs(x) - 0.5, 0)

    return pointwise(softshrink, lambda x: (jnp.abs(x) > 0.5).astype(x.dtype))


@right(args="f32[8]")
def sign_is_flat():
    """The derivative is exactly zero."""
    return pointwise(jnp.sign, jnp.zeros_like)


@right(args="f32[1200]")
def tanh_from_its_output():
    """(1 - y)(1 + y) from the output that is kept, not the input."""

    def forward(x):
        y = jnp.tanh(x)
        return y, y

    return by_hand(jnp.tanh, forward, lambda y, y_bar: (y_bar * (1 - y) * (1 + y),))


# --- wrong ------------------------------------------------------------------------------------------------------------


@wrong("local_derivative", args="f32[16]")
def gelu_exact_with_the_slope_of_the_approximation():
    """The slope of the tanh approximation under the exact value: at most one part in two thousand off."""

    def slope(x):
        t = jnp.tanh(K * (x + 0.044715 * x**3))
        return (1 + t) / 2 + x / 2 * (1 - t**2) * K * (1 + 3 * 0.044715 * x**2)

    return pointwise(gelu, slope)


@wrong("missing_path", "missing_term", "local_derivative", args="f32[16]")
def gelu_second_factor_held():
    """The slope of x Φ(x) with Φ held constant."""
    return pointwise(gelu, cap_phi)


@wrong("wrong_residual", "local_derivative", args="f32[5,4]")
def swish_from_its_output():
    """The output was kept where the formula is one in the input."""

    def forward(x):
        y = swish(x)
        return y, y

    def backward(y, y_bar):
        s = jax.nn.sigmoid(y)
        return (y_bar * (s + y * (1 - s)),)

    return by_hand(swish, forward, backward)


@wrong("local_derivative", "missing_term", args="f32[8]")
def mish_without_the_cube():
    """The numerator lacks e^{3x} (the mistake mended in thinc, pull request 578)."""

    def slope(x):
        e = jnp.exp(jnp.minimum(x, 5))
        omega = 4 * (x + 1) + 4 * e**2 + e * (4 * x + 6)
        return jnp.where(x > 5, 1, e * omega / (2 * e + e**2 + 2) ** 2)

    return pointwise(mish, slope)


@wrong("wrong_residual", "local_derivative", args="f32[10]")
def tanh_from_its_input():
    """1 - y² with the input in the place of the output."""
    return pointwise(jnp.tanh, lambda x: 1 - x**2)


@wrong("values", "local_derivative", args="f32[40]")
def tanh_cut_off():
    """Taken for saturated beyond 2.5, where the slope is still 0.026."""
    return pointwise(jnp.tanh, lambda x: jnp.where(jnp.abs(x) > 2.5, 0, 1 - jnp.tanh(x) ** 2))


@wrong("values", "kink", "located", "not_finite", args="f32[6]")
def log_sigmoid_zero_at_zero():
    """Two branches, neither of which takes x = 0, where the slope is one half (jax issue 2140)."""

    def slope(x):
        e = jnp.exp(-jnp.abs(x))
        return jnp.where(x > 0, e / (1 + e), 0) + jnp.where(x < 0, 1 / (1 + e), 0)

    return pointwise(log_sigmoid, slope)


@wrong("kink", "counted_twice", "values", args="f32[9]")
def leaky_relu_both_slopes_at_zero():
    """At zero both masks are on, and the slopes add to 1.1, outside [0.1, 1]."""

    def slope(x):
        return (x >= 0).astype(x.dtype) + 0.1 * (x <= 0).astype(x.dtype)

    return pointwise(lambda x: jnp.maximum(x, 0.1 * x), slope)


@wrong("values", "local_derivative", args="f32[12]")
def hard_tanh_open_below():
    """The lower limit was forgotten: what is clipped to -1 still gets its cotangent."""
    return pointwise(lambda x: jnp.clip(x, -1, 1), lambda x: (x < 1).astype(x.dtype))


@wrong("not_finite", "values", args="f32[8]")
def sigmoid_overflows():
    """e^{-x} / (1 + e^{-x})² is infinity over infinity at large negative x, where the slope is zero."""
    return pointwise(jax.nn.sigmoid, lambda x: jnp.exp(-x) / (1 + jnp.exp(-x)) ** 2)


@wrong("located", "shape", "dropped", args="f32[10]")
def square_unrolled_by_four():
    """A loop unrolled by four leaves the remainder of the length without a cotangent."""

    def backward(x, y_bar):
        whole = x.shape[0] // 4 * 4
        return (jnp.zeros_like(x).at[:whole].set((2 * x * y_bar)[:whole]),)

    return by_hand(lambda x: x**2, lambda x: (x**2, x), backward)


@wrong("located", "values", args="f32[1000]")
def window_with_one_wrong_entry():
    """A table typed twice: one entry of a thousand is one part in a hundred off in the backward pass."""
    window = np.sin(np.pi * (np.arange(1000) + 0.5) / 1000)
    typed = np.where(np.arange(1000) == 617, 1.01, 1) * window

    def function(x):
        return x * jnp.asarray(window, x.dtype)

    return by_hand(function, lambda x: (function(x), None), lambda _, y_bar: (y_bar * jnp.asarray(typed, y_bar.dtype),))


@wrong("cancellation", "dtype", "wrong_residual", args="f32[64]")
def tanh_residual_in_bfloat16():
    """The output is kept in bfloat16 to save memory: right in bfloat16, three digits in float32."""

    def forward(x):
        y = jnp.tanh(x)
        return y, y.astype(jnp.bfloat16)

    def backward(y, y_bar):
        y = y.astype(y_bar.dtype)
        return (y_bar * (1 - y) * (1 + y),)

    return by_hand(jnp.tanh, forward, backward)


@wrong("value", args="f32[8]")
def gelu_forward_is_the_approximation():
    """The forward pass gives the tanh approximation, the definition the exact value; the slope is that of exact."""
    return by_hand(gelu, lambda x: (gelu_tanh(x), x), lambda x, y_bar: (y_bar * (cap_phi(x) + x * phi(x)),))


@wrong("raised", "structure", args="f32[5]")
def bare_cotangent():
    """One cotangent instead of a tuple of one (jax pull request 5571)."""
    return by_hand(softsign, lambda x: (softsign(x), x), lambda x, y_bar: y_bar / (1 + jnp.abs(x)) ** 2)


@wrong("sign", args="f32[3,3]")
def log_sigmoid_sign():
    """The slope of log σ(-x)."""
    return pointwise(log_sigmoid, lambda x: -jax.nn.sigmoid(-x))


@wrong("impure", "wrong_residual", "raised", "transform", args="f32[6]")
def kept_in_a_global():
    """The last input is kept in the enclosing scope, as on a module's self: the second of two forward passes wins."""
    kept = {}

    def forward(x):
        kept["x"] = x
        return x**3, ()

    return by_hand(lambda x: x**3, forward, lambda _, y_bar: (3 * kept["x"] ** 2 * y_bar,))
