"""Linear maps: dense layers, products of several matrices, quadratic forms, solves."""

import jax.numpy as jnp
import numpy as np

from .case import by_hand, right, wrong
from .halves import keeping


def dense(x, w, b):
    return x @ w + b


def dense_back(x, w, y_bar):
    """For any leading axes of x."""
    rows, rows_bar = x.reshape(-1, x.shape[-1]), y_bar.reshape(-1, y_bar.shape[-1])
    return y_bar @ w.T, rows.T @ rows_bar, jnp.sum(rows_bar, 0)


def bilinear(x, w, y):
    return jnp.einsum("ni,oij,nj->no", x, w, y)


def quadratic(x, a):
    return x @ a @ x


def gram(x):
    return x @ x.T


def batched(a, b):
    """a with a batch axis, b without one."""
    return jnp.einsum("nij,jk->nik", a, b)


def shifted(a):
    """Far from singular: three times the identity and a fifth of a."""
    return 3 * jnp.eye(len(a), dtype=a.dtype) + jnp.tanh(a) / 5


def contraction(x, w, c):
    return jnp.einsum("abi,ijc,cj->abc", x, w, c)


# --- right ------------------------------------------------------------------------------------------------------------


@right(args="f32[2,3,4] f32[4,2] f32[2]")
def dense_with_leading_axes():
    return by_hand(dense, lambda x, w, b: (dense(x, w, b), (x, w)), lambda kept, y_bar: dense_back(*kept, y_bar))


@right(args="f32[1500,3] f32[3,2] f32[2]")
def dense_over_many_rows():
    """The weights' cotangents are sums over 1500 rows."""
    return by_hand(dense, lambda x, w, b: (dense(x, w, b), (x, w)), lambda kept, y_bar: dense_back(*kept, y_bar))


@right(args="f32[4,3] f32[2,3,5] f32[4,5]")
def bilinear_form():
    def backward(residuals, z_bar):
        x, w, y = residuals
        return (
            jnp.einsum("no,oij,nj->ni", z_bar, w, y),
            jnp.einsum("no,ni,nj->oij", z_bar, x, y),
            jnp.einsum("no,oij,ni->nj", z_bar, w, x),
        )

    return by_hand(bilinear, keeping(bilinear), backward)


@right(args="f32[5] f32[5,5]")
def quadratic_form_of_any_matrix():
    """x̄ = (A + Aᵀ) x: the matrix need not be symmetric."""

    def backward(residuals, z_bar):
        x, a = residuals
        return z_bar * (a @ x + x @ a), z_bar * jnp.outer(x, x)

    return by_hand(quadratic, keeping(quadratic), backward)


@right(args="f32[4,3]")
def gram_matrix():
    """Cotangents of a symmetric output need not be symmetric: (Ḡ + Ḡᵀ) x."""
    return by_hand(gram, lambda x: (gram(x), x), lambda x, g_bar: ((g_bar + g_bar.T) @ x,))


@right(args="f32[3,2,4] f32[4,2]")
def batched_product():
    def backward(residuals, c_bar):
        a, b = residuals
        return jnp.einsum("nik,jk->nij", c_bar, b), jnp.einsum("nij,nik->jk", a, c_bar)

    return by_hand(batched, keeping(batched), backward)


@right(args="f32[4,4] f32[4,2]")
def solve_by_the_transpose():
    """b̄ = A⁻ᵀ x̄ and Ā = -b̄ xᵀ, with A far from singular."""

    def forward(a, b):
        x = jnp.linalg.solve(a, b)
        return x, (a, x)

    def backward(residuals, x_bar):
        a, x = residuals
        b_bar = jnp.linalg.solve(a.T, x_bar)
        return -b_bar @ x.T, b_bar

    solve = by_hand(jnp.linalg.solve, forward, backward)
    return lambda a, b: solve(shifted(a), b)


@right(args="f32[2,3,4] f32[4,2,3] f32[3,2]")
def contraction_of_three():
    def backward(residuals, y_bar):
        x, w, c = residuals
        return (
            jnp.einsum("abc,ijc,cj->abi", y_bar, w, c),
            jnp.einsum("abc,abi,cj->ijc", y_bar, x, c),
            jnp.einsum("abc,abi,ijc->cj", y_bar, x, w),
        )

    return by_hand(contraction, keeping(contraction), backward)


# --- wrong ------------------------------------------------------------------------------------------------------------


@wrong("permuted", args="f32[4,3] f32[3,3] f32[3]")
def dense_weight_transposed():
    """ȳᵀ x for xᵀ ȳ, which a square weight hides."""

    def backward(residuals, y_bar):
        x, w = residuals
        return y_bar @ w.T, y_bar.T @ x, jnp.sum(y_bar, 0)

    return by_hand(dense, lambda x, w, b: (dense(x, w, b), (x, w)), backward)


@wrong("permuted", "wrong_residual", args="f32[4,3] f32[3,3] f32[3]")
def dense_input_through_the_untransposed_weight():
    """ȳ W for ȳ Wᵀ."""

    def backward(residuals, y_bar):
        x, w = residuals
        return y_bar @ w, x.T @ y_bar, jnp.sum(y_bar, 0)

    return by_hand(dense, lambda x, w, b: (dense(x, w, b), (x, w)), backward)


@wrong("missing_sum", "located", args="f32[4,3] f32[3,5] f32[5]")
def dense_bias_of_the_first_row():
    """The bias gets the first row's cotangent instead of the sum over the rows."""

    def backward(residuals, y_bar):
        x, w = residuals
        return y_bar @ w.T, x.T @ y_bar, y_bar[0]

    return by_hand(dense, lambda x, w, b: (dense(x, w, b), (x, w)), backward)


