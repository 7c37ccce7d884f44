"""Every claim holds as predicted; a derivation broken on purpose is found out; the page shows all of them."""

import html
import itertools
import re
import xml.etree.ElementTree

import numpy as np
import pytest

from manual_backprop.derivations import association, equations, graphs
from manual_backprop.reference.claims import CLAIMS, Case, chains, claims, cost, layers, paths
from manual_backprop.reference.claims.cases import Specimen, specimen
from manual_backprop.reference.claims.evidence import Claim, counted, off, same, show, within
from manual_backprop.reports import derivations, formulas, page
from manual_backprop.reports.record import Record, Recorder, load

PARTS = {"A": 6, "B": 4, "C": 6, "D": 12}
NUMBERS = [f"{letter}{i}" for letter, last in PARTS.items() for i in range(1, last + 1)]


def test_no_claim_is_missing():
    assert list(CLAIMS) == NUMBERS


@pytest.mark.parametrize("number", NUMBERS)
def test_claim(number):
    claim = CLAIMS[number]
    result = claim.execute(Case(0))
    assert result.verdict == "right", result.message
    assert result.checks > 0
    assert result.ratio <= 1
    assert result.shapes
    assert claim.title
    assert "Source:" in claim.statement
    assert all(deviation["found"] * deviation["predicted"] > 0 for deviation in result.deviations)


@pytest.mark.parametrize("number", sorted(set(NUMBERS) - {"A5", "D12"}))
def test_claim_where_it_is_small_enough_to_read(number):
    evidence = list(CLAIMS[number].evidence(Case(1, small=True)))
    assert CLAIMS[number].judge(evidence).verdict == "right"
    assert any(piece.kind == "shown" for piece in evidence)


@pytest.mark.parametrize("number", ["A2", "C4", "D2", "D3", "D7", "D8"])
def test_what_is_wrong_is_shown_to_be_off(number):
    assert CLAIMS[number].execute(Case(0)).deviations


# --- a derivation broken on purpose ----------------------------------------------------------------------------------


def _diagonal(f, a, a_bar):
    return a_bar * (a * (1 - a) if f == "softmax" else equations.slope(f, a))


def _without_a_path(graph, edges):
    found = list(graph.paths())
    return sum(graphs.along(path, edges) for path in found[1:] or found), 10**9


def _twice(self, a, targets=None, original=Specimen.a_bar):
    return original(self, a, targets) / self.count


def _forgetful(layers, x, a_bar, original=equations.by_rows):
    found = original(layers, x, a_bar)
    return found._replace(b=[each[:1] * np.ones_like(each) for each in found.b])


def _greedy(lengths):
    order = association.from_the_left(len(lengths) - 1)
    return association.multiplications(lengths, order), order


