"""Explanations for the terminal: of a rule, of a claim, of a network, each with an example that is checked on the spot.

`explain(name, shape, seed)` gives what rich prints, and whether the check found everything right.
"""

import difflib
import inspect
import itertools
import re
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from rich.padding import Padding
from rich.rule import Rule as Line
from rich.text import Text

from ..architecture import ExpressionError, build
from ..derivations.jacobians import jacobians, vector
from ..derivations.layouts import by
from ..reference.checks import CHECKS
from ..reference.claims import CLAIMS, TEXTS, Case
from ..reference.contract import contract
from ..reference.oracles import ORACLES
from ..reference.points import Point, input_leaves, point
from ..rule import Elementary
from ..rules import RULES
from ..signature import Kinks, SignatureError, is_leaf, kind_of, with_sizes
from . import explain_checks, explain_network
from .explain_looks import barred, heading, matrix_of, short, table

SHOWN = 6  # comparisons of one kind told one by one; further ones are counted


def explain(name: str, shape=None, seed: int = 0) -> tuple[list, bool]:
    """Explain a rule, a claim by its number, a check, a network by its expression, or list the 'checks'.

    A check is called as it is, or check:truth; where a rule is called the same, both are told.
    """
    told = explain_checks.checks(name)
    if told and name not in RULES:
        return told, True
    if name.upper() in CLAIMS:
        return _claim(CLAIMS[name.upper()], seed)
    if name in RULES:
        if shape is not None:
            raise SignatureError(f"--input belongs to a network or to a rule with its lengths, as in {name}(…)")
        parts, fine = _rule(*example_of(RULES[name], seed))
        return [*told, *parts], fine
    if "(" not in name:
        raise ExpressionError(f"nothing is called {name!r}; {_near(name)}")
    network = build(name)
    if isinstance(network, Elementary) and shape is None:
        return _rule(*example_of(network, seed))
    return explain_network.network(network, shape, seed)


def _near(name):
    known = {known.lower(): known for known in (*RULES, *CLAIMS, *CHECKS)}
    close = [known[found] for found in difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.5)]
    if close:
        return f"did you mean {' or '.join(close)}?"
    return "name a rule, a check, a claim (A1 to D12) or an expression"


# --- a rule ----------------------------------------------------------------------------------------------------------


def example_of(rule: Elementary, seed: int) -> tuple[Elementary, Point]:
    """The rule with its lengths bound, at a point of 2×3 where its input allows, with numbers short enough to read."""
    first = jax.tree.leaves(next(iter(rule.signature.primals.values())), is_leaf=is_leaf)
    alone = all(len(leaf.shape) < 2 for leaf in first)
    sizes = {}
    for name in rule.signature.sizes:
        inside = any(name in dim for leaf in first for dim in leaf.shape)
        product = any(name in dim and "*" in dim[1:] for leaf in first for dim in leaf.shape)
        length = 2 if product or not inside else 3
        sizes[name] = rule.sizes.get(name, ((2, 3) if alone else (2,)) if name.startswith("*") else length)
    bound = rule.bind(**{name: sizes[name] for name in rule.signature.free_sizes})
    shape = jax.tree.map(lambda leaf: leaf.shape, with_sizes(rule.input, sizes), is_leaf=is_leaf)
    drawn = point(bound, shape, "normal", seed)
    return bound, Point(
        short(drawn.primals), jax.tree.map(lambda a: np.round(a, 1), drawn.cotangent), shape, "normal", seed
    )


def _rule(rule: Elementary, at: Point):
    derivation, source = _derivation(rule)
    parts = [Line(Text(rule.name, style="bold"), align="left"), Text(derivation), _signature(rule, at)]
    if source:
        parts.append(Text(source, style="dim"))
    parts += [heading("An example, with every intermediate matrix"), *_worked(rule, at)]
    findings = list(contract(rule, at, ("float64",), [name for name in ORACLES if name != "vjp"]))
    parts.append(heading("The check of it, in float64"))
    parts += [Text(f"  {finding}", style="" if finding.ok else "bold red") for finding in findings]
    return parts, all(finding.ok for finding in findings)


def _derivation(rule):
    """The docstring without its doctest, and its source on its own."""
    text = inspect.cleandoc(rule.__doc__ or "").split(">>>")[0].rstrip()
    before, found, source = text.partition("Source:")
    return before.rstrip(), "Source: " + " ".join(source.split()) if found else ""


def _signature(rule, at):
    x = input_leaves(rule, at.input)
    parameters, output = rule.shapes(x)
    rows, names = [], rule.signature.primals
    for (name, tree), here in zip(names.items(), (x, *parameters), strict=True):
        leaves = zip(*(jax.tree.leaves(each, is_leaf=is_leaf) for each in (tree, here)), strict=True)
        for leaf, bound in leaves:
            rows.append((name, leaf, by(bound.shape), _domain(leaf)))
    for leaf, bound in zip(
        *(jax.tree.leaves(each, is_leaf=is_leaf) for each in (rule.signature.output, output)), strict=True
    ):
        rows.append(("output", leaf, by(bound.shape), ""))
    for name, values in rule.signature.options.items():
        rows.append((name, "option", rule.options[name], f"tried: {', '.join(map(str, values))}"))
    return Padding(table(["", "annotated", "here", "domain and kinks"], rows), (1, 0, 0, 0))


