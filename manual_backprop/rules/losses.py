"""Losses: scalars, averaged over every example."""

from typing import Annotated

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ..rule import rule
from ..signature import Lt


@rule
def softmax_cross_entropy_with_integer_labels(
    logits: Float[Array, "*batch c"], labels: Annotated[Int[Array, "*batch"], Lt("c")]
) -> Float[Array, ""]:
    r"""Mean negative log-probability of the true class.

        y = −⟨log p[label]⟩,   p = softmax(logits),   ⟨·⟩ the mean over the batch

    Derivative  z̄_nj = (p_nj − [j = label_n]) ȳ / N;   labels have none.

    >>> print(f"{softmax_cross_entropy_with_integer_labels(jnp.zeros((2, 4)), jnp.array([0, 3])):.6f}")  # log 4
    1.386294
    """
    p = jnp.exp(logits) / jnp.sum(jnp.exp(logits), axis=-1, keepdims=True)
    return -jnp.mean(jnp.log(jnp.take_along_axis(p, labels[..., None], axis=-1)))


@softmax_cross_entropy_with_integer_labels.def_forward
def _(logits, labels):
    shifted = logits - jnp.max(logits, axis=-1, keepdims=True)
    log_p = shifted - jnp.log(jnp.sum(jnp.exp(shifted), axis=-1, keepdims=True))
    return -jnp.mean(jnp.take_along_axis(log_p, labels[..., None], axis=-1)), (log_p, labels)


@softmax_cross_entropy_with_integer_labels.def_backward
def _(residuals, y_bar):
    log_p, labels = residuals
    truth = labels[..., None] == jnp.arange(log_p.shape[-1])
    return (jnp.exp(log_p) - truth) * (y_bar / labels.size), None
