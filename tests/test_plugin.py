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

def test_nothing_is_imported(record_finding, check_gradient):
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


def test_a_profile_needs_no_hypothesis(pytester):
    pytester.makeconftest("import sys; sys.modules['hypothesis'] = None")
    pytester.makepyfile("def test_it(request): assert request.config.getoption('--gradient-profile') == 'quick'")
    result = pytester.runpytest_subprocess("--gradient-profile", "quick", "-p", "no:hypothesispytest", "-p", "no:xdist")
    result.assert_outcomes(passed=1)


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


# --- check_gradient --------------------------------------------------------------------------------------------------

CHECKED = """
import jax, jax.numpy as jnp, numpy as np, pytest

def double(x):
    return 2 * x * jnp.log(x)

right, wrong = jax.custom_vjp(double), jax.custom_vjp(double)
right.defvjp(lambda x: (double(x), x), lambda x, y_bar: (2 * y_bar * (jnp.log(x) + 1),))
wrong.defvjp(lambda x: (double(x), x), lambda x, y_bar: (y_bar * (jnp.log(x) + 1),))
x = np.float32([0.5, 2.0, 3.0])

@pytest.mark.gradient(checks=["truth", "structure"], profile="quick")
class TestMarked:
    def test_right(self, check_gradient):
        assert check_gradient(right, x, name="right").ok

    def test_wrong(self, check_gradient):
        check_gradient(wrong, x, name="wrong")

    @pytest.mark.gradient(checks="structure")
    def test_the_closest_marker(self, check_gradient):
        assert {f.check for f in check_gradient(wrong, x).findings} == {"structure"}

    @pytest.mark.gradient(checks="structure")
    def test_the_call(self, check_gradient):
        assert {f.check for f in check_gradient(right, x, checks=["truth"]).findings} == {"truth"}

    def test_outside(self, check_gradient):
        with pytest.raises(pytest.fail.Exception, match="nothing could be judged"):
            check_gradient(right, -x, name="outside")
"""


@pytest.mark.parametrize("processes", [["-p", "no:xdist"], ["-n", "2"]], ids=["one process", "two workers"])
def test_a_wrong_derivative_fails_with_its_diagnosis(pytester, processes):
    pytester.makepyfile(CHECKED)
    result = pytester.runpytest_subprocess("--strict-markers", "-Werror", "--gradient-report", "out", *processes)
    result.assert_outcomes(passed=4, failed=1)
    lines = result.outlines
    start = next(i for i, line in enumerate(lines) if "TestMarked.test_wrong ___" in line)
    told = lines[start + 1 : next(i for i, line in enumerate(lines) if line.startswith("gradient report:"))]
    told = [line for line in told if not line.startswith("[gw")]  # where xdist says who ran it
    assert told[0] == "wrong: the derivative is WRONG"
    told = told[told.index("x in float32 is wrong [truth]") - 1 :]
    assert told[2].startswith("  off by a factor of ")
    told = told[: told.index("reproduce:")]
    assert not any(word in line for line in told for word in ("Traceback", "Error", "def ", "test_a_wrong"))

    loaded = record.load(pytester.path / "out" / "record.jsonl")
    assert {line["family"] for line in loaded.findings} == {"target"}
    assert all("::test_" in finding["subject"] for finding in loaded.findings)  # functions of one name are several
    verdicts = {(f["subject"].split(": ")[-1], f["check"], f["dtype"]): f["verdict"] for f in loaded.findings}
    for dtype in ("float32", "float64"):
        assert verdicts["right", "truth", dtype] == "right"
        assert verdicts["wrong", "truth", dtype] == "wrong"
    assert verdicts["outside", "domain", "float32"] == "abstained"
    shown = [f["reproduction"] for f in loaded.findings if f["verdict"] == "wrong"]
    assert any("jax.vjp(wrong, x)" in lines and lines.startswith("# pytest ") for lines in shown)
    assert any(line.startswith("pytest ") and line.endswith("::TestMarked::test_wrong") for line in shown)
    assert '<table class="targets">' in (pytester.path / "out" / "index.html").read_text()


PROFILES_OF = """
import jax.numpy as jnp, numpy as np, pytest
from manual_backprop.reference import checker

tried = []
PROFILES = checker.PROFILES

class Seen(dict):
    def __getitem__(self, name):
        tried.append(name)
        return PROFILES[name]

@pytest.fixture(autouse=True)
def seen(monkeypatch):
    monkeypatch.setattr(checker, "PROFILES", Seen(PROFILES))
    tried.clear()

def go(check_gradient, **options):
    check_gradient(jnp.sin, np.float32([1.0]), checks="structure", **options)
    return tried[0]

def test_by_option(check_gradient):
    assert go(check_gradient) == "{option}"

@pytest.mark.gradient(profile="thorough")
def test_by_marker(check_gradient):
    assert go(check_gradient) == "thorough"

@pytest.mark.gradient(profile="thorough")
def test_by_the_call(check_gradient):
    assert go(check_gradient, profile="quick") == "quick"
"""


@pytest.mark.parametrize(("said", "option"), [((), "default"), (("--gradient-profile", "quick"), "quick")])
def test_the_profile_is_said_by_the_call_or_the_marker_or_the_option(pytester, said, option):
    pytester.makepyfile(PROFILES_OF.replace("{option}", option))
    pytester.runpytest_subprocess("-p", "no:xdist", *said).assert_outcomes(passed=3)


MISUSED = """
import numpy as np, pytest

@pytest.mark.gradient(nums=0)
def test_a_marker(check_gradient): pass

@pytest.mark.gradient("quick")
def test_a_position(check_gradient): pass

def test_no_function(check_gradient):
    check_gradient(3, np.ones(3))

def test_no_check(check_gradient):
    check_gradient(abs, np.ones(3), checks=["nosuch"])
"""


def test_what_cannot_be_checked_is_said_in_one_line(pytester):
    pytester.makepyfile(MISUSED)
    result = pytester.runpytest_subprocess("-p", "no:xdist")
    result.assert_outcomes(failed=2, errors=2)
    result.stdout.fnmatch_lines(
        [
            "___*test_a_marker*",
            "@pytest.mark.gradient has nums; it may say profile, checks, seed, argnums, seconds",
            "___*test_a_position*",
            "@pytest.mark.gradient has 'quick'; it may say *",
            "*= FAILURES =*",
            "___*test_no_function*",
            "3 is not callable; give a function of JAX arrays, then example arguments",
            "___*test_no_check*",
            "checks names 'nosuch'; there are *",
        ],
        consecutive=True,
    )
