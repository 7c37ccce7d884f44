"""What the order of a product costs: counted, said by the compiler, and timed."""

import functools
import itertools
import time
from collections.abc import Iterator

import jax
import numpy as np

from manual_backprop.derivations import association

CHAINS = 12
MOST_FACTORS = 8  # of random chains, every bracketing of which is tried: 429 at most
WIDTHS = (8, 32, 128, 512, 1536)  # at depth 5 forward mode costs three quarters of the width times more: 1152
DEPTHS = (2, 4, 8, 16)
DEPTH, WIDTH = 5, 64


def compiled_cost(lengths: tuple[int, ...], order: association.Order, dtype="float64") -> dict:
    """Floating-point operations and bytes that XLA reports for the product, compiled in an order.

    A product of b × c by c × d is b c d multiplications and b (c − 1) d additions; XLA counts a multiply-add as two.
    """
    found = _program(lengths, order, dtype).cost_analysis()
    found = found[0] if isinstance(found, list) else found or {}
    return {"flops": found.get("flops"), "bytes": found.get("bytes accessed")}


@functools.cache
def _program(lengths, order, dtype):
    arrays = [jax.ShapeDtypeStruct(pair, dtype) for pair in itertools.pairwise(lengths)]
    with jax.enable_x64(True):
        return jax.jit(lambda *matrices: association.product(matrices, order)).lower(*arrays).compile()


def additions(lengths, order) -> int:
    """How many numbers an order adds: one less than it multiplies for every element of every product."""
    if isinstance(order, int):
        return 0
    first, last = _ends(order)
    split = _ends(order[1])[0]
    own = lengths[first] * (lengths[split] - 1) * lengths[last + 1]
    return own + additions(lengths, order[0]) + additions(lengths, order[1])


def _ends(order):
    return (order, order) if isinstance(order, int) else (_ends(order[0])[0], _ends(order[1])[1])


def orders(lengths: tuple[int, ...]) -> dict[str, association.Order]:
    """Reverse, forward and the cheapest."""
    factors = len(lengths) - 1
    return {
        "reverse": association.from_the_left(factors),
        "forward": association.from_the_right(factors),
        "optimal": association.optimal(lengths)[1],
    }


def random_chains(seed: int) -> list[tuple[int, ...]]:
    """Lengths of random chains: some from a scalar cost, some from a single input, some with neither."""
    rng = np.random.default_rng([seed, 5])
    chains = []
    for i in range(CHAINS):
        lengths = [int(n) for n in rng.integers(1, 9, int(rng.integers(3, MOST_FACTORS + 1)) + 1)]
        lengths[0] = 1 if i % 3 == 0 else lengths[0]
        lengths[-1] = 1 if i % 3 == 1 else lengths[-1]
        chains.append(tuple(lengths))
    return chains


@functools.lru_cache(64)
def measured(lengths: tuple[int, ...], timed: bool = False) -> dict:
    """One chain in every order: multiplications, the compiler's operations and bytes, and with `timed` the seconds."""
    dtype = "float32" if timed else "float64"
    line: dict = {"kind": "association", "lengths": list(lengths), "dtype": dtype}
    for name, order in orders(lengths).items():
        line[name] = {
            "order": association.written(order),
            "multiplications": association.multiplications(lengths, order),
            "additions": additions(lengths, order),
            **compiled_cost(lengths, order, dtype),
        }
        if timed:
            line[name]["seconds"] = _seconds(lengths, order, dtype)
    return line


def _seconds(lengths, order, dtype, repeats=3):
    rng = np.random.default_rng(0)
    arrays = [jax.numpy.asarray(rng.normal(size=pair), dtype) for pair in itertools.pairwise(lengths)]
    program = _program(lengths, order, dtype)
    jax.block_until_ready(program(*arrays))
    best, spent = np.inf, 0.0
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(program(*arrays))
        best = min(best, time.perf_counter() - start)
        spent += best
        if spent > 0.3:
            break
    return best


def lines(seed: int = 0) -> Iterator[dict]:
    """Record lines of kind `association`: random chains, then widths and depths up to a factor of a thousand."""
    for lengths in random_chains(seed):
        yield {**measured(lengths), "sweep": "random"}
    for width in WIDTHS:
        yield {**measured((1,) + (width,) * DEPTH, timed=True), "sweep": "width", "width": width, "depth": DEPTH}
    for depth in DEPTHS:
        yield {**measured((1,) + (WIDTH,) * depth, timed=True), "sweep": "depth", "width": WIDTH, "depth": depth}
    _program.cache_clear()


__all__ = ["additions", "compiled_cost", "lines", "measured", "orders", "random_chains"]
