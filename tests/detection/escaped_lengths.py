"""Wrong derivatives that show at lengths, numbers of axes and relations of lengths that the example has not."""

import jax
import jax.numpy as jnp
from jax import lax

from .case import by_hand, right, wrong
from .halves import keeping

# --- blocks that are longer than what is usually tried ---------------------------------------------------------------


def rms_norm(x, weight):
    return x * lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * weight


def rms_case(sum_of_rows):
    def backward(saved, g):
        x, weight = saved
        root = lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)
        hat, bar = x * root, g * weight
        return root * (bar - hat * jnp.mean(bar * hat, -1, keepdims=True)), sum_of_rows(g * hat)

    return by_hand(rms_norm, keeping(rms_norm), backward)


def in_blocks(of_blocks):
    """Rows are padded to blocks of 256, each of which has a partial sum."""

    def sum_of_rows(terms):
        rows = terms.shape[0]
        padded = jnp.pad(terms, ((0, -rows % 256), (0, 0)))
        return of_blocks(padded.reshape(-1, 256, terms.shape[1]).sum(1))

    return sum_of_rows


@wrong("shape", "missing_sum", "located", "missing_path", args="f32[8,4] f32[4]")
def rms_norm_first_block_of_rows_alone():
    """Of the partial sums of 256 rows each the first is returned.  Source: fused norms of Liger-Kernel and unsloth."""
    return rms_case(in_blocks(lambda sums: sums[0] if sums.shape[0] else sums.sum(0)))


@right(args="f32[8,4] f32[4]")
def rms_norm_all_blocks_of_rows():
    return rms_case(in_blocks(lambda sums: sums.sum(0)))


def softmax(x):
    return jax.nn.softmax(x, 1)


def softmax_case(total):
    def backward(saved, g):
        y = softmax(saved[0])
        return (y * (g - total(y * g)),)

    return by_hand(softmax, keeping(softmax), backward)


@wrong("shape", "missing_term", "located", args="f32[4,8]")
def softmax_block_of_a_thousand_columns():
    """One block of 1024 columns is summed over, whatever the width.  Source: the fused softmax of triton's tutorial."""
    return softmax_case(lambda terms: jnp.sum(terms[:, :1024], 1, keepdims=True))


@wrong("shape", "missing_term", "located", args="f32[4,8]")
def softmax_block_of_two_hundred_columns():
    """The same with 192 columns."""
    return softmax_case(lambda terms: jnp.sum(terms[:, :192], 1, keepdims=True))


def decayed(x, decay):
    def step(h, x):
        h = decay * h + x
        return h, h

    return lax.scan(step, jnp.zeros_like(x[0]), x)[1]


def decayed_case(chunk, carries):
    """Backward in chunks: a scan inside of each, and what is carried from the chunk behind."""

    def backward(saved, g):
        x, decay = saved
        steps = x.shape[0]
        padded = jnp.pad(g, ((0, -steps % chunk), (0, 0))).reshape(-1, chunk, x.shape[1])[::-1]

        def each(carry, block):
            def step(h, g):
                h = decay * h + g
                return h, h

            last, out = lax.scan(step, carry, block[::-1])
            return last if carries else 0 * last, out[::-1]

        bars = lax.scan(each, jnp.zeros_like(x[0]), padded)[1][::-1].reshape(-1, x.shape[1])[:steps]
        before = jnp.concatenate([jnp.zeros_like(x[:1]), decayed(x, decay)[:-1]])
        return bars, jnp.sum(bars * before, 0)

    return by_hand(decayed, keeping(decayed), backward)


@wrong("shape", "missing_path", "located", args="f32[6,2] f32[2]>0<1")
def scan_carries_nothing_over_chunks():
    """Chunks of 64 steps stand alone in the backward pass.  Source: chunked scans, as accelerated-scan pull 15."""
    return decayed_case(64, False)


@right(args="f32[6,2] f32[2]>0<1")
def scan_carries_over_chunks():
    return decayed_case(64, True)


@wrong("shape", "missing_path", "located", args="f32[6,2] f32[2]>0<1")
def scan_carries_nothing_over_chunks_of_sixteen():
    """The same in chunks of 16."""
    return decayed_case(16, False)


# --- more axes -------------------------------------------------------------------------------------------------------


def affine(x, weight, bias):
    return x * weight + bias


@wrong("shape", "missing_sum", "raised", "structure", "missing_path", args="f32[4,3] f32[3] f32[3]")
def affine_parameters_summed_over_the_first_axis_of_more():
    """Of three axes the first is summed over, and of the second the first place taken.  Source: apex issue reports."""

    def backward(saved, g):
        x, weight, _ = saved

        def rows(terms):
            terms = terms.sum(0)
            return terms if terms.ndim == 1 else terms.reshape(-1, terms.shape[-1])[0]

        return g * weight, rows(g * x), rows(g)

    return by_hand(affine, keeping(affine), backward)