@wrong("factor", args="f32[4,3] f32[3,5] f32[5]")
def dense_bias_averaged():
    """The bias gets the mean over the rows, the weight the sum."""

    def backward(residuals, y_bar):
        x, w = residuals
        return y_bar @ w.T, x.T @ y_bar, jnp.mean(y_bar, 0)

    return by_hand(dense, lambda x, w, b: (dense(x, w, b), (x, w)), backward)


@wrong("nonlinear", "cancellation", "dtype", args="f32[4,3] f32[3,5] f32[5]")
def dense_cotangent_rounded():
    """The incoming cotangent is rounded to bfloat16 for a faster product."""

    def backward(residuals, y_bar):
        return dense_back(*residuals, y_bar.astype(jnp.bfloat16).astype(y_bar.dtype))

    return by_hand(dense, lambda x, w, b: (dense(x, w, b), (x, w)), backward)


@wrong("impure", "nonlinear", args="f32[4,3] f32[3,5] f32[5]")
def dense_with_noise_from_outside():
    """Stochastic rounding draws from a generator that lives outside: no two calls agree."""
    generator = np.random.default_rng(0)

    def backward(residuals, y_bar):
        noise = jnp.asarray(generator.uniform(0.99, 1.01, y_bar.shape), y_bar.dtype)
        return dense_back(*residuals, y_bar * noise)

    return by_hand(dense, lambda x, w, b: (dense(x, w, b), (x, w)), backward)


@wrong("shape", "dropped", "values", "located", args="f32[1,3] f32[3,5] f32[5]")
def dense_batch_of_one():
    """A batch of one is taken for a single example in evaluation, whose weights need no cotangent."""

    def backward(residuals, y_bar):
        x, w = residuals
        x_bar, w_bar, b_bar = dense_back(x, w, y_bar)
        return (x_bar, w_bar, b_bar) if len(x) > 1 else (x_bar, None, None)

    return by_hand(dense, lambda x, w, b: (dense(x, w, b), (x, w)), backward)


@wrong("missing_path", "missing_term", "permuted", args="f32[5] f32[5,5]")
def quadratic_form_taken_for_symmetric():
    """2 A x, which is right for a symmetric matrix."""

    def backward(residuals, z_bar):
        x, a = residuals
        return 2 * z_bar * (a @ x), z_bar * jnp.outer(x, x)

    return by_hand(quadratic, keeping(quadratic), backward)


@wrong("missing_path", "missing_term", args="f32[4,3]")
def gram_matrix_one_side():
    """x is used on both sides, and only one use is heard."""
    return by_hand(gram, lambda x: (gram(x), x), lambda x, g_bar: (g_bar @ x,))


@wrong("counted_twice", "permuted", "missing_path", "local_derivative", args="f32[4,3]")
def gram_matrix_taken_for_symmetric():
    """2 Ḡ x counts one use twice in the place of the other: right where the cotangent is symmetric."""
    return by_hand(gram, lambda x: (gram(x), x), lambda x, g_bar: (2 * g_bar @ x,))


@wrong("missing_sum", "located", args="f32[3,2,4] f32[4,2]")
def batched_product_first_batch():
    """The matrix that all batches share gets the cotangent of the first."""

    def backward(residuals, c_bar):
        a, b = residuals
        return jnp.einsum("nik,jk->nij", c_bar, b), a[0].T @ c_bar[0]

    return by_hand(batched, keeping(batched), backward)


@wrong("permuted", "wrong_residual", args="f32[4,4] f32[4,2]")
def solve_without_the_transpose():
    """b̄ = A⁻¹ x̄, as for a symmetric matrix."""

    def forward(a, b):
        x = jnp.linalg.solve(a, b)
        return x, (a, x)

    def backward(residuals, x_bar):
        a, x = residuals
        b_bar = jnp.linalg.solve(a, x_bar)
        return -b_bar @ x.T, b_bar

    solve = by_hand(jnp.linalg.solve, forward, backward)
    return lambda a, b: solve(shifted(a), b)


@wrong("sign", args="f32[4,4] f32[4,2]")
def solve_sign():
    """Ā = b̄ xᵀ without the minus of d(A⁻¹) = -A⁻¹ dA A⁻¹."""

    def forward(a, b):
        x = jnp.linalg.solve(a, b)
        return x, (a, x)

    def backward(residuals, x_bar):
        a, x = residuals
        b_bar = jnp.linalg.solve(a.T, x_bar)
        return b_bar @ x.T, b_bar

    solve = by_hand(jnp.linalg.solve, forward, backward)
    return lambda a, b: solve(shifted(a), b)


@wrong("permuted", args="f32[2,3,4] f32[4,2,3] f32[3,3]")
def contraction_letters_exchanged():
    """An einsum of three with two letters of its output exchanged in the backward pass; both lengths are three."""

    def function(x, w, c):
        return jnp.einsum("abi,ijc,cd->abjd", x, w, c)

    def backward(residuals, y_bar):
        x, w, c = residuals
        return (
            jnp.einsum("abjd,ijc,cd->abi", y_bar, w, c),
            jnp.einsum("abjd,abi,cd->ijc", y_bar, x, c),
            jnp.einsum("abjd,abi,ijc->dc", y_bar, x, w),
        )

    return by_hand(function, keeping(function), backward)


@wrong("raised", "shape", args="f32[2,3,4] f32[4,2] f32[2]")
def dense_with_one_leading_axis_only():
    """x.T of an array with three axes reverses all of them: the backward pass raises."""

    def backward(residuals, y_bar):
        x, w = residuals
        return y_bar @ w.T, x.T @ y_bar, jnp.sum(y_bar, 0)

    return by_hand(dense, lambda x, w, b: (dense(x, w, b), (x, w)), backward)
