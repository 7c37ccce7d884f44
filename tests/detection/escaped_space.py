"""Wrong derivatives of geometry and rendering: rotations, cameras, splats."""

import jax
import jax.numpy as jnp
from jax import lax

from .case import by_hand, right, wrong
from .halves import keeping


def through(function, change):
    """A derivative that is autodiff's of the definition, but for what is changed of each cotangent."""

    def backward(saved, g):
        return change(saved, g, jax.vjp(function, *saved)[1](g))

    return by_hand(function, keeping(function), backward)


def as_of(function, other):
    """A derivative that is another function's."""
    return by_hand(function, keeping(function), lambda saved, g: jax.vjp(other, *saved)[1](g))


# --- rotations -------------------------------------------------------------------------------------------------------


def cross(v):
    x, y, z = v
    return jnp.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])


def rotation(v):
    """Rodrigues' formula, with a series for small angles."""
    square = jnp.sum(v * v)
    small = square < 1e-8
    safe = jnp.where(small, 1, square)
    angle = jnp.sqrt(safe)
    a = jnp.where(small, 1 - square / 6, jnp.sin(angle) / angle)
    b = jnp.where(small, 0.5 - square / 24, (1 - jnp.cos(angle)) / safe)
    w = cross(v)
    return jnp.eye(3, dtype=v.dtype) + a * w + b * (w @ w)


@wrong("missing_path", "missing_term", "local_derivative", args="f32[3]")
def rotation_angle_held():
    """The angle's own road through both factors is forgotten.  Source: exponential maps of SLAM libraries."""

    def held(v):
        square = lax.stop_gradient(jnp.sum(v * v))
        angle = jnp.sqrt(square)
        w = cross(v)
        return jnp.eye(3, dtype=v.dtype) + jnp.sin(angle) / angle * w + (1 - jnp.cos(angle)) / square * (w @ w)

    return as_of(rotation, held)


@wrong("values", "dropped", "located", "kink", "missing_path", args="f32[3]")
def rotation_silent_at_the_identity():
    """At no rotation at all the derivative is zero, where it is the generators.  Source: oarriaga/paz pull 383."""
    return through(rotation, lambda saved, g, bars: (jnp.where(jnp.sum(saved[0] ** 2) == 0, 0, bars[0]),))


@wrong("values", "local_derivative", "factor", "missing_term", "located", args="f32[3]")
def rotation_small_angles_with_half_of_the_quadratic_factor():
    """Below an angle of 1/20 the second factor's limit is 1/4 in the backward pass.  Source: Sophus pull 117."""

    def other(v):
        square = jnp.sum(v * v)
        small = square < 2.5e-3
        w = cross(v)
        by_series = jnp.eye(3, dtype=v.dtype) + (1 - square / 6) * w + (0.25 - square / 24) * (w @ w)
        return jnp.where(small, by_series, rotation(jnp.where(small, 1, v)))

    return as_of(rotation, other)


@right(args="f32[3]")
def rotation_by_series_and_formula():
    return as_of(rotation, rotation)


def turned(q, v):
    """Rotate points by a quaternion (w, x, y, z) that is normalised first."""
    w, *u = q / jnp.sqrt(jnp.sum(q * q))
    u = jnp.stack(u)
    t = 2 * jnp.cross(u, v)
    return v + w * t + jnp.cross(u, t)


@wrong("missing_path", "missing_term", "local_derivative", args="f32[4] f32[5,3]")
def quaternion_length_held():
    """The quaternion is normalised forward alone: its cotangent is not projected.  Source: gaussian splatting ports."""

    def held(q, v):
        w, *u = q / lax.stop_gradient(jnp.sqrt(jnp.sum(q * q)))
        u = jnp.stack(u)
        t = 2 * jnp.cross(u, v)
        return v + w * t + jnp.cross(u, t)

    return as_of(turned, held)


@wrong("exchanged", "permuted", "sign", "located", "local_derivative", args="f32[4] f32[5,3]")
def quaternion_with_its_real_part_last_backward():
    """(x, y, z, w) for (w, x, y, z) in the backward pass.  Source: every second robotics library."""
    return through(turned, lambda saved, g, bars: (jnp.roll(bars[0], -1), bars[1]))


@wrong("sign", "permuted", "wrong_residual", "local_derivative", args="f32[4] f32[5,3]")
def points_turned_forward_again():
    """The points' cotangent is turned by the rotation in place of its inverse."""
    return through(turned, lambda saved, g, bars: (bars[0], turned(saved[0], g)))


def angle_of(matrix):
    """The angle of a rotation, by its trace and its skew part, which serves half a turn as well."""
    skew = jnp.array([matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1]])
    return jnp.arctan2(jnp.sqrt(jnp.sum(skew**2) + 1e-12), jnp.trace(matrix) - 1)


@wrong("sign", "local_derivative", "wrong_residual", "missing_path", "missing_term", "dropped", args="f32[3,3]")
def angle_by_the_cosine_alone():
    """The derivative of arccos((trace - 1) / 2), which holds for rotations alone and not for what moves off them."""
    return as_of(angle_of, lambda m: jnp.arccos(jnp.clip((jnp.trace(m) - 1) / 2, -0.999, 0.999)))


# --- cameras ---------------------------------------------------------------------------------------------------------


