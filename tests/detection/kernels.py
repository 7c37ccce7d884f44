"""Pallas kernels, interpreted, with derivatives by hand; most state a truth, since a kernel has none to give."""

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from .case import by_hand, right, wrong


def like(x):
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def mapped(kernel, *arrays):
    """A kernel over whole arrays of one shape."""
    return pl.pallas_call(kernel, out_shape=like(arrays[0]), interpret=True)(*arrays)


def by_rows(kernel, *arrays, rows=2):
    """A kernel over blocks of rows; the last may be partly outside."""
    spec = pl.BlockSpec((rows, arrays[0].shape[1]), lambda i: (i, 0))
    grid = (pl.cdiv(len(arrays[0]), rows),)
    call = pl.pallas_call(
        kernel, out_shape=like(arrays[0]), grid=grid, in_specs=[spec] * len(arrays), out_specs=spec, interpret=True
    )
    return call(*arrays)


# --- elementwise -----------------------------------------------------------------------------------------------------


def swish_kernel(x, y):
    y[...] = x[...] * jax.nn.sigmoid(x[...])


def swish(x):
    return mapped(swish_kernel, x)


@right(args="f32[3,5]", truth=lambda x: x * jax.nn.sigmoid(x))
def kernel_swish():
    """s + x s (1 − s) in a kernel of its own."""

    def kernel(x, g, out):
        s = jax.nn.sigmoid(x[...])
        out[...] = g[...] * (s + x[...] * s * (1 - s))

    return by_hand(swish, lambda x: (swish(x), x), lambda x, g: (mapped(kernel, x, g),))


@wrong("missing_path", "local_derivative", args="f32[3,5]", truth=lambda x: x * jax.nn.sigmoid(x))
def kernel_swish_gate_held_constant():
    """The gate is taken for a constant."""

    def kernel(x, g, out):
        out[...] = g[...] * jax.nn.sigmoid(x[...])

    return by_hand(swish, lambda x: (swish(x), x), lambda x, g: (mapped(kernel, x, g),))


@wrong("local_derivative", "wrong_residual", args="f32[3,5]")
def kernel_swish_at_its_output():
    """The slope is taken at the output, and only the values of the kernel can tell."""

    def kernel(y, g, out):
        s = jax.nn.sigmoid(y[...])
        out[...] = g[...] * (s + y[...] * s * (1 - s))

    return by_hand(swish, lambda x: (swish(x), swish(x)), lambda y, g: (mapped(kernel, y, g),))


# --- rows ------------------------------------------------------------------------------------------------------------


def softmax_kernel(x, y):
    e = jnp.exp(x[...] - x[...].max(-1, keepdims=True))
    y[...] = e / e.sum(-1, keepdims=True)


def softmax(x):
    return by_rows(softmax_kernel, x)


def softmax_bar_kernel(y, g, out):
    out[...] = y[...] * (g[...] - jnp.sum(y[...] * g[...], -1, keepdims=True))


def softmax_forward(x):
    return softmax(x), softmax(x)


@right(args="f32[5,7]", truth=lambda x: jax.nn.softmax(x, -1))
def kernel_softmax():
    """Blocks of two rows, the last of which reaches outside."""
    return by_hand(softmax, softmax_forward, lambda y, g: (by_rows(softmax_bar_kernel, y, g),))


@right(args="f32[4,3]")
def kernel_softmax_judged_by_differences():
    """The same with no truth given."""
    return by_hand(softmax, softmax_forward, lambda y, g: (by_rows(softmax_bar_kernel, y, g),))


@wrong("shape", "located", "dropped", args="f32[5,7]", truth=lambda x: jax.nn.softmax(x, -1))
def kernel_softmax_last_block_dropped():
    """As many blocks as fit wholly; an odd number of rows leaves the last one at zero.

    Source: the sequences of openxla/tokamax issue 316 that no block divides.
    """

    def backward(y, g):
        whole = len(y) // 2 * 2
        bar = by_rows(softmax_bar_kernel, y[:whole], g[:whole]) if whole else y[:0]
        return (jnp.zeros_like(y).at[:whole].set(bar),)

    return by_hand(softmax, softmax_forward, backward)


@wrong("missing_term", args="f32[4,7]", truth=lambda x: jax.nn.softmax(x, -1))
def kernel_softmax_summed_over_the_block():
    """The projection subtracts the sum over the whole block of rows, not each row's own."""

    def kernel(y, g, out):
        out[...] = y[...] * (g[...] - jnp.sum(y[...] * g[...]))

    return by_hand(softmax, softmax_forward, lambda y, g: (by_rows(kernel, y, g),))


def scale_kernel(x, w, y):
    y[...] = x[...] * jax.lax.rsqrt(jnp.mean(x[...] ** 2, -1, keepdims=True) + 1e-6) * w[...]


def scaled_rows(kernel, x, w):
    """Blocks of two rows, with weights that every block reads."""
    block = pl.BlockSpec((2, x.shape[1]), lambda i: (i, 0))
    every = pl.BlockSpec(w.shape, lambda i: (0,))
    grid = (pl.cdiv(len(x), 2),)
    call = pl.pallas_call(
        kernel, out_shape=like(x), grid=grid, in_specs=[block, every], out_specs=block, interpret=True
    )
    return call(x, w)


def rms_norm(x, w):
    return scaled_rows(scale_kernel, x, w)


