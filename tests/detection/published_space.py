"""Rotations, rays and particles as published packages differentiate them by hand."""

import math

import jax.numpy as jnp
import jax.scipy.special as sp

from .case import by_hand, right
from .halves import keeping

# --- rotations -------------------------------------------------------------------------------------------------------


@right(args="f32[3] f32[4,3]")
def rotation_by_a_vector():
    """Rodrigues, with series for a small angle in both halves: the derivative is that of three entire functions."""

    def sines(square):
        """sin θ / θ, (1 − cos θ) / θ² and their derivatives for θ²."""
        small = square < 1e-2
        t2 = jnp.where(small, 1, square)
        t = jnp.sqrt(t2)

        def series(start, first):
            """Σ (−θ²)ⁿ / (2n + start)! and its derivative."""
            value, slope = 0, 0
            for n in range(6):
                c = (-1) ** n / math.factorial(2 * n + start)
                value, slope = value + c * square**n, slope + (n * c * square ** max(n - 1, 0) if n else 0)
            return value, slope

        (a, da), (b, db) = series(1, 1), series(2, 2)
        sine, cosine = jnp.sin(t) / t, (1 - jnp.cos(t)) / t2
        return (
            jnp.where(small, a, sine),
            jnp.where(small, b, cosine),
            jnp.where(small, da, (jnp.cos(t) - sine) / (2 * t2)),
            jnp.where(small, db, (sine / 2 - cosine) / t2),
        )

    def function(r, x):
        a, b, _, _ = sines(r @ r)
        turned = jnp.cross(r, x)
        return x + a * turned + b * jnp.cross(r, turned)

    def backward(saved, g):
        r, x = saved
        a, b, da, db = sines(r @ r)
        turned = jnp.cross(r, x)
        x_bar = g - a * jnp.cross(r, g) + b * jnp.cross(r, jnp.cross(r, g))
        along = 2 * r * (da * jnp.sum(g * turned) + db * jnp.sum(g * jnp.cross(r, turned)))
        inner = jnp.cross(g, r)
        r_bar = jnp.sum(a * jnp.cross(x, g) + b * (jnp.cross(turned, g) + jnp.cross(x, inner)), 0)
        return r_bar + along, x_bar

    return by_hand(function, keeping(function), backward)


@right(args="f32[5,4] f32[5,3]")
def rotation_by_a_quaternion():
    """Of any length: R(q) / |q|², written out for the cotangent."""

    def function(q, x):
        n = jnp.sum(q * q, -1, keepdims=True)
        w, v = q[:, :1], q[:, 1:]
        return ((w * w - jnp.sum(v * v, -1, keepdims=True)) * x
                + 2 * v * jnp.sum(v * x, -1, keepdims=True) + 2 * w * jnp.cross(v, x)) / n  # fmt: skip

    def backward(saved, g):
        q, x = saved
        n = jnp.sum(q * q, -1, keepdims=True)
        w, v = q[:, :1], q[:, 1:]
        y, h = function(q, x), g / n

        def dot(a, b):
            return jnp.sum(a * b, -1, keepdims=True)

        w_bar = 2 * (w * dot(h, x) + dot(h, jnp.cross(v, x)))
        v_bar = 2 * (-v * dot(h, x) + h * dot(v, x) + x * dot(h, v) + w * jnp.cross(x, h))
        q_bar = jnp.concatenate([w_bar, v_bar], -1) - 2 * q * dot(h, y)
        x_bar = (w * w - dot(v, v)) * h + 2 * v * dot(v, h) - 2 * w * jnp.cross(v, h)
        return q_bar, x_bar

    return by_hand(function, keeping(function), backward)


@right(args="f32[4,6]")
def rotation_from_six_numbers():
    """Gram and Schmidt, one step at a time backward."""

    def unit(a):
        return a / jnp.linalg.norm(a, axis=-1, keepdims=True)

    def unit_bar(a, g):
        n = jnp.linalg.norm(a, axis=-1, keepdims=True)
        u = a / n
        return (g - u * jnp.sum(u * g, -1, keepdims=True)) / n

    def function(x):
        a = unit(x[..., :3])
        b = unit(x[..., 3:] - jnp.sum(a * x[..., 3:], -1, keepdims=True) * a)
        return jnp.stack([a, b, jnp.cross(a, b)], -2)

    def backward(x, g):
        x = x[0]
        y = x[..., 3:]
        a = unit(x[..., :3])
        c = y - jnp.sum(a * y, -1, keepdims=True) * a
        b = unit(c)
        b_bar = g[..., 1, :] + jnp.cross(g[..., 2, :], a)
        c_bar = unit_bar(c, b_bar)
        along = jnp.sum(c_bar * a, -1, keepdims=True)
        a_bar = g[..., 0, :] + jnp.cross(b, g[..., 2, :]) - jnp.sum(a * y, -1, keepdims=True) * c_bar - along * y
        return (jnp.concatenate([unit_bar(x[..., :3], a_bar), c_bar - along * a], -1),)

    return by_hand(function, keeping(function), backward)


