"""D1 to D5. The total derivative: a sum over all paths, and what a perturbation moves."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from manual_backprop.derivations import graphs
from manual_backprop.derivations.jacobians import probabilities, softmax_jacobian
from manual_backprop.derivations.layouts import by

from ..precision import compiled
from .cases import derivative_of
from .evidence import claim, counted, nudged, off, rounding, same, shapes, show, within


def _pair(x, y):
    return jnp.stack([2 * x * y**3, x**2 + 3 * y])


@claim("D1", "f(x, y) = 2 x y^3:   ∂f/∂x = 2 y^3,   ∂f/∂y = 6 x y^2")
def partial_derivatives(case):
    """A partial derivative holds all other variables fixed; a Jacobian has a row for every output.

    With g(x, y) = x² + 3y as a second output, the rows are (2y³, 6xy²) and (2x, 3).

    Source: text 4, after 'The Matrix Calculus You Need For Deep Learning', Parr, Howard, 2018, section 3.
    """
    for _ in case.times(10):
        x, y = case.normal(2)
        rows = np.array([[2 * y**3, 6 * x * y**2], [2 * x, 3.0]])
        oracle = np.stack([np.asarray(column) for column in derivative_of(_pair)(x, y)], axis=1)
        yield from (show("x, y", np.array([x, y])), show("rows f and g, columns x and y", rows))
        yield same("the Jacobian", rows, oracle, rounding(rows, 4))
        yield shapes("2×2")


def _through_three(t):
    x, y = jnp.sin(t), t**3
    return x**2 * y + t * x


def _through_one(t):
    return jnp.sin(t) ** 2


@claim("D2", "d/dt f(x(t), y(t), t) = Σ_i ∂f/∂u_i · {du_i}/{dt}")
def sum_over_paths(case):
    """The total derivative is a sum over all paths from t to f, t itself being the last of the u.

    Here f = x² y + t x with x = sin t and y = t³.  One path alone, which is the chain rule of one variable, leaves out
    exactly what the others carry; where only one path exists, it is right.  On random graphs of scalars the same sum
    runs over every path, listed one by one.

    Source: text 4.
    """
    for _ in case.times(10):
        t = float(case.normal())
        x, y = np.sin(t), t**3
        terms = np.array([(2 * x * y + t) * np.cos(t), x**2 * 3 * t**2, x])
        allowance = rounding(np.sum(np.abs(terms)) + abs(t * y), 8)
        (oracle,) = derivative_of(_through_three, "grad")(t)
        yield from (show("t", t), show("through x, through y, through t itself", terms))
        yield same("all three paths", terms.sum(), float(oracle), allowance)
        for i, name in enumerate(("x", "y", "t")):
            left_out = sum(term for j, term in enumerate(terms) if j != i)
            yield off(f"the path through {name} alone", terms[i], float(oracle), -left_out, allowance)
        (oracle,) = derivative_of(_through_one, "grad")(t)
        yield same("one path, and only one", 2 * np.sin(t) * np.cos(t), float(oracle), rounding(2.0, 4))
    yield from _on_graphs(case, (1,), 4 if case.small else 7)
    yield shapes("(1×3)(3×1) → 1×1")


@claim("D3", "{df}/{dt} = ∂f/∂u · ∂u/∂t")
def vector_chain_rule(case):
    """For vectors the sum over paths is a product of Jacobians, and one sweep from the output finds it.

    On random graphs of vector functions the sum over all paths, however many, is what the sweep gives and what
    autodiff gives.  The sweep multiplies along every edge once.

    Source: text 4, after 'The Matrix Calculus You Need For Deep Learning', Parr, Howard, 2018, section 4.5.
    """
    for _ in case.times(10):
        n, k, m = case.lengths(3)
        f, u = case.normal(n, k), case.normal(k, m)
        summed = sum(np.outer(f[:, i], u[i]) for i in range(k))
        yield from (show("∂f/∂u", f), show("∂u/∂t", u), show("the sum over all u_i", summed))
        yield same("the sum is the product", summed, f @ u, rounding(np.abs(f) @ np.abs(u), k + 1))
        yield shapes(f"({n}×{k})({k}×{m}) → {n}×{m}")
    yield from _on_graphs(case, (2, 3) if case.small else (1, 2, 3), 4 if case.small else 7)


def _on_graphs(case, lengths, nodes):
    """All paths, the sweep and autodiff on random graphs; one path alone is off by all the others."""
    for _ in case.times(3):
        graph = graphs.random_graph(case.rng, nodes, lengths)
        t = case.normal(graph.nodes[0].weights[0].shape[1])
        values = graph.values(t)
        edges, paths = graph.edges(values), list(graph.paths())
        total, of_paths = graphs.over_all_paths(graph, edges)
        swept, of_sweep = graphs.sweep(graph, edges)
        oracle = np.asarray(compiled(jax.jacrev(lambda t, g=graph: g.values(t, jnp)[-1]))(t))
        magnitudes = {edge: np.abs(partial) for edge, partial in edges.items()}
        allowance = rounding(sum(graphs.along(path, magnitudes) for path in paths), nodes)
        allowance = allowance + nudged(functools.partial(_rebuilt, graph), *_weights(graph), *values)
        yield show("t", t)
        for path in paths[:8]:
            yield show("along " + " → ".join(f"u_{i}" for i in path), graphs.along(path, edges))
        yield show(f"the sum over all {len(paths)} paths", total)
        yield show("numbers multiplied", f"{of_paths} path by path, {of_sweep} in one sweep")
        yield counted("paths", len(paths), graph.count_paths())
        yield within("numbers multiplied by the sweep", of_sweep, 0, of_paths)
        yield same("the sum over all paths", total, oracle, allowance)
        yield same("the sweep", swept, oracle, allowance)
        if len(paths) > 1:
            one, *others = (graphs.along(path, edges) for path in paths)
            yield off("one path alone", one, oracle, -sum(others), allowance)


def _weights(graph):
    return [W for node in graph.nodes for W in node.weights]


def _rebuilt(graph, *numbers):
    """The sweep of the same graph with other weights, at other values of its nodes."""
    weights = iter(numbers[: len(_weights(graph))])
    nodes = [graphs.Node(node.kind, node.reads, tuple(next(weights) for _ in node.weights)) for node in graph.nodes]
    other = graphs.Graph(tuple(nodes))
    return graphs.sweep(other, other.edges(numbers[len(_weights(graph)) :]))[0]


def _layer_of_rows(x, W, b):
    return x @ W.T + b


@claim("D4", "z = x W^T + b:   ∂z_i/∂w_{ij} = a_j,   ∂z_i/∂w_{kj} = 0 for k ≠ i")
def layer_of_neurons(case):
    """A neuron is z = w·x + b; its derivative by the weights of other neurons is zero.

    Source: text 4.
    """
    for _ in case.times(8):
        n, m = case.lengths(2)
        W, a, b = case.normal(n, m), case.normal(m), case.normal(n)
        z = np.array([sum(w_j * a_j for w_j, a_j in zip(w, a, strict=True)) + b_i for w, b_i in zip(W, b, strict=True)])
        by_a, by_W, by_b = (np.asarray(each) for each in derivative_of(_layer_of_rows)(a, W, b))
        yield from (show("W", W), show("a", a), show("z", z), show("∂z/∂W", by_W))
        bound = rounding(np.abs(W) @ np.abs(a) + np.abs(b), m + 1)
        yield same("neuron by neuron", z, np.asarray(_layer_of_rows(a, W, b)), bound)
        for i in range(n):
            yield counted(f"∂z_{i}/∂(row {i})", by_W[i, i], a)
            others = np.delete(by_W[i], i, axis=0)
            yield counted(f"∂z_{i}/∂(other rows)", others, np.zeros_like(others))
        yield counted("∂z/∂a and ∂z/∂b", [*by_a.ravel(), *by_b.ravel()], [*W.ravel(), *np.eye(n).ravel()])
        yield shapes(f"(1×{m})({m}×{n}) → 1×{n}, {n}×({by(W.shape)})")


def _two_layers(W, V, x):
    return jnp.tanh(V @ jnp.tanh(W @ x))


def _to_softmax(W, V, x):
    z = V @ jnp.tanh(W @ x)
    return jnp.exp(z) / jnp.sum(jnp.exp(z))


@claim("D5", "C = C(y, a_L(W_L, a_{L-1}(W_{L-1}, …)))")
def what_a_weight_moves(case):
    """A weight of the layer before the last moves every output; a row of the last weights moves one neuron alone.

    The cost is a composite: from W_{L−1} there is a path through every a_L.  With an elementwise last activation row i
    of W_L moves a_i alone; with softmax it still moves z_i alone, but through it every a_L.

    Source: text 4, which calls the Jacobian of the last weights square; it is n×(n×m).
    """
    for _ in case.times(2):
        n, m, k = (3, 2, 3) if case.small else case.lengths(3, least=2)
        W, V, x = case.normal(m, k), case.normal(n, m), case.normal(k)
        by_W, by_V, _ = (np.asarray(each) for each in derivative_of(_two_layers)(W, V, x))
        h, a = _outputs(W, V, x)
        through_all, alone = _moved(V, h, a, x), _alone(h, a)
        yield from (show("∂a_L/∂W_{L−1}", through_all), show("∂a_L/∂W_L", by_V))
        slack = nudged(lambda W, V, x: _moved(V, *_outputs(W, V, x), x), W, V, x) + nudged(_moved, V, h, a, x)
        yield same("∂a_L/∂W_{L−1}", through_all, by_W, slack)
        yield counted("outputs moved by each weight of W_{L−1}", np.count_nonzero(by_W, axis=0), np.full((m, k), n))
        yield counted("outputs moved by each weight of W_L", np.count_nonzero(by_V, axis=0), np.ones((n, m)))
        slack = nudged(lambda W, V, x: _alone(*_outputs(W, V, x)), W, V, x) + nudged(_alone, h, a)
        yield same("row i moves a_i alone", alone, by_V, slack)
        p = probabilities(V @ h)
        by_rows = softmax_jacobian(p)[:, :, None] * h
        _, of_softmax, _ = (np.asarray(each) for each in derivative_of(_to_softmax)(W, V, x))
        yield show("∂a_L/∂W_L where f_L is softmax", by_rows)
        yield counted("outputs moved under softmax", np.count_nonzero(of_softmax, axis=0), np.full((n, m), n))
        slack = nudged(lambda V, h: softmax_jacobian(probabilities(V @ h))[:, :, None] * h, V, h)
        slack = slack + rounding(
            (np.diag(p) + np.outer(p, p))[:, :, None] * h, n + m
        )  # 1 − p cancels where p is near 1
        yield same("row i moves every a_L through z_i", by_rows, of_softmax, slack)
        yield shapes(f"{n}×({m}×{k}), {n}×({n}×{m})")


def _outputs(W, V, x):
    h = np.tanh(W @ x)
    return h, np.tanh(V @ h)


def _moved(V, h, a, x):
    """∂a_L/∂W_{L−1}, from the outputs."""
    return (np.diag(1 - a**2) @ V @ np.diag(1 - h**2))[:, :, None] * x


def _alone(h, a):
    """∂a_L/∂W_L, from the outputs: [i = j] (1 − a_i²) h_k."""
    return np.einsum("ij,i,k->ijk", np.eye(len(a)), 1 - a**2, h)
