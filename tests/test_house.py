"""The rules of the house, so that nobody has to remember them: who imports whom, purity, no tolerances, form."""

import ast
import graphlib
import importlib
import inspect
import pathlib
import random
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax._src import api
from jax._src.interpreters import ad

import manual_backprop
from manual_backprop.architecture import build
from manual_backprop.reference.points import instances, point
from manual_backprop.reference.precision import compiled
from manual_backprop.rules import RULES
from manual_backprop.sampling import architecture

ROOT = pathlib.Path(manual_backprop.__file__).parents[1]
FOLDERS = ("manual_backprop", "reference", "reports", "command", "tests")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]

every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path):
    """The name that a file is imported by."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(["manual_backprop", *parts[parts[0] == "manual_backprop" :]]).removesuffix(".__init__")


def imports(path):
    """The absolute names of all that a file imports, the folders counted as packages of the project."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    package = ["manual_backprop", *parts[parts[0] == "manual_backprop" : -1]]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) + 1 - node.level]] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


# --- who knows whom --------------------------------------------------------------------------------------------------

# By folder: what it never imports.  The outermost layer, command, may know all.
NEVER = {
    "manual_backprop": ("manual_backprop.reference", "manual_backprop.reports", "manual_backprop.command", "tests"),
    "reference/claims": ("manual_backprop.reports", "manual_backprop.command", "tests"),
    "reference": (
        "manual_backprop.reports",
        "manual_backprop.command",
        "manual_backprop.rules",  # any function with two halves can be checked, not only those of the catalogue
        "manual_backprop.architecture",
        "manual_backprop.sampling",
        "tests",
    ),
    "reports": ("jax", "hypothesis", "manual_backprop"),
    "command": ("tests",),
}


@every_file
def test_imports_point_one_way(path):
    where = str(path.relative_to(ROOT))
    folder = next((f for f in NEVER if where.startswith(f + "/")), None)
    for name in imports(path):
        for banned in NEVER.get(folder, ()):
            own = folder == "reports" and name.startswith("manual_backprop.reports")
            assert own or f"{name}.".split(f"{banned}.")[0], f"{where} imports {name}"


def test_no_imports_go_in_a_circle():
    modules = {name_of(path): path for path in FILES if not path.is_relative_to(ROOT / "tests")}

    def home(name):
        while name and name not in modules:
            name = name.rpartition(".")[0]
        return name

    known = {name: {home(found) for found in imports(path)} - {name, ""} for name, path in modules.items()}
    assert len(list(graphlib.TopologicalSorter(known).static_order())) == len(modules)


def test_hypothesis_is_for_strategies_and_tests_alone():
    users = {path.name for path in FILES if path.parent.name != "tests" and "hypothesis" in map(top, imports(path))}
    assert users == {"strategies.py"}


def top(name):
    return name.split(".")[0]


LIGHT = """
import sys
import manual_backprop, manual_backprop.command.plugin, manual_backprop.command.main, manual_backprop.reports
from manual_backprop.reports import columns, compare, figures, growth, ledger, page, record, sections, words
print(sorted({"jax", "hypothesis", "optax", "sklearn"} & set(sys.modules)))
import jax.numpy, manual_backprop.rules, manual_backprop.architecture, manual_backprop.sampling
import manual_backprop.reference.contract
import manual_backprop.reference.oracles
print(jax.config.jax_enable_x64, jax.numpy.ones(1).dtype)
import manual_backprop.command.check, manual_backprop.command.check_targets, manual_backprop.command.lines
print(sorted({"hypothesis", "optax", "sklearn", "scipy.stats"} & set(sys.modules)))
"""


def test_nobody_waits_for_what_is_not_needed_and_nothing_switches_64_bits_on():
    ran = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    assert ran.stdout.split("\n") == ["[]", "False float32", "[]", ""]


# --- purity ----------------------------------------------------------------------------------------------------------

AUTODIFF = ["grad", "value_and_grad", "vjp", "jvp", "jacrev", "jacfwd", "jacobian", "linearize", "linear_transpose"]
AUTODIFF += ["hessian", "custom_jvp", "fwd_and_bwd", "saved_input_vjp", "checkpoint", "remat"]
ALLOWED = {"jax", "jax.numpy", "jax.lax", "numpy", "jaxtyping", "annotated_types"}
PURE = [path for path in FILES if path.is_relative_to(ROOT / "manual_backprop")]


@pytest.mark.parametrize("path", PURE, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_derivatives_name_no_autodiff(path):
    allowed = {"custom_vjp"} if path.name == "rule.py" else set()  # a rule becomes one; its halves use none
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Attribute):
            root = ast.unparse(node).split(".")
            inside = root[0] in ("jax", "lax", "jnp")
            assert not (inside and set(root[1:]) & ({*AUTODIFF, "custom_vjp"} - allowed)), ast.unparse(node)
            assert not (root[0] == "jax" and root[1] in ("nn", "scipy", "experimental", "_src")), ast.unparse(node)
        elif isinstance(node, ast.ImportFrom) and not node.level and top(node.module) == "jax":
            names = {alias.name for alias in node.names}
            assert node.module in ALLOWED, node.module
            assert not names & {*AUTODIFF, "custom_vjp", "nn", "scipy", "experimental"}, names
    foreign = {name for name in map(top, imports(path)) if name not in sys.stdlib_module_names}
    assert foreign <= {*ALLOWED, "manual_backprop"}


def refuse(*_, **__):
    raise AssertionError("autodiff")


