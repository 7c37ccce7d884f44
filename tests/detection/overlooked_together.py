"""What is wrong where arguments meet, with another option, or behind a row that is infinite; and right ones beside."""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import betainc, digamma, gammaln

from .case import by_hand, right, wrong
from .halves import keeping

# --- options ---------------------------------------------------------------------------------------------------------


def with_option(function, backward):
    """The last argument is static; `backward` takes it first."""
    made = jax.custom_vjp(function, nondiff_argnums=(1,))
    made.defvjp(lambda x, option: (function(x, option), x), backward)
    return made


def rms(x, eps):
    return x * lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps)


def rms_back(eps, x, g):
    r = lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + eps)
    return (r * g - x * r**3 * jnp.mean(g * x, -1, keepdims=True),)


@wrong("epsilon", "values", "local_derivative", args="f32[4,6] 1e-6")
def rms_of_one_epsilon():
    """The default is written into the backward pass."""
    return with_option(rms, lambda eps, x, g: rms_back(1e-6, x, g))


@right(args="f32[4,6] 1e-6")
def rms_of_any_epsilon():
    return with_option(rms, rms_back)


def focal(x, gamma):
    p = jax.nn.sigmoid(x)
    return -((1 - p) ** gamma) * jax.nn.log_sigmoid(x)


def focal_back(gamma, x, g):
    p = jax.nn.sigmoid(x)
    return (g * (1 - p) ** gamma * (gamma * p * jax.nn.log_sigmoid(x) - (1 - p)),)


@wrong("values", "local_derivative", "factor", "located", args="f32[7] 2.0")
def focal_of_gamma_two():
    return with_option(focal, lambda gamma, x, g: focal_back(2.0, x, g))


@right(args="f32[7] 2.0")
def focal_of_any_gamma():
    return with_option(focal, focal_back)


def variance(x, ddof):
    return jnp.sum((x - x.mean(0)) ** 2, 0) / (x.shape[0] - ddof)


@wrong("factor", args="f32[6,3] 0")
def variance_without_its_correction():
    """The degrees of freedom are forgotten, of which the default takes none."""
    return with_option(variance, lambda ddof, x, g: (2 * g * (x - x.mean(0)) / x.shape[0],))


@right(args="f32[6,3] 0")
def variance_with_its_correction():
    return with_option(variance, lambda ddof, x, g: (2 * g * (x - x.mean(0)) / (x.shape[0] - ddof),))


# --- arguments that meet ---------------------------------------------------------------------------------------------


def huber(a, b):
    u = b[None] - a[:, None]
    return jnp.sum(jnp.where(jnp.abs(u) <= 1, u * u / 2, jnp.abs(u) - 0.5))


def huber_back(saved, g, edge=True):
    a, b = saved
    u = b[None] - a[:, None]
    d = g * jnp.clip(u, -1, 1) * (edge | (jnp.abs(u) != 1))
    return -d.sum(1), d.sum(0)


@wrong("kink", "values", "located", "dropped", args="f32[5] f32[4]")
def huber_without_its_edge():
    """Both comparisons are strict: a difference of one has no slope at all."""
    return by_hand(huber, keeping(huber), functools.partial(huber_back, edge=False))


@right(args="f32[5] f32[4]")
def huber_with_its_edge():
    return by_hand(huber, keeping(huber), huber_back)


@wrong("kink", "values", "dropped", "not_finite", args="f32[4,4]")
def determinant_of_what_has_an_inverse():
    """The cofactors of a matrix that is one rank short are not zero."""

    def backward(saved, g):
        (x,) = saved
        det = jnp.linalg.det(x)
        near = jnp.abs(det) < 1e-6
        return (jnp.where(near, 0, g * det * jnp.linalg.inv(jnp.where(near, jnp.eye(len(x), dtype=x.dtype), x)).T),)

    return by_hand(jnp.linalg.det, keeping(jnp.linalg.det), backward)


# --- rows and points of their own ------------------------------------------------------------------------------------


def weighted(a, b):
    m = lax.stop_gradient(a.max(-1, keepdims=True))
    return jnp.log(jnp.sum(b * jnp.exp(a - m), -1)) + m[..., 0]


def weighted_back(saved, g, ignored=False):
    a, b = saved
    share = g[..., None] * jnp.exp(a - weighted(a, b)[..., None])
    return b * share, jnp.where(ignored & (b == 0), 0, share)


