"""Light along a ray."""

from typing import Annotated

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..rule import rule
from ..signature import Ge, Gt, Sorted
from ._exponential import exp_minus_one


@rule
def volume_rendering(
    density: Annotated[Float[Array, "*batch n"], Ge(0)],
    depth: Annotated[Float[Array, "*batch n"], Gt(0), Sorted],
    colour: Float[Array, "*batch n c"],
) -> Float[Array, "*batch c"]:
    r"""Colour of a ray through a glowing fog of n slabs, each ending at its depth, the first starting at the eye.

        y = Σ_i w_i c_i,   w_i = T_i (1 − e^−a_i),   T_i = e^−(a_1 + … + a_{i−1})
        a_i = σ_i (t_i − t_{i−1}),   t_0 = 0

    σ the density, t the depth, c the colour; a is a slab's optical depth, T the share of light that no slab in
    front of it held back, w the slab's weight.

    Derivative  c̄_i = w_i ȳ    ā_i = T_{i+1} s_i − Σ_{j>i} w_j s_j,   s_i = ⟨c_i, ȳ⟩
                σ̄_i = ā_i (t_i − t_{i−1})    t̄_i = ā_i σ_i − ā_{i+1} σ_{i+1}

    A slab that thickens adds its own colour and takes from all behind it.  An end of a slab is the start of the next.

    Source: Mildenhall et al., 'NeRF', 2020, eq. 3; Max, 'Optical Models for Direct Volume Rendering', 1995.

    >>> print(volume_rendering(jnp.array([0.0, 100.0]), jnp.array([1.0, 2.0]), jnp.array([[3.0], [5.0]])))
    [5.]
    """
    optical = density * jnp.diff(depth, axis=-1, prepend=0)
    in_front = _shifted(jnp.cumsum(optical, axis=-1), first=0)
    weight = jnp.exp(-in_front) * -exp_minus_one(-optical)
    return jnp.sum(weight[..., None] * colour, axis=-2)


@volume_rendering.def_forward
def _(density, depth, colour):
    thickness = jnp.diff(depth, axis=-1, prepend=0)
    optical = density * thickness
    behind = jnp.exp(-jnp.cumsum(optical, axis=-1))
    weight = _shifted(behind, first=1) * -jnp.expm1(-optical)
    return jnp.einsum("...n,...nc->...c", weight, colour), (density, thickness, colour, weight, behind)


@volume_rendering.def_backward
def _(residuals, y_bar):
    density, thickness, colour, weight, behind = residuals
    s = jnp.einsum("...nc,...c->...n", colour, y_bar)
    light = _shifted(jnp.cumsum((weight * s)[..., ::-1], axis=-1), first=0)[..., ::-1]  # from all slabs behind
    optical_bar = behind * s - light
    thickness_bar = optical_bar * density
    depth_bar = thickness_bar - _shifted(thickness_bar[..., ::-1], first=0)[..., ::-1]
    return optical_bar * thickness, depth_bar, weight[..., None] * y_bar[..., None, :]


def _shifted(a, first):
    """The same row, one place later."""
    return jnp.concatenate([jnp.full_like(a[..., :1], first), a[..., :-1]], axis=-1)
