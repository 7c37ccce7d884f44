"""Mistakes that were reported of published packages, each beside its mending: graphs, indices, images, layers."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from .case import by_hand, right, wrong
from .halves import keeping

# --- graphs and meshes -----------------------------------------------------------------------------------------------


def edge_softmax_case(end):
    """Weights of the edges into each of four nodes; `end`: the node by which the backward pass sums."""

    def function(scores, source, target):
        weight = jnp.exp(scores - jax.ops.segment_max(scores, target, 4)[target])
        return weight / jax.ops.segment_sum(weight, target, 4)[target]

    def backward(saved, g):
        _, source, target = saved
        y, node = function(*saved), end(source, target)
        return y * (g - jax.ops.segment_sum(y * g, node, 4)[node]), None, None

    return by_hand(function, keeping(function), backward)


@wrong("local_derivative", "wrong_residual", "missing_path", args="f32[7,2] i32[7]<4 i32[7]<4")
def edge_softmax_summed_by_source():
    """As in DGL once: normalised over the edges into a node, and backward over those out of it."""
    return edge_softmax_case(lambda source, target: source)


@right(args="f32[7,2] i32[7]<4 i32[7]<4")
def edge_softmax_summed_by_target():
    return edge_softmax_case(lambda source, target: target)


def rows_of(x, at):
    return jnp.asarray(x).at[at].get(mode="fill", fill_value=0)


def sparse_product_case(products):
    """A sparse matrix by its values, rows and columns; an entry that lies outside counts for nothing."""

    def function(v, x, row, column):
        return jnp.zeros_like(x).at[row].add(v[:, None] * rows_of(x, column))

    def backward(saved, g):
        v, x, row, column = saved
        x_bar = jnp.zeros_like(x).at[column].add(v[:, None] * rows_of(g, row))
        return products(g, x, row, column).sum(1), x_bar, None, None

    return by_hand(function, keeping(function), backward)


@wrong("permuted", "exchanged", "local_derivative", "wrong_residual", args="f32[6] f32[4,3] i32[6]<4 i32[6]<4")
def sparse_product_values_with_rows_for_columns():
    """The cotangent is gathered at the columns and the matrix at the rows: right of symmetric matrices."""
    return sparse_product_case(lambda g, x, row, column: rows_of(g, column) * rows_of(x, row))


@right(args="f32[6] f32[4,3] i32[6]<4 i32[6]<4")
def sparse_product_values():
    return sparse_product_case(lambda g, x, row, column: rows_of(g, row) * rows_of(x, column))


def mesh_areas_case(first_corner):
    def corners(v, faces):
        a, b, c = v[faces[:, 0]], v[faces[:, 1]], v[faces[:, 2]]
        return b - a, c - a

    def function(v, faces):
        normal = jnp.cross(*corners(v, faces))
        return 0.5 * (normal * normal).sum(1)

    def backward(saved, g):
        v, faces = saved
        one, other = corners(v, faces)
        normal = jnp.cross(one, other) * g[:, None]
        b, c = jnp.cross(other, normal), jnp.cross(normal, one)
        bar = jnp.zeros_like(v).at[faces[:, 0]].add(first_corner(b, c))
        return bar.at[faces[:, 1]].add(b).at[faces[:, 2]].add(c), None

    return by_hand(function, keeping(function), backward)


@wrong("missing_term", "missing_path", "local_derivative", args="f32[5,3] i32[4,3]<5")
def mesh_areas_first_corner_hears_one_edge():
    """Squared areas of triangles: the corner that both edges leave hears one of them."""
    return mesh_areas_case(lambda b, c: -b)


@right(args="f32[5,3] i32[4,3]<5")
def mesh_areas_each_corner_hears_both_edges():
    return mesh_areas_case(lambda b, c: -(b + c))


# --- indices ---------------------------------------------------------------------------------------------------------


def bag_case(heard):
    """A weighted sum of rows of a table, where the row 0 is padding."""

    def function(table, at, weight):
        return jnp.sum(jnp.where((at != 0)[:, None], weight[:, None] * table[at], 0), 0)

    def backward(saved, g):
        table, at, weight = saved
        kept = at != 0
        rows = jnp.where(kept, weight, 0)[:, None] * g
        return jnp.zeros_like(table).at[at].add(rows), None, heard(kept, table[at] @ g)

    return by_hand(function, keeping(function), backward)


@wrong("values", "local_derivative", args="f32[5,3] i32[6]<5 f32[6]")
def bag_weights_of_padding_learn():
    """As in PyTorch's embedding_bag once: the weights of padding hear the row of padding."""
    return bag_case(lambda kept, bar: bar)


@right(args="f32[5,3] i32[6]<5 f32[6]")
def bag_weights_of_padding_are_silent():
    return bag_case(lambda kept, bar: jnp.where(kept, bar, 0))


