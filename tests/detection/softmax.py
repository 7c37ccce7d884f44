"""Softmax, its relatives and log-sum-exp."""

import jax
import jax.numpy as jnp
from jax import lax

from .case import by_hand, right, wrong
from .halves import keeping


def log_softmax(x):
    return jax.nn.log_softmax(x, axis=-1)


def softmax(x):
    e = jnp.exp(x - jnp.max(x, axis=-1, keepdims=True))
    return e / jnp.sum(e, axis=-1, keepdims=True)


def softmax_forward(x):
    p = softmax(x)
    return p, p


def masked_softmax(x, mask):
    """Zero where the mask is off; a row without any place left is all zero."""
    x = jnp.where(mask, x, jnp.finfo(x.dtype).min)
    e = jnp.exp(x - jnp.max(x, axis=-1, keepdims=True)) * mask
    total = jnp.sum(e, axis=-1, keepdims=True)
    return e / jnp.where(total > 0, total, 1)


def naive_logsumexp(x):
    return jnp.log(jnp.sum(jnp.exp(x), axis=-1))


def sparsemax(x):
    """The nearest point of the simplex."""
    z = -jnp.sort(-x, axis=-1)
    count = jnp.arange(1, x.shape[-1] + 1, dtype=x.dtype)
    support = 1 + count * z > jnp.cumsum(z, axis=-1)
    k = jnp.sum(support, axis=-1, keepdims=True).astype(x.dtype)
    tau = (jnp.sum(jnp.where(support, z, 0), axis=-1, keepdims=True) - 1) / k
    return jnp.maximum(x - tau, 0)


# --- right ------------------------------------------------------------------------------------------------------------


@right(args="f32[4,5]")
def softmax_from_its_output():
    return by_hand(softmax, softmax_forward, lambda p, y_bar: (p * (y_bar - jnp.sum(p * y_bar, -1, keepdims=True)),))


@right(args="f32[3,4] 0")
def softmax_over_a_static_axis():
    def function(x, axis):
        return jax.nn.softmax(x, axis)

    def forward(x, axis):
        p = function(x, axis)
        return p, p

    def backward(axis, p, y_bar):
        return (p * (y_bar - jnp.sum(p * y_bar, axis, keepdims=True)),)

    return by_hand(function, forward, backward, nondiff_argnums=(1,))


@right(args="f32[2,3,4]")
def log_softmax_from_its_output():
    def forward(x):
        y = log_softmax(x)
        return y, y

    return by_hand(log_softmax, forward, lambda y, y_bar: (y_bar - jnp.exp(y) * jnp.sum(y_bar, -1, keepdims=True),))


@right(args="f32[4,1500]")
def logsumexp_beside_a_naive_definition():
    """The definition overflows past 88 in float32; forward and backward shift by the maximum."""

    def forward(x):
        return jax.nn.logsumexp(x, axis=-1), x

    return by_hand(naive_logsumexp, forward, lambda x, y_bar: (softmax(x) * y_bar[..., None],))


@right(args="f32[5,6] f32[]>0")
def soft_maximum_with_a_temperature():
    """t log⟨e^{x/t}⟩ pools a row; the temperature is learned: its derivative is an entropy, (y - ⟨x⟩_p)/t."""

    def function(x, t):
        return t * (jax.nn.logsumexp(x / t, axis=-1) - jnp.log(jnp.asarray(x.shape[-1], x.dtype)))

    def backward(residuals, y_bar):
        x, t = residuals
        p = softmax(x / t)
        y = function(x, t)
        return p * y_bar[:, None], jnp.sum(y_bar * (y - jnp.sum(p * x, -1))) / t

    return by_hand(function, keeping(function), backward)


@right(args="f32[4,6] bool[4,6]")
def masked_softmax_with_empty_rows():
    """Rows without any place left are zero, and so is their cotangent."""

    def backward(p, y_bar):
        return p * (y_bar - jnp.sum(p * y_bar, -1, keepdims=True)), None

    return by_hand(masked_softmax, lambda x, mask: (masked_softmax(x, mask),) * 2, backward)


@right(args="f32[4,5]")
def sparsemax_on_its_support():
    """On the support the mean is subtracted; elsewhere nothing passes."""

    def backward(p, y_bar):
        support = p > 0
        average = jnp.sum(jnp.where(support, y_bar, 0), -1, keepdims=True) / jnp.sum(support, -1, keepdims=True)
        return (jnp.where(support, y_bar - average.astype(y_bar.dtype), 0),)

    return by_hand(sparsemax, lambda x: (sparsemax(x),) * 2, backward)


@right(args="f32[3,5] key 0.5")
def gumbel_softmax_draws_again():
    """The noise is drawn again from the key."""

    def function(x, key, temperature):
        return softmax((x + jax.random.gumbel(key, x.shape, x.dtype)) / temperature)

    def backward(temperature, p, y_bar):
        return p * (y_bar - jnp.sum(p * y_bar, -1, keepdims=True)) / temperature, None

    return by_hand(function, lambda *primals: (function(*primals),) * 2, backward, nondiff_argnums=(2,))


