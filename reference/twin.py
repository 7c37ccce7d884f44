"""Training twice, by hand and by autodiff, and holding the two against each other at every step.

Training magnifies rounding: two right gradients that differ in the last digit part ways, on some problems slowly, on
some at once.  How fast is measured on this very problem: autodiff is run again from parameters and examples moved by
a rounding unit, in antithetic pairs, and the two methods may differ as those runs differ from the plain one, with
the slack of `allowance`.  So there is no number for a network or a data set, and chaos is no excuse for more than
it does.  Where autodiff of the plain definitions overflows there is nothing to compare with, and the twin abstains.

An optimiser that divides by the gradient's own size (Adam and its kin) hides a gradient that is wrong by a factor.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable

import jax
import numpy as np

from manual_backprop.signature import kind_of
from manual_backprop.training import by_hand, join, split, train

from .allowance import PAIRS, SLACK, unit
from .precision import float64


@dataclasses.dataclass(frozen=True)
class Twin:
    """Two trainings side by side; divergences count in ulps of the largest parameter and of the loss at its step."""

    subject: str
    network: str
    steps: list[int]
    loss_by_hand: list[float]
    loss_autodiff: list[float]
    divergence_ulps: list[float]
    allowance_ulps: list[float]
    loss_divergence_ulps: list[float]
    loss_allowance_ulps: list[float]
    accuracy_by_hand: float
    accuracy_autodiff: float
    verdict: str
    largest_divergence_ulps: float
    seconds_by_hand: float
    seconds_autodiff: float
    compile_seconds_by_hand: float
    compile_seconds_autodiff: float

    def line(self) -> dict:
        """The same as a line of a record."""
        return {"kind": "curve", **dataclasses.asdict(self)}


def by_autodiff(network, loss) -> Callable:
    """As `training.by_hand`, by jax.value_and_grad of the definitions."""

    def value(floats, fixed, batch):
        x, *targets = batch
        return loss.definition(network.definition(x, *join(floats, fixed)), *targets)

    def gradient(params, batch):
        return jax.value_and_grad(value)(*split(params), batch)

    return gradient


def twin(subject: str, network, loss, optimiser, params, data: tuple, order, held_out: tuple) -> Twin:
    """Train both ways, in the dtype of the parameters.  `held_out` is (x, labels), the examples not trained on."""
    dtype = str(next(leaf for leaf in jax.tree.leaves(params) if kind_of(leaf) == "float").dtype)
    with float64() if dtype == "float64" else contextlib.nullcontext(), jax.default_matmul_precision("highest"):
        autodiff = by_autodiff(network, loss)
        hand, hand_seconds, hand_compile = _timed(by_hand(network, loss), optimiser, params, data, order)
        plain, plain_seconds, plain_compile = _timed(autodiff, optimiser, params, data, order)
        moved = _nudged(autodiff, optimiser, params, data, order, unit(dtype))
        accuracy_by_hand = _accuracy(jax.jit(lambda *primals: network.forward(*primals)[0]), hand.params, held_out)
        accuracy_autodiff = _accuracy(jax.jit(network.definition), plain.params, held_out)
    eps = 2 * unit(dtype)
    apart, allowed = _apart(_rows(hand.trajectory), _rows(plain.trajectory), _rows(moved.trajectory, 2), eps)
    loss_apart, loss_allowed = _apart(*(np.asarray(a.losses)[..., None] for a in (hand, plain, moved)), eps)
    known = np.isfinite(plain.losses) & np.all(np.isfinite(_rows(plain.trajectory)), axis=-1)
    ok = np.all((apart <= allowed) & (loss_apart <= loss_allowed), where=known)  # not a number is not right
    return Twin(
        subject=subject,
        network=str(network),
        steps=list(range(1, len(order) + 1)),
        loss_by_hand=np.asarray(hand.losses, float).tolist(),
        loss_autodiff=np.asarray(plain.losses, float).tolist(),
        divergence_ulps=apart.tolist(),
        allowance_ulps=allowed.tolist(),
        loss_divergence_ulps=loss_apart.tolist(),
        loss_allowance_ulps=loss_allowed.tolist(),
        accuracy_by_hand=accuracy_by_hand,
        accuracy_autodiff=accuracy_autodiff,
        verdict=("right" if np.all(known) else "abstained") if ok else "wrong",
        largest_divergence_ulps=float(np.max(apart)),
        seconds_by_hand=hand_seconds,
        seconds_autodiff=plain_seconds,
        compile_seconds_by_hand=hand_compile,
        compile_seconds_autodiff=plain_compile,
    )


def _timed(gradient, optimiser, params, data, order):
    """Train; the seconds it took, and those to compile."""
    start = time.perf_counter()
    program = train.lower(gradient, optimiser, params, data, order, keep=True).compile()
    compiled = time.perf_counter()
    program(params, data, order)  # the first run pays for memory that later ones find ready
    begun = time.perf_counter()
    trained = jax.block_until_ready(program(params, data, order))
    return trained, time.perf_counter() - begun, compiled - start


def _nudged(gradient, optimiser, params, data, order, u):
    """Train from copies of the parameters and the examples, each moved by a rounding unit up or down, all at once."""
    rng = np.random.default_rng(0)

    def copies(leaf):
        leaf = np.asarray(leaf)
        if kind_of(leaf) != "float":
            return np.stack([leaf] * (2 * PAIRS))
        signs = rng.choice([-1.0, 1.0], (PAIRS, *leaf.shape))
        return (leaf * (1 + 2 * u * np.concatenate([signs, -signs]))).astype(leaf.dtype)

    run = jax.vmap(lambda params, data: train(gradient, optimiser, params, data, order, keep=True))
    return jax.jit(run)(*jax.tree.map(copies, (params, data)))


def _rows(trajectory, leading=1):
    """All parameters of a step in one row, behind the leading axes (copies and steps)."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(trajectory)]
    return np.concatenate([leaf.reshape(*leaf.shape[:leading], -1) for leaf in leaves], axis=-1)


def _apart(hand, plain, moved, eps):
    """Per step: how far by hand is from autodiff, and how far it may be, in ulps of the largest number of the step."""
    with np.errstate(all="ignore"):
        ulp = eps * np.max(np.abs(plain), axis=-1)
        apart = np.max(np.abs(hand - plain), axis=-1) / ulp
        rounding = np.nan_to_num(np.max(np.abs(moved - plain), axis=(0, -1)) / ulp, nan=np.inf, posinf=np.inf)
    return apart, SLACK * (1 + np.maximum.accumulate(rounding))  # what rounding did once it may do again


def _accuracy(predict, params, held_out):
    x, labels = held_out
    return float(np.mean(np.argmax(np.asarray(predict(x, *params)), axis=-1) == np.asarray(labels)))