# --- rays and particles ----------------------------------------------------------------------------------------------


@right(args="f32[5,3] f32[5,3] f32[3] f32[3]")
def ray_and_box():
    """Where a ray enters and leaves a box: the face that is met receives the cotangent."""

    def function(origin, direction, corner, size):
        size = jnp.abs(size) + 0.5
        low, high = (corner - origin) / direction, (corner + size - origin) / direction
        return jnp.max(jnp.minimum(low, high), -1), jnp.min(jnp.maximum(low, high), -1)

    def backward(saved, bars):
        origin, direction, corner, size = saved
        wide = jnp.abs(size) + 0.5
        low, high = (corner - origin) / direction, (corner + wide - origin) / direction
        still = direction == 0  # along the face, which is never met
        near, far = jnp.minimum(low, high), jnp.maximum(low, high)
        at = [near == near.max(-1, keepdims=True), far == far.min(-1, keepdims=True)]
        g = [m * bar[:, None] / m.sum(-1, keepdims=True) for m, bar in zip(at, bars, strict=True)]
        half = low == high
        g_low = jnp.where(half, (g[0] + g[1]) / 2, jnp.where(low < high, g[0], g[1]))
        g_high = jnp.where(half, (g[0] + g[1]) / 2, jnp.where(low < high, g[1], g[0]))
        direction, low, high = (jnp.where(still, 1, a) for a in (direction, low, high))
        both = (g_low + g_high) / direction
        return (
            -both,
            -(g_low * low + g_high * high) / direction,
            both.sum(0),
            jnp.sum(g_high / direction, 0) * jnp.where(size >= 0, 1, -1),
        )

    return by_hand(function, keeping(function), backward)


@right(args="f32[4,6]>0 f32[4,6,3]")
def light_along_a_ray():
    """Transparency is a running product of e^{−σ}; its cotangent a running sum from the far end."""

    def weights(sigma):
        before = jnp.cumsum(sigma, -1) - sigma
        return -jnp.expm1(-sigma) * jnp.exp(-before)

    def function(sigma, colour):
        return jnp.einsum("rs,rsc->rc", weights(sigma), colour)

    def backward(saved, g):
        sigma, colour = saved
        w, heard = weights(sigma), jnp.einsum("rc,rsc->rs", g, colour)
        passed = w * heard
        behind = jnp.cumsum(passed[:, ::-1], -1)[:, ::-1] - passed
        return heard * jnp.exp(-jnp.cumsum(sigma, -1)) - behind, g[:, None] * w[..., None]

    return by_hand(function, keeping(function), backward)


@right(args="f32[5,3] f32[]>1")
def pairs_in_a_periodic_box():
    """Screened charges at the nearest image; the box is heard through the images alone."""

    def pairs(x, box):
        d = x[:, None] - x
        shift = jnp.round(d / box)
        d = d - box * shift
        eye = jnp.eye(len(x), dtype=bool)
        r = jnp.sqrt(jnp.where(eye, 1, jnp.sum(d * d, -1)) + 0.01)
        return d, shift, r, ~eye

    def function(x, box):
        *_, r, other = pairs(x, box)
        return jnp.sum(jnp.where(other, sp.erfc(r) / r, 0)) / 2

    def backward(saved, g):
        x, box = saved
        d, shift, r, other = pairs(x, box)
        slope = -sp.erfc(r) / r**2 - 2 / math.sqrt(math.pi) * jnp.exp(-r * r) / r
        force = jnp.where(other, g * slope / r, 0)[..., None] * d
        return force.sum(1), -jnp.sum(force * shift) / 2

    return by_hand(function, keeping(function), backward)


@right(args="f32[5,4] f32[2,6]>0<3")
def bilinear_samples():
    """Four neighbours receive their weights, the place what they differ by."""

    def corners(image, at):
        top = jnp.array(image.shape) - 1
        low = jnp.clip(jnp.floor(at).astype(int), 0, top[:, None])
        return low, jnp.minimum(low + 1, top[:, None]), at - low

    def function(image, at):
        low, high, (u, v) = corners(image, at)
        rows = [image[low[0], low[1]], image[low[0], high[1]], image[high[0], low[1]], image[high[0], high[1]]]
        return (1 - u) * ((1 - v) * rows[0] + v * rows[1]) + u * ((1 - v) * rows[2] + v * rows[3])

    def backward(saved, g):
        image, at = saved
        low, high, (u, v) = corners(image, at)
        a, b = image[low[0], low[1]], image[low[0], high[1]]
        c, d = image[high[0], low[1]], image[high[0], high[1]]
        bar = jnp.zeros_like(image)
        for i, j, w in (
            (low[0], low[1], (1 - u) * (1 - v)),
            (low[0], high[1], (1 - u) * v),
            (high[0], low[1], u * (1 - v)),
            (high[0], high[1], u * v),
        ):
            bar = bar.at[i, j].add(w * g)
        return bar, jnp.stack([g * ((1 - v) * (c - a) + v * (d - b)), g * ((1 - u) * (b - a) + u * (d - c))])

    return by_hand(function, keeping(function), backward)
