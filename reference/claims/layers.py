"""D6 to D12. Layer by layer, from the cost to the first weights, and a network trained by nothing else."""

import jax.numpy as jnp
import numpy as np

from manual_backprop.derivations import equations
from manual_backprop.derivations.jacobians import probabilities, softmax_jacobian
from manual_backprop.rules import RULES

from ..allowance import yardsticks
from .cases import derivative_of
from .evidence import claim, counted, nudged, off, product_rounding, rounding, same, shapes, show, within


@claim("D6", "∂C/∂z_L = ∂C/∂a_L ∘ ∂a_L/∂z_L,   ∂C/∂W_L = δ_L ⊗ a_{L-1}")
def last_layer(case):
    """At the last layer an elementwise activation needs no sum over paths: every neuron has one.

    Source: text 4.
    """
    specimen = case.elementwise
    a, before, last = specimen.kept[-1][:, 0], specimen.kept[-2][:, 0], len(specimen.layers)
    a_bar, allowance = specimen.above(last, "a")
    yield from (show("a_L", a), show("∂C/∂a_L", a_bar[:, 0]))
    yield same("∂C/∂a_L", specimen.a_bar(specimen.kept[-1]), a_bar, allowance)
    slope = equations.slope(specimen.layers[-1].f, a)
    delta = specimen.a_bar(specimen.kept[-1])[:, 0] * slope
    yield from (show("∂a_L/∂z_L", slope), show("δ_L", delta), show("δ_L ⊗ a_{L−1}", np.outer(delta, before)))
    truth, allowance = specimen.above(last, "z")
    yield same("∂C/∂z_L", delta, truth[:, 0], allowance[:, 0])
    yield same("∂C/∂W_L", np.outer(delta, before), *(each[-1] for each in specimen.weights))
    yield shapes(f"{len(a)}∘{len(a)}, {len(a)}⊗{len(before)}")


@claim("D7", "∂C/∂z_L = a_L - y,   and s a_L - y where Σ_i y_i = s")
def softmax_with_cross_entropy(case):
    """Softmax and cross-entropy together have the derivative a − y; labels that sum to s make it s a − y.

    Taken apart they give the same, by the whole Jacobian of softmax: Σ_i (−y_i / p_i) p_i ([i = j] − p_j).  The formula
    for one-hot labels, used for labels that sum to s, is off by (s − 1) a_L.

    Source: text 4, for one-hot labels.
    """
    rule = RULES["softmax_cross_entropy"]
    lengths = [(3,)] if case.small else [(2,), (3,), (5,)]
    for (c,) in lengths:
        for kind in ("one-hot", "any"):
            z = case.normal(c)
            y = np.eye(c)[case.rng.integers(c)] if kind == "one-hot" else case.rng.uniform(0.2, 1.0, c)
            found = yardsticks(rule, (z, y), np.float64(1.0), ("float64",))["float64"]
            truth, allowance = found.truth[1][0], found.allowance[1][0]
            p, s = probabilities(z), y.sum()
            yield from (show("y", y), show("a_L = softmax(z)", p), show("s a_L − y", s * p - y))
            yield same(f"s a_L − y, {kind} labels", s * p - y, truth, allowance)
            apart = (-y / p) @ softmax_jacobian(p)
            slack = allowance + product_rounding((-y / p)[None], np.diag(p) + np.outer(p, p))[0]
            yield same("taken apart", apart, truth, slack)
            if kind == "one-hot":
                yield same("a_L − y", p - y, truth, allowance)
            else:
                yield off(f"a − y where s = {s:.3g}", p - y, truth, (1 - s) * p, allowance)
        yield shapes(f"{c}")


