"""The page: every failure is on it, hostile text stays text, and nothing is fetched from anywhere."""

import base64
import gzip
import html
import json
import re

import pytest
import synthetic

from manual_backprop.reports import columns, page
from manual_backprop.reports.compare import compare
from manual_backprop.reports.record import Record, RecordError, load, write


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return _loaded(tmp_path_factory, failing=True)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return _loaded(tmp_path_factory, failing=False)


@pytest.fixture(scope="module")
def rendered(run):
    return page.render(run)


def _loaded(factory, **options):
    path = factory.mktemp("record") / "run.jsonl"
    write(path, synthetic.lines(architectures=20, **options))
    return load(path)


def text_of(page_html):
    """What a reader without scripts sees: the words between tags."""
    body = page_html[page_html.index("<main>") : page_html.index("</main>")]
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", body)))


def data_of(page_html):
    packed, data = re.search(r'id="data" data-packed="(\w+)">(.*?)</script>', page_html, re.DOTALL).groups()
    return json.loads(gzip.decompress(base64.b64decode(data)) if packed == "true" else data)


def record_of(*findings, **more):
    return Record({"kind": "header", "format": 1, "created": "2026-01-02T03:04:05+00:00"}, list(findings), **more)


def wrong(subject="relu", **changes):
    line = {"kind": "finding", "family": "rule", "subject": subject, "check": "vjp", "leaf": "x", "dtype": "float32"}
    line |= {"verdict": "wrong", "ratio": 8.0, "ulps": 100.0, "relative": 1e-5, "points": 3}
    return line | {"diagnosis": "off by a factor of 2", "reproduction": "manual-backprop check relu"} | changes


def test_every_failure_is_readable_without_scripts(run, rendered):
    section = text_of(rendered[: rendered.index('<section id="rules">')] + "</main>")
    assert len(run.failures) > 5
    for finding in run.failures:
        assert finding["subject"] in section
        assert finding["reproduction"] in section
    assert "off by a factor of 8 everywhere: the mean over 'batch' was taken twice" in section
    assert "dot_general requires equal dtypes, got float32 and bfloat16" in section
    worst = max((f for f in run.failures if f["subject"] == "layer_norm"), key=lambda f: f["ratio"])["worst"]
    assert f"{worst['got']:.9g}" in section
    assert "1 rule and 1 architecture are wrong; 1 rule raised." in section


def test_every_reason_of_one_subject_is_told():
    text = text_of(page.render(record_of(wrong(), wrong(leaf="w", diagnosis="transposed"), wrong(dtype="float64"))))
    assert "off by a factor of 2" in text
    assert "transposed" in text
    assert text.count("1 more finding of the same leaf and reason") == 1


def test_a_page_without_failures_says_so(good):
    text = text_of(page.render(good))
    assert "Every derivative judged is right." in text
    assert "None: nothing was wrong and nothing raised." in text


def test_every_section_tells_what_the_record_holds(rendered):
    text = text_of(rendered)
    for rule in synthetic.RULES:
        assert f'id="rule-{rule}"' in rendered
    assert "20 random networks, 3.1 a second" in text
    assert "the rule is not analytic" in text
    assert "3 418 of the 3 481 pairs" in text
    assert "0.9733" in text
    assert "backward does not lower" in text
    assert "59 rules lower, forward and backward, for cpu, cuda, tpu" in text
    assert "passed" not in text


def test_the_data_block_holds_every_finding(run, rendered):
    data = data_of(rendered)
    assert data["count"] == len(run.findings)
    for name in ("subject", "verdict", "reproduction"):
        column = data["columns"][name]
        assert [column["words"][code] for code in column["codes"]] == [f[name] for f in run.findings]
    judged = [f for f in run.findings if f["verdict"] in ("right", "wrong")]
    ratios = [ratio for ratio in data["columns"]["ratio"] if ratio is not None]
    assert ratios == [float(f"{f['ratio']:.4g}") for f in judged]
    assert [curve["subject"] for curve in data["curves"]] == ["iris", "digits"]


def test_large_data_is_packed_and_the_same(run, rendered, monkeypatch):
    monkeypatch.setattr(columns, "PACKED_ABOVE", 1000)
    packed = page.render(run)
    assert 'data-packed="true"' in packed
    assert data_of(packed) == data_of(rendered)


HOSTILE = "</script><script>alert(1)</script><b>&amp;\"'<!-- ]]> {{ 7 * 7 }}"


