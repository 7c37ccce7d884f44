"""Normalisations as published packages differentiate them by hand: statistics kept, statistics that come out."""

import jax.numpy as jnp
from jax import lax

from .case import by_hand, right
from .halves import keeping

f32 = jnp.float32


@right(args="f32[3,5] f32[5]")
def rms_norm_with_an_offset():
    """x (1 + w) / rms in float32; what is kept is the reciprocal of the root."""

    def forward(x, w):
        wide = x.astype(f32)
        root = lax.rsqrt(jnp.mean(wide**2, -1, keepdims=True) + 1e-6)
        return (wide * root * (1 + w.astype(f32))).astype(x.dtype), (x, w, root)

    def backward(saved, g):
        x, w, root = saved
        hat = x.astype(f32) * root
        wide = g.astype(f32) * (1 + w)
        bar = root * (wide - hat * jnp.mean(wide * hat, -1, keepdims=True))
        return bar.astype(x.dtype), jnp.sum(g * hat, 0).astype(w.dtype)

    return by_hand(lambda x, w: forward(x, w)[0], forward, backward)


def standardised(x, axes):
    mean = x.mean(axes, keepdims=True)
    root = lax.rsqrt(jnp.mean((x - mean) ** 2, axes, keepdims=True) + 1e-5)
    return (x - mean) * root, mean, root


def standardised_bar(hat, root, g, axes):
    return root * (g - g.mean(axes, keepdims=True) - hat * jnp.mean(g * hat, axes, keepdims=True))


@right(args="f32[2,3,3,4] f32[4] f32[4]")
def group_norm_of_images():
    """Channels in two groups."""

    def split(x):
        groups = 2 if x.shape[-1] % 2 == 0 else 1
        return x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)

    def function(x, scale, bias):
        return standardised(split(x), (1, 2, 4))[0].reshape(x.shape) * scale + bias

    def backward(saved, g):
        x, scale, _ = saved
        hat, _, root = standardised(split(x), (1, 2, 4))
        bar = standardised_bar(hat, root, split(g * scale), (1, 2, 4)).reshape(x.shape)
        return bar, jnp.sum(g * hat.reshape(x.shape), (0, 1, 2)), jnp.sum(g, (0, 1, 2))

    return by_hand(function, keeping(function), backward)


@right(args="f32[6,3] f32[3] f32[3] f32[3] f32[3]>0")
def batch_norm_with_running_statistics():
    """The running mean and variance come out too, and are heard there alone."""

    def function(x, scale, bias, mean, variance):
        hat, now, _ = standardised(x, (0,))
        return hat * scale + bias, 0.9 * mean + 0.1 * now[0], 0.9 * variance + 0.1 * x.var(0)

    def backward(saved, bars):
        x, scale, _, _, _ = saved
        g, mean_bar, variance_bar = bars
        hat, now, root = standardised(x, (0,))
        bar = standardised_bar(hat, root, g * scale, (0,))
        bar += (0.1 * mean_bar + 0.2 * variance_bar * (x - now)) / len(x)
        return bar, jnp.sum(g * hat, 0), jnp.sum(g, 0), 0.9 * mean_bar, 0.9 * variance_bar

    return by_hand(function, keeping(function), backward)


@right(args="f32[4,3] f32[3]")
def weight_norm():
    """w = g v / |v| by columns."""

    def function(v, g):
        return g * v / jnp.linalg.norm(v, axis=0)

    def backward(saved, bar):
        v, g = saved
        norm = jnp.linalg.norm(v, axis=0)
        along = jnp.sum(bar * v, 0) / norm
        return g / norm * (bar - v * along / norm), along

    return by_hand(function, keeping(function), backward)


@right(args="f32[4,3] f32[4]", argnums=0)
def spectral_norm_with_a_kept_vector():
    """One power iteration from a vector kept between steps; both singular vectors are held constant."""

    def vectors(w, u):
        v = w.T @ u
        v = v / (jnp.linalg.norm(v) + 1e-12)
        u = w @ v
        return lax.stop_gradient(u / (jnp.linalg.norm(u) + 1e-12)), lax.stop_gradient(v)

    def function(w, u):
        u, v = vectors(w, u)
        return w / (u @ w @ v)

    def backward(saved, g):
        w, u = saved
        u, v = vectors(w, u)
        sigma = u @ w @ v
        return g / sigma - jnp.sum(g * w) / sigma**2 * jnp.outer(u, v), jnp.zeros_like(u)

    return by_hand(function, keeping(function), backward)
