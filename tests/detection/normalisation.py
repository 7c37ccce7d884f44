"""Normalisations of rows, with a scale and a shift: layer and root mean square."""

import jax.numpy as jnp
from jax import lax

from .case import by_hand, right, wrong
from .halves import keeping

EPS = 1e-5


def mean(x, axis=-1):
    return jnp.mean(x, axis=axis, keepdims=True)


def standardise(x, axis=-1):
    """x̂ and 1/σ."""
    centred = x - mean(x, axis)
    r = lax.rsqrt(mean(centred**2, axis) + EPS)
    return centred * r, r


def standardised_back(x_hat, r, g, axis=-1):
    return r * (g - mean(g, axis) - x_hat * mean(g * x_hat, axis))


def layer_norm(x, gamma, beta):
    return gamma * standardise(x)[0] + beta


def layer_norm_forward(x, gamma, beta):
    x_hat, r = standardise(x)
    return gamma * x_hat + beta, (x_hat, r, gamma)


def rms_norm(x, gamma):
    return gamma * x * lax.rsqrt(mean(x**2) + EPS)


def rms_norm_forward(x, gamma):
    r = lax.rsqrt(mean(x**2) + EPS)
    return gamma * x * r, (x * r, r, gamma)


# --- right ------------------------------------------------------------------------------------------------------------


@right(args="f32[4,6] f32[6] f32[6]")
def layer_norm_by_projection():
    def backward(residuals, y_bar):
        x_hat, r, gamma = residuals
        return standardised_back(x_hat, r, gamma * y_bar), jnp.sum(y_bar * x_hat, 0), jnp.sum(y_bar, 0)

    return by_hand(layer_norm, layer_norm_forward, backward)


@right(args="f32[2,3,5] f32[5] f32[5]")
def layer_norm_computed_again():
    """Two leading axes; the statistics are computed again in the backward pass."""

    def backward(residuals, y_bar):
        x, gamma, _ = residuals
        x_hat, r = standardise(x)
        return standardised_back(x_hat, r, gamma * y_bar), jnp.sum(y_bar * x_hat, (0, 1)), jnp.sum(y_bar, (0, 1))

    return by_hand(layer_norm, keeping(layer_norm), backward)


@right(args="f32[4,1] f32[1] f32[1]")
def layer_norm_of_one():
    """Rows of length one are normalised to zero: no cotangent reaches x or gamma, exactly."""

    def backward(residuals, y_bar):
        x_hat, r, gamma = residuals
        return standardised_back(x_hat, r, gamma * y_bar), jnp.sum(y_bar * x_hat, 0), jnp.sum(y_bar, 0)

    return by_hand(layer_norm, layer_norm_forward, backward)


@right(args="f32[4,8] f32[8]")
def layer_norm_far_from_zero():
    """A common offset of a thousand makes the rows ill-conditioned; centring before squaring keeps what can be kept."""

    def backward(residuals, y_bar):
        x_hat, r, gamma = residuals
        return standardised_back(x_hat, r, gamma * y_bar), jnp.sum(y_bar * x_hat, 0), jnp.sum(y_bar, 0)

    norm = by_hand(layer_norm, layer_norm_forward, backward)
    return lambda x, gamma: norm(x + 1000, gamma, jnp.zeros_like(gamma))


@right(args="f32[5,6] f32[6]")
def rms_norm_upcast():
    """Both halves compute in float32 at least and come back in the dtype of the arguments."""

    def wide(x):
        return x.astype(jnp.promote_types(x.dtype, jnp.float32))

    def forward(x, gamma):
        y, residuals = rms_norm_forward(wide(x), wide(gamma))
        return y.astype(x.dtype), residuals

    def backward(residuals, y_bar):
        x_hat, r, gamma = residuals
        g = gamma * wide(y_bar)
        x_bar, gamma_bar = r * (g - x_hat * mean(g * x_hat)), jnp.sum(wide(y_bar) * x_hat, 0)
        return x_bar.astype(y_bar.dtype), gamma_bar.astype(y_bar.dtype)

    return by_hand(rms_norm, forward, backward)


# --- wrong ------------------------------------------------------------------------------------------------------------


@wrong("missing_term", "missing_path", args="f32[4,6] f32[6] f32[6]")
def layer_norm_mean_not_subtracted():
    """The mean of the cotangent is left in: the use of x in its own mean is forgotten."""

    def backward(residuals, y_bar):
        x_hat, r, gamma = residuals
        g = gamma * y_bar
        return r * (g - x_hat * mean(g * x_hat)), jnp.sum(y_bar * x_hat, 0), jnp.sum(y_bar, 0)

    return by_hand(layer_norm, layer_norm_forward, backward)


@wrong("missing_term", "missing_path", args="f32[4,6] f32[6] f32[6]")
def layer_norm_scale_held():
    """1/σ is held constant: the second projection is missing."""

    def backward(residuals, y_bar):
        x_hat, r, gamma = residuals
        g = gamma * y_bar
        return r * (g - mean(g)), jnp.sum(y_bar * x_hat, 0), jnp.sum(y_bar, 0)

    return by_hand(layer_norm, layer_norm_forward, backward)


