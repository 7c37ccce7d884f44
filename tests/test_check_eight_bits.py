"""Functions of numbers of eight bits: what is right is accepted; zero, doubled and turned around is not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from manual_backprop.reference import check


def _narrow(x):
    return jnp.tanh(x.astype(jnp.float32)).astype(x.dtype)


def _product(x, w):
    return x.astype(jnp.float32) @ w.astype(jnp.float32) / 4


EIGHT = {"elementwise": (_narrow, [(4, 8)]), "matmul": (_product, [(4, 8), (8, 3)])}
FACTORS = [
    1,
    *(0, 2, -1),
]


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2"])
@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("name", EIGHT)
def test_eight_bits(name, factor, dtype):
    function, shapes = EIGHT[name]
    rng = np.random.default_rng(0)
    args = [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]

    def backward(primals, y_bar):
        bars = jax.vjp(function, *primals)[1](y_bar)
        return tuple((factor * bar.astype(jnp.float32)).astype(dtype) for bar in bars)

    by_hand = jax.custom_vjp(function)
    by_hand.defvjp(lambda *primals: (function(*primals), primals), backward)
    assert check(by_hand, *args, profile="quick", checks="truth").ok == (factor == 1)