def projected(points, focal):
    x, y, z = points.T
    depth = jnp.maximum(z, 0.2)
    return focal * jnp.stack([x / depth, y / depth], 1)


@wrong("values", "located", "local_derivative", "missing_path", args="f32[6,3]>0.5<3 f32[2]>0")
def projection_depth_heard_behind_the_near_plane():
    """Depths that are clamped are heard all the same.  Source: nerfstudio/gsplat and diff-gaussian-rasterization."""

    def other(points, focal):
        x, y, z = points.T
        depth = z + lax.stop_gradient(jnp.maximum(z, 0.2) - z)
        return focal * jnp.stack([x / depth, y / depth], 1)

    return as_of(projected, other)


@wrong("located", "missing_path", "dropped", args="f32[6,3]>0.5<3 f32[2]>0")
def projection_depth_of_the_first_coordinate_alone():
    """The depth's cotangent is that of x / z; y's is not added."""

    def other(points, focal):
        x, y, z = points.T
        depth = jnp.maximum(z, 0.2)
        return focal * jnp.stack([x / depth, y / lax.stop_gradient(depth)], 1)

    return as_of(projected, other)


def covariance(scales, angle):
    """Σ = R S Sᵀ Rᵀ of a flat ellipse."""
    c, s = jnp.cos(angle), jnp.sin(angle)
    turn = jnp.stack([jnp.stack([c, -s]), jnp.stack([s, c])])
    m = turn * scales
    return m @ m.T


@wrong("factor", "missing_path", "counted_twice", args="f32[2]>0.2<2 f32[]")
def covariance_used_once():
    """Σ̄ M for (Σ̄ + Σ̄ᵀ) M: one of the two uses.  Source: 3D splatting kernels."""

    def other(scales, angle):
        c, s = jnp.cos(angle), jnp.sin(angle)
        turn = jnp.stack([jnp.stack([c, -s]), jnp.stack([s, c])])
        m = turn * scales
        return m @ lax.stop_gradient(m).T

    return as_of(covariance, other)


def splat(means, conics, opacities, pixels):
    """Alpha of every splat at every pixel, cut off above and below."""
    d = pixels[:, None] - means
    power = (
        -0.5 * (conics[:, 0] * d[..., 0] ** 2 + conics[:, 2] * d[..., 1] ** 2) - conics[:, 1] * d[..., 0] * d[..., 1]
    )
    alpha = jnp.minimum(opacities * jnp.exp(jnp.minimum(power, 0)), 0.99)
    return jnp.where(alpha < 1 / 255, 0, alpha)


SPLATS = "f32[3,2] f32[3,3]>0.5<1.5 f32[3]>0.2<0.9 f32[5,2]"


@wrong("factor", "located", "local_derivative", args=SPLATS)
def splat_conic_off_diagonal_halved():
    """-1/2 for -1 in the conic's mixed entry.  Source: graphdeco-inria/gaussian-splatting issue 551."""
    return through(splat, lambda s, g, bars: (bars[0], bars[1] * jnp.array([1, 0.5, 1], g.dtype), *bars[2:]))


@wrong("values", "located", "local_derivative", args=SPLATS)
def splat_heard_through_its_ceiling():
    """Alphas that were cut to 0.99 are heard as if they had not been.  Source: diff-gaussian-rasterization forks."""

    def other(means, conics, opacities, pixels):
        d = pixels[:, None] - means
        power = -0.5 * (conics[:, 0] * d[..., 0] ** 2 + conics[:, 2] * d[..., 1] ** 2)
        power = power - conics[:, 1] * d[..., 0] * d[..., 1]
        alpha = opacities * jnp.exp(jnp.minimum(power, 0))
        return jnp.where(alpha < 1 / 255, 0, alpha)

    return as_of(splat, other)


@right(args=SPLATS)
def splat_as_it_is():
    return as_of(splat, splat)


def composited(alpha, colour, background):
    seen = jnp.cumprod(jnp.concatenate([jnp.ones_like(alpha[:1]), 1 - alpha]))
    return jnp.sum((seen[:-1] * alpha)[:, None] * colour, 0) + seen[-1] * background


def composite_case(behind, of_background):
    def backward(saved, g):
        alpha, colour, background = saved
        seen = jnp.cumprod(jnp.concatenate([jnp.ones_like(alpha[:1]), 1 - alpha]))

        def step(rest, this):
            a, c, t = this
            return a * c + (1 - a) * rest, jnp.sum(g * t * (c - rest))

        bars = lax.scan(step, behind(background), (alpha, colour, seen[:-1]), reverse=True)[1]
        return bars, (seen[:-1] * alpha)[:, None] * g, of_background(seen[-1]) * g

    return by_hand(composited, keeping(composited), backward)


@wrong("missing_path", "missing_term", "local_derivative", args="f32[5]>0<1 f32[5,3] f32[3]")
def compositing_without_the_background_behind():
    """What an alpha hides of the background is left out.  Source: rasterisers that were written for black."""
    return composite_case(lambda background: 0 * background, lambda t: t)


@wrong("dropped", args="f32[5]>0<1 f32[5,3] f32[3]")
def compositing_background_not_heard():
    """The background receives nothing.  Source: gsplat, where it was not differentiated at first."""
    return composite_case(lambda background: background, lambda t: 0 * t)


@right(args="f32[5]>0<1 f32[5,3] f32[3]")
def compositing():
    return composite_case(lambda background: background, lambda t: t)