def test_hostile_text_stays_text():
    fields = dict.fromkeys(("diagnosis", "message", "reproduction", "example", "leaf", "check", "dtype"), HOSTILE)
    curve = {"kind": "curve", "subject": HOSTILE, "network": HOSTILE, "verdict": "wrong", "steps": [0, 1]}
    curve |= {"loss_by_hand": [1.0, 0.5], "loss_autodiff": [1.0, 0.5]}
    record = record_of(
        wrong(HOSTILE, **fields),
        wrong(HOSTILE, family="architecture", **fields),
        wrong(HOSTILE, **fields | {"verdict": "raised"}),
        wrong(HOSTILE, **fields | {"verdict": "abstained"}),
        curves=[curve],
        lowerings=[{"subject": HOSTILE, "part": HOSTILE, "platform": HOSTILE, "lowers": False, "message": HOSTILE}],
        coverage={"pairs_possible": 2, "pairs_seen": 1, "missing": [[HOSTILE, HOSTILE]]},
    )
    record.header.update(command=HOSTILE, platform=HOSTILE, versions={HOSTILE: HOSTILE}, environment={"x": HOSTILE})
    rendered = page.render(record, compare(Record({}), record))
    assert "<script>alert" not in rendered
    assert "<b>&amp;" not in rendered
    assert "{{ 7" in text_of(rendered)
    assert rendered.count("<script") == rendered.count("</script>") == 5
    assert data_of(rendered)["columns"]["subject"]["words"] == [HOSTILE]


def test_the_page_is_one_file_that_asks_for_nothing(rendered):
    assert not re.search(r'(?:src|href)="(?!#|data:,)', rendered)
    styles = rendered[: rendered.index("</style>")]
    assert not re.search(r"url\(|@import", styles)
    assert "sourceMappingURL" not in rendered
    assert "MIT License" in rendered
    assert "Permission is hereby granted" in rendered


@pytest.mark.parametrize("record", [Record({}), record_of(), record_of(end={"kind": "end", "finished": True})])
def test_an_empty_record_has_a_page(record):
    text = text_of(page.render(record))
    assert "Nothing was judged" in text
    assert data_of(page.render(record))["count"] == 0


def test_an_interrupted_run_is_called_so():
    text = text_of(page.render(record_of(wrong(verdict="right"))))
    assert "Every derivative judged is right, as far as the run came." in text
    assert "The run was interrupted." in text


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), None])
def test_numbers_that_are_none_are_shown_as_such(odd):
    fields = dict.fromkeys(("ratio", "ulps", "relative", "mean_ratio", "spread"), odd)
    worst = {"index": [0], "got": odd, "expected": 1.0}
    rendered = page.render(record_of(wrong(**fields, worst=worst), wrong("net", family="architecture", **fields)))
    assert f"got {'None' if odd is None else odd}, expected 1" in re.sub(r"\s+,", ",", text_of(rendered))
    assert data_of(rendered)["columns"]["ratio"] == [None if odd is None else str(odd)] * 2


def test_curves_with_gaps_and_constants_are_drawn():
    curve = {"kind": "curve", "subject": "iris", "verdict": "right", "steps": [0, 1, 2]}
    curve |= {"loss_by_hand": [1.0, float("nan"), 1.0], "loss_autodiff": [1.0, 1.0, 1.0]}
    curve |= {"divergence_ulps": [0.0, 0.0, 0.0], "allowance_ulps": [4.0, 4.0, 4.0]}
    flat = curve | {"subject": "digits", "loss_by_hand": [0.0] * 3, "loss_autodiff": [0.0] * 3, "steps": [5] * 3}
    nothing = {
        "kind": "curve",
        "subject": "x",
        "verdict": "raised",
        "steps": [],
        "loss_by_hand": [],
        "loss_autodiff": [],
    }
    rendered = page.render(record_of(curves=[curve, flat, nothing]))
    assert rendered.count('class="chart"') == 4
    assert not re.search(r'd="[^"]*nan', rendered)


def test_changes_since_a_baseline_are_shown(run, good):
    text = text_of(page.render(run, compare(good, run)))
    assert "Changes since the baseline" in text
    assert "layer_norm gamma (jacrev, bfloat16) is wrong, right in the baseline: off by a factor of 8" in text
    assert "lstm backward does not lower for tpu, and did in the baseline" in text
    assert "Nothing became worse." in text_of(page.render(good, compare(good, good)))
    assert "Changes since" not in text_of(page.render(good))


def test_subjects_beyond_the_first_hundred_are_left_to_the_table():
    rendered = page.render(record_of(*(wrong(f"rule{i}") for i in range(103))))
    assert rendered.count('class="failure"') == 100
    assert "3 more subjects with failures" in text_of(rendered)
    assert data_of(rendered)["count"] == 103


def test_a_page_is_written_where_it_is_asked_for(run, rendered, tmp_path):
    path = page.write(run, tmp_path / "index.html")
    assert path.read_text("utf-8") == rendered
    page.write(record_of(wrong(message="\ud800")), path)
    with pytest.raises(RecordError, match=r"cannot write the page to .*missing"):
        page.write(run, tmp_path / "missing" / "index.html")


def test_another_seed_of_the_same_project_is_no_change(good, tmp_path_factory):
    other = _loaded(tmp_path_factory, failing=False, seed=18)
    other.header["seed"] = 18
    assert [change.kind for change in compare(good, other)] == ["environment"]
