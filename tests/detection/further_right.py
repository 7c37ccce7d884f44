"""Searches and samplers as published packages differentiate them: right, and wrong in one place."""

import jax
import jax.numpy as jnp
from jax import lax

from .case import by_hand, right, wrong

# --- an interval is halved until it is short: autodiff of that is zero, whatever it finds ---------------------------


def halved(a, goes_on):
    """The root of x + x³ = a."""

    def body(state):
        low, high, count = state
        middle = (low + high) / 2
        below = middle + middle**3 < a
        return jnp.where(below, middle, low), jnp.where(below, high, middle), count + 1

    low, high, _ = lax.while_loop(goes_on, body, (jnp.full_like(a, -128), jnp.full_like(a, 128), 0))
    return (low + high) / 2


def short_enough(state):
    low, high, count = state
    return (jnp.max(high - low) > 1e-6) & (count < 64)


def counted(state):
    return state[2] < 60  # to the last digit of float64


def halving_case(goes_on, slope):
    def forward(a):
        x = halved(a, goes_on)
        return x, x

    return by_hand(lambda a: halved(a, goes_on), forward, lambda x, g: (g * slope(x),))


@right(args="f32[4]")
def root_of_a_short_interval():
    """The loop ends when the interval is short.  Source: jaxopt, tensorflow_probability."""
    return halving_case(short_enough, lambda x: 1 / (1 + 3 * x**2))


@right(args="f32[4]")
def root_after_sixty_halvings():
    """The loop is counted, which keeps reverse mode from it all the same.  Source: numpyro, flowjax."""
    return halving_case(counted, lambda x: 1 / (1 + 3 * x**2))


@wrong("missing_term", "local_derivative", "wrong_residual", "factor", args="f32[4]")
def root_after_sixty_halvings_of_the_cube_alone():
    """The slope of x³ + x, without its one."""
    return halving_case(counted, lambda x: 1 / (0.25 + 3 * x**2))


# --- a variate keeps its quantile: the derivative is not that of the steps that drew it -----------------------------


def gamma_variates(a):
    return jax.random.gamma(jax.random.key(3), a, dtype=a.dtype)


def gamma_case(bar):
    def forward(a):
        z = gamma_variates(a)
        return z, (a, z)

    return by_hand(gamma_variates, forward, bar)


def quantile_kept(saved, g):
    return (g * lax.random_gamma_grad(*saved),)


@right(args="f32[4]>0.5<3")
def gamma_variate_keeps_its_quantile():
    """dz/da = −(∂P(a, z)/∂a) / p(z; a).  Source: tensorflow_probability, jax.random."""
    return gamma_case(quantile_kept)


@wrong("factor", "local_derivative", "wrong_residual", "missing_term", "located", "values", args="f32[4]>0.5<3")
def gamma_variate_scaled_with_its_mean():
    """z/a: the slope of a scale where the shape is one.  Source: guesses at the pathwise derivative of gamma."""
    return gamma_case(lambda saved, g: (g * saved[1] / saved[0],))


@right(args="f32[4]>0.5<3")
def dirichlet_by_jax():
    """Normalised gamma variates, differentiated by jax.random alone."""
    return lambda a: jax.random.dirichlet(jax.random.key(3), a, dtype=a.dtype)