@right(args="f32[4,3] f32[3] f32[3]")
def affine_parameters_summed_over_all_axes_but_one():
    def backward(saved, g):
        x, weight, _ = saved

        def rows(terms):
            return terms.reshape(-1, terms.shape[-1]).sum(0)

        return g * weight, rows(g * x), rows(g)

    return by_hand(affine, keeping(affine), backward)


def centred(x):
    return x - jnp.mean(x, -1, keepdims=True)


@wrong("shape", "missing_term", "local_derivative", args="f32[4,5]")
def centred_over_the_second_axis_of_more():
    """Forward takes the last axis, backward the second: the same as long as there are two."""
    return by_hand(centred, keeping(centred), lambda saved, g: (g - jnp.mean(g, 1, keepdims=True),))


@right(args="f32[4,5]")
def centred_over_the_last_axis():
    return by_hand(centred, keeping(centred), lambda saved, g: (centred(g),))


@right(args="f32[4,5]")
def centred_of_matrices_alone():
    """Both halves take the second axis, and of three axes it is not the last: another function, and right."""
    return by_hand(
        lambda x: x - jnp.mean(x, 1, keepdims=True),
        lambda x: (x - jnp.mean(x, 1, keepdims=True), ()),
        lambda saved, g: (g - jnp.mean(g, 1, keepdims=True),),
    )


def product(a, b):
    return a @ b


@wrong("shape", "missing_sum", "raised", "missing_path", args="f32[2,3,4] f32[4,5]")
def product_with_a_matrix_that_all_batches_share():
    """The shared matrix receives the last batch's cotangent where there are two batch axes."""

    def backward(saved, g):
        a, b = saved
        bar = jnp.einsum("...ij,...ik->...jk", a, g)
        return g @ b.T, bar.sum(0) if bar.ndim == 3 else bar.reshape(-1, *b.shape)[-1]

    return by_hand(product, keeping(product), backward)


@right(args="f32[2,3,4] f32[4,5]")
def product_with_a_shared_matrix():
    def backward(saved, g):
        a, b = saved
        return g @ b.T, jnp.einsum("...ij,...ik->...jk", a, g).reshape(-1, *b.shape).sum(0)

    return by_hand(product, keeping(product), backward)


# --- lengths that are equal ------------------------------------------------------------------------------------------


def outer_sum(x, y):
    """x of shape (n, m) plus y along its first axis."""
    return x * y[:, None]


@wrong("shape", "permuted", "missing_sum", args="f32[4,3] f32[4]")
def summed_over_the_axis_that_has_the_other_length():
    """The axis to be summed over is looked up by its length, and in a square the first one is taken."""

    def backward(saved, g):
        x, y = saved
        axis = [n == y.shape[0] for n in x.shape[::-1]].index(True)
        return g * y[:, None], jnp.sum(g * x, axis)

    return by_hand(outer_sum, keeping(outer_sum), backward)


@right(args="f32[4,3] f32[4]")
def summed_over_the_last_axis():
    return by_hand(outer_sum, keeping(outer_sum), lambda s, g: (g * s[1][:, None], jnp.sum(g * s[0], 1)))


@wrong("shape", "permuted", "local_derivative", args="f32[3,4] f32[4,5]")
def product_of_square_matrices_not_turned():
    """A square factor is taken for symmetric.  Source: homemade autograd engines that compare shapes."""

    def backward(saved, g):
        a, b = saved
        return g @ (b if b.shape[0] == b.shape[1] else b.T), a.T @ g

    return by_hand(product, keeping(product), backward)


@wrong("shape", "missing_path", "located", "dropped", args="f32[5,3] f32[7,3]")
def distances_of_as_many_points_as_centres():
    """With as many centres as points the cloud is taken to be compared with itself, and the diagonal is left out."""

    def squared(x, y):
        return jnp.sum((x[:, None] - y) ** 2, -1)

    def backward(saved, g):
        x, y = saved
        if x.shape == y.shape:
            g = g * (1 - jnp.eye(len(x), dtype=g.dtype))
        gap = 2 * g[..., None] * (x[:, None] - y)
        return gap.sum(1), -gap.sum(0)

    return by_hand(squared, keeping(squared), backward)


# --- parity, divisors ------------------------------------------------------------------------------------------------


def total_power(x):
    return jnp.sum(x * x, -1)


@wrong("shape", "located", "factor", args="f32[3,5]")
def four_at_a_time_where_four_divide_the_length():
    """The path for lengths that four divides leaves the last four out.  Source: vectorised norms of pytorch."""

    def backward(saved, g):
        (x,) = saved
        bar = 2 * x * g[:, None]
        n = x.shape[1]
        return (bar.at[:, n - 4 :].set(0) if n and n % 4 == 0 else bar,)

    return by_hand(total_power, keeping(total_power), backward)


