"""C. Many samples at once: the equations for matrices of samples, and where the 1/m stands."""

import numpy as np

from manual_backprop.derivations import equations
from manual_backprop.derivations.layouts import by, turned

from .evidence import claim, counted, off, product_rounding, same, shapes, show


@claim("C1", "J = 1/m Σ_{samples} Σ_{nodes} L(a, y)")
def cost_of_samples(case):
    """Samples are columns, and the cost is the mean over samples of the sum over nodes.

    A^l, the output of layer l for all samples, is n_l×m.

    Source: text 3.
    """
    for specimen in (case.samples, case.classified_samples):
        a, y, m = specimen.kept[-1], specimen.targets, specimen.count
        yield from (show("A^L", a), show("Y", y))
        if specimen.kind == "classifier":
            losses = -y * np.log(equations.ACTIVATIONS["softmax"][0](a.T).T)
        else:
            losses = (a - y) ** 2 / len(a)  # the catalogue's mean over nodes is a sum of nodes that each weigh 1/n
        yield show("L(a, y) of every node and sample", losses)
        yield counted("shape of A^L", a.shape, (specimen.widths[-1], m))
        cost = sum(sum(loss for loss in sample) for sample in losses.T) / m
        yield same(f"J of {specimen.rule}", cost, specimen.yardstick.truth[0], specimen.yardstick.allowance[0])
        yield shapes(", ".join(by(each.shape) for each in specimen.kept))


@claim("C2", "dZ = dA ∘ g'(Z)")
def elementwise_derivatives(case):
    """dA holds the derivatives of L node by node; an elementwise activation passes them on as a product.

    At the last layer dA carries the 1/m here, as it may (C4).

    Source: text 3.
    """
    specimen = case.samples
    gradients, last = specimen.gradients(), len(specimen.layers)
    for i, (layer, delta) in enumerate(zip(specimen.layers, gradients.errors, strict=True), 1):
        d, allowance = specimen.above(i, "a")
        if i == last:
            found = specimen.a_bar(specimen.kept[-1])
            yield show("dA^L", found)
            yield same("dA^L", found, d, allowance)
        slope = equations.slope(layer.f, specimen.kept[i])
        yield from (show(f"g'(Z^{i})", slope), show(f"dZ^{i}", delta))
        truth, allowance = specimen.above(i, "z")
        yield same(f"dA^{i} ∘ g'(Z^{i})", d * slope, truth, allowance)
        yield same(f"dZ^{i}", delta, truth, allowance)
        yield shapes(f"{by(d.shape)} ∘ {by(slope.shape)}")


@claim("C3", "dW^l = dZ^l (A^{l-1})^T,   db^l = Σ_{samples} dZ^l,   dA^{l-1} = (W^l)^T dZ^l")
def gradients_of_samples(case):
    """The gradients of a layer are two matrix products and a sum over samples.

    Source: text 3, which stops at dZ^2.
    """
    for specimen in (case.samples, case.classified_samples):
        found = specimen.gradients()
        for i, (dW, db) in enumerate(zip(found.W, found.b, strict=True)):
            yield from (show(f"dZ^{i + 1}", found.errors[i]), show(f"dW^{i + 1}", dW), show(f"db^{i + 1}", db[:, None]))
            yield counted("shapes", (dW.shape, db[:, None].shape), (specimen.layers[i].W.shape, (len(dW), 1)))
            yield same(f"dW^{i + 1} of {specimen.rule}", dW, *(each[i] for each in specimen.weights))
            yield same(f"db^{i + 1} of {specimen.rule}", db, *(each[i] for each in specimen.biases))
            if i:
                below = specimen.layers[i].W.T @ found.errors[i]
                yield same(f"dA^{i} of {specimen.rule}", below, *specimen.above(i, "a"))
        yield same(f"dA^0 of {specimen.rule}", found.x, *specimen.input)
        n, k, m = *specimen.layers[-1].W.shape, specimen.count
        yield shapes(f"({n}×{m})({m}×{k}) → {n}×{k}, {n}×1, ({k}×{n})({n}×{m}) → {k}×{m}")


