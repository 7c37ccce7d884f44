"""Derivatives by hand as libraries of models, losses and transport have them: right, and wrong in one place."""

import jax
import jax.numpy as jnp
from jax import lax

from .case import by_hand, right, wrong

# --- a root whose slope is infinite at zero -------------------------------------------------------------------------


def cube_root_case(backward):
    def forward(x):
        y = jnp.cbrt(x)
        return y, y

    return by_hand(jnp.cbrt, forward, backward)


@right(args="f32[5]")
def cube_root_infinite_at_zero():
    """1 / 3y²: neither side of zero has a limit, and infinity is what they grow to."""
    return cube_root_case(lambda y, g: (g / (3 * y * y),))


@right(args="f32[5]")
def cube_root_flat_at_zero():
    """The same with no slope at zero, where there is none.  Source: ott, 'safe' roots."""
    return cube_root_case(lambda y, g: (jnp.where(y == 0, 0, g / (3 * jnp.where(y == 0, 1, y) ** 2)),))


@wrong("wrong_residual", "local_derivative", "factor", "located", args="f32[5]")
def cube_root_of_its_square():
    """1 / 3|y|, one power too few."""
    return cube_root_case(lambda y, g: (g / (3 * jnp.abs(y)),))


# --- a norm of matrices: at zero its slope is every pair of unit vectors ---------------------------------------------


def spectral_case(chosen):
    def forward(w):
        u, s, v = jnp.linalg.svd(w, full_matrices=False)
        return s[0], (u[:, chosen], v[chosen])

    return by_hand(lambda w: jnp.linalg.norm(w, 2), forward, lambda pair, g: (g * jnp.outer(*pair),))


@right(args="f32[3,4]")
def spectral_norm_by_its_pair():
    """u vᵀ of the largest singular value, at zero of any pair.  Source: spectral normalisation."""
    return spectral_case(0)


@wrong("local_derivative", "wrong_residual", "values", "located", args="f32[3,4]")
def spectral_norm_by_the_next_pair():
    """The pair of the second singular value."""
    return spectral_case(1)


# --- which is largest under noise: the score of the noise, less a baseline -------------------------------------------


def perturbed(x, baseline):
    noise = jax.random.gumbel(jax.random.key(0), (20, *x.shape), jnp.float32)
    shifted = lax.stop_gradient(x + noise / 2)
    score = jnp.sum(-2 * (shifted - x) - jnp.exp(-2 * (shifted - x)), -1, keepdims=True)
    box = jnp.exp(score - lax.stop_gradient(score))

    def largest(a):
        return jax.nn.one_hot(jnp.argmax(a, -1), a.shape[-1], dtype=a.dtype)

    return jnp.mean(box * largest(shifted) + baseline * (1 - box) * largest(lax.stop_gradient(x)), 0)


@right(args="f32[4]")
def perturbed_maximum_with_a_baseline():
    """Gumbel noise knows the smallest number of the dtype, below which arithmetic sees none.  Source: optax."""
    return lambda x: perturbed(x, 1)


@wrong("missing_path", "missing_term", "local_derivative", "wrong_residual", "values", "located", args="f32[4]")
def perturbed_maximum_without_its_baseline_in_the_backward_pass():
    """Another estimate of the same mean, but not the derivative of this one."""

    def forward(x):
        return perturbed(x, 1), x

    return by_hand(lambda x: perturbed(x, 1), forward, lambda x, g: jax.vjp(lambda x: perturbed(x, 0), x)[1](g))


# --- a table of a wider dtype: what comes of fewer digits has more of them --------------------------------------------


def turned(x, way=1.0):
    angles = way * jnp.linspace(0, 1, 10, dtype=jnp.float32).reshape(5, 2)[: x.shape[0]]
    a, b = jnp.split(x, 2, -1)
    return jnp.concatenate([a * jnp.cos(angles) - b * jnp.sin(angles), b * jnp.cos(angles) + a * jnp.sin(angles)], -1)


@right(args="f32[5,4]")
def rotary_embedding_by_a_table_in_single_precision():
    """In bfloat16 it gives float32 and takes it back, and was not written for that.  Source: rotary embeddings."""
    return by_hand(lambda x: turned(x), lambda x: (turned(x), None), lambda _, g: (turned(g, -1.0),))


@wrong("structure", "dtype", "located", "cancellation", args="bf16[5,4]")
def rotary_embedding_whose_cotangent_is_wider():
    """The same, of an example in bfloat16, which comes back in float32."""
    return by_hand(lambda x: turned(x), lambda x: (turned(x), None), lambda _, g: (turned(g, -1.0),))


# --- attention whose forward pass counts in powers of two ------------------------------------------------------------

LOG2_E = 1.4426950408889634


def attention(q, k, v):
    return jax.nn.softmax(q @ k.T / 4) @ v


def flash_case(kept):
    def forward(q, k, v):
        scores = q @ k.T * (LOG2_E / 4)
        top = scores.max(-1)
        p = jnp.exp2(scores - top[:, None])
        total = p.sum(-1)
        out = p @ v / total[:, None]
        return out, (q, k, v, out, kept(top + jnp.log2(total)))

    def backward(saved, g):
        q, k, v, out, lse = saved
        p = jnp.exp(q @ k.T / 4 - lse[:, None])
        scores_bar = p * (g @ v.T - (g * out).sum(-1, keepdims=True)) / 4
        return scores_bar @ k, scores_bar.T @ q, p.T @ g

    return by_hand(attention, forward, backward)


@right(args="f32[16,16] f32[16,16] f32[16,16]")
def attention_in_powers_of_two():
    """Of scores in the thousands the logarithm is kept in another base, and loses digits.  Source: jax.experimental."""
    return flash_case(lambda lse: lse / LOG2_E)


@wrong("wrong_residual", "factor", "local_derivative", "located", "values", args="f32[4,6] f32[4,6] f32[4,6]")
def attention_whose_logarithm_stays_in_base_two():
    """The backward pass takes it for a natural one."""
    return flash_case(lambda lse: lse)


# --- light along a ray: what lies behind a sample, as the whole sum without what lies before -------------------------


def light(density, colour, step):
    clear = jnp.exp(-density * step)
    before = jnp.concatenate([jnp.ones_like(clear[:1]), jnp.cumprod(clear)[:-1]])
    return (before * (1 - clear)) @ colour


def light_forward(density, colour, step):
    depth = density * step
    before = jnp.exp(-(jnp.cumsum(depth) - depth))
    weights = before * (1 - jnp.exp(-depth))
    return weights @ colour, (density, colour, step, weights, before)


def light_case(behind):
    def backward(saved, g):
        density, colour, step, weights, before = saved
        heard = colour @ g
        depth_bar = before * jnp.exp(-density * step) * heard - behind(weights * heard)
        return depth_bar * step, jnp.outer(weights, g), depth_bar * density

    return by_hand(light, light_forward, backward)


@right(args="f32[6]>0.1<2 f32[6,3]>0 f32[6]>0.1<0.5")
def light_behind_by_the_whole_sum():
    """Behind an opaque sample a few roundings of the sum are left, where nothing is.  Source: kernels for NeRF."""
    return light_case(lambda w: jnp.sum(w) - jnp.cumsum(w))


@wrong("local_derivative", "missing_path", "wrong_residual", args="f32[6]>0.1<2 f32[6,3]>0 f32[6]>0.1<0.5")
def light_behind_with_the_sample_itself():
    """The sum from a sample on, where that behind it is asked for."""
    return light_case(lambda w: jnp.sum(w) - jnp.cumsum(w) + w)
