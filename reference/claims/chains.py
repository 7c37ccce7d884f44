"""A. The chain as a product of Jacobians, and the order in which it is multiplied out."""

import functools
import itertools

import numpy as np

from manual_backprop.derivations import association
from manual_backprop.derivations.jacobians import probabilities, softmax_jacobian
from manual_backprop.derivations.layouts import by
from manual_backprop.rules import RULES

from . import cost
from .cases import derivative_of
from .evidence import claim, counted, off, product_rounding, rounding, same, shapes, show, within


@claim("A1", "∂C/∂x = ∂C/∂a^L · ∂a^L/∂z^L · ∂z^L/∂a^{L-1} ··· ∂a^1/∂z^1 · ∂z^1/∂x")
def row_form(case):
    """The derivative of the cost is a row: a product of full Jacobians.

    Every factor is a whole matrix, 1×n_L, n_L×n_L, n_L×n_{L−1}, …, n_1×n_0, with a row for every output and a column
    for every input; their product is 1×n_0.  No factor is assumed to be diagonal.

    Source: text 1 and 'The Matrix Calculus You Need For Deep Learning', Parr, Howard, 2018, section 4.5.
    """
    for specimen in (case.elementwise, case.mixing, case.classifier):
        factors = specimen.chain.factors
        for link, factor in zip(reversed(specimen.chain.links), factors, strict=True):
            yield show(f"∂({link.layer})/∂(its input)", factor.matrix)
        row = specimen.chain.by_input()
        predicted = list(itertools.pairwise([1, *_widths_downwards(specimen)]))
        yield counted("shapes of the factors", [list(m.shape) for m in specimen.chain.matrices], predicted)
        truth, allowance = specimen.input
        yield same(f"∂C/∂x of {specimen.rule}", row, truth.T, allowance.T)
        yield shapes(f"{', '.join(by(factor.matrix.shape) for factor in factors)} → {by(row.shape)}")


def _widths_downwards(specimen):
    """n_L, n_L, n_{L−1}, n_{L−1}, … n_0: once for a^l and once for z^l."""
    for layer, width in zip(reversed(specimen.layers), reversed(specimen.widths), strict=False):
        yield from (width,) if layer.f == "identity" else (width, width)
    yield specimen.widths[0]


@claim("A2", "(f^l)' = diag(f'(z^l)),   but for softmax   (f^L)' = diag(p) - p p^T")
def factors_of_the_chain(case):
    """The factors are ∂C/∂a, the f' and the W; f' is diagonal exactly when f acts elementwise.

    ∂z^l/∂a^{l−1} is W^l itself.  The Jacobian of tanh, the logistic function and the rectifier is zero off its
    diagonal; that of softmax is not, since every probability depends on every logit.  With only its diagonal
    p_i (1 − p_i), the gradient is off by p_i Σ_{j≠i} p_j v_j.

    Source: text 1; text 4 holds that the last layer needs no total derivative, which is wrong for softmax.
    """
    specimen = case.mixing
    for layer, link in zip(specimen.layers, [k for k in specimen.chain.links if len(k.jacobians) == 3], strict=True):
        yield counted("∂z/∂a is W", link.by_input.matrix, layer.W)
    for _ in case.times(6):
        (n,) = case.lengths(1, least=2)
        z, v = case.normal(n), case.normal(n)
        for name in ("tanh", "sigmoid", "relu"):
            (found,) = derivative_of(RULES[name]._definition)(z)
            yield counted(f"{name} is zero off the diagonal", np.asarray(found) * (1 - np.eye(n)), np.zeros((n, n)))
        p = probabilities(z)
        whole, diagonal = softmax_jacobian(p), np.diag(p * (1 - p))
        yield show("p", p)
        yield show("diag(p) − p pᵀ", whole)
        yield show("its diagonal alone", diagonal)
        (truth,) = derivative_of(RULES["softmax"]._definition)(z)
        slack = rounding(np.diag(p) + np.outer(p, p), n + 4)
        yield same("softmax", whole, np.asarray(truth), slack)
        predicted = p * (p @ v - p * v)
        yield off("a diagonal softmax Jacobian", diagonal @ v, whole @ v, predicted, slack @ np.abs(v))
        yield shapes(f"{n}×{n}")


@claim("A3", "∇_x C = (W^1)^T (f^1)'^T ··· (W^L)^T (f^L)'^T ∇_{a^L} C")
def gradient_form(case):
    """The gradient is the transpose of the row: every factor is transposed and the order reverses.

    A gradient is by definition the transpose of the derivative.  That is a layout, not a way to save work; the order of
    evaluation is another matter (A5).

    Source: text 1.
    """
    for specimen in (case.elementwise, case.mixing, case.classifier):
        row = specimen.chain.by_input()
        columns = [factor.to("denominator").matrix for factor in reversed(specimen.chain.factors)]
        for matrix in columns:
            yield show("transposed factor", matrix)
        gradient = functools.reduce(np.matmul, columns)
        yield counted("shape", gradient.shape, row.shape[::-1])
        yield same("entries", gradient.T, row, product_rounding(*specimen.chain.matrices))
        truth, allowance = specimen.input
        yield same(f"∇C of {specimen.rule}", gradient, truth, allowance)
        yield shapes(f"{' · '.join(by(m.shape) for m in columns)} → {by(gradient.shape)}")


