"""The derivation of a whole network, layer by layer, for readers who know the chain rule of one variable."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
from rich.rule import Rule as Line
from rich.text import Text

from ..derivations import association
from ..derivations.chain import Chain, chain
from ..derivations.jacobians import vector
from ..derivations.layouts import by
from ..reference.allowance import yardsticks
from ..reference.discrepancy import discrepancy
from ..reference.points import point
from ..rule import Elementary, Rule
from ..sampling import any_input
from ..signature import SignatureError, kind_of
from .explain_looks import WIDEST, barred, heading, matrix_of, short, table

INTRODUCTION = """\
The chain rule of one variable:  C depends on u, and u on x, so  dC/dx = dC/du · du/dx.

Here x, u, … are lists of numbers, and so a derivative is a table, its Jacobian: ∂u/∂x has a row for every number of u
and a column for every number of x, and says how much that row's number moves when that column's does.  If x reaches C
by several numbers of u, the effects along all these paths add up, and exactly that sum is what the product of two
tables computes:  (∂C/∂x)_k = Σ_i (∂C/∂u)_i (∂u/∂x)_ik.  So the chain rule stays as it is, with tables for numbers."""


@dataclasses.dataclass(frozen=True)
class Named:
    """A link of the chain with the names that its values go by."""

    reads: str
    gives: str
    primals: tuple[str, ...]
    call: str


def network(rule: Rule, shape, seed: int):
    """(what to print, whether everything agrees with autodiff)."""
    shape = _shape(rule) if shape is None else shape
    drawn = point(rule, shape, "normal", seed)
    primals = _readable(rule, short(drawn.primals))
    with jax.enable_x64(True):
        links = chain(rule, primals[0], primals[1:])
    scalar = not isinstance(links.output, tuple) and np.shape(links.output) == ()
    cotangent = np.float64(1.0) if scalar else jax.tree.map(lambda a: np.round(a, 1), drawn.cotangent)
    names = _names(links, scalar)
    parts = [Line(Text(str(rule), style="bold"), align="left"), Text(INTRODUCTION)]
    parts += _forward(links, names)
    parts += _factors(links, names)
    rows = _rows(links, cotangent)
    parts += _backward(links, names, rows)
    parts += _cost(links, names)
    compared, fine = _check(rule, primals, cotangent, links, rows, names)
    return parts + compared, fine


def _shape(rule):
    for shape in ((4,), (3,), (6,)):
        try:
            point(rule, shape)
        except SignatureError:
            continue
        return shape
    return any_input(rule)


def _readable(rule, primals):
    """Labels that weigh the classes of softmax cross-entropy as one-hot rows, which is what they mostly are."""
    last = getattr(rule, "layers", [rule])[-1]
    if not isinstance(last, Elementary) or last.name != "softmax_cross_entropy" or len(primals) < 2:
        return primals
    (labels,) = primals[-1]
    one_hot = np.eye(labels.shape[-1])[np.argmax(labels, axis=-1)]
    return (*primals[:-1], (one_hot,))


def _names(links: Chain, scalar) -> list[Named]:
    found, reads, layer = [], "x", 0
    for i, link in enumerate(links.links):
        affine = isinstance(link.layer, Elementary) and link.layer.name in ("dense", "linear")
        layer += affine
        last = i == len(links.links) - 1
        gives = ("C" if scalar else "y") if last else f"z{_up(layer)}" if affine else f"a{_up(layer)}"
        if gives in [named.gives for named in found]:
            gives += "′" * sum(named.gives.rstrip("′") == gives for named in found)
        own = list(link.layer.signature.primals)[1:] if isinstance(link.layer, Elementary) else []
        own = [f"{name}{_up(layer)}" if affine else name for name in own]
        own += [f"parameter {k}" for k in range(len(own), len(link.primals) - 1)]
        call = f"{link.layer.name if isinstance(link.layer, Elementary) else link.layer}({', '.join([reads, *own])})"
        if affine:
            call = f"{reads} {own[0]}" + (f" + {own[1]}" if len(own) > 1 else "")
        found.append(Named(reads, gives, (reads, *own), call))
        reads = gives
    return found


def _up(number):
    return str(number).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _forward(links, names):
    yield heading("1. Forward: each layer's value")
    for link, named in zip(links.links, names, strict=True):
        if named.reads == "x":
            yield from _value("x", link.primals[0])
        for name, value in zip(named.primals[1:], link.primals[1:], strict=True):
            yield from _value(name, value)
        yield Text(f"{named.gives} = {named.call}", style="bold")
        yield from _value(named.gives, link.output)


def _value(name, value):
    for leaf in jax.tree.leaves(value):
        if kind_of(leaf) != "key":
            yield from matrix_of(name, np.asarray(leaf))


def _factors(links, names):
    yield heading("2. The factors: each layer's Jacobian, from the output down")
    if links.factors:
        floating = names[-len(links.factors) :]
        chained = " · ".join(f"∂{named.gives}/∂{named.reads}" for named in reversed(floating))
        yield Text(f"∂{names[-1].gives}/∂{floating[0].reads} = {chained}", style="bold")
        shapes = "".join(f"({by(matrix.shape)})" for matrix in links.matrices)
        yield Text(f"  {shapes} → {by(links.by_input().shape)}: a row for every output, a column for every input")
    for link, named in zip(reversed(links.links), reversed(names), strict=True):
        for name, jacobian in zip(named.primals, link.jacobians, strict=True):
            if jacobian is None:
                yield Text(f"{name} has no derivative: it is not floating.", style="dim")
                continue
            tensor = jacobian.tensor.shape
            reshaped = f", read as {by(jacobian.matrix.shape)}" if len(tensor) > 2 else ""
            yield Text(f"∂{named.gives}/∂{name}  {jacobian}{reshaped}", style="bold")
            how = "" if jacobian.source == "formula" else "  (assembled row by row)"
            yield Text(f"  {_formula(jacobian, named, name)}{how}", style="dim")
            wide = jacobian.matrix.shape[1] > WIDEST
            yield from matrix_of("as blocks" if wide else "", jacobian.tensor if wide else jacobian.matrix)


def _formula(jacobian, named, name):
    """A formula of the catalogue with this network's names."""
    text = jacobian.formula.replace("∂y", f"∂{named.gives}")
    return re.sub(r"/∂\w+?_", f"/∂{name}_", text)


