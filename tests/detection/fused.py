"""Layers fused with what comes after: activations, gates, experts, low-rank corrections, embeddings."""

import math

import jax
import jax.numpy as jnp
from jax import lax

from .case import by_hand, right, wrong
from .halves import keeping
from .linear import dense, dense_back


def gelu(x):
    return x * lax.erfc(-x / math.sqrt(2)) / 2


def gelu_slope(x):
    return lax.erfc(-x / math.sqrt(2)) / 2 + x * jnp.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


def dense_gelu(x, w, b):
    return gelu(x @ w + b)


def lora(x, w, down, up, alpha):
    """A frozen weight and a correction of rank r, scaled by alpha / r."""
    return x @ lax.stop_gradient(w) + alpha / down.shape[1] * (x @ down @ up)


def swiglu(x, gate, up):
    return jax.nn.silu(x @ gate) * (x @ up)


def silu_slope(x):
    s = jax.nn.sigmoid(x)
    return s * (1 + x * (1 - s))


def mixture(x, router, experts):
    """Every expert sees every row; the router's softmax mixes them."""
    p = jax.nn.softmax(x @ router, axis=-1)
    return jnp.einsum("ne,eio,ni->no", p, experts, x)


def tied(table, tokens):
    """Mean of the embeddings of a window, scored against every embedding."""
    return jnp.mean(table[tokens], axis=0) @ table.T


def embed(table, tokens):
    return table[tokens]


# --- right ------------------------------------------------------------------------------------------------------------


@right(args="f32[4,3] f32[3,5] f32[5]")
def dense_with_gelu_computed_again():
    """The sum before the activation is computed again instead of kept."""

    def backward(residuals, y_bar):
        x, w, b = residuals
        return dense_back(x, w, y_bar * gelu_slope(x @ w + b))

    return by_hand(dense_gelu, keeping(dense_gelu), backward)


@right(args="f32[4,5] f32[5,3] f32[5,2] f32[2,3] 8.0")
def lora_with_a_frozen_weight():
    """The definition stops the gradient of w, whose cotangent is exactly zero."""

    def backward(alpha, residuals, y_bar):
        x, w, down, up = residuals
        y_scaled = alpha / down.shape[1] * y_bar
        x_bar = y_bar @ w.T + y_scaled @ up.T @ down.T
        return x_bar, jnp.zeros_like(w), x.T @ (y_scaled @ up.T), (x @ down).T @ y_scaled

    def forward(x, w, down, up, alpha):
        return lora(x, w, down, up, alpha), (x, lax.stop_gradient(w), down, up)

    return by_hand(lora, forward, backward, nondiff_argnums=(4,))


@right(args="f32[4,3] f32[3,5] f32[3,5]")
def swiglu_fused():
    def backward(residuals, y_bar):
        x, gate, up = residuals
        g, u = x @ gate, x @ up
        g_bar, u_bar = y_bar * u * silu_slope(g), y_bar * jax.nn.silu(g)
        return g_bar @ gate.T + u_bar @ up.T, x.T @ g_bar, x.T @ u_bar

    return by_hand(swiglu, keeping(swiglu), backward)


@right(args="f32[5,3] f32[3,4] f32[4,3,2]")
def mixture_of_experts():
    def backward(residuals, y_bar):
        x, router, experts = residuals
        p = jax.nn.softmax(x @ router, axis=-1)
        p_bar = jnp.einsum("no,eio,ni->ne", y_bar, experts, x)
        scores_bar = p * (p_bar - jnp.sum(p * p_bar, -1, keepdims=True))
        x_bar = scores_bar @ router.T + jnp.einsum("no,ne,eio->ni", y_bar, p, experts)
        return x_bar, x.T @ scores_bar, jnp.einsum("ne,ni,no->eio", p, x, y_bar)

    return by_hand(mixture, keeping(mixture), backward)


@right(args="f32[5,3] i32[4]<5")
def tied_embedding():
    """The table is used twice, and tokens may repeat."""

    def backward(residuals, scores_bar):
        table, tokens = residuals
        h = jnp.mean(table[tokens], axis=0)
        looked_up = jnp.zeros_like(table).at[tokens].add(scores_bar @ table / len(tokens))
        return looked_up + jnp.outer(scores_bar, h), None

    return by_hand(tied, keeping(tied), backward)


@right(args="f32[3,4] f32[4,6] f32[6] f32[6,2]")
def two_layers_one_by_hand():
    """A network in which one layer has its derivative by hand."""
    layer = by_hand(
        dense_gelu,
        keeping(dense_gelu),
        lambda kept, y_bar: dense_back(kept[0], kept[1], y_bar * gelu_slope(dense(*kept))),
    )
    return lambda x, w, b, v: jnp.tanh(layer(x, w, b)) @ v


