"""The output and the cotangents of a plain function by `jax.vjp`, at a stack of points, with rounding exaggerated.

Each point of the stack has a noise (δ, η): every arithmetic result r on the way to the output and back, of
whatever primitive, becomes r (1 ± δ) ± η, which is the standard model of rounding with underflow.  Where both are
zero nothing moves.

Source: Higham, 'Accuracy and Stability of Numerical Algorithms', 2002, eqs. 2.4 and 2.8.
"""

import functools
import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from manual_backprop.combinators import Network
from manual_backprop.rule import Opaque, Rule
from manual_backprop.signature import kind_of

from .precision import NOISE_LENGTH, ULPS, compiled, evaluate
from .programs import side_by_side

EPS = 2.0**-52
STRIDE = 1009  # from one step of a loop, or piece of a network, to the window of signs of the next
PLACES = 5  # pieces of a network, until the same signs come again
Noises = tuple[tuple[int, float, float], ...]  # of every point: which row of random signs, δ and η


def pull(f: Callable, primals: tuple, cotangent):
    """(f(*primals), its cotangents): a tree like the primals, with None for whatever is not floating."""
    floats = jax.tree.map(lambda a: a if kind_of(a) == "float" else None, primals)

    def of_floats(floats):
        return f(*jax.tree.map(lambda a, x: x if a is None else a, floats, primals, is_leaf=_is_none))

    out, vjp = jax.vjp(of_floats, floats)
    return out, vjp(cotangent)[0]


def stacked_pullback(rule, noises: Noises, watch: Callable = lambda tree: tree) -> Callable:
    """`pull` of a rule's definition, for float leaves that carry a leading axis of points.

    Every piece of a network is compiled once per shape and shared by all networks; `jax.vjp` composes the pieces.
    Whatever a piece gives on the way to the output and back goes through `watch`.
    """
    place = itertools.count()
    pieces = isinstance(rule, Network) and rule.map(
        lambda piece: Opaque(piece, functools.partial(_piece, piece, _moves(noises, next(place) % PLACES), watch))
    )
    if not pieces or isinstance(pieces, Opaque):
        whole = _whole(rule) if isinstance(rule, Rule) else rule.pullback_program
        return lambda primals, cotangent: whole(primals, cotangent, *_moves(noises))
    return lambda primals, cotangent: pull(pieces.definition, primals, cotangent)


def _piece(rule, moves, watch, _):
    """A definition on stacks whose derivative, too, is computed with exaggerated rounding."""
    forward, backward = _halves(rule)
    piece = jax.custom_vjp(lambda *primals: forward(primals, (), *moves))
    piece.defvjp(
        lambda *primals: (watch(forward(primals, (), *moves)), primals),
        lambda primals, cotangent: watch(backward(primals, cotangent, *moves)),
    )
    return piece


@functools.cache
def _whole(rule):
    return program(rule.definition)


def program(definition: Callable) -> Callable:
    """`pull` of a definition for stacks of points, compiled: (primals, cotangent, factors, terms) -> output, bars."""
    return _stack(functools.partial(pull, definition))


@functools.cache
def _halves(rule):
    forward = _stack(lambda primals, _: rule.definition(*primals))
    return forward, _stack(lambda primals, cotangent: pull(rule.definition, primals, cotangent)[1])


def _stack(function):
    """function(primals, cotangent), compiled for stacks of both; integers, booleans and keys are not stacked."""

    def at_one_point(primals, cotangent, *noise):
        flat, structure = jax.tree.flatten((primals, cotangent))
        closed, shape = jax.make_jaxpr(lambda *flat: function(*structure.unflatten(flat)), return_shape=True)(*flat)
        return jax.tree.unflatten(jax.tree.structure(shape), evaluate(closed, flat, _Rounding(*noise)))

    def run(primals, cotangent, factors, terms):
        def at(floats, *others):
            point = jax.tree.map(lambda a, x: x if a is None else a, floats, primals, is_leaf=_is_none)
            return at_one_point(point, *others)

        stacks = jax.tree.map(lambda a: a if kind_of(a) == "float" else None, primals)
        return side_by_side(at)(stacks, cotangent, factors, terms)

    return compiled(run)