@claim("A4", "A B C = (C^T B^T A^T)^T")
def transposed_product(case):
    """A product is the transpose of the product of the transposes in reverse: why A1 and A3 agree.

    It holds for any matrices that fit.

    Source: text 1.
    """
    for _ in case.times(40):
        lengths = case.lengths(4)
        A, B, C = (case.normal(*pair) for pair in itertools.pairwise(lengths))
        yield from (show("A", A), show("B", B), show("C", C))
        yield show("Cᵀ Bᵀ Aᵀ", C.T @ B.T @ A.T)
        yield same("A B C", A @ B @ C, (C.T @ B.T @ A.T).T, product_rounding(A, B, C))
        yield shapes(", ".join(by(pair) for pair in itertools.pairwise(lengths)))


@claim("A5", "best(i, j) = min_{i ≤ s < j} (best(i, s) + best(s + 1, j) + d_i d_{s+1} d_{j+1})")
def order_of_association(case):
    """The order of association decides what the same product costs; a dynamic programme finds the cheapest.

    Multiplying b×c by c×d takes b c d multiplications.  For a scalar cost, starting from the row (reverse mode) is
    optimal whenever every width is at least 2, since then b d ≥ b + d; with a width of 1 another order can win, and
    for a single input forward mode does.  The counts are held against the floating-point operations that the compiler
    reports: between one for a multiplication with its addition and two.

    Source: text 1; Godbole, 'On Efficient Computation of Matrix Chain Products', 1973.
    """
    for lengths in cost.random_chains(case.seed)[: 1 if case.small else None]:
        factors = len(lengths) - 1
        fewest, order = association.optimal(lengths)
        every = [association.multiplications(lengths, each) for each in association.bracketings(0, factors - 1)]
        yield show(f"lengths {lengths}", f"{fewest} multiplications at best, as {association.written(order)}")
        yield counted(f"the least of all {len(every)} bracketings of {lengths}", fewest, min(every))
        yield counted(f"the programme's own order of {lengths}", association.multiplications(lengths, order), fewest)
        measured = cost.measured(lengths)
        for name in ("reverse", "forward", "optimal"):
            found = measured[name]
            low, high = found["multiplications"] + found["additions"], 2 * found["multiplications"]
            yield show(f"{name} {found['order']}", f"{found['multiplications']} counted, {found['flops']} operations")
            if found["flops"] is not None:  # not every platform's compiler tells
                yield within(f"operations of {name} for {lengths} by the compiler", found["flops"], low, high)
    for lengths in itertools.product((1,), *[(2, 3, 5)] * 5):
        reverse = association.multiplications(lengths, association.from_the_left(5))
        yield counted(f"reverse mode for {lengths}", reverse, association.optimal(lengths)[0])
    for _ in case.times(20):
        lengths = (*case.lengths(5, least=2), 1)
        forward = association.multiplications(lengths, association.from_the_right(5))
        yield counted(f"forward mode for {lengths}", forward, association.optimal(lengths)[0])
    narrow = (1, 2, 3, 1, 2)
    yield show("lengths 1, 2, 3, 1, 2", f"{association.written(association.optimal(narrow)[1])} is best")
    yield counted("a width of 1 lets another order win", association.optimal(narrow)[0], 10)
    yield counted("reverse mode there", association.multiplications(narrow, association.from_the_left(4)), 11)
    yield shapes(f"{cost.CHAINS} chains of 3 to {cost.MOST_FACTORS} factors")


@claim("A6", "δ^{l-1} = (f^{l-1})'^T (W^l)^T δ^l,   ∇_{W^l} C = δ^l (a^{l-1})^T,   ∇_{b^l} C = δ^l")
def error_recursion(case):
    """Read from the right with its prefixes kept, the product is the recursion of backpropagation.

    δ^l = ∇_{z^l} C is what all layers below l share.  Each weight gradient is then an outer product.

    Source: text 1.
    """
    for specimen in (case.elementwise, case.mixing, case.classifier):
        found = specimen.gradients()
        for i, delta in enumerate(found.errors, 1):
            truth, allowance = specimen.above(i, "z")
            yield show(f"δ^{i}", delta)
            yield same(f"δ^{i} of {specimen.rule}", delta, truth, allowance)
        for i, (W, b) in enumerate(zip(found.W, found.b, strict=True)):
            truth, allowance = (each[i] for each in specimen.weights)
            yield show(f"∇W^{i + 1}", W)
            yield same(f"∇W^{i + 1} of {specimen.rule}", W, truth, allowance)
            truth, allowance = (each[i] for each in specimen.biases)
            yield same(f"∇b^{i + 1} of {specimen.rule}", b, truth, allowance)
        kept = specimen.chain.errors()
        dense = [i for i, link in enumerate(specimen.chain.links) if len(link.jacobians) == 3]
        for i, delta in zip(dense, found.errors, strict=True):
            truth, allowance = specimen.above(dense.index(i) + 1, "z")
            yield same("δ is a prefix of A1", kept[i], delta.T, allowance.T)
        pairs = zip(specimen.widths[1:], specimen.widths, strict=False)
        yield shapes(", ".join(f"({n}×1)(1×{m}) → {n}×{m}" for n, m in pairs))