MUTANTS = {
    "a diagonal softmax in the recursion": ("A6", equations, "through", _diagonal),
    "softmax without its outer product": ("A2", chains, "softmax_jacobian", np.diag),
    "reverse mode taken for the optimum": ("A5", association, "optimal", _greedy),
    "a path left out": ("D3", graphs, "over_all_paths", _without_a_path),
    "1/m twice": ("C3", Specimen, "a_bar", _twice),
    "a sum over samples left out": ("C5", equations, "by_rows", _forgetful),
    "labels taken for one-hot": ("D7", layers, "probabilities", lambda z: np.ones_like(z) / z.size),
    "a slope of 1 at zero": ("D9", equations, "slope", lambda f, a: (a >= 0).astype(float)),
    "a weight that moves a neighbour": ("D5", paths, "_alone", lambda h, a: np.ones((a.size, a.size, h.size))),
    "one product too many": ("D11", equations, "cached", equations.uncached),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_is_found_out(mutant, monkeypatch):
    number, where, name, broken = MUTANTS[mutant]
    monkeypatch.setattr(where, name, broken)
    for cached in (specimen, cost.measured):
        cached.cache_clear()
    result = CLAIMS[number].execute(Case(0))
    for cached in (specimen, cost.measured):  # what the mutant left in them is nobody else's
        cached.cache_clear()
    assert result.verdict == "wrong"
    assert result.message


def _judged(*evidence):
    def function(case):
        """A title."""
        yield from evidence

    return Claim("X1", "a = b", function).execute(Case(0))


def test_what_makes_a_claim_wrong():
    assert _judged(same("a", 1.0, 1.0, 0.0)).verdict == "right"
    assert _judged(same("a", 1.0, 1.1, 0.01)).message == (
        "a: 1 came where 1.1 was predicted, 10 times what rounding allows"
    )
    assert "shape (2,), but (1,)" in _judged(counted("a", [1, 2], [1])).message
    assert "not finite" in _judged(same("a", 1.0, np.nan, 1.0)).message
    assert "not finite" in _judged(within("a", np.nan, 0, 1)).message
    assert _judged(within("a", 2, 0, 1)).verdict == "wrong"
    assert "rounding alone explains" in _judged(off("a", 1.0, 1.0, 0.0, 0.1)).message
    assert _judged(off("a", 2.0, 1.0, 0.5, 0.1)).verdict == "wrong"
    assert _judged(show("a", 1.0)).message == "nothing was compared"


def test_a_claim_that_raises_is_a_line_and_not_the_end():
    def function(case):
        """A title."""
        yield counted("a", 1, 1)
        raise ArithmeticError("no\nmore")

    result = Claim("X1", "a", function).execute(Case(0))
    assert (result.verdict, result.message, result.title) == ("raised", "ArithmeticError: no", "A title")


# --- what orders cost ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def costs():
    return list(cost.lines(0))


def test_counts_are_the_compilers_within_a_multiply_add(costs):
    chains = [line for line in costs if line["sweep"] == "random"]
    assert len(chains) == 12
    for line in costs:
        for name in ("reverse", "forward", "optimal"):
            found = line[name]
            assert found["multiplications"] + found["additions"] <= found["flops"] <= 2 * found["multiplications"]
    for line in chains:
        every = association.bracketings(0, len(line["lengths"]) - 2)
        counts = [association.multiplications(line["lengths"], each) for each in every]
        assert line["optimal"]["multiplications"] == min(counts)


def test_the_sweeps_reach_a_factor_of_a_thousand_and_are_timed(costs):
    widths = [line for line in costs if line["sweep"] == "width"]
    last = widths[-1]
    assert last["forward"]["multiplications"] > 1000 * last["reverse"]["multiplications"]
    assert last["forward"]["flops"] > 1000 * last["reverse"]["flops"]
    assert all(line[name]["seconds"] > 0 for line in widths for name in ("forward", "reverse"))


# --- the record and the page -----------------------------------------------------------------------------------------


def test_lines_go_through_a_record(tmp_path, costs):
    lines = [CLAIMS[number].execute(Case(0)).line() for number in ("A4", "D1", "C6")]
    with Recorder(tmp_path / "record.jsonl", {"kind": "header"}) as recorder:
        for line in [*lines, *costs]:
            recorder.add(line)
    loaded = load(tmp_path / "record.jsonl")
    assert [line["number"] for line in loaded.others if line["kind"] == "claim"] == ["A4", "D1", "C6"]
    assert loaded.others[: len(lines)] == lines
    rendered = page.render(loaded)
    section = rendered[rendered.index('<section id="derivations">') :]
    section = section[: section.index("</section>")]
    text = html.unescape(re.sub(r"<[^>]*>", " ", section))
    assert "A product is the transpose of the product of the transposes in reverse" in text
    assert section.count("<math") == 3
    assert re.findall(r'id="claim-(\w+)"', section) == ["A4", "C6", "D1"]
    assert section.count('<svg viewBox="0 0 460 190"') == 4
    assert "1 152 times more at the end" in re.sub(r"\s+", " ", text)
    assert "12 random chains" in text


def test_claims_come_in_order_and_the_costs_after_them():
    first = list(itertools.islice(claims(0), 2))
    assert [line["number"] for line in first] == ["A1", "A2"]
    assert all(line["kind"] == "claim" and line["verdict"] == "right" for line in first)


HOSTILE = "</math></script><script>alert(1)</script>{{ 7 * 7 }}<!--"


def test_a_failing_claim_is_seen_and_hostile_text_stays_text():
    line = {"kind": "claim", "number": "A2", "verdict": "wrong", "ratio": 1e9, "ulps": 2.0, "message": HOSTILE}
    line |= {"title": HOSTILE, "formula": HOSTILE, "shapes": HOSTILE, "checks": 2}
    line |= {"deviations": [{"what": HOSTILE, "found": 1.0, "predicted": None}]}
    bare = {"kind": "claim", "number": HOSTILE}
    record = Record({"kind": "header", "format": 1, "created": "now"}, others=[bare, line, {"kind": "association"}])
    assert [claim["number"] for claim in derivations.derivations(record)["failing"]] == [HOSTILE, "A2"]
    rendered = page.render(record)
    assert '<a href="#derivations">Derivations</a> <span class="tally wrong">2</span>' in rendered
    assert "<script>alert" not in rendered
    assert derivations.derivations(Record({})) is None
    assert 'id="derivations"' not in page.render(Record({}))


@pytest.mark.parametrize("number", NUMBERS)
def test_a_formula_is_typeset_whole(number):
    formula = CLAIMS[number].formula
    tree = xml.etree.ElementTree.fromstring(formulas.mathml(formula))
    shown = "".join(tree.itertext())
    for word in re.findall(r"[A-Za-z]{3,}|[∂∇δηΣ∘⊗→]", formula):
        assert word.replace("Σ", "∑") in shown
    assert not set("^_{}'") & set(shown)


@pytest.mark.parametrize(
    "odd", ["", "((((", "^_^", "a/", "/", "∂", "{", "<b>&", "'", "a^", "]]]", "(" * 99, "∂" * 999, "a" + "^" * 999]
)
def test_a_formula_that_cannot_be_read_is_still_text(odd):
    shown = "".join(xml.etree.ElementTree.fromstring(formulas.mathml(odd)).itertext())
    assert set(shown) <= set(odd) | set("()[]′")
    assert "<b>" not in formulas.mathml(odd)


def test_what_formulas_become():
    script = '<msubsup><mi>W</mi><mn>2</mn><mi mathvariant="normal">T</mi></msubsup>'
    assert script in formulas.mathml("W_2^T")
    assert "<msub><mi>w</mi><mrow><mi>i</mi><mi>j</mi></mrow></msub>" in formulas.mathml("w_{ij}")
    assert "<mfrac><mrow><mi>L</mi><mo>+</mo><mn>1</mn></mrow><mn>2</mn></mfrac>" in formulas.mathml("(L + 1)/2")
    assert "<munder><mo>∑</mo><mi>i</mi></munder>" in formulas.mathml("Σ_i x")