def _domain(leaf):
    words = []
    for constraint in leaf.domain:
        if isinstance(constraint, Kinks):
            points = ", ".join(f"{p:g}" for p in constraint.points)
            words.append(f"kinks at {points}: there the derivative is the convention told above")
        else:
            words.append(getattr(constraint, "__name__", None) or str(constraint))
    return "; ".join(words) or ("anything" if leaf.kind == "float" else "")


def _worked(rule, at):
    with jax.enable_x64(True):
        primals, y_bar = jax.tree.map(jnp.asarray, (at.primals, at.cotangent))
        y, residuals = rule.forward(*primals)
        bars = rule.backward(residuals, y_bar)
        _, full = jacobians(rule, at.primals)
    for name, value in zip(rule.signature.primals, at.primals, strict=True):
        yield from _leaves(name, value)
    yield Text("Forward:", style="bold")
    yield from _leaves("y", y)
    yield from _leaves("kept for the backward pass", residuals)
    yield Text("Backward, from a cotangent ȳ of the output:", style="bold")
    yield from _leaves("ȳ", at.cotangent)
    row = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(at.cotangent)])[None]
    for name, bar, jacobian in zip(rule.signature.primals, bars, full, strict=True):
        if jacobian is None:
            yield Text(f"  {name} has no derivative: it is not floating.", style="dim")
            continue
        matrix = jacobian.matrix
        source = "" if jacobian.source == "formula" else ", assembled from the backward pass row by row"
        yield Text(f"The full Jacobian ∂y/∂{name}, {jacobian}, as a matrix {by(matrix.shape)}{source}:", style="bold")
        yield Text(f"  {jacobian.formula}", style="dim")
        yield from matrix_of(f"∂y/∂{name}", matrix)
        product = row @ matrix
        yield from matrix_of(f"ȳ · ∂y/∂{name}: (1×{row.shape[1]})({by(matrix.shape)})", product)
        yield from _leaves(f"{barred(name)} by the backward pass", bar)
        apart = np.max(np.abs(np.ravel(vector(bar)) - np.ravel(product)), initial=0)
        yield Text(f"  both agree to {apart:.1g}", style="green")


def _leaves(name, tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    for path, leaf in leaves:
        if kind_of(leaf) == "key":
            yield Text(f"  {name}{jax.tree_util.keystr(path)} is a random key", style="dim")
        else:
            yield from matrix_of(f"{name}{jax.tree_util.keystr(path)}", np.asarray(leaf))
    if not leaves:
        yield Text(f"  {name}: nothing", style="dim")


# --- a claim ---------------------------------------------------------------------------------------------------------


def _claim(claim, seed):
    """The claim in words, executed where it is small enough to read, then on random shapes."""
    parts = [
        Line(Text(f"{claim.number}  {claim.title}", style="bold"), align="left"),
        Padding(Text(claim.formula, style="bold cyan"), (1, 2)),
        Text(claim.statement),
        *(Text(f"Text {n}: {text}", style="dim") for n, text in TEXTS.items() if _cites(claim.statement, n)),
        heading("An example, with every intermediate matrix"),
    ]
    evidence = list(claim.evidence(Case(seed, small=True)))
    for (kind, _), group in itertools.groupby(evidence, key=lambda piece: (piece.kind, _about(piece))):
        parts += _told(kind, list(group))
    small, whole = claim.judge(evidence), claim.execute(Case(seed))
    parts.append(heading("The check of it"))
    for where, result in (("here", small), ("on random shapes and values", whole)):
        style = "green" if result.verdict == "right" else "bold red"
        distance = f"{result.ulps:.3g} ulps at most, {result.ratio:.2g} of what rounding allows"
        distance = distance if result.ratio else "exact"
        parts.append(
            Text(f"  {result.verdict} {where}: {result.checks} comparisons, {result.message or distance}", style=style)
        )
    return parts, small.verdict == whole.verdict == "right"


def _cites(statement, number):
    return any(str(number) in cited for cited in re.findall(r"\btexts?((?: \d| and)+)", statement))


def _about(piece):
    """What neighbouring comparisons share that are told together: all but the numbers in their words."""
    return "" if piece.kind == "shown" else "".join(c for c in piece.what if not c.isdigit())


def _told(kind, group) -> Iterator:
    for piece in group[:SHOWN] if kind != "shown" else group:
        if kind == "shown" and isinstance(piece.got, str):
            yield Text(f"  {piece.what}: {piece.got}")
        elif kind == "shown":
            yield from matrix_of(piece.what, np.asarray(piece.got))
        elif kind == "shapes":
            yield Text(f"  shapes: {piece.what}", style="dim")
        else:
            yield _compared(piece)
    if kind not in ("shown", "shapes") and len(group) > SHOWN:
        fine = not any(piece.problem() for piece in group)
        yield Text(f"    … and {len(group) - SHOWN} more{', all of them as predicted' if fine else ''}", style="dim")


def _compared(piece):
    apart, problem = piece.judged(), piece.problem()
    if problem:
        return Text(f"  ✗ {problem}", style="bold red")
    if piece.kind == "off":
        found, predicted = np.ravel(piece.got), np.ravel(piece.expected)
        at = int(np.argmax(np.abs(found)))
        return Text(f"  ✓ {piece.what} is wrong, by {found[at]:.6g}; predicted {predicted[at]:.6g}", style="yellow")
    distance = "exactly" if apart.absolute == 0 else f"to {apart.ulps:.2g} ulps, {apart.ratio:.2g} of what is allowed"
    return Text(f"  ✓ {piece.what}: agrees {distance}", style="green")


__all__ = ["example_of", "explain"]
