"""Rules that only move values: splitting, joining, adding, gating."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..rule import rule

Pair = tuple[Float[Array, "*batch d"], Float[Array, "*batch d"]]


@rule
def split(x: Float[Array, "*batch 2*d"]) -> Pair:
    r"""Cut the last axis into two halves:  (x_1, x_2) = x.

    Derivative  x̄ = (ȳ_1, ȳ_2): the halves are put back side by side.

    >>> print(*split(jnp.array([1.0, 2.0])))
    [1.] [2.]
    """
    d = x.shape[-1] // 2
    return x[..., :d], x[..., d:]


@split.def_forward
def _(x):
    d = x.shape[-1] // 2
    return (x[..., :d], x[..., d:]), ()


@split.def_backward
def _(residuals, halves_bar):
    return (jnp.concatenate(halves_bar, axis=-1),)
