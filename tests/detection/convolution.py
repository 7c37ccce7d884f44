"""Convolutions: kernels turned round, strides that become gaps, channels exchanged."""

import jax.numpy as jnp

from .case import by_hand, right, wrong
from .halves import keeping

# x is (time, channels in), w is (taps, channels in, channels out).


def taps(time, k, stride=1, dilation=1):
    """Where each output looks: (outputs, taps)."""
    outputs = (time - (k - 1) * dilation - 1) // stride + 1
    return stride * jnp.arange(outputs)[:, None] + dilation * jnp.arange(k)


def convolve_by(x, w, stride, dilation):
    return jnp.einsum("tkc,kco->to", x[taps(len(x), len(w), stride, dilation)], w)


def convolve(x, w):
    return convolve_by(x, w, 1, 1)


def weight_bar(x, w, g, stride=1, dilation=1):
    return jnp.einsum("tkc,to->kco", x[taps(len(x), len(w), stride, dilation)], g)


def correlate_full(g, w):
    """Every g seen through w, with the ends padded."""
    padded = jnp.pad(g, ((len(w) - 1, len(w) - 1), (0, 0)))
    return jnp.einsum("tko,kco->tc", padded[taps(len(padded), len(w))], w)


@right(args="f32[9,3] f32[4,3,2]")
def conv_turned_kernel():
    """The input's cotangent is a full correlation with the kernel turned round."""

    def backward(saved, g):
        x, w = saved
        return correlate_full(g, w[::-1]), weight_bar(x, w, g)

    return by_hand(convolve, keeping(convolve), backward)


@wrong("permuted", "local_derivative", args="f32[9,3] f32[4,3,2]")
def conv_kernel_not_turned():
    """The kernel goes into the full correlation as it is.  Source: ddbourgin/numpy-ml issue 27."""

    def backward(saved, g):
        x, w = saved
        return correlate_full(g, w), weight_bar(x, w, g)

    return by_hand(convolve, keeping(convolve), backward)


@wrong("permuted", "local_derivative", args="f32[9,3] f32[4,3,3]")
def conv_channels_not_exchanged():
    """As many channels out as in, and the kernel's two channel axes are taken for each other."""

    def backward(saved, g):
        x, w = saved
        return correlate_full(g, w[::-1].transpose(0, 2, 1)), weight_bar(x, w, g)

    return by_hand(convolve, keeping(convolve), backward)


@wrong("factor", args="f32[9,3] f32[4,3,2]")
def conv_weight_averaged():
    """The weight's cotangent is divided by the number of positions.  Source: sebgao/cTensor issue 3."""

    def backward(saved, g):
        x, w = saved
        return correlate_full(g, w[::-1]), weight_bar(x, w, g) / len(g)

    return by_hand(convolve, keeping(convolve), backward)


def scattered(x, w, g, stride, dilation):
    """Every tap of every output adds what it received to where it looked."""
    bars = jnp.einsum("to,kco->tkc", g, w)
    return jnp.zeros_like(x).at[taps(len(x), len(w), stride, dilation)].add(bars)


@right(args="f32[12,2] f32[3,2,2] 2 3")
def conv_strided_dilated():
    """Stride, dilation and positions that no output looks at."""

    def forward(x, w, stride, dilation):
        return convolve_by(x, w, stride, dilation), (x, w)

    def backward(stride, dilation, saved, g):
        x, w = saved
        return scattered(x, w, g, stride, dilation), weight_bar(x, w, g, stride, dilation)

    return by_hand(convolve_by, forward, backward, nondiff_argnums=(2, 3))


@wrong("permuted", "local_derivative", args="f32[12,2] f32[3,2,2] 2 1")
def conv_stride_for_dilation():
    """Stride and dilation exchanged where the cotangent is spread.  Source: huggingface/candle pull 2337."""

    def forward(x, w, stride, dilation):
        return convolve_by(x, w, stride, dilation), (x, w)

    def backward(stride, dilation, saved, g):
        x, w = saved
        where = dilation * jnp.arange(len(g))[:, None] + stride * jnp.arange(len(w))
        bars = jnp.einsum("to,kco->tkc", g, w)
        return jnp.zeros_like(x).at[where].add(bars), weight_bar(x, w, g, stride, dilation)

    return by_hand(convolve_by, forward, backward, nondiff_argnums=(2, 3))


def stuffed(g, stride, time, lead):
    """Zeros between the entries of g, so that a stride becomes a gap."""
    return jnp.zeros((time, g.shape[1]), g.dtype).at[lead + stride * jnp.arange(len(g))].set(g)


@right(args="f32[10,2] f32[3,2,2]")
def conv_zero_stuffed():
    """Stride 2 by inserting zeros; the last input is looked at by nobody and gets zero."""

    def function(x, w):
        return convolve_by(x, w, 2, 1)

    def backward(saved, g):
        x, w = saved
        x_bar = correlate_full(stuffed(g, 2, 2 * len(g) - 1, 0), w[::-1])
        return jnp.pad(x_bar, ((0, len(x) - len(x_bar)), (0, 0))), weight_bar(x, w, g, 2)

    return by_hand(function, keeping(function), backward)


