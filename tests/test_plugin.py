"""The pytest plugin, as somebody else's project sees it: in processes of their own."""

import pytest

from manual_backprop.reference.strategies import EXAMPLES, PROFILES
from manual_backprop.reports import record

RECORDING = """
import pytest
from manual_backprop.reference.finding import Finding

@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_right(ratio, record_finding):
    for factor in (1, 0.5):
        record_finding(Finding("relu", "vjp", "x", "float32", "right", ratio=ratio * factor))

def test_wrong(record_finding):
    finding = Finding("mine", "vjp", "x", "float32", "wrong", ratio=8.0, index=(1, 2), got=3.0, expected=4.0)
    record_finding(finding, family="architecture", subject="serial(mine)")
    assert finding.ok, str(finding)
"""


@pytest.mark.parametrize("processes", [["-p", "no:xdist"], ["-n", "2"]], ids=["one process", "two workers"])
def test_one_record_and_one_page_of_all_findings(pytester, processes):
    pytester.makepyfile(RECORDING)
    result = pytester.runpytest_subprocess("--gradient-report", "out/report", *processes)
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(["gradient report: out/report/index.html"])
    loaded = record.load(pytester.path / "out" / "report" / "record.jsonl")
    assert loaded.finished
    assert loaded.header["command"].startswith("pytest")
    right, wrong = sorted(loaded.findings, key=lambda line: line["verdict"])
    assert (right["family"], right["subject"], right["ratio"]) == ("rule", "relu", 0.75)
    assert (right["points"], right["mean_ratio"]) == (6, 0.375)
    assert (wrong["family"], wrong["subject"], wrong["points"]) == ("architecture", "serial(mine)", 1)
    assert wrong["worst"] == {"index": [1, 2], "got": 3.0, "expected": 4.0}
    assert "serial(mine)" in (pytester.path / "out" / "report" / "index.html").read_text()


def test_an_interrupted_run_has_a_record_that_says_so(pytester):
    pytester.makepyfile(RECORDING + "\n\ndef test_stop():\n    raise KeyboardInterrupt\n")
    pytester.runpytest_subprocess("--gradient-report", "out", "-p", "no:xdist")
    loaded = record.load(pytester.path / "out" / "record.jsonl")
    assert not loaded.finished
    assert len(loaded.findings) == 2


def test_a_folder_that_cannot_be_written_is_refused_first(pytester):
    pytester.makepyfile("def test_anything(): pass")
    (pytester.path / "file").write_text("mine")
    result = pytester.runpytest_subprocess("--gradient-report", "file/below")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --gradient-report file/below: *; name another folder"])


QUIET = """
import sys

def test_nothing_is_imported(record_finding):
    record_finding("whatever")
    assert {"jax", "hypothesis", "numpy"} & set(sys.modules) == set()
"""


def test_without_options_the_plugin_is_quiet(pytester):
    pytester.makepyfile(QUIET)
    others = ("xdist", "hypothesispytest", "jaxtyping")  # which import what they like
    result = pytester.runpytest_subprocess(*(f"-pno:{name}" for name in others))
    result.assert_outcomes(passed=1)
    assert "gradient" not in result.stdout.str()
    assert [path.name for path in pytester.path.iterdir() if path.suffix in (".jsonl", ".html")] == []


PROFILE = """
from hypothesis import given, settings, strategies as st

def test_the_profile():
    print({field: getattr(settings(), field) for field in %r})
    assert settings().max_examples == %d
"""


def test_a_profile_is_chosen_by_option_even_under_continuous_integration(pytester, monkeypatch):
    monkeypatch.setenv("CI", "true")  # where Hypothesis loads a profile of its own
    pytester.makepyfile(PROFILE % (list(PROFILES["thorough"]), EXAMPLES["thorough"]))
    result = pytester.runpytest_subprocess("--gradient-profile", "thorough", "-p", "no:xdist", "-s")
    result.assert_outcomes(passed=1)
    said = next(line for line in result.outlines if "max_examples" in line)
    for field in ("'derandomize': False", "'database': None", "'deadline': None", "'print_blob': True"):
        assert field in said


def test_every_field_of_every_profile_is_said():
    from hypothesis import settings

    for profile in PROFILES.values():
        assert {name for name in dir(settings()) if not name.startswith("_")} - set(profile) <= {
            "default",
            "get_current_profile_name",
            "get_profile",
            "load_profile",
            "register_profile",
            "show_changed",
        }