@claim("D8", "∂C/∂a_{L-1} = Σ_i δ_i w_{ij},   δ_{L-1} = ∂C/∂a_{L-1} ∘ σ'(z_{L-1}),   ∂C/∂W_{L-1} = δ_{L-1} ⊗ a_{L-2}")
def hidden_layer(case):
    """A hidden output reaches the cost through every neuron above it, so its derivative is a sum over all of them.

    Keeping one summand, as the chain rule of one variable would, leaves out exactly the others.

    Source: text 4.
    """
    for specimen in (case.elementwise, case.classifier):
        last = len(specimen.layers)
        W, errors = specimen.layers[-1].W, specimen.gradients().errors
        delta = errors[-1][:, 0]
        truth, allowance = (each[:, 0] for each in specimen.above(last - 1, "a"))
        terms = delta[:, None] * W
        yield from (show("δ_L", delta), show("W_L", W), show("δ_i w_ij, a row for every i", terms))
        total = np.array([sum(delta[i] * W[i, j] for i in range(len(W))) for j in range(W.shape[1])])
        yield show("their sum", total)
        yield same(f"Σ_i δ_i w_ij of {specimen.rule}", total, truth, allowance)
        slack = allowance + rounding(np.abs(terms).sum(axis=0), len(W))
        for i in range(len(W)):
            yield off(f"keeping i = {i} alone", terms[i], truth, terms[i] - terms.sum(axis=0), slack)
        slope = equations.slope(specimen.layers[-2].f, specimen.kept[-2])[:, 0]
        before = total * slope
        yield from (show("σ'(z_{L−1})", slope), show("δ_{L−1}", before))
        truth, allowance = (each[:, 0] for each in specimen.above(last - 1, "z"))
        yield same(f"δ_{{L−1}} of {specimen.rule}", before, truth, allowance)
        outer = np.outer(before, specimen.kept[-3][:, 0])
        yield show("∂C/∂W_{L−1}", outer)
        yield same(f"∂C/∂W_{{L−1}} of {specimen.rule}", outer, *(each[-2] for each in specimen.weights))
        yield shapes(f"(1×{len(W)})({len(W)}×{W.shape[1]}) → 1×{W.shape[1]}")


@claim("D9", "σ'(z) = [z > 0] for σ(z) = max(z, 0)")
def rectifier(case):
    """The rectifier has derivative 1 for z > 0 and 0 below; at exactly 0 it is a convention, and it is 0.

    From the left the slope at 0 is 0, from the right it is 1: both sides say something, and neither is the derivative.

    Source: text 4; the convention is that of jax.nn.relu.
    """
    rule = RULES["relu"]
    z = np.array([-2.0, -0.5, 0.0, 0.5, 2.0])
    wanted = (z > 0).astype(float)
    (oracle,) = derivative_of(rule._definition)(z)
    by_hand = rule.backward(rule.forward(jnp.asarray(z))[1], jnp.ones(5))[0]
    yield from (show("z", z), show("the derivative", wanted))
    yield counted("autodiff of the definition", np.diag(np.asarray(oracle)), wanted)
    yield counted("the backward pass by hand", np.asarray(by_hand), wanted)
    yield counted("from the output a", equations.slope("relu", np.maximum(z, 0)), wanted)
    h = 2.0**-10
    sides = [(np.maximum(side * h, 0) - 0.0) / (side * h) for side in (-1, 1)]
    yield show("slopes at 0 from the left and from the right", np.array(sides))
    yield counted("slopes at 0 from both sides", sides, [0.0, 1.0])
    random = case.normal(20)
    yield counted("anywhere else", equations.slope("relu", np.maximum(random, 0)), (random > 0).astype(float))
    yield shapes("elementwise")


@claim("D10", "σ' = a (1 - a),   tanh' = 1 - a^2,   relu' = [a > 0],   softmax' = diag(a) - a a^T")
def derivatives_from_outputs(case):
    """The derivative of each activation follows from its output, so the forward pass need keep nothing else.

    Source: text 4 for the single formulas.
    """
    for _ in case.times(6):
        (n,) = case.lengths(1, least=2)
        z = case.normal(n)
        for name in ("sigmoid", "tanh", "relu", "softmax"):
            a = equations.ACTIVATIONS[name][0](z)
            found = equations.jacobian(name, a)
            yield from (show(f"a = {name}(z)", a), show(f"{name}' from a", found))
            (oracle,) = derivative_of(RULES[name]._definition)(z)
            slack = nudged(lambda z, f=name: equations.jacobian(f, equations.ACTIVATIONS[f][0](z)), z) + rounding(1.0)
            yield same(f"{name}' from its output", found, np.asarray(oracle), slack)
        yield shapes(f"{n} → {n}×{n}")


