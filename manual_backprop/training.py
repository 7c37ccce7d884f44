r"""Training with gradients by hand: one compiled loop, which takes any function that finds gradients.

    θ_{t+1} = θ_t + optimiser(θ̄_t),   θ̄_t the gradient of the loss on the examples of step t

The loop does not know where the gradient comes from, so the same loop runs by hand and by any other method.  The
optimiser is anything with `init(params) -> state` and `update(params_bar, state, params) -> updates, state`, such
as those of optax.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from .combinators import serial
from .rule import Rule, value_and_grad
from .signature import SignatureError, kind_of


class Trained(NamedTuple):
    """What training gives: the last parameters, the loss before every step, and the parameters after every step."""

    params: Any
    losses: jax.Array
    trajectory: Any


def by_hand(network: Rule, loss: Rule) -> Callable:
    """The gradient of a loss on top of a network, by hand:  gradient(params, (x, *targets)) -> (value, params_bar).

    `params` are the network's, as `network.shapes` lists them; the loss's further primals are the targets.

    >>> from manual_backprop.rules import RULES
    >>> gradient = by_hand(serial(RULES["dense"].sized(2)), RULES["softmax_cross_entropy_with_integer_labels"])
    >>> value, ((w_bar, b_bar),) = gradient(((jnp.zeros((3, 2)), jnp.zeros(2)),), (jnp.ones((1, 3)), jnp.array([0])))
    >>> print(b_bar)  # p − [j = label]: a half each, less one where the label is
    [-0.5  0.5]
    """
    function = value_and_grad(serial(network, loss))

    def gradient(params, batch):
        x, *targets = batch
        value, (_, params_bar, _) = function(x, params, tuple(targets))
        return value, params_bar

    return gradient


def split(params) -> tuple[Any, Any]:
    """The floats of a tree and the rest of it, each with None where the other has its leaves.

    >>> print(*split({"w": 1.5, "size": 3}))
    {'size': None, 'w': 1.5} {'size': 3, 'w': None}
    """
    floats = jax.tree.map(lambda leaf: leaf if kind_of(leaf) == "float" else None, params)
    return floats, jax.tree.map(lambda leaf: None if kind_of(leaf) == "float" else leaf, params)


def join(floats, others):
    """The tree of which `split` gave the two parts."""
    return jax.tree.map(lambda a, b: b if a is None else a, floats, others, is_leaf=lambda node: node is None)


@functools.partial(jax.jit, static_argnames=("gradient", "optimiser", "keep"))
def train(gradient: Callable, optimiser, params, data: tuple, order: jax.Array, *, keep: bool = False) -> Trained:
    """Train on the examples `order[t]` of the data at step t; with `keep`, hand out the parameters after every step.

    `data` is (x, *targets), the examples along the first axis of each.  Integers, booleans and keys among the
    parameters stay as they are.
    """
    if jnp.ndim(order) != 2:
        raise SignatureError(
            f"order has shape {jnp.shape(order)}; one row of example numbers for every step was expected"
        )
    floats, fixed = split(params)

    def step(carry, chosen):
        floats, state = carry
        batch = jax.tree.map(lambda a: a[chosen], data)
        value, params_bar = gradient(join(floats, fixed), batch)
        updates, state = optimiser.update(split(params_bar)[0], state, floats)
        floats = jax.tree.map(jnp.add, floats, updates)
        return (floats, state), (value, floats if keep else None)

    (floats, _), (losses, trajectory) = lax.scan(step, (floats, optimiser.init(floats)), order)
    return Trained(join(floats, fixed), losses, trajectory)