def _moves(noises: Noises, place: int = 0) -> tuple[jax.Array, jax.Array]:
    """What a result is multiplied by, and what is added to it: one row for each point."""
    return _kept_moves(noises, place, jax.config.jax_enable_x64)


@functools.cache
def _kept_moves(noises, place, wide):  # wide: where it is switched off, the same numbers have fewer digits
    rows, relative, absolute = (np.asarray(column)[:, None] for column in zip(*noises, strict=True))
    moves = nudges(np.random.default_rng(0), (rows.max() + 1, NOISE_LENGTH))[rows[:, 0]]
    moves = np.roll(moves, place * STRIDE, axis=1)
    return jax.device_put(1 + moves * relative), jax.device_put(moves * absolute)


def nudges(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Moves up or down, of sizes between a half and one: were all of one size, two of them would often cancel."""
    return rng.choice([-1.0, 1.0], shape) * rng.uniform(0.5, 1.0, shape)


class _Rounding:
    """Moves every number it is given; every use reads another window of the same random signs."""

    def __init__(self, factors, terms, uses=0, offset=None):
        self.uses, self.offset, self.terms = uses, offset, terms
        self.factors, self._usual = factors, _beyond(factors, ULPS)  # what is moved by nearly all uses, made once

    def during(self, step):
        """Other signs in every step of a loop: were they the same, errors would add up, or cancel, in step."""
        return _Rounding(self.factors, self.terms, self.uses, step * STRIDE)

    def __call__(self, array, ulps=0.0):
        dtype = jnp.result_type(array)
        if not jax.config.jax_enable_x64 or dtype not in (jnp.float64, jnp.complex128):
            return array  # what a definition computes in a dtype of its own is not rounded anew
        if dtype == jnp.complex128:  # whose parts are off by what their modulus is rounded by
            size = lax.abs(array)
            return lax.complex(*(self._moved(part, ulps, size) for part in (lax.real(array), lax.imag(array))))
        return self._moved(jnp.asarray(array), ulps)

    def _moved(self, array, ulps, size=None):
        self.uses += 1
        start = self.uses * 131 % NOISE_LENGTH
        turns = 1 + (start + math.prod(jnp.shape(array))) // NOISE_LENGTH
        if self.offset is not None:
            start, turns = start + self.offset % NOISE_LENGTH, turns + 1
        factors = self._usual if ulps == ULPS else _beyond(self.factors, ulps)
        return _move(array, size, factors, self.terms, start, turns)


@functools.partial(jax.jit, static_argnums=5)
def _move(array, size, factors, terms, start, turns):
    """array (1 ± δ) ± η, by the signs from `start` on, of rows gone through so many times; traced once for a shape."""

    def window(row):
        row = lax.concatenate([row] * turns, 0) if turns > 1 else row
        return lax.reshape(lax.dynamic_slice(row, (start,), (math.prod(array.shape),)), array.shape)

    factor = window(factors)
    moved = lax.mul(array, factor) if size is None else lax.add(array, lax.mul(size, lax.sub(factor, 1.0)))
    still = lax.eq(array, lax.full_like(array, 0))
    return lax.select(still, array, lax.add(moved, window(terms)))  # a zero is a zero in every dtype


def _beyond(factors, ulps):
    """Factors that are further from 1 by what XLA's own function may be off in float64."""
    if not jax.config.jax_enable_x64:
        return factors  # what a dtype itself leaves its range for is asked without noise
    return factors + jnp.sign(factors - 1) * (ulps * EPS)


def to_numpy(tree):
    """The same tree as NumPy float64, keys and integers aside (None)."""
    return jax.tree.map(lambda a: np.asarray(a, np.float64) if kind_of(a) == "float" else None, tree)


def _is_none(node):
    return node is None
