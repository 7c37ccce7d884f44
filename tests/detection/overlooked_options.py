"""What shows with a static option of another value, in rows of one number, at an end that backward alone has."""

import jax
import jax.numpy as jnp

from .case import by_hand, right, wrong
from .halves import keeping


def with_options(function, backward):
    """All arguments but the first are static; `backward` takes them first."""
    count = function.__code__.co_argcount
    made = jax.custom_vjp(function, nondiff_argnums=tuple(range(1, count)))
    made.defvjp(lambda x, *options: (function(x, *options), x), lambda *given: (backward(*given),))
    return made


# --- options ---------------------------------------------------------------------------------------------------------


def leaky(x, slope):
    return jnp.where(x >= 0, x, slope * x)


@wrong("values", "kink", "local_derivative", args="f32[7] 0.2")
def leaky_rectifier_by_the_sign_of_its_output():
    """With slope 0 no output is negative, and everything flows back.  Source: Chainer's issue 5898."""
    return with_options(leaky, lambda slope, x, g: jnp.where(leaky(x, slope) >= 0, g, slope * g))


@right(args="f32[7] 0.2")
def leaky_rectifier_by_the_sign_of_its_input():
    return with_options(leaky, lambda slope, x, g: jnp.where(x >= 0, g, slope * g))


def shares(x, scale):
    return jax.nn.softmax(x * (x.shape[-1] ** -0.5 if scale is None else scale))


def shares_back(scale, x, g, slope):
    p = shares(x, scale)
    return (x.shape[-1] ** -0.5 if slope is None else slope) * p * (g - jnp.sum(p * g, -1, keepdims=True))


@wrong("factor", "values", args="f32[4,6] None")
def scale_taken_for_left_open():
    """Backward takes the usual scale, whichever was given."""
    return with_options(shares, lambda scale, x, g: shares_back(scale, x, g, None))


@right(args="f32[4,6] None")
def scale_left_open_or_given():
    return with_options(shares, lambda scale, x, g: shares_back(scale, x, g, scale))


def seen(n, causal, window):
    behind = jnp.arange(n)[:, None] - jnp.arange(n)
    allowed = behind >= 0 if causal else jnp.ones_like(behind, bool)
    return allowed & (jnp.abs(behind) <= window) if window >= 0 else allowed


def neighbours(x, causal, window):
    return jnp.tanh(seen(len(x), causal, window) @ x)


def neighbours_back(causal, window, x, g, mask):
    return mask.T @ (g * (1 - neighbours(x, causal, window) ** 2))


@wrong("values", "local_derivative", "missing_path", "counted_twice", "located", args="f32[6,3] False -1")
def window_forgotten_where_it_is_causal():
    """Either option alone is right.  Source: a fused attention that knew no causal windows backward."""

    def backward(causal, window, x, g):
        return neighbours_back(causal, window, x, g, seen(len(x), causal, -1 if causal else window))

    return with_options(neighbours, backward)


@right(args="f32[6,3] False -1")
def window_that_may_be_causal():
    def backward(causal, window, x, g):
        return neighbours_back(causal, window, x, g, seen(len(x), causal, window))

    return with_options(neighbours, backward)


def power(x, n):
    return x**n


@wrong("values", "kink", "located", args="f32[8] 2")
def power_guarded_at_zero():
    """n xⁿ⁻¹ is taken for 0 where x is: of n = 1 it is one."""
    return with_options(power, lambda n, x, g: g * jnp.where(x == 0, 0, n * x ** (n - 1)))


@right(args="f32[8] 2")
def power_of_a_whole_number():
    return with_options(power, lambda n, x, g: g * n * x ** (n - 1))


def sums_of_parts(x, count):
    return jnp.zeros(count, x.dtype).at[jnp.arange(len(x)) % 4].add(jnp.tanh(x))