# --- wrong ------------------------------------------------------------------------------------------------------------


@wrong("wrong_residual", "local_derivative", args="f32[4,3] f32[3,5] f32[5]")
def dense_gelu_slope_at_the_output():
    """The slope of the activation is taken at its output instead of its input."""

    def forward(x, w, b):
        y = dense_gelu(x, w, b)
        return y, (x, w, y)

    def backward(residuals, y_bar):
        x, w, y = residuals
        return dense_back(x, w, y_bar * gelu_slope(y))

    return by_hand(dense_gelu, forward, backward)


@wrong("factor", args="f32[4,5] f32[5,3] f32[5,2] f32[2,3] 8.0")
def lora_scale_forgotten_downwards():
    """alpha / r is in the cotangent of the upper factor, not in that of the lower."""

    def backward(alpha, residuals, y_bar):
        x, w, down, up = residuals
        y_scaled = alpha / down.shape[1] * y_bar
        x_bar = y_bar @ w.T + y_scaled @ up.T @ down.T
        return x_bar, jnp.zeros_like(w), x.T @ (y_bar @ up.T), (x @ down).T @ y_scaled

    def forward(x, w, down, up, alpha):
        return lora(x, w, down, up, alpha), (x, lax.stop_gradient(w), down, up)

    return by_hand(lora, forward, backward, nondiff_argnums=(4,))


@wrong("missing_path", "missing_term", args="f32[4,5] f32[5,3] f32[5,2] f32[2,3] 8.0")
def lora_input_through_the_weight_alone():
    """x is used twice; the road through the correction is forgotten."""

    def backward(alpha, residuals, y_bar):
        x, w, down, up = residuals
        y_scaled = alpha / down.shape[1] * y_bar
        return y_bar @ w.T, jnp.zeros_like(w), x.T @ (y_scaled @ up.T), (x @ down).T @ y_scaled

    def forward(x, w, down, up, alpha):
        return lora(x, w, down, up, alpha), (x, lax.stop_gradient(w), down, up)

    return by_hand(lora, forward, backward, nondiff_argnums=(4,))


@wrong("exchanged", args="f32[4,3] f32[3,5] f32[3,5]")
def swiglu_gates_exchanged():
    """The cotangents of the gate and of the other branch are stored in each other's place."""

    def backward(residuals, y_bar):
        x, gate, up = residuals
        g, u = x @ gate, x @ up
        g_bar, u_bar = y_bar * u * silu_slope(g), y_bar * jax.nn.silu(g)
        return g_bar @ gate.T + u_bar @ up.T, x.T @ u_bar, x.T @ g_bar

    return by_hand(swiglu, keeping(swiglu), backward)


@wrong("local_derivative", "missing_term", "missing_path", args="f32[4,3] f32[3,5] f32[3,5]")
def swiglu_slope_is_the_sigmoid():
    """σ(g) for the slope of g σ(g)."""

    def backward(residuals, y_bar):
        x, gate, up = residuals
        g, u = x @ gate, x @ up
        g_bar, u_bar = y_bar * u * jax.nn.sigmoid(g), y_bar * jax.nn.silu(g)
        return g_bar @ gate.T + u_bar @ up.T, x.T @ g_bar, x.T @ u_bar

    return by_hand(swiglu, keeping(swiglu), backward)


@wrong("missing_path", "missing_term", "dropped", args="f32[5,3] f32[3,4] f32[4,3,2]")
def mixture_of_experts_router_held():
    """The weights of the experts are held constant: the router does not learn, and x loses a road."""

    def backward(residuals, y_bar):
        x, router, experts = residuals
        p = jax.nn.softmax(x @ router, axis=-1)
        x_bar = jnp.einsum("no,ne,eio->ni", y_bar, p, experts)
        return x_bar, jnp.zeros_like(router), jnp.einsum("ne,ni,no->eio", p, x, y_bar)

    return by_hand(mixture, keeping(mixture), backward)


@wrong("missing_path", "missing_term", args="f32[5,3] i32[4]<5")
def tied_embedding_output_alone():
    """The table's use in the lookup is forgotten."""

    def backward(residuals, scores_bar):
        table, tokens = residuals
        return jnp.outer(scores_bar, jnp.mean(table[tokens], axis=0)), None

    return by_hand(tied, keeping(tied), backward)


@wrong("missing_sum", "values", "located", args="f32[4,3] i32[6]<4")
def embedding_repeats_overwrite():
    """Scattered with `set`: a token that occurs twice counts once."""

    def backward(residuals, y_bar):
        table, tokens = residuals
        return jnp.zeros_like(table).at[tokens].set(y_bar), None

    return by_hand(embed, keeping(embed), backward)