@wrong("values", "kink", "located", "dropped", args="f32[4,6] f32[4,6]>0")
def weights_of_zero_are_not_heard():
    return by_hand(weighted, keeping(weighted), functools.partial(weighted_back, ignored=True))


@right(args="f32[4,6] f32[4,6]>0")
def weights_of_zero_are_heard():
    return by_hand(weighted, keeping(weighted), weighted_back)


def student(x, at_zero):
    nu = 4.0

    @jax.custom_jvp
    def cdf(x):
        tail = betainc(nu / 2, 0.5, nu / (nu + x * x)) / 2
        return jnp.where(x > 0, 1 - tail, tail)

    @cdf.defjvp
    def _(primals, tangents):
        (x,), (dx,) = primals, tangents
        whole = math.gamma((nu + 1) / 2) / math.gamma(nu / 2) / math.sqrt(nu * math.pi)
        density = whole * (1 + x * x / nu) ** (-(nu + 1) / 2)
        return cdf(x), jnp.where(x == 0, at_zero * density, density) * dx

    return cdf(x)


@wrong("kink", "values", "dropped", "located", args="f32[6]")
def students_distribution_flat_in_the_middle():
    """Where autodiff is not a number, neither at zero nor beside it, the slope was set to zero."""
    return functools.partial(student, at_zero=0.0)


@right(args="f32[6]")
def students_distribution():
    return functools.partial(student, at_zero=1.0)


@wrong("values", "local_derivative", "missing_term", args="f32[6]>0 i32[6]<9")
def negative_binomial_by_a_logarithm():
    """Beyond ten the difference of digammas is taken for its leading term."""

    def f(r, k):
        return gammaln(r + k) - gammaln(r)

    def backward(saved, g):
        r, k = saved
        return g * jnp.where(r > 10, jnp.log1p(k / r), digamma(r + k) - digamma(r)), None

    return by_hand(f, keeping(f), backward)


# --- lengths and offsets ---------------------------------------------------------------------------------------------


def parts(x, offsets):
    of = jnp.searchsorted(offsets[1:], jnp.arange(len(x)), side="right")
    return jax.ops.segment_sum(jnp.tanh(x), of, len(offsets) - 1)


@right(args="f32[8,3] i32[4]>=0<=8sorted")
def parts_by_offsets():
    """Behind the last offset nothing comes."""

    def backward(saved, g):
        x, offsets = saved
        of = jnp.searchsorted(offsets[1:], jnp.arange(len(x)), side="right")
        live = (jnp.arange(len(x)) < offsets[-1])[:, None]
        return jnp.where(live, g[jnp.clip(of, 0, len(g) - 1)] * (1 - jnp.tanh(x) ** 2), 0), None

    return by_hand(parts, keeping(parts), backward)


def decayed(q, k, v, gate):
    c = jnp.cumsum(-jax.nn.softplus(gate))
    low = jnp.tril(jnp.ones((len(c), len(c)), bool))
    return (q @ k.T * jnp.exp(jnp.where(low, c[:, None] - c, -jnp.inf))) @ v


def decayed_step_by_step(q, k, v, gate):
    def step(state, now):
        q, k, v, a = now
        state = jnp.exp(a) * state + jnp.outer(k, v)
        return state, q @ state

    start = jnp.zeros((k.shape[1], v.shape[1]), q.dtype)
    return lax.scan(step, start, (q, k, v, -jax.nn.softplus(gate)))[1]


@right(args="f32[8,3] f32[8,3] f32[8,2] f32[8]", truth=decayed_step_by_step)
def gate_by_a_reversed_sum():
    """ḡ = −σ(g) Σ_{t' ≥ t} (q·q̄ − k·k̄), of which what is zero comes by cancelling.  Source: Mamba-2, GLA."""

    def backward(saved, g):
        q, k, v, gate = saved
        c = jnp.cumsum(-jax.nn.softplus(gate))
        low = jnp.tril(jnp.ones((len(c), len(c)), bool))
        decay = jnp.exp(jnp.where(low, c[:, None] - c, -jnp.inf))
        scores, scores_bar = q @ k.T * decay, (g @ v.T) * decay
        q_bar, k_bar = scores_bar @ k, scores_bar.T @ q
        c_bar = jnp.sum(q * q_bar, 1) - jnp.sum(k * k_bar, 1)
        return q_bar, k_bar, scores.T @ g, -jax.nn.sigmoid(gate) * jnp.cumsum(c_bar[::-1])[::-1]

    return by_hand(decayed, keeping(decayed), backward)