@right(args="f32[8] 4")
def sums_of_as_many_parts_as_there_are():
    """Of fewer parts what belongs to none is dropped, and backward takes another: no derivative is asked there."""
    return with_options(sums_of_parts, lambda count, x, g: g[jnp.arange(len(x)) % 4] * (1 - jnp.tanh(x) ** 2))


# --- rows of one number, ends ----------------------------------------------------------------------------------------


def turning(q, at_rest):
    """The rotation vector of a quaternion, and the factor of its vector part: 2/w where that is zero."""
    w, v = q[:, :1], q[:, 1:]
    square = jnp.sum(v * v, -1, keepdims=True)
    small = square < 1e-12
    size = jnp.sqrt(jnp.where(small, 1, square))
    angle = 2 * jnp.where(w < 0, jnp.arctan2(-size, -w), jnp.arctan2(size, w))
    return small, jnp.where(small, at_rest(jnp.where(w == 0, 1, w)), angle / size)


def rotation_vector(q):
    return turning(q, lambda w: 2 / w)[1] * q[:, 1:]


def quaternion_case(at_rest):
    def backward(q, g):
        w, v = q[:, :1], q[:, 1:]
        small, factor = turning(q, at_rest)
        square = jnp.where(small, 1, jnp.sum(v * v, -1, keepdims=True))
        along = jnp.sum(g * v, -1, keepdims=True)
        bent = jnp.where(small, 0, (2 * w / (square + w * w) - factor) / square)
        w_bar = jnp.where(small, -2 / jnp.where(w == 0, 1, w) ** 2, -2 / (square + w * w)) * along
        return (jnp.concatenate([w_bar, factor * g + bent * along * v], -1),)

    return by_hand(rotation_vector, lambda q: (rotation_vector(q), q), backward)


@wrong("values", "kink", "local_derivative", "located", args="f32[4,4]")
def quaternion_at_rest_with_a_slope_of_two():
    """It is 2/w, which is two of a unit quaternion alone, and not of its opposite."""
    return quaternion_case(lambda w: jnp.full_like(w, 2))


@right(args="f32[4,4]")
def quaternion_at_rest():
    return quaternion_case(lambda w: 2 / w)


def legendre(x):
    return (5 * x**3 - 3 * x) / 2


@wrong("kink", "not_finite", "values", args="f32[7]>-0.9<0.9")
def legendre_slope_by_the_one_before():
    """P′₃ = 3 (x P₃ − P₂)/(x² − 1) is 0/0 at both ends, where it is six."""

    def backward(x, g):
        return (g * 3 * (x * legendre(x) - (3 * x * x - 1) / 2) / (x * x - 1),)

    return by_hand(legendre, lambda x: (legendre(x), x), backward)


@right(args="f32[7]>-0.9<0.9")
def legendre_slope():
    return by_hand(legendre, lambda x: (legendre(x), x), lambda x, g: (g * (15 * x * x - 3) / 2,))


def radial(x, centres, widths):
    return jnp.exp(-jnp.sum(((x[:, None] - centres) / widths) ** 2, -1) / 2)


@right(args="f32[5,2] f32[4,2] f32[2]>0")
def radial_basis_by_autodiff():
    """Of widths of zero neither is finite, which are no widths."""
    return by_hand(radial, keeping(radial), lambda saved, g: jax.vjp(radial, *saved)[1](g))


# --- coordinates -----------------------------------------------------------------------------------------------------


def area(sides):
    return sides[:, 0] * sides[:, 1]


@right(args="f32[5,2]")
def area_of_two_sides():
    """Of more columns nothing is read; the derivative, that turns the two, need not know them."""
    return by_hand(area, lambda sides: (area(sides), sides), lambda sides, g: (g[:, None] * sides[:, ::-1],))


@wrong("local_derivative", "permuted", "wrong_residual", "factor", "missing_path", args="f32[5,2]")
def area_of_two_sides_not_turned():
    return by_hand(area, lambda sides: (area(sides), sides), lambda sides, g: (g[:, None] * sides,))