def activation_case(last_factor):
    functions = (jnp.tanh, jnp.sin, jax.nn.silu, lambda x: jnp.maximum(x, 0) ** 2)

    def swish_slope(x):
        gate = jax.nn.sigmoid(x)
        return gate * (1 + x * (1 - gate))

    slopes = (lambda x: 1 - jnp.tanh(x) ** 2, jnp.cos, swish_slope, lambda x: last_factor * jnp.maximum(x, 0))

    def function(x, number):
        return lax.switch(number, functions, x)

    def backward(saved, g):
        x, number = saved
        return g * lax.switch(number, slopes, x), None

    return by_hand(function, keeping(function), backward)


@wrong("values", "factor", "local_derivative", args="f32[5] i32[]<4")
def activation_by_number_the_last_one_wrong():
    """Of four activations to choose from the last, a squared rectifier, lost its factor of 2."""
    return activation_case(1)


@right(args="f32[5] i32[]<4")
def activation_by_number():
    return activation_case(2)


def repeated_rows_case(copies):
    def source(x, counts):
        place = jnp.searchsorted(jnp.cumsum(counts), jnp.arange(6), side="right")
        return jnp.clip(place, 0, x.shape[0] - 1)

    def function(x, counts):
        return jnp.tanh(x)[source(x, counts)]

    def backward(saved, g):
        x, counts = saved
        at = source(x, counts)
        return jnp.zeros_like(x).at[at].add(copies(g, at)) * (1 - jnp.tanh(x) ** 2), None

    return by_hand(function, keeping(function), backward)


@wrong("missing_sum", "missing_path", "missing_term", args="f32[6,2] i32[3]>=0<3")
def repeated_rows_heard_once():
    """Rows are repeated by counts, and of each the first copy alone is heard."""
    return repeated_rows_case(lambda g, at: jnp.where(jnp.diff(at, prepend=-1)[:, None] != 0, g, 0))


@right(args="f32[6,2] i32[3]>=0<3")
def repeated_rows_summed():
    return repeated_rows_case(lambda g, at: g)


def label_place_case(place):
    def function(x, label):
        return jnp.take_along_axis(x, label[:, None].astype(jnp.int32), 1)[:, 0]

    def backward(saved, g):
        x, label = saved
        at = place(jnp.arange(x.shape[0]), x.shape[1], label)
        return jnp.zeros(x.size, x.dtype).at[at].add(g).reshape(x.shape), None

    return by_hand(function, keeping(function), backward)


@wrong("shape", "permuted", args="f32[4,6] u8[4]<6")
def flat_place_of_the_label_overflows():
    """Row times width plus label is counted in the eight bits of the labels."""

    def narrow(row, width, label):
        return (row.astype(label.dtype) * np.uint8(width % 256) + label).astype(jnp.int32)

    return label_place_case(narrow)


@right(args="f32[4,6] u8[4]<6")
def flat_place_of_the_label():
    return label_place_case(lambda row, width, label: row * width + label)


def periodic_table_case(upper):
    """Interpolation in a table that goes round a circle."""

    def segment(x, table):
        place = x * table.size
        left = jnp.floor(place).astype(jnp.int32) % table.size
        return left, (left + 1) % table.size, place - jnp.floor(place)

    def function(x, table):
        left, after, share = segment(x, table)
        return (1 - share) * table[left] + share * table[after]

    def backward(saved, g):
        x, table = saved
        left, after, share = segment(x, table)
        bar = jnp.zeros_like(table).at[left].add(g * (1 - share)).at[after].add(g * share)
        return g * table.size * (upper(table, after) - table[left]), bar

    return by_hand(function, keeping(function), backward)


@wrong("values", "missing_path", "missing_term", "local_derivative", args="f32[5]>0<1 f32[6]")
def periodic_table_last_segment():
    """In the last segment the slope sees a zero behind the end of the table."""
    return periodic_table_case(lambda table, after: jnp.where(after == 0, 0, table[after]))


@right(args="f32[5]>0<1 f32[6]")
def periodic_table_goes_round():
    return periodic_table_case(lambda table, after: table[after])


# --- images ----------------------------------------------------------------------------------------------------------


def local_response_case(reach_back):
    def window(s, reach):
        padded = jnp.pad(s, ((0, 0), reach))
        return sum(padded[:, k : k + s.shape[1]] for k in range(4))

    def base(x):
        return 2 + 0.5 * window(x * x, (2, 1))

    def function(x):
        return x * base(x) ** -0.75

    def backward(x, g):
        d = base(x)
        return (g * d**-0.75 - 0.75 * x * window(g * x * d**-1.75, reach_back),)

    return by_hand(function, lambda x: (function(x), x), backward)


