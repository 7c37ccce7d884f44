"""Ways of joining rules.  Each takes rules and returns one, its backward pass written by hand as well.

Two facts do all the work.  Serial composition runs backward in reverse order (the chain rule).  A value used
twice receives the sum of its cotangents (the total derivative): an input of several branches, a weight shared by
several uses, a parameter that serves at every step in time.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .network import COMBINATORS, Network, combinator
from .rule import Rule
from .signature import LENGTHS, Leaf, SignatureError, is_leaf, kind_of


@combinator
def serial(*layers: Rule) -> Rule:
    r"""One layer after the other:  y = f_n(… f_2(f_1(x))).

    Derivative  x̄ = f̄_1(f̄_2(… f̄_n(ȳ))): the same layers in reverse, each with the residuals of its own pass.
    Parameters  one tuple per layer, in order.
    """

    def shapes(x):
        parameters = []
        for layer in layers:
            own, x = layer.shapes(x)
            parameters.append(own)
        return tuple(parameters), x

    def definition(x, *params):
        for layer, own in zip(layers, params, strict=True):
            x = layer.definition(x, *own)
        return x

    def forward(x, *params):
        kept = []
        for layer, own in zip(layers, params, strict=True):
            x, residuals = layer.forward(x, *own)
            kept.append(residuals)
        return x, tuple(kept)

    def backward(kept, y_bar):
        params_bar = []
        for layer, residuals in zip(reversed(layers), reversed(kept), strict=True):
            y_bar, *own_bar = layer.backward(residuals, y_bar)
            params_bar.append(tuple(own_bar))
        return y_bar, *reversed(params_bar)

    return Network(serial, layers, (), lambda: layers[0].input, shapes, definition, forward, backward)


@combinator
def fan_out(*layers: Rule) -> Rule:
    r"""Several layers read the same input; their outputs add:  y = Σ_i f_i(x).

    Derivative  x̄ = Σ_i f̄_i(ȳ): every branch receives ȳ whole, and x collects from all of them.
    Parameters  one tuple per layer, in order.
    """

    def shapes(x):
        parameters, outputs = _branch_shapes(layers, x)
        if any(_bare(output) != _bare(outputs[0]) for output in outputs):
            raise SignatureError(f"fan_out adds its branches, but they give {_listed(outputs)}")
        return parameters, outputs[0]

    def definition(x, *params):
        return functools.reduce(_add, [layer.definition(x, *own) for layer, own in zip(layers, params, strict=True)])

    def forward(x, *params):
        outputs, kept = _forward_all(layers, (x,) * len(layers), params)
        return functools.reduce(_add, outputs), kept

    def backward(kept, y_bar):
        x_bars, params_bar = _backward_all(layers, kept, (y_bar,) * len(layers))
        return functools.reduce(_add, x_bars), *params_bar

    return Network(fan_out, layers, (), lambda: layers[0].input, shapes, definition, forward, backward)


@combinator
def concatenate(*layers: Rule) -> Rule:
    r"""Several layers read the same input; their outputs stand side by side along the last axis.

    Derivative  ȳ is cut where y was joined, each piece goes back through its branch, and x̄ is their sum.
    Parameters  one tuple per layer, in order.
    """

    def shapes(x):
        parameters, outputs = _branch_shapes(layers, x)
        if any(not is_leaf(o) or o.shape[:-1] != outputs[0].shape[:-1] or not o.shape for o in outputs):
            raise SignatureError(
                f"concatenate needs branches that differ in their last axis only, not {_listed(outputs)}"
            )
        return parameters, Leaf("float", (*outputs[0].shape[:-1], sum(o.shape[-1] for o in outputs)))

    def definition(x, *params):
        return jnp.concatenate([f.definition(x, *own) for f, own in zip(layers, params, strict=True)], axis=-1)

    def forward(x, *params):
        outputs, kept = _forward_all(layers, (x,) * len(layers), params)
        # Residuals hold arrays and nothing else, so a width travels as the shape of an array without elements.
        return jnp.concatenate(outputs, axis=-1), (kept, tuple(jnp.empty((0, y.shape[-1])) for y in outputs))

    def backward(residuals, y_bar):
        kept, widths = residuals
        pieces, start = [], 0
        for width in widths:
            pieces.append(lax.slice_in_dim(y_bar, start, start + width.shape[1], axis=-1))
            start += width.shape[1]
        x_bars, params_bar = _backward_all(layers, kept, pieces)
        return functools.reduce(_add, x_bars), *params_bar

    return Network(concatenate, layers, (), lambda: layers[0].input, shapes, definition, forward, backward)


@combinator
def parallel(*layers: Rule) -> Rule:
    r"""A tuple of inputs, one layer for each:  y_i = f_i(x_i).

    Derivative  x̄_i = f̄_i(ȳ_i): nothing is shared, so nothing adds.
    Parameters  one tuple per layer, in order.
    """

    def shapes(x):
        if not isinstance(x, tuple) or len(x) != len(layers):
            raise SignatureError(f"parallel of {len(layers)} layers needs a tuple of {len(layers)} inputs, not {x}")
        pairs = [layer.shapes(part) for layer, part in zip(layers, x, strict=True)]
        return tuple(own for own, _ in pairs), tuple(output for _, output in pairs)

    def definition(x, *params):
        return tuple(f.definition(part, *own) for f, part, own in zip(layers, x, params, strict=True))

    def forward(x, *params):
        return _forward_all(layers, x, params)

    def backward(kept, y_bar):
        x_bars, params_bar = _backward_all(layers, kept, y_bar)
        return x_bars, *params_bar

    def input():
        return tuple(layer.input for layer in layers)

    return Network(parallel, layers, (), input, shapes, definition, forward, backward)


@combinator
def residual(layer: Rule) -> Rule:
    r"""Add a layer's output to its input:  y = x + f(x).

    Derivative  x̄ = ȳ + f̄(ȳ): x reaches y by two roads, so its cotangents from both add.
    """

    def shapes(x):
        parameters, output = layer.shapes(x)
        if _bare(output) != _bare(x):
            raise SignatureError(f"residual needs a layer that keeps the shape, but {layer} takes {x} to {output}")
        return parameters, output

    def definition(x, *params):
        return _add(x, layer.definition(x, *params))

    def forward(x, *params):
        y, residuals = layer.forward(x, *params)
        return _add(x, y), residuals

    def backward(residuals, y_bar):
        x_bar, *params_bar = layer.backward(residuals, y_bar)
        return _add(y_bar, x_bar), *params_bar

    return Network(residual, (layer,), (), lambda: layer.input, shapes, definition, forward, backward)


@combinator
def tied(*layers: Rule) -> Rule:
    r"""One layer after the other, all with the same parameters θ:  y = f_n(… f_1(x; θ) …; θ).

    Derivative  as in serial, and θ̄ = Σ_i θ̄_i: a shared weight collects from every use.
    Parameters  those of the first layer; the others must ask for the same.
    """
    chain = serial(*layers)

    def shapes(x):
        parameters, output = chain.shapes(x)
        if any(_bare(own) != _bare(parameters[0]) for own in parameters):
            raise SignatureError(f"tied layers share their parameters, but these need {_listed(parameters)}")
        return parameters[0], output

    def definition(x, *params):
        return chain.definition(x, *(params,) * len(layers))

    def forward(x, *params):
        return chain.forward(x, *(params,) * len(layers))

    def backward(kept, y_bar):
        x_bar, *params_bars = chain.backward(kept, y_bar)
        return x_bar, *functools.reduce(_add, params_bars)

    return Network(tied, layers, (), lambda: layers[0].input, shapes, definition, forward, backward)


@combinator
def repeat(layer: Rule, times: int) -> Rule:
    r"""The same layer over the depth, each time with parameters of its own:  x_{i+1} = f(x_i; θ_i).

    Derivative  x̄_i = f̄(x̄_{i+1}; θ_i), in reverse; one compiled loop, whatever the depth.
    Parameters  those of the layer, stacked along a new leading axis of length `times`.
    """
    times = _positive("repeat", times)

    def shapes(x):
        parameters, output = layer.shapes(x)
        if _bare(output) != _bare(x):
            raise SignatureError(f"repeat needs a layer that keeps the shape, but {layer} takes {x} to {output}")
        stacked = jax.tree.map(
            lambda leaf: Leaf(leaf.kind, (times, *leaf.shape), leaf.domain), parameters, is_leaf=is_leaf
        )
        return stacked, output

    def definition(x, *params):
        return lax.scan(lambda x, own: (layer.definition(x, *own), None), x, params, length=times)[0]

    def forward(x, *params):
        return lax.scan(lambda x, own: layer.forward(x, *own), x, params, length=times)

    def backward(kept, y_bar):
        def step(y_bar, residuals):
            x_bar, *own_bar = layer.backward(residuals, y_bar)
            return x_bar, tuple(own_bar)

        x_bar, params_bar = lax.scan(step, y_bar, kept, length=times, reverse=True)
        return x_bar, *params_bar

    return Network(repeat, (layer,), (times,), lambda: layer.input, shapes, definition, forward, backward, loop=True)


@combinator
def scan(cell: Rule) -> Rule:
    r"""A recurrent cell over time, along the first axis:  (y_t, h_t) = f(x_t, h_{t−1}; θ).

    Derivative  h̄_{t−1} and x̄_t from f̄(ȳ_t, h̄_t), backwards in time; θ̄ = Σ_t θ̄_t, since every step uses θ.
                The last state is not returned, so its cotangent starts at zero.
    Primals     x (time first), the initial state h_0, the cell's other parameters.
    """

    def shapes(x):
        if any(not leaf.shape for leaf in jax.tree.leaves(x, is_leaf=is_leaf)):
            raise SignatureError(f"scan runs along the first axis, but its input is {x}")
        length = jax.tree.leaves(x, is_leaf=is_leaf)[0].shape[0]
        each = jax.tree.map(lambda leaf: Leaf(leaf.kind, leaf.shape[1:], leaf.domain), x, is_leaf=is_leaf)
        parameters, output = cell.shapes(each)
        if (
            not isinstance(output, tuple)
            or len(output) != 2
            or not parameters
            or _bare(output[1]) != _bare(parameters[0])
        ):
            raise SignatureError(f"scan needs a cell (x, h, *params) -> (y, h), but {cell} gives {output}")
        return parameters, jax.tree.map(lambda leaf: Leaf(leaf.kind, (length, *leaf.shape)), output[0], is_leaf=is_leaf)

    def definition(x, h, *params):
        return lax.scan(lambda h, x: cell.definition(x, h, *params)[::-1], h, x)[1]

    def forward(x, h, *params):
        def step(h, x):
            (y, h), residuals = cell.forward(x, h, *params)
            return h, (y, residuals)

        _, (y, kept) = lax.scan(step, h, x)
        return y, (kept, (h, params))

    def backward(residuals, y_bar):
        kept, carried = residuals

        def step(carry, now):
            h_bar, params_bar = carry
            y_bar, residuals = now
            x_bar, h_bar, *own_bar = cell.backward(residuals, (y_bar, h_bar))
            return (h_bar, _add(params_bar, tuple(own_bar))), x_bar

        (h_bar, params_bar), x_bar = lax.scan(step, _zeros(carried), (y_bar, kept), reverse=True)
        return x_bar, h_bar, *params_bar

    def input():
        return jax.tree.map(
            lambda leaf: Leaf(leaf.kind, ("time", *leaf.shape), leaf.domain), cell.input, is_leaf=is_leaf
        )

    return Network(scan, (cell,), (), input, shapes, definition, forward, backward, loop=True)


@combinator
def checkpointed(layer: Rule) -> Rule:
    r"""The same function, keeping nothing but its primals; the backward pass runs forward once more.

    Derivative  that of the layer: memory is traded for time, the numbers stay.
    """

    def forward(*primals):
        return layer.forward(*primals)[0], primals

    def backward(primals, y_bar):
        return layer.backward(layer.forward(*primals)[1], y_bar)

    return Network(checkpointed, (layer,), (), lambda: layer.input, layer.shapes, layer.definition, forward, backward)


def _forward_all(layers, inputs, params):
    pairs = [f.forward(x, *own) for f, x, own in zip(layers, inputs, params, strict=True)]
    return tuple(y for y, _ in pairs), tuple(residuals for _, residuals in pairs)


def _backward_all(layers, kept, y_bars):
    bars = [f.backward(residuals, y_bar) for f, residuals, y_bar in zip(layers, kept, y_bars, strict=True)]
    return tuple(x_bar for x_bar, *_ in bars), tuple(tuple(own_bar) for _, *own_bar in bars)


def _branch_shapes(layers, x):
    pairs = [layer.shapes(x) for layer in layers]
    return tuple(own for own, _ in pairs), [output for _, output in pairs]


def _add(a, b):
    """Add two trees of cotangents; None, the cotangent of an integer, stays None."""
    return jax.tree.map(lambda a, b: None if a is None else a + b, a, b, is_leaf=lambda node: node is None)


def _zeros(tree):
    """Where a sum of cotangents starts: zero for every float, None for every integer, boolean or key."""
    return jax.tree.map(lambda a: jnp.zeros_like(a) if kind_of(a) == "float" else None, tree)


def _bare(tree):
    """The leaves without their domains: what must agree where values are added or shared."""
    return jax.tree.map(lambda leaf: (leaf.kind, leaf.shape), tree, is_leaf=is_leaf)


def _listed(trees) -> str:
    """What several layers need or give, in words."""
    words = [", ".join(map(str, jax.tree.leaves(tree, is_leaf=is_leaf))) or "nothing" for tree in trees]
    return " and ".join(words)


def _positive(name, times):
    times = int(times) if isinstance(times, np.integer) else times
    if type(times) is not int or not 1 <= times < LENGTHS:
        raise SignatureError(f"{name} needs a whole number from 1 to 2³¹ − 1, not {times!r}")
    return times


__all__ = ["COMBINATORS", "Network", *COMBINATORS]
