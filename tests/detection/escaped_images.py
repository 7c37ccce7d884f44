"""Wrong derivatives of distances, samplers and images."""

import jax
import jax.numpy as jnp
from jax import lax

from .case import wrong
from .escaped_space import as_of, through

# --- distances -------------------------------------------------------------------------------------------------------


def to_segment(p, a, b):
    """The squared distance of points to a segment."""
    along = b - a
    t = jnp.clip((p - a) @ along / jnp.maximum(along @ along, 1e-12), 0, 1)
    return jnp.sum((p - a - t[:, None] * along) ** 2, 1)


@wrong("values", "located", "local_derivative", "missing_path", args="f32[6,2] f32[2] f32[2]")
def segment_taken_for_a_line():
    """Beyond the ends as well the foot of the perpendicular counts.  Source: pytorch3d's point_mesh distances."""

    def other(p, a, b):
        along = b - a
        t = (p - a) @ along / (along @ along)
        return jnp.sum((p - a - t[:, None] * along) ** 2, 1)

    return as_of(to_segment, other)


@wrong("not_finite", "values", "kink", args="f32[6,2] f32[2] f32[2]")
def segment_of_no_length():
    """A segment whose ends coincide divides by nothing.  Source: degenerate faces in pytorch3d and kaolin."""

    def other(p, a, b):
        along = b - a
        t = jnp.clip((p - a) @ along / (along @ along), 0, 1)
        return jnp.sum((p - a - t[:, None] * along) ** 2, 1)

    return as_of(to_segment, other)


def chamfer(x, y):
    d = jnp.sum((x[:, None] - y) ** 2, -1)
    return jnp.mean(jnp.min(d, 1)) + jnp.mean(jnp.min(d, 0))


@wrong("missing_path", "missing_term", "dropped", args="f32[5,3] f32[7,3]")
def chamfer_targets_hear_one_direction():
    """The other cloud hears of its own nearest neighbours alone.  Source: chamfer kernels of several forks."""

    def other(x, y):
        near = jnp.min(jnp.sum((x[:, None] - lax.stop_gradient(y)) ** 2, -1), 1)
        return jnp.mean(near) + jnp.mean(jnp.min(jnp.sum((x[:, None] - y) ** 2, -1), 0))

    return as_of(chamfer, other)


@wrong("factor", "shape", args="f32[5,3] f32[7,3]")
def chamfer_both_means_over_the_first():
    """Both directions are divided by the number of points of the first cloud."""

    def other(x, y):
        d = jnp.sum((x[:, None] - y) ** 2, -1)
        return jnp.mean(jnp.min(d, 1)) + jnp.sum(jnp.min(d, 0)) / len(x)

    return as_of(chamfer, other)


# --- samplers --------------------------------------------------------------------------------------------------------


def bilinear(image, grid):
    """Sample at (x, y) in [-1, 1], ends aligned, zero outside."""
    h, w = image.shape
    x, y = (grid[:, 0] + 1) / 2 * (w - 1), (grid[:, 1] + 1) / 2 * (h - 1)
    x0, y0 = jnp.floor(x), jnp.floor(y)

    def at(j, i):
        inside = (i >= 0) & (i < w) & (j >= 0) & (j < h)
        return jnp.where(inside, image[jnp.clip(j, 0, h - 1).astype(int), jnp.clip(i, 0, w - 1).astype(int)], 0)

    fx, fy = x - x0, y - y0
    top = at(y0, x0) * (1 - fx) + at(y0, x0 + 1) * fx
    bottom = at(y0 + 1, x0) * (1 - fx) + at(y0 + 1, x0 + 1) * fx
    return top * (1 - fy) + bottom * fy


@wrong("exchanged", "permuted", "factor", "located", "local_derivative", args="f32[4,5] f32[6,2]>-1<1")
def bilinear_grid_scaled_by_the_other_side():
    """x is scaled by the height and y by the width.  Source: grid_sample in several backends."""
    return through(bilinear, lambda s, g, bars: (bars[0], bars[1] * jnp.array([3 / 4, 4 / 3], g.dtype)))


@wrong("shape", "exchanged", "factor", "located", args="f32[4,4] f32[6,2]>-1<1")
def bilinear_grid_scaled_by_the_other_side_of_a_square():
    """The same where the example is a square."""

    def change(saved, g, bars):
        h, w = (max(n - 1, 1) for n in saved[0].shape)
        return bars[0], bars[1] * jnp.array([h / w, w / h], g.dtype)

    return through(bilinear, change)


@wrong("values", "located", "missing_path", "dropped", "local_derivative", args="f32[4,5] f32[6,2]")
def bilinear_outside_is_not_heard_at_all():
    """A sample with one corner outside is skipped, though others lie inside.  Source: roi_align's first kernels."""

    def change(saved, g, bars):
        outside = jnp.any(jnp.abs(saved[1]) > 1, 1)
        inside = jax.vjp(bilinear, *saved)[1](jnp.where(outside, 0, g))
        return inside[0], bars[1]

    return through(bilinear, change)


def cubic(y, t):
    """Catmull-Rom through samples, ends repeated, at positions in cells."""
    n = y.shape[0]
    i = jnp.clip(jnp.floor(t), 0, n - 2).astype(int)
    u = t - i
    p = y[jnp.clip(i[:, None] + jnp.arange(-1, 3), 0, n - 1)].T
    return 0.5 * (
        2 * p[1]
        + u * (p[2] - p[0])
        + u**2 * (2 * p[0] - 5 * p[1] + 4 * p[2] - p[3])
        + u**3 * (3 * p[1] - p[0] - 3 * p[2] + p[3])
    )


@wrong("located", "missing_path", "missing_sum", args="f32[6] f32[5]>0<5")
def cubic_ends_heard_once():
    """A sample that is repeated at an end hears from one of its copies.  Source: bicubic resizing of tensorflow."""

    def other(y, t):
        n = y.shape[0]
        i = jnp.clip(jnp.floor(t), 0, n - 2).astype(int)
        u = t - i
        padded = jnp.concatenate([lax.stop_gradient(y[:1]), y, lax.stop_gradient(y[-1:])])
        p = padded[i[:, None] + jnp.arange(4)].T
        return 0.5 * (
            2 * p[1]
            + u * (p[2] - p[0])
            + u**2 * (2 * p[0] - 5 * p[1] + 4 * p[2] - p[3])
            + u**3 * (3 * p[1] - p[0] - 3 * p[2] + p[3])
        )

    return as_of(cubic, other)


def hue_like(rgb):
    """Chroma over value, zero of black."""
    top, low = jnp.max(rgb, 1), jnp.min(rgb, 1)
    return jnp.where(top > 0, (top - low) / jnp.where(top > 0, top, 1), 0)


@wrong("not_finite", "values", "kink", args="f32[5,3]>0<1")
def saturation_of_black():
    """Black divides by its value.  Source: kornia's and torchvision's rgb_to_hsv."""

    def other(rgb):
        top, low = jnp.max(rgb, 1), jnp.min(rgb, 1)
        return jnp.where(top > 0, (top - low) / top, 0)

    return as_of(hue_like, other)


def total_variation(image):
    return jnp.sum(jnp.abs(jnp.diff(image, axis=0))) + jnp.sum(jnp.abs(jnp.diff(image, axis=1)))


@wrong("located", "permuted", "missing_path", args="f32[4,5]")
def total_variation_wraps_round():
    """Differences backward go round the border.  Source: roll-based implementations."""

    def other(image):
        return sum(jnp.sum(jnp.abs(image - jnp.roll(image, 1, axis))) for axis in (0, 1))

    return as_of(total_variation, other)
