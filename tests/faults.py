"""Mistakes, planted on purpose: in the backward half of a rule, and in every combinator.

A fault is a function (backward, residuals, y_bar) -> cotangents.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from manual_backprop.combinators import COMBINATORS, Network
from manual_backprop.rule import Elementary


def faulty(rule, fault):
    """A copy of an elementary rule with this fault in its backward half, compiled as one piece."""
    forward, backward = rule._halves

    def wrong(residuals, y_bar, **options):
        return fault(functools.partial(backward, **options), residuals, y_bar)

    return Elementary(rule._definition, [forward, wrong], rule._bound)


def spoiled(rule, fault):
    """The same around the compiled halves, as a combinator would be, so that many faults share one compilation."""
    forward = getattr(fault, "forward", lambda forward, *primals: forward(*primals))
    network = Network(
        spoiled,
        (rule,),
        (fault,),
        lambda: rule.input,
        rule.shapes,
        rule.definition,
        lambda *primals: forward(rule.forward, *primals),
        lambda residuals, y_bar: fault(rule.backward, residuals, y_bar),
    )
    network.signature = getattr(rule, "signature", None)
    return network


def planted(network, name, fault):
    """A network with this fault in every rule of this name."""
    if isinstance(network, Elementary):
        return faulty(network, fault) if network.name == name else network
    return network.combinator(*(planted(layer, name, fault) for layer in network.layers), *network.arguments)


# --- faults of one cotangent -----------------------------------------------------------------------------------------


def on_leaf(which, change):
    """The fault that changes one leaf of the cotangents, integers' None counted as well."""

    def fault(backward, residuals, y_bar):
        leaves, structure = jax.tree.flatten(tuple(backward(residuals, y_bar)), is_leaf=lambda a: a is None)
        leaves[which] = change(leaves[which])
        return structure.unflatten(leaves)

    return fault


def times(factor):
    return lambda bar: bar * np.asarray(factor, bar.dtype)


def one_element(bar):
    """The largest element is off by 1 %."""
    bar = np.array(bar)
    bar.flat[np.argmax(np.abs(bar))] *= np.asarray(1.01, bar.dtype)
    return bar


def other_dtype(bar):
    return np.asarray(bar, np.float32 if bar.dtype == np.float64 else np.float16)


# What is planted into one cotangent: the fault, and what the finding has to say of it (at several elements).
LEAF_FAULTS = {
    "one in a thousand": (times(1.001), "off by a factor of 1.001 everywhere"),
    "sign": (times(-1.0), "the sign is wrong everywhere"),
    "zero": (times(0.0), "zero everywhere"),
    "not a number": (times(np.nan), "not finite"),
    "one element": (one_element, ""),
    "None": (lambda bar: None, "None came back for a float primal"),
    "shape": (lambda bar: np.asarray(bar)[None], "the shape is"),
    "dtype": (other_dtype, "the dtype is"),
}


def ones_for_cotangent(backward, residuals, y_bar):
    return backward(residuals, jax.tree.map(np.ones_like, y_bar))


def raising(backward, residuals, y_bar):
    raise ZeroDivisionError("planted")


def one_too_few(backward, residuals, y_bar):
    return tuple(backward(residuals, y_bar))[:-1]


def one_too_many(backward, residuals, y_bar):
    return (*backward(residuals, y_bar), y_bar)


def value_off(backward, residuals, y_bar):
    return backward(residuals, y_bar)


def _off(forward, *primals):
    y, residuals = forward(*primals)
    return jax.tree.map(lambda a: a * np.asarray(1.001, a.dtype), y), residuals


value_off.forward = _off


def exchanged(a, b):
    """The fault that exchanges two leaves."""

    def fault(backward, residuals, y_bar):
        leaves, structure = jax.tree.flatten(tuple(backward(residuals, y_bar)), is_leaf=lambda a: a is None)
        leaves[a], leaves[b] = leaves[b], leaves[a]
        return structure.unflatten(leaves)

    return fault


# --- faults of combinators -------------------------------------------------------------------------------------------


def wrong_combinator(name, make_backward):
    """A combinator whose networks have another backward pass, make_backward(network)."""

    def combined(*parts):
        right = COMBINATORS[name](*parts)
        three = right.definition, right.forward, make_backward(right)
        return Network(
            combined, right.layers, right.arguments, right._input, right.shapes, *three, loop=name in ("repeat", "scan")
        )

    combined.__name__ = f"wrong_{name}_{make_backward.__name__}"
    return combined


def without_the_skip(network):
    return network.layers[0].backward


def one_branch_kept(network):
    def backward(kept, y_bar):
        bars = [layer.backward(own, y_bar) for layer, own in zip(network.layers, kept, strict=True)]
        return bars[0][0], *(tuple(own_bar) for _, *own_bar in bars)

    return backward


def last_use_kept(network):
    def backward(kept, y_bar):
        *_, last = COMBINATORS["serial"](*network.layers).backward(kept, y_bar)
        return network.backward(kept, y_bar)[0], *last

    return backward


def state_dropped(network):
    def backward(residuals, y_bar):
        kept, (h, params) = residuals

        def step(params_bar, now):
            y_bar, own = now
            x_bar, h_bar, *own_bar = network.layers[0].backward(own, (y_bar, jnp.zeros_like(h)))
            return jax.tree.map(jnp.add, params_bar, tuple(own_bar)), (x_bar, h_bar)

        params_bar, (x_bar, h_bar) = lax.scan(step, jax.tree.map(jnp.zeros_like, params), (y_bar, kept), reverse=True)
        return x_bar, h_bar[0], *params_bar

    return backward


def not_reversed(network):
    def backward(kept, y_bar):
        def step(y_bar, residuals):
            x_bar, *own_bar = network.layers[0].backward(residuals, y_bar)
            return x_bar, tuple(own_bar)

        x_bar, params_bar = lax.scan(step, y_bar, kept)
        return x_bar, *params_bar

    return backward


def pieces_exchanged(network):
    def backward(residuals, y_bar):
        return network.backward(residuals, jnp.roll(y_bar, y_bar.shape[-1] // 2, axis=-1))

    return backward


def neighbours_exchanged(network):
    def backward(kept, y_bar):
        (a, b), *params_bar = network.backward(kept, y_bar)
        return (b, a), *params_bar

    return backward


def in_the_same_order(network):
    def backward(kept, y_bar):
        params_bar = []
        for layer, own in zip(network.layers, kept, strict=True):
            y_bar, *own_bar = layer.backward(own, y_bar)
            params_bar.append(tuple(own_bar))
        return y_bar, *params_bar

    return backward


def from_other_primals(network):
    def backward(primals, y_bar):
        x, *params = primals
        return network.backward((x / 2, *params), y_bar)

    return backward


COMBINATOR_FAULTS = (
    ("serial", in_the_same_order, "(dense(4), tanh)", (3, 4)),
    ("fan_out", one_branch_kept, "(dense(4), tanh)", (3, 4)),
    ("concatenate", pieces_exchanged, "(dense(4), tanh)", (3, 4)),
    ("parallel", neighbours_exchanged, "(tanh, sigmoid)", ((3, 4), (3, 4))),
    ("residual", without_the_skip, "(tanh)", (3, 4)),
    ("tied", last_use_kept, "(dense(4), dense(4))", (3, 4)),
    ("repeat", not_reversed, "(serial(dense(4), tanh), 3)", (3, 4)),
    ("scan", state_dropped, "(recurrent(4))", (5, 3, 4)),
    ("checkpointed", from_other_primals, "(serial(dense(4), tanh))", (3, 4)),
)