def _rows(links, cotangent):
    """∂C/∂(what each link gives), and last ∂C/∂x, as rows: the prefixes of the product."""
    rows = [np.reshape(vector(cotangent), (1, -1))]
    for factor in links.factors:
        rows.append(rows[-1] @ factor.matrix)
    return [None] * (len(links.links) + 1 - len(rows)) + rows[::-1]


def _backward(links, names, rows):
    top = names[-1].gives
    yield heading("3. Backward: the product, read from the output, with its beginnings kept")
    if top == "y":
        yield Text("The output is no single number, so C = Σ_k ȳ_k y_k for weights ȳ, and ∂C/∂y = ȳ.")
        yield from matrix_of("ȳ", rows[-1])
    yield Text("To the right of each product stands its adjoint form: the same numbers without the table.", style="dim")
    for i in range(len(names) - 1, -1, -1):
        link, named, row = links.links[i], names[i], rows[i + 1]
        for position, (name, jacobian) in enumerate(zip(named.primals, link.jacobians, strict=True)):
            if jacobian is None:
                continue
            shape, matrix = jacobian.input_shape, jacobian.matrix
            before = f"∂C/∂{named.gives} · " if not (top == "C" and i == len(names) - 1) else ""
            reshaped = f" → {by(shape)}" if len(shape) > 1 else ""
            yield Text(f"∂C/∂{name} = {before}∂{named.gives}/∂{name}", style="bold")
            explicit = f"(1×{row.shape[1]})({by(matrix.shape)}) → 1×{matrix.shape[1]}{reshaped}"
            yield Text(f"  {explicit:44}   {_adjoint(link, named, position)}", style="dim")
            yield from matrix_of(f"∂C/∂{name}", (row @ matrix).reshape(shape))


