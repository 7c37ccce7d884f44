"""B. The weight gradient through explicit tensors."""

import jax
import jax.numpy as jnp
import numpy as np

from manual_backprop.derivations.jacobians import jacobians
from manual_backprop.derivations.layouts import Jacobian, by, unflatten
from manual_backprop.rules import RULES

from .cases import derivative_of
from .evidence import claim, counted, product_rounding, same, shapes, show, within


def _affine(W, x, b):
    return W @ x + b


def _tensor(x: np.ndarray, outputs: int) -> Jacobian:
    """∂z_i/∂W_jk = [i = j] x_k, of shape n × (n × m)."""
    return Jacobian(np.einsum("ij,k->ijk", np.eye(outputs), x), outputs=1, formula="∂z_i/∂W_jk = [i = j] x_k")


def _layer(case):
    """One layer a = tanh(W x + b) under a row ∂C/∂a: (W, x, b, a_bar)."""
    n, m = case.lengths(2)
    W, x, b = case.normal(n, m), case.normal(m), case.normal(n)
    return W, x, b, case.normal(1, n)


@claim("B1", "∂z_i/∂W_{jk} = [i = j] x_k")
def derivative_by_weights(case):
    """The derivative of z = W x + b by W is a tensor n×(n×m), and almost all of it is zero.

    ∂C/∂a is 1×n and ∂a/∂z is n×n.  The catalogue keeps w = Wᵀ; its own tensor has the last two axes exchanged.

    Source: text 2.
    """
    for _ in case.times(8):
        W, x, b, a_bar = _layer(case)
        tensor = _tensor(x, len(W))
        yield from (show("W", W), show("x", x), show("∂z/∂W", tensor.tensor))
        by_W, by_x, _ = (np.asarray(each) for each in derivative_of(_affine)(W, x, b))
        yield counted("∂z/∂W", tensor.tensor, by_W)
        yield counted("∂z/∂x is W", by_x, W)
        yield counted("shape", tensor.tensor.shape, (len(W), *W.shape))
        _, (_, by_w, _) = jacobians(RULES["dense"], (x, W.T, b))
        yield counted("the catalogue's, with w = Wᵀ", by_w.tensor.transpose(0, 2, 1), tensor.tensor)
        yield shapes(f"{by(a_bar.shape)}, {len(W)}×{len(W)}, {len(W)}×({by(W.shape)})")


@claim("B2", "(1×n) (n×n) (n×n m) → 1×n m → n×m,   ∇_W C = δ x^T")
def isomorphism(case):
    """Reshaped to n×nm, the tensor is a matrix like any other, and the product is δ xᵀ.

    The matrices n×m and the vectors nm are the same vector space; only the brackets around their numbers differ.

    Source: text 2.
    """
    for _ in case.times(8):
        W, x, b, a_bar = _layer(case)
        slope = np.diag(1 / np.cosh(W @ x + b) ** 2)
        flat = _tensor(x, len(W)).matrix
        row = a_bar @ slope @ flat
        gradient = unflatten(row, W.shape)
        delta = (a_bar @ slope)[0]
        yield from (show("∂C/∂a", a_bar), show("∂a/∂z", slope), show("∂z/∂W as n×nm", flat))
        yield from (show("their product, 1×nm", row), show("δ xᵀ", np.outer(delta, x)))
        slack = unflatten(product_rounding(a_bar, slope, flat), W.shape)
        yield same("the reshaped product", gradient, np.outer(delta, x), slack)
        yield counted("shapes", [flat.shape, row.shape], [(len(W), W.size), (1, W.size)])
        yield shapes(f"(1×{len(W)})({len(W)}×{len(W)})({len(W)}×{W.size}) → 1×{W.size} → {by(W.shape)}")
    for specimen in (case.elementwise, case.mixing, case.classifier):
        dense = [i for i, link in enumerate(specimen.chain.links) if len(link.jacobians) == 3]
        for layer, position in enumerate(dense):
            truth, allowance = (each[layer] for each in specimen.weights)
            yield same(f"∇W^{layer + 1} of {specimen.rule}", specimen.chain.by_primal(position, 1).T, truth, allowance)


@claim("B3", "∂z/∂b = I,   ∇_b C = δ")
def derivative_by_bias(case):
    """The derivative of z = W x + b by b is the identity, so the gradient by b is δ itself.

    Source: text 2.
    """
    for _ in case.times(8):
        W, x, b, _ = _layer(case)
        by_b = np.asarray(derivative_of(_affine)(W, x, b)[2])
        yield show("∂z/∂b", by_b)
        yield counted("∂z/∂b", by_b, np.eye(len(b)))
        _, (_, _, of_rule) = jacobians(RULES["dense"], (x, W.T, b))
        yield counted("the catalogue's", of_rule.matrix, np.eye(len(b)))
        yield shapes(f"{len(b)}×{len(b)}")
    for specimen in (case.elementwise, case.mixing, case.classifier):
        dense = [i for i, link in enumerate(specimen.chain.links) if len(link.jacobians) == 3]
        for layer, position in enumerate(dense):
            truth, allowance = (each[layer] for each in specimen.biases)
            yield same(f"∇b^{layer + 1} of {specimen.rule}", specimen.chain.by_primal(position, 2), truth, allowance)


@claim("B4", "n + n^2 + n^2 m against n + m numbers kept,   δ x^T = (∂C/∂a) (∂a/∂z) (∂z/∂W)")
def memory(case):
    """Through the tensor the weight gradient costs O(n²m) memory, as an outer product O(nm): for the same numbers.

    Counted are the numbers of every array that each of the two ways needs besides the gradient itself; the compiler's
    count of the bytes that they touch follows.

    Source: text 2.
    """
    sizes = [case.lengths(2)] if case.small else [(4, 3), (16, 8), (32, 24)]
    for n, m in sizes:
        a_bar, slope, x = case.normal(1, n), np.diag(case.normal(n)), case.normal(m)
        flat = _tensor(x, n).matrix
        delta = (a_bar @ slope)[0]
        numbers = a_bar.size + slope.size + flat.size
        yield counted(f"numbers of the tensors, n={n} m={m}", numbers, n + n * n + n * n * m)
        yield counted(f"numbers of the outer product, n={n} m={m}", delta.size + x.size, n + m)
        slack = unflatten(product_rounding(a_bar, slope, flat), (n, m))
        yield same("the same numbers", unflatten(a_bar @ slope @ flat, (n, m)), np.outer(delta, x), slack)
        tensor, outer = (_bytes(which, n, m) for which in ("tensor", "outer"))
        yield show(f"n={n} m={m}: bytes that the compiler counts", f"{tensor:g} through the tensor, {outer:g} without")
        # It can touch no less than its arguments and its result, each once, eight bytes a number.
        yield within("bytes through the tensor", tensor, 8 * (n + n * n + n * n * m + n * m), np.inf)
        yield within("bytes of the outer product", outer, 8 * (n + m + n * m), tensor)
        yield shapes(f"{n * n * m} numbers against {n + m}, for {n}×{m}")


def _bytes(which, n, m):
    def through(a_bar, slope, flat):
        return (a_bar @ slope @ flat).reshape(n, m)

    function, lengths = {
        "tensor": (through, [(1, n), (n, n), (n, n * m)]),
        "outer": (jnp.outer, [(n,), (m,)]),
    }[which]
    arrays = [jax.ShapeDtypeStruct(shape, "float64") for shape in lengths]
    found = jax.jit(function).lower(*arrays).compile().cost_analysis()
    return (found[0] if isinstance(found, list) else found)["bytes accessed"]