@wrong("permuted", "located", "shape", args="f32[10,2] f32[3,2,2]")
def conv_padded_at_the_wrong_end():
    """Stride 2 with an input left over, whose zero is put in front instead of at the end; right without one."""

    def function(x, w):
        return convolve_by(x, w, 2, 1)

    def backward(saved, g):
        x, w = saved
        x_bar = correlate_full(stuffed(g, 2, 2 * len(g) - 1, 0), w[::-1])
        return jnp.pad(x_bar, ((len(x) - len(x_bar), 0), (0, 0))), weight_bar(x, w, g, 2)

    return by_hand(function, keeping(function), backward)


def same(x, w):
    """As long as the input: (k - 1) // 2 zeros before, the rest after."""
    k = len(w)
    return convolve(jnp.pad(x, (((k - 1) // 2, k // 2), (0, 0))), w)


@right(args="f32[7,2] f32[4,2,3]")
def conv_same_even_kernel():
    """An even kernel pads unevenly; the crop undoes it at the same end."""

    def backward(saved, g):
        x, w = saved
        k = len(w)
        padded = jnp.pad(x, (((k - 1) // 2, k // 2), (0, 0)))
        return correlate_full(g, w[::-1])[(k - 1) // 2 :][: len(x)], weight_bar(padded, w, g)

    return by_hand(same, keeping(same), backward)


@wrong("permuted", "shape", args="f32[7,2] f32[4,2,3]")
def conv_same_cropped_as_if_odd():
    """The crop begins at k // 2, which is right for odd kernels alone."""

    def backward(saved, g):
        x, w = saved
        k = len(w)
        padded = jnp.pad(x, (((k - 1) // 2, k // 2), (0, 0)))
        return correlate_full(g, w[::-1])[k // 2 :][: len(x)], weight_bar(padded, w, g)

    return by_hand(same, keeping(same), backward)


def depthwise(x, w):
    """Each channel with its own kernel and m outputs: (t, c), (k, c, m) -> (t, c * m)."""
    y = jnp.einsum("tkc,kcm->tcm", x[taps(len(x), len(w))], w)
    return y.reshape(len(y), -1)


@right(args="f32[8,3] f32[3,3,2]")
def depthwise_multiplier():
    """The channel comes before its multiplier, forward and backward."""

    def backward(saved, g):
        x, w = saved
        g = g.reshape(len(g), *w.shape[1:])
        x_bar = jnp.zeros_like(x).at[taps(len(x), len(w))].add(jnp.einsum("tcm,kcm->tkc", g, w))
        return x_bar, jnp.einsum("tkc,tcm->kcm", x[taps(len(x), len(w))], g)

    return by_hand(depthwise, keeping(depthwise), backward)


@wrong("permuted", "local_derivative", args="f32[8,3] f32[3,3,2]")
def depthwise_multiplier_first():
    """The outputs are split with the multiplier before the channel."""

    def backward(saved, g):
        x, w = saved
        _, c, m = w.shape
        g = g.reshape(len(g), m, c).transpose(0, 2, 1)
        x_bar = jnp.zeros_like(x).at[taps(len(x), len(w))].add(jnp.einsum("tcm,kcm->tkc", g, w))
        return x_bar, jnp.einsum("tkc,tcm->kcm", x[taps(len(x), len(w))], g)

    return by_hand(depthwise, keeping(depthwise), backward)


def with_bias(x, w, b):
    """Pointwise over an image: (n, h, w, c)."""
    return x @ w + b


@right(args="f32[2,3,4,3] f32[3,5] f32[5]")
def pointwise_bias():
    """The bias sums over batch and both axes of the image."""

    def backward(saved, g):
        x, w, _ = saved
        return g @ w.T, jnp.tensordot(x, g, ((0, 1, 2), (0, 1, 2))), g.sum((0, 1, 2))

    return by_hand(with_bias, keeping(with_bias), backward)


@wrong("missing_sum", "shape", args="f32[2,3,4,3] f32[3,5] f32[5]")
def pointwise_bias_of_the_first_image():
    """The bias is summed over the image and not over the batch; right for a batch of one."""

    def backward(saved, g):
        x, w, _ = saved
        return g @ w.T, jnp.tensordot(x, g, ((0, 1, 2), (0, 1, 2))), g[0].sum((0, 1))

    return by_hand(with_bias, keeping(with_bias), backward)


def circular(x, w):
    n = len(x)
    return w[(jnp.arange(n)[:, None] - jnp.arange(n)) % n] @ x


@right(args="f32[8] f32[8]")
def circular_by_fourier():
    """Circular convolution through the transform; backward is correlation, with the conjugate."""

    def backward(saved, g):
        x, w = map(jnp.fft.fft, saved)
        return tuple(jnp.fft.ifft(jnp.fft.fft(g) * other.conj()).real.astype(g.dtype) for other in (w, x))

    return by_hand(circular, keeping(circular), backward)


@wrong("permuted", "local_derivative", args="f32[8] f32[8]")
def circular_without_conjugate():
    """The transforms are multiplied without the conjugate, which convolves once more."""

    def backward(saved, g):
        x, w = map(jnp.fft.fft, saved)
        return tuple(jnp.fft.ifft(jnp.fft.fft(g) * other).real.astype(g.dtype) for other in (w, x))

    return by_hand(circular, keeping(circular), backward)


@wrong("exchanged", args="f32[8] f32[8]")
def circular_exchanged():
    """The signal receives the filter's cotangent and the filter the signal's."""

    def backward(saved, g):
        x, w = map(jnp.fft.fft, saved)
        return tuple(jnp.fft.ifft(jnp.fft.fft(g) * other.conj()).real.astype(g.dtype) for other in (x, w))

    return by_hand(circular, keeping(circular), backward)