@claim("D11", "L products with δ^l kept,   Σ_{l=1}^L l = L (L + 1)/2 without")
def linear_in_the_depth(case):
    """Keeping every δ makes the cost linear in the depth; starting from the cost for every layer makes it quadratic.

    Both ways give the same errors; their products, and the numbers they multiply, are counted while they run.

    Source: text 1.
    """
    (n,) = (2,) if case.small else case.lengths(1, least=2)
    for depth in (3,) if case.small else (1, 2, 5, 10, 20):
        matrices = [case.normal(n, n) / np.sqrt(n) for _ in range(depth)]
        gradient = case.normal(n)
        keeping, anew = equations.Tally(), equations.Tally()
        kept = equations.cached(matrices, gradient, keeping)
        again = equations.uncached(matrices, gradient, anew)
        yield show(f"depth {depth}", f"{keeping.products} products kept, {anew.products} anew")
        yield counted(f"kept, depth {depth}", (keeping.products, keeping.multiplications), (depth, depth * n * n))
        quadratic = depth * (depth + 1) // 2
        yield counted(f"anew, depth {depth}", (anew.products, anew.multiplications), (quadratic, quadratic * n * n))
        for level, (a, b) in enumerate(zip(kept, again, strict=True)):
            slack = product_rounding(gradient[None], *matrices[:level:-1], np.eye(n))[0]
            yield same("the same errors", a, b, slack)
        yield shapes(f"depth {depth}: {depth * n * n} multiplications against {quadratic * n * n}, width {n}")


@claim("D12", "δ_2 = (a_2 - y)/m,   δ_1 = W_2^T δ_2 ∘ [z_1 > 0],   W_l ← W_l - η δ_l a_{l-1}^T")
def iris_by_equations(case):
    """A network of 4, 5 and 3 units classifies the iris flowers, trained by these equations alone.

    Rectifier, then softmax with cross-entropy, in NumPy, without any derivative of a library.  It has to get at least
    as many of the 150 flowers right as the nearest mean of the three kinds does, which needs no training.  Its first
    gradients are held against autodiff.

    Source: text 4; Fisher, 'The Use of Multiple Measurements in Taxonomic Problems', 1936.
    """
    from sklearn import datasets

    data, kinds = datasets.load_iris(return_X_y=True)
    rng = np.random.default_rng(case.seed)
    order = np.concatenate([rng.permutation(np.flatnonzero(kinds == kind)) for kind in range(3)]).reshape(3, 50)
    held_out, training = order[:, :10].ravel(), order[:, 10:].ravel()
    mean, spread = data[training].mean(axis=0), data[training].std(axis=0)
    x, y = ((data - mean) / spread).T, np.eye(3)[kinds].T
    layers = [
        equations.Layer(rng.normal(size=(5, 4)) / np.sqrt(2), np.zeros(5), "relu"),
        equations.Layer(rng.normal(size=(3, 5)) * np.sqrt(2 / 5), np.zeros(3), "softmax"),
    ]
    yield from _first_gradients(layers, x[:, training], y[:, training])
    trained, costs = equations.descend(layers, x[:, training], y[:, training], rate=0.5, steps=500)
    yield show("cost before the first and the last step", np.array([costs[0], costs[-1]]))
    for layer in trained:
        yield show("W, trained", layer.W)
    found = np.argmax(equations.forward(trained, x)[-1], axis=0)
    means = np.stack([x[:, training][:, kinds[training] == kind].mean(axis=1) for kind in range(3)])
    nearest = np.argmin(((x.T[:, None] - means) ** 2).sum(axis=-1), axis=1)
    right, by_mean = int(np.sum(found == kinds)), int(np.sum(nearest == kinds))
    yield show("right, of 150", f"{right}; the nearest mean {by_mean}")
    yield within("right, no fewer than by the nearest mean", right, by_mean, 150)
    yield within("the last cost, below the first", costs[-1], 0.0, costs[0])
    yield shapes(f"4-5-3; {np.sum((found == kinds)[held_out])} of the 30 held out right, {right} of all 150")


def _first_gradients(layers, x, y):
    """Against `jax.vjp` of the definitions of the same network."""
    from manual_backprop.architecture import build

    rule = build("serial(dense(5), relu, dense(3), softmax_cross_entropy)")
    (W, b, _), (V, c, _) = layers
    primals = (x.T, (W.T, b), (), (V.T, c), (y.T,))
    found = yardsticks(rule, primals, np.float64(1.0), ("float64",))["float64"]
    kept = equations.forward(layers, x)
    by_hand = equations.from_logits(layers, kept, (kept[-1] - y) / x.shape[1])
    for i, position in enumerate((1, 3)):
        for which, name in enumerate(("W", "b")):
            truth, allowance = (tree[1][position][which].T for tree in (found.truth, found.allowance))
            yield same(f"∂C/∂{name}_{i + 1} of {rule}", getattr(by_hand, name)[i], truth, allowance)