def _adjoint(link, named, position):
    """The adjoint form of one cotangent, with its shapes."""
    layer, name = link.layer, named.primals[position]
    out, bar = by(vector(link.output).shape), barred(named.gives)
    if isinstance(layer, Elementary) and layer.name in ("dense", "linear"):
        w = by(np.shape(link.primals[1])[::-1])
        x = link.primals[0]
        forms = (
            f"{barred(name)} = {bar} {named.primals[1]}ᵀ:  ({out})({w})",
            f"{barred(name)} = {named.reads} ⊗ {bar}:  ({by(np.shape(x))}) ⊗ ({out})"
            if np.ndim(x) == 1
            else f"{barred(name)} = {named.reads}ᵀ {bar}:  ({by(np.shape(x)[::-1])})({out})",
            f"{barred(name)} = {bar}{', summed over samples' if np.ndim(x) > 1 else ''}",
        )
        return forms[position]
    jacobian = link.jacobians[position]
    if jacobian.formula.startswith("∂y_i/∂x_k = [i = k]"):
        return f"{barred(name)} = {bar} ∘ f'({named.reads}):  ({out}) ∘ ({out})"
    if vector(link.output).shape == ():
        return f"{barred(name)} = {jacobian.formula or 'the gradient itself'}:  {by(jacobian.input_shape)}"
    return f"{barred(name)} by the backward pass:  {by(jacobian.input_shape)}"


def _cost(links, names):
    matrices = links.matrices
    if not matrices:
        return
    yield heading("4. What the order costs")
    if names[-1].gives == "y":
        matrices = [np.ones((1, matrices[0].shape[0])), *matrices]
    lengths, factors = association.lengths_of(matrices), len(matrices)
    order = association.optimal(lengths)[1]
    orders = {
        "from the output, reverse mode": association.from_the_left(factors),
        "from the input, forward mode": association.from_the_right(factors),
        f"the cheapest, {association.written(order)}": order,
    }
    counts = [(name, association.multiplications(lengths, each)) for name, each in orders.items()]
    yield table(["order", f"multiplications for ∂C/∂{names[-len(links.factors)].reads}"], counts)
    tensors = sum(j.tensor.size for link in links.links for j in link.jacobians if j is not None)
    gradients = sum(np.prod(j.input_shape, dtype=int) for link in links.links for j in link.jacobians if j is not None)
    yield Text(f"All tables together hold {tensors} numbers; the adjoint forms give the same {gradients} without them.")


def _check(rule, primals, cotangent, links, rows, names):
    """Every derivative above against `jax.jacrev` of the definition, allowed what the yardstick measures."""
    allowed = yardsticks(rule, primals, cotangent, ("float64",))["float64"].allowance[1]
    floats = [i for i, leaf in enumerate(jax.tree.leaves(primals)) if kind_of(leaf) == "float"]
    leaves, structure = jax.tree.flatten(primals)

    def value(*numbers):
        whole = list(leaves)
        for i, number in zip(floats, numbers, strict=True):
            whole[i] = number
        output = rule.definition(*structure.unflatten(whole))
        return sum(jnp.sum(bar * y) for bar, y in zip(*map(jax.tree.leaves, (cotangent, output)), strict=True))

    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        at = [jnp.asarray(leaves[i]) for i in floats]
        truths = iter(jax.jit(jax.jacrev(value, argnums=tuple(range(len(at)))))(*at))
    allowances = iter(leaf for leaf in jax.tree.leaves(allowed, is_leaf=lambda a: a is None) if leaf is not None)
    found, fine = [], True
    for i, (link, named) in enumerate(zip(links.links, names, strict=True)):
        for name, primal, jacobian in zip(named.primals, link.primals, link.jacobians, strict=True):
            if jacobian is None or (name == named.reads and i):
                continue
            row = np.ravel(rows[i + 1] @ jacobian.matrix)
            for leaf in jax.tree.leaves(primal):
                if kind_of(leaf) != "float":
                    continue
                got, row = row[: np.size(leaf)].reshape(np.shape(leaf)), row[np.size(leaf) :]
                truth, allowance = np.asarray(next(truths)), next(allowances)
                apart = discrepancy(got, truth, allowance, "float64")
                fine &= apart.ratio <= 1
                verdict = Text("✓ right", style="green") if apart.ratio <= 1 else Text("✗ wrong", style="bold red")
                found.append((f"∂C/∂{name}", by(got.shape), f"{apart.ulps:.2g}", f"{apart.ratio:.2g}", verdict))
    titles = ["derivative", "shape", "ulps off", "of what is allowed", ""]
    return [
        heading("5. The check: all of it against jax.jacrev of the definition, in float64"),
        table(titles, found),
    ], fine