@wrong("permuted", "local_derivative", args="f32[2,9]")
def local_response_window_not_mirrored():
    """Of an even window two lie before and one behind; the backward pass sums over the same ones."""
    return local_response_case((2, 1))


@right(args="f32[2,9]")
def local_response_window_mirrored():
    return local_response_case((1, 2))


def adaptive_mean_case(sizes):
    """Means over four bins, which differ where the length is no multiple of four."""

    def bins(n, dtype, size):
        k, i = jnp.arange(4), jnp.arange(n)
        start, end = (k * n) // 4, -((-(k + 1) * n) // 4)
        inside = (i >= start[:, None]) & (i < end[:, None])
        return (inside / size(n, end - start)).astype(dtype)

    def function(x):
        return x @ bins(x.shape[1], x.dtype, lambda n, own: own[:, None]).T

    return by_hand(function, lambda x: (function(x), x), lambda x, g: (g @ bins(x.shape[1], g.dtype, sizes),))


@wrong("shape", args="f32[2,12]")
def adaptive_mean_of_one_window_size():
    """Every bin is taken to have a quarter of the length."""
    return adaptive_mean_case(lambda n, own: max(n // 4, 1))


@right(args="f32[2,12]")
def adaptive_mean_of_the_size_of_each():
    return adaptive_mean_case(lambda n, own: own[:, None])


# --- layers ----------------------------------------------------------------------------------------------------------


def batch_norm_case(count):
    def statistics(x, lengths):
        mask = (jnp.arange(x.shape[1]) < lengths[:, None])[..., None].astype(x.dtype)
        mean = (mask * x).sum((0, 1)) / mask.sum()
        variance = (mask * (x - mean) ** 2).sum((0, 1)) / mask.sum()
        return mask, mean, 1 / jnp.sqrt(variance + 1e-3)

    def function(x, lengths):
        mask, mean, scale = statistics(x, lengths)
        return mask * (x - mean) * scale

    def backward(saved, g):
        mask, mean, scale = statistics(*saved)
        z, g, n = mask * (saved[0] - mean) * scale, mask * g, count(mask)
        return mask * scale * (g - g.sum((0, 1)) / n - z * (g * z).sum((0, 1)) / n), None

    return by_hand(function, keeping(function), backward)


@wrong("missing_term", "local_derivative", "factor", args="f32[3,5,2] i32[3]>=1<6")
def batch_norm_counts_the_padding():
    """Statistics of what is no padding; the backward pass divides by the number of all places."""
    return batch_norm_case(lambda mask: mask.size)


@right(args="f32[3,5,2] i32[3]>=1<6")
def batch_norm_without_padding():
    return batch_norm_case(jnp.sum)


def reparametrised_case(part):
    """A draw of a normal distribution by its mean and the lower triangle of a factor."""

    def function(mean, factor, key):
        return mean + jnp.tril(factor) @ jax.random.normal(key, mean.shape, mean.dtype)

    def backward(key, g):
        return g, part(jnp.outer(g, jax.random.normal(key, g.shape, g.dtype))), None

    return by_hand(function, lambda mean, factor, key: (function(mean, factor, key), key), backward)


@wrong("local_derivative", "located", args="f32[4] f32[4,4] key")
def reparametrised_factor_hears_above_its_diagonal():
    """The cotangent of the factor is not cut to the triangle that is read."""
    return reparametrised_case(lambda bar: bar)


@right(args="f32[4] f32[4,4] key")
def reparametrised_factor():
    return reparametrised_case(jnp.tril)


def global_norm(tree):
    return jnp.sqrt(sum((leaf * leaf).sum() for leaf in jax.tree.leaves(tree)))


def clipped_case(inner):
    def function(tree):
        return jax.tree.map(lambda leaf: leaf * jnp.minimum(1, 1.5 / global_norm(tree)), tree)

    def backward(tree, g):
        norm, products = global_norm(tree), jax.tree.map(lambda leaf, bar: (leaf * bar).sum(), tree, g)

        def each(leaf, bar, own):
            return jnp.where(norm > 1.5, 1.5 / norm * (bar - leaf * inner(own, products) / norm**2), bar)

        return (jax.tree.map(each, tree, g, products),)

    return by_hand(function, lambda tree: (function(tree), tree), backward)


@wrong("missing_term", "missing_path", "local_derivative", args="{a: f32[3,2], b: f32[4]}")
def clipped_by_global_norm_projected_by_leaf():
    """The norm is that of all leaves, and the projection that of each by itself."""
    return clipped_case(lambda own, products: own)


@right(args="{a: f32[3,2], b: f32[4]}")
def clipped_by_global_norm():
    return clipped_case(lambda own, products: sum(jax.tree.leaves(products)))