def plain_rms_norm(x, w):
    return x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6) * w


def rms_halves(x, w, g):
    """The input's cotangent, and every row's part of the weight's."""
    r = jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)
    x_hat = x * r
    inner = g * w
    return r * (inner - x_hat * jnp.mean(inner * x_hat, -1, keepdims=True)), g * x_hat


@right(args="f32[4,5] f32[5]", truth=plain_rms_norm)
def kernel_rms_norm():
    """The weight's cotangent is summed over all blocks."""

    def backward(saved, g):
        x_bar, parts = rms_halves(*saved, g)
        return x_bar, parts.sum(0)

    return by_hand(rms_norm, lambda x, w: (rms_norm(x, w), (x, w)), backward)


@wrong("missing_sum", "located", "missing_path", args="f32[4,5] f32[5]", truth=plain_rms_norm)
def kernel_rms_norm_blocks_overwrite_each_other():
    """Every block writes its sum of the weight's cotangent to the same place, and the last one stays."""

    def kernel(parts, w_bar):
        w_bar[...] = parts[...].sum(0)

    def backward(saved, g):
        x_bar, parts = rms_halves(*saved, g)
        n, d = parts.shape
        block, every = pl.BlockSpec((2, d), lambda i: (i, 0)), pl.BlockSpec((d,), lambda i: (0,))
        out = jax.ShapeDtypeStruct((d,), parts.dtype)
        call = pl.pallas_call(kernel, out_shape=out, grid=(n // 2,), in_specs=[block], out_specs=every, interpret=True)
        return x_bar, call(parts)

    return by_hand(rms_norm, lambda x, w: (rms_norm(x, w), (x, w)), backward)


# --- product by blocks -----------------------------------------------------------------------------------------------


def product(a, b):
    """Blocks of two by two, summed over blocks of two of the inner axis."""

    def kernel(a, b, out):
        @pl.when(pl.program_id(2) == 0)
        def _():
            out[...] = jnp.zeros_like(out)

        out[...] += a[...] @ b[...]

    (m, k), n = a.shape, b.shape[1]
    specs = [pl.BlockSpec((2, 2), lambda i, j, inner: (i, inner)), pl.BlockSpec((2, 2), lambda i, j, inner: (inner, j))]
    return pl.pallas_call(
        kernel,
        out_shape=jax.ShapeDtypeStruct((m, n), a.dtype),
        grid=(m // 2, n // 2, k // 2),
        in_specs=specs,
        out_specs=pl.BlockSpec((2, 2), lambda i, j, _: (i, j)),
        interpret=True,
    )(a, b)


@right(args="f32[4,6] f32[6,2]", truth=jnp.matmul)
def kernel_product():
    """Two more products by blocks."""

    def backward(saved, g):
        a, b = saved
        return product(g, b.T), product(a.T, g)

    return by_hand(product, lambda a, b: (product(a, b), (a, b)), backward)


@wrong("permuted", "local_derivative", args="f32[4,4] f32[4,4]", truth=jnp.matmul)
def kernel_product_not_transposed():
    """Both factors go in as they are, which square ones allow."""

    def backward(saved, g):
        a, b = saved
        return product(g, b), product(a, g)

    return by_hand(product, lambda a, b: (product(a, b), (a, b)), backward)


# --- a parameter that every block of rows reads, and its cotangent summed over them -----------------------------------


def scaled(x, w):
    rows, whole = pl.BlockSpec((2, x.shape[1]), lambda i: (i, 0)), pl.BlockSpec(w.shape, lambda i: (0,))

    def kernel(x, w, y):
        y[...] = jnp.tanh(x[...]) * w[: x.shape[1]]

    grid = (len(x) // 2,)
    return pl.pallas_call(kernel, out_shape=like(x), grid=grid, in_specs=[rows, whole], out_specs=rows, interpret=True)(
        x, w
    )


def scaled_by(accumulate):
    def backward(kept, g):
        x, w = kept
        rows, whole = pl.BlockSpec((2, x.shape[1]), lambda i: (i, 0)), pl.BlockSpec((x.shape[1],), lambda i: (0,))

        def kernel(x, w, g, x_bar, w_bar):
            t = jnp.tanh(x[...])
            x_bar[...] = g[...] * w[...] * (1 - t * t)
            accumulate(w_bar, (g[...] * t).sum(0))

        return pl.pallas_call(
            kernel,
            out_shape=[like(x), like(w)],
            grid=(len(x) // 2,),
            in_specs=[rows, whole, rows],
            out_specs=[rows, whole],
            interpret=True,
        )(x, w, g)

    return by_hand(scaled, lambda x, w: (scaled(x, w), (x, w)), backward)


def added_up(w_bar, part):
    @pl.when(pl.program_id(0) == 0)
    def _():
        w_bar[...] = jnp.zeros_like(w_bar)

    w_bar[...] += part


@right(args="f32[4,4] f32[4]")
def kernel_that_reads_no_more_of_a_parameter_than_its_blocks():
    """Of a longer parameter the rest is neither read nor given a cotangent: nobody calls it so."""
    return scaled_by(added_up)


def written(w_bar, part):
    w_bar[...] = part


@wrong("missing_sum", "located", "missing_path", args="f32[4,4] f32[4]")
def kernel_whose_parameter_hears_the_last_block_alone():
    """Each block of rows overwrites the cotangent of the parameter."""
    return scaled_by(written)