@wrong("shape", "located", "factor", args="f32[3,6]")
def eight_at_a_time_where_eight_divide_the_length():
    """The same with eight, where the example has six."""

    def backward(saved, g):
        (x,) = saved
        bar = 2 * x * g[:, None]
        n = x.shape[1]
        return (bar.at[:, n - 8 :].set(0) if n and n % 8 == 0 else bar,)

    return by_hand(total_power, keeping(total_power), backward)


def folded(x):
    """Neighbouring pairs are summed; of an odd length the last stays as it is."""
    padded = jnp.pad(x, (0, x.shape[0] % 2))
    return padded.reshape(-1, 2).sum(1) ** 2


@wrong("shape", "located", "missing_path", "dropped", args="f32[6]")
def pairs_without_the_odd_one():
    """The element that is left over hears nothing.  Source: pooling with ceil_mode in several frameworks."""

    def backward(saved, g):
        (x,) = saved
        n = x.shape[0] // 2 * 2
        sums = x[:n].reshape(-1, 2).sum(1)
        bar = jnp.repeat(2 * g[: n // 2] * sums, 2)
        return (jnp.pad(bar, (0, x.shape[0] - n)),)

    return by_hand(folded, keeping(folded), backward)


def unfolded(x, window):
    """Windows of three with a step of two: what is left over at the end belongs to none."""
    starts = jnp.arange(0, x.shape[0] - 2, 2)
    return jnp.sum(x[starts[:, None] + jnp.arange(3)] * window, 1)


def unfold_case(length):
    def backward(saved, g):
        x, window = saved
        starts = jnp.arange(0, x.shape[0] - 2, 2)
        places = starts[:, None] + jnp.arange(3)
        bar = jnp.zeros(length(x), x.dtype).at[places].add(g[:, None] * window)
        bar = jnp.pad(bar, (max(x.shape[0] - bar.shape[0], 0), 0))[-x.shape[0] :]
        return bar, jnp.sum(g[:, None] * x[places], 0)

    return by_hand(unfolded, keeping(unfolded), backward)


@wrong("shape", "permuted", "located", args="f32[9] f32[3]")
def windows_put_back_at_the_end():
    """Where a sample is left over the windows are put back one place too late.  Source: inverse STFTs."""
    return unfold_case(lambda x: (x.shape[0] - 3) // 2 * 2 + 3 if x.shape[0] > 2 else x.shape[0])


@right(args="f32[9] f32[3]")
def windows_put_back():
    return unfold_case(lambda x: x.shape[0])


def spread(x):
    """The sample variance of every row."""
    return jnp.var(x, axis=1, ddof=1) if x.shape[1] > 1 else jnp.zeros_like(x[:, 0])


@wrong("shape", "not_finite", args="f32[4,6]")
def variance_of_one_sample():
    """Of one sample the definition gives zero, backward divides zero by zero.  Source: pytorch_scatter's std."""

    def backward(saved, g):
        (x,) = saved
        return (2 * g[:, None] * centred(x) / jnp.asarray(x.shape[1] - 1, x.dtype),)

    return by_hand(spread, keeping(spread), backward)


@right(args="f32[4,6]")
def variance_of_samples():
    def backward(saved, g):
        (x,) = saved
        return (2 * g[:, None] * centred(x) / max(x.shape[1] - 1, 1),)

    return by_hand(spread, keeping(spread), backward)


# --- tables that are as long as they have to be ----------------------------------------------------------------------


def buckets(shape, last):
    """Of how far a query lies behind a key: of its own up to eight, then by the logarithm, all from 64 on the last."""
    behind = jnp.maximum(jnp.arange(shape[0])[:, None] - jnp.arange(shape[1]), 0)
    far = 8 + (jnp.log(jnp.maximum(behind, 1) / 8) / jnp.log(8.0) * 8).astype(jnp.int32)
    return jnp.where(behind < 8, behind, jnp.minimum(far, last))


def biased_scores(scores, table):
    return scores + table[buckets(scores.shape, 15)]


def table_case(last):
    def backward(saved, g):
        return g, jnp.zeros_like(saved[1]).at[buckets(g.shape, last)].add(g)

    return by_hand(biased_scores, keeping(biased_scores), backward)


@wrong("shape", args="f32[7,6] f32[16]")
def far_keys_in_the_last_bucket_but_one():
    """To be seen from 64 keys on, with the table of sixteen that the example has."""
    return table_case(14)


@right(args="f32[7,6] f32[16]")
def far_keys_in_the_last_bucket():
    return table_case(15)