@right(args="f32[3,6]")
def entropy_of_softmax():
    """H = -Σ p log p: x̄ = -p (log p + H), which vanishes with p."""

    def entropy(x):
        log_p = log_softmax(x)
        return -jnp.sum(jnp.exp(log_p) * log_p, axis=-1)

    def backward(x, h_bar):
        log_p = log_softmax(x)
        return (-h_bar[:, None] * jnp.exp(log_p) * (log_p + entropy(x)[:, None]),)

    return by_hand(entropy, lambda x: (entropy(x), x), backward)


@right(args="f32[2,12]")
def logsumexp_in_chunks():
    """Both halves pass over the row in chunks of four; only the result is kept beside the input."""

    def chunks(x):
        return x.reshape(len(x), -1, 4).swapaxes(0, 1)

    def forward(x):
        def step(total, chunk):
            return jnp.logaddexp(total, jax.nn.logsumexp(chunk, axis=-1)), None

        y, _ = lax.scan(step, jnp.full(len(x), jnp.finfo(x.dtype).min, x.dtype), chunks(x))
        return y, (x, y)

    def backward(residuals, y_bar):
        x, y = residuals
        pieces = lax.map(lambda chunk: jnp.exp(chunk - y[:, None]) * y_bar[:, None], chunks(x))
        return (pieces.swapaxes(0, 1).reshape(x.shape),)

    return by_hand(lambda x: jax.nn.logsumexp(x, axis=-1), forward, backward)


# --- wrong ------------------------------------------------------------------------------------------------------------


@wrong("missing_term", "missing_path", args="f32[4,5]")
def softmax_diagonal_alone():
    """p (1 - p) as for a sigmoid: the off-diagonal part of the Jacobian is missing."""
    return by_hand(softmax, softmax_forward, lambda p, y_bar: (y_bar * p * (1 - p),))


@wrong("missing_term", "missing_path", args="f32[4,5]")
def softmax_normaliser_held():
    """The use of x in the normaliser is forgotten."""
    return by_hand(softmax, softmax_forward, lambda p, y_bar: (p * y_bar,))


@wrong("transform", args="f32[4,5]")
def softmax_second_order_lost():
    """The output is kept behind a stop_gradient, so differentiating twice is wrong."""

    def forward(x):
        return softmax(x), lax.stop_gradient(softmax(x))

    return by_hand(softmax, forward, lambda p, y_bar: (p * (y_bar - jnp.sum(p * y_bar, -1, keepdims=True)),))


@wrong("not_finite", "values", args="f32[4,6]")
def logsumexp_overflows_backward():
    """The forward pass shifts by the maximum, the backward pass does not: infinity over infinity past 88."""

    def backward(x, y_bar):
        e = jnp.exp(x)
        return (y_bar[:, None] * e / jnp.sum(e, axis=-1, keepdims=True),)

    return by_hand(lambda x: jax.nn.logsumexp(x, axis=-1), lambda x: (jax.nn.logsumexp(x, axis=-1), x), backward)


@wrong("missing_term", "counted_twice", "located", args="f32[4,6]")
def logsumexp_maximum_counted():
    """m + log Σ e^{x - m}: the maximum is differentiated in its first use, but not in its second."""

    def backward(x, y_bar):
        largest = x == jnp.max(x, axis=-1, keepdims=True)
        return (y_bar[:, None] * (softmax(x) + largest),)

    return by_hand(lambda x: jax.nn.logsumexp(x, axis=-1), lambda x: (jax.nn.logsumexp(x, axis=-1), x), backward)


@wrong("not_finite", "values", args="f32[4,6] bool[4,6]")
def masked_softmax_nan_in_empty_rows():
    """The backward pass computes the softmax again with minus infinity: NaN in rows that are all masked."""

    def backward(residuals, y_bar):
        x, mask = residuals
        x = jnp.where(mask, x, -jnp.inf)
        e = jnp.exp(x - jnp.max(x, axis=-1, keepdims=True))
        p = e / jnp.sum(e, axis=-1, keepdims=True)
        return p * (y_bar - jnp.sum(p * y_bar, -1, keepdims=True)), None

    return by_hand(masked_softmax, keeping(masked_softmax), backward)


@wrong("wrong_residual", "located", "values", args="f32[4,6] bool[4,6]")
def masked_softmax_unmasked_backward():
    """The softmax is computed again without its mask."""

    def backward(x, y_bar):
        p = softmax(x)
        return p * (y_bar - jnp.sum(p * y_bar, -1, keepdims=True)), None

    return by_hand(masked_softmax, lambda x, mask: (masked_softmax(x, mask), x), backward)


@wrong("local_derivative", "missing_term", args="f32[4,5]")
def sparsemax_mean_over_all():
    """The mean that is subtracted on the support is one over the whole row."""

    def backward(p, y_bar):
        average = jnp.mean(jnp.where(p > 0, y_bar, 0), -1, keepdims=True)
        return (jnp.where(p > 0, y_bar - average, 0),)

    return by_hand(sparsemax, lambda x: (sparsemax(x),) * 2, backward)