@wrong("exchanged", args="f32[4,6] f32[6] f32[6]")
def layer_norm_parameters_exchanged():
    """The cotangent of beta is returned for gamma, and that of gamma for beta."""

    def backward(residuals, y_bar):
        x_hat, r, gamma = residuals
        return standardised_back(x_hat, r, gamma * y_bar), jnp.sum(y_bar, 0), jnp.sum(y_bar * x_hat, 0)

    return by_hand(layer_norm, layer_norm_forward, backward)


@wrong("missing_sum", "located", args="f32[4,6] f32[6] f32[6]")
def layer_norm_last_row_wins():
    """Every row writes its cotangent of gamma to the same place; the last one stays."""

    def backward(residuals, y_bar):
        x_hat, r, gamma = residuals
        return standardised_back(x_hat, r, gamma * y_bar), (y_bar * x_hat)[-1], jnp.sum(y_bar, 0)

    return by_hand(layer_norm, layer_norm_forward, backward)


@wrong("epsilon", "local_derivative", "values", args="f32[4,6] f32[6] f32[6]")
def layer_norm_epsilon_outside():
    """1/(σ + ε) in the backward pass, 1/√(σ² + ε) in the forward pass."""

    def backward(residuals, y_bar):
        x, gamma, _ = residuals
        r = 1 / (jnp.std(x, -1, keepdims=True) + EPS)
        x_hat = (x - mean(x)) * r
        return standardised_back(x_hat, r, gamma * y_bar), jnp.sum(y_bar * x_hat, 0), jnp.sum(y_bar, 0)

    return by_hand(layer_norm, keeping(layer_norm), backward)


@wrong("cancellation", "values", "not_finite", args="f32[4,8] f32[8]")
def layer_norm_one_pass_far_from_zero():
    """The variance as ⟨x²⟩ - ⟨x⟩² in the backward pass, under an offset of a thousand."""

    def backward(residuals, y_bar):
        x, gamma, _ = residuals
        r = lax.rsqrt(jnp.maximum(mean(x**2) - mean(x) ** 2, 0) + EPS)
        x_hat = x * r - mean(x) * r
        return standardised_back(x_hat, r, gamma * y_bar), jnp.sum(y_bar * x_hat, 0), jnp.sum(y_bar, 0)

    norm = by_hand(layer_norm, keeping(layer_norm), backward)
    return lambda x, gamma: norm(x + 1000, gamma, jnp.zeros_like(gamma))


@wrong("shape", "missing_term", "missing_path", "located", args="f32[3,10] f32[10] f32[10]")
def layer_norm_sums_in_blocks_of_four():
    """The sums of the backward pass run over whole blocks of four; of ten elements the last two are left out."""

    def backward(residuals, y_bar):
        x_hat, r, gamma = residuals
        n, g = x_hat.shape[-1], gamma * y_bar
        whole = jnp.arange(n) < n // 4 * 4
        x_bar = r * (g - mean(g * whole) - x_hat * mean(g * x_hat * whole))
        return x_bar, jnp.sum(y_bar * x_hat, 0), jnp.sum(y_bar, 0)

    return by_hand(layer_norm, layer_norm_forward, backward)


@wrong("dropped", args="f32[4,6] f32[6]")
def rms_norm_gamma_dropped():
    """Nothing is returned for gamma, so it never learns (unsloth issue 4533)."""

    def backward(residuals, y_bar):
        x_hat, r, gamma = residuals
        g = gamma * y_bar
        return r * (g - x_hat * mean(g * x_hat)), None

    return by_hand(rms_norm, rms_norm_forward, backward)


@wrong("local_derivative", "missing_path", "wrong_residual", "values", args="f32[4,6] f32[6]")
def rms_norm_without_its_weight():
    """gamma is not multiplied into the cotangent of x, as told in llm.c pull request 763: right while gamma is one."""

    def backward(residuals, y_bar):
        x_hat, r, _ = residuals
        return r * (y_bar - x_hat * mean(y_bar * x_hat)), jnp.sum(y_bar * x_hat, 0)

    return by_hand(rms_norm, rms_norm_forward, backward)


@wrong("dtype", "not_finite", "values", args="f32[4,6] f32[6]")
def rms_norm_squares_in_half():
    """The forward pass squares in float32, the backward pass in the dtype of x: past 256 float16 overflows."""

    def function(x, gamma):
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        return (gamma * (x * lax.rsqrt(mean(wide**2) + EPS))).astype(x.dtype)

    def backward(residuals, y_bar):
        x, gamma = residuals
        r = lax.rsqrt(mean(x**2) + jnp.asarray(EPS, x.dtype))
        g = gamma * y_bar
        return r * (g - x * r * mean(g * x * r)), jnp.sum(y_bar * x * r, 0)

    norm = by_hand(function, keeping(function), backward)
    return lambda x, gamma: norm(300 * x, gamma)