@pytest.fixture
def no_autodiff(monkeypatch):
    """Every entry to autodiff raises, and what all of them rest on, for those who got hold of an entry before."""
    jax.clear_caches()
    for name in AUTODIFF:
        for module in (jax, api, ad):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, refuse)
    inside = [(ad, name) for name in vars(ad) if re.match(r"(linearize|jvp|vjp|backward_pass)", name)]
    for module, name in inside:
        monkeypatch.setattr(module, name, refuse)
    for trace in (ad.JVPTrace, ad.LinearizeTrace):
        monkeypatch.setattr(trace, "__init__", refuse)
    assert len(inside) > 5
    yield
    jax.clear_caches()


def both_halves(rule, at):
    """Forward and backward, traced anew, compiled and run."""

    def run(primals, cotangent):
        y, residuals = rule.forward(*primals)
        return y, tuple(rule.backward(residuals, cotangent))

    return jax.tree.map(np.asarray, compiled(run)(at.primals, at.cotangent))


def test_forward_and_backward_run_where_autodiff_is_out_of_order(no_autodiff):
    for entry in (lambda f: jax.vjp(f, 1.0), lambda f: jax.grad(f)(1.0), lambda f: jax.jacfwd(f)(1.0)):
        with pytest.raises(AssertionError, match="autodiff"):
            entry(lambda x: x)
    for rule in RULES.values():
        bound, shape = next(instances(rule, 1, 0))
        _, bars = both_halves(bound, point(bound, shape))
        assert len(bars) == len(rule.signature.primals)
    for seed in range(12):
        network, shape = architecture(random.Random(seed), depth=4)
        both_halves(network, point(network, shape))


HELPER = """
from jax import {entry}

def slope(f, x, y_bar):
    return {call}
"""


@pytest.mark.parametrize(
    ("entry", "call"),
    [
        ("vjp", "vjp(f, x)[1](y_bar)[0]"),
        ("grad", "y_bar * grad(lambda x: f(x).sum())(x)"),
        ("jvp", "y_bar * jvp(f, (x,), (x / x,))[1]"),
        ("linearize", "y_bar * linearize(f, x)[1](x / x)"),
        ("linear_transpose", "linear_transpose(lambda x: 2 * x, x)(y_bar)[0]"),
        ("jacrev", "y_bar @ jacrev(f)(x)"),
    ],
)
def test_autodiff_behind_a_helper_is_caught(entry, call, tmp_path, monkeypatch, request):
    """Imported before autodiff is out of order, so that only what it rests on can give it away."""
    (tmp_path / f"helper_{entry}.py").write_text(HELPER.format(entry=entry, call=call))
    monkeypatch.syspath_prepend(str(tmp_path))
    helper = importlib.import_module(f"helper_{entry}")
    rule = RULES["relu"]
    at = point(rule, (3,))
    cheat = type(rule)(rule._definition, [lambda x: (rule.definition(x), x), None])
    cheat.def_backward(lambda x, y_bar: (helper.slope(rule.definition, x, y_bar),))
    both_halves(cheat, at)  # it runs, as long as it may
    request.getfixturevalue("no_autodiff")
    with pytest.raises(AssertionError, match="autodiff"):
        both_halves(cheat, at)


# --- no tolerance ----------------------------------------------------------------------------------------------------

APPROXIMATE = re.compile(r"(assert_)?(all|is)close(_nulp)?|approx|assert_.*almost_equal.*|assert_array_max_ulp")
CHOSEN = re.compile(r"[ar]tol|(abs|rel|relative|absolute)_tol(erance)?|tol(erance)?s?", re.IGNORECASE)


@every_file
def test_nobody_chooses_a_tolerance(path):
    for node in ast.walk(tree(path)):
        name = getattr(node, "attr", getattr(node, "id", getattr(node, "arg", None)))
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func).split(".")[-1]
            assert not APPROXIMATE.fullmatch(called), f"line {node.lineno}: {called}"
        elif isinstance(name, str):
            assert not CHOSEN.fullmatch(name), f"line {getattr(node, 'lineno', '?')}: {name}"


def test_there_is_one_slack():
    def defines(path):
        targets = [t for n in ast.walk(tree(path)) if isinstance(n, ast.Assign) for t in n.targets]
        return any(isinstance(t, ast.Name) and "SLACK" in t.id for t in targets)

    assert [path.name for path in FILES if defines(path)] == ["allowance.py"]


def test_what_versions_of_jax_write_in_two_ways_is_read_in_one_place():
    """Tests run on one version; on another, whoever reads one way alone breaks."""
    ways = [path.name for path in FILES if path.parts[-2] != "tests" and '["num_consts"]' in path.read_text("utf-8")]
    assert ways == ["interpreter.py"]


# --- form ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES.values(), ids=str)
def test_a_docstring_is_the_derivation(rule):
    text = inspect.cleandoc(rule.__doc__)
    sentence, *rest = text.split("\n\n")
    before, derivative, after = text.partition("\nDerivative  ")
    assert sentence[0].isupper()
    assert re.search(r"\S = \S|\S ∈ \S", before), "no formula"
    assert "=" in derivative + after.split(">>>")[0], "no derivative"
    assert f">>> {'y, h = ' if rule.name == 'recurrent' else 'print('}" in rest[-1], "no example"
    assert rule.name in rest[-1]


@every_file
def test_a_file_is_one_idea(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") < 400
    assert not text.strip() or ast.get_docstring(ast.parse(text)), "no docstring says what the file is about"


@pytest.mark.parametrize("name", RULES)
def test_every_rule_is_reached_by_its_name(name):
    assert build(name).name == name