@claim("C4", "dA^L = 1/m ∂L/∂a   or   dW = 1/m dZ A^T,   db = 1/m Σ_{samples} dZ")
def one_over_m(case):
    """The 1/m enters once: carried by dA, or by dW and db; twice or never is off by exactly m.

    Source: text 3.
    """
    for specimen in (case.samples, case.classified_samples):
        layers, kept, m = specimen.layers, specimen.kept, specimen.count
        once = specimen.gradients()  # carried by dA^L
        bare = equations.by_columns(layers, kept, specimen.a_bar(kept[-1]) * m)
        for which in ("W", "b"):
            truths, allowances = specimen.weights if which == "W" else specimen.biases
            zipped = zip(getattr(once, which), getattr(bare, which), truths, allowances, strict=True)
            for i, (carried, never, truth, allowance) in enumerate(zipped, 1):
                at_the_end = never / m
                yield from (
                    show(f"d{which}^{i}, 1/m in dA", carried),
                    show(f"d{which}^{i}, 1/m at the end", at_the_end),
                )
                yield same(f"d{which}^{i}, 1/m in dA", carried, truth, allowance)
                yield same(f"d{which}^{i}, 1/m at the end", at_the_end, truth, allowance)
                yield off(f"1/m twice in d{which}^{i}", carried / m, truth, truth * (1 / m - 1), 2 * allowance)
                yield off(f"1/m never in d{which}^{i}", never, truth, truth * (m - 1), (m + 1) * allowance)
        yield shapes(f"m = {m}")


@claim("C5", "Z = A w + b,   dw = A^T dZ,   db = Σ_{samples} dZ,   dA = dZ w^T,   w = W^T")
def samples_as_rows(case):
    """Samples as rows are the transpose of all of it: the same numbers, up to the layout of W.

    The equations for rows are written out and run on their own, rather than by transposing those for columns.

    Source: text 3, and text 4 for the layer in rows.
    """
    for specimen in (case.samples, case.classified_samples):
        columns = specimen.gradients()
        x = turned(specimen.x, "columns", to="rows")
        rows = equations.by_rows(specimen.layers, x, lambda a, s=specimen: s.a_bar(a.T).T)
        yield same(f"dA^0 of {specimen.rule}", rows.x.T, *specimen.input)
        for i, (dw, dW, db) in enumerate(zip(rows.W, columns.W, rows.b, strict=True)):
            allowance = specimen.weights[1][i]
            yield from (show(f"dw^{i + 1}, samples as rows", dw), show(f"dW^{i + 1}, samples as columns", dW))
            yield same(f"dW^{i + 1} of {specimen.rule}", turned(dw, "rows", to="columns"), dW, 2 * allowance)
            yield same("the truth", turned(dw, "rows", to="columns"), specimen.weights[0][i], allowance)
            yield same(f"db^{i + 1} of {specimen.rule}", db, *(each[i] for each in specimen.biases))
        yield shapes(f"A {by(x.shape)}, w {by(rows.W[0].shape)}; in columns {by(x.T.shape)}, {by(columns.W[0].shape)}")


@claim("C6", "dZ A^T = Σ_{samples} dz ⊗ a")
def sum_of_outer_products(case):
    """The batched matrix product is the sum of the outer products of single samples.

    Source: texts 3 and 4.
    """
    for _ in case.times(20):
        n, k, m = case.lengths(3)
        dZ, A = case.normal(n, m), case.normal(k, m)
        outer = [np.outer(dz, a) for dz, a in zip(dZ.T, A.T, strict=True)]
        yield from (show("dZ", dZ), show("A", A))
        for i, each in enumerate(outer, 1):
            yield show(f"sample {i}", each)
        yield show("dZ Aᵀ", dZ @ A.T)
        yield same("their sum", sum(outer), dZ @ A.T, product_rounding(dZ, A.T))
        yield shapes(f"({n}×{m})({m}×{k}) = {m} times ({n}×1)(1×{k})")
