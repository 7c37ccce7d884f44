"""The command: what it says and how it exits, when all is right, when something is wrong, and when input is bad."""

import functools
import json
import os
import signal
import subprocess
import sys
import time

import faults
import pytest
from click.testing import CliRunner

from manual_backprop import sampling
from manual_backprop.command import check, experiments, spread
from manual_backprop.command import main as command
from manual_backprop.command import run as job
from manual_backprop.reports import record
from manual_backprop.rules import RULES


def invoke(*arguments):
    return CliRunner().invoke(command.main, list(map(str, arguments)))


def bad(result, *words):
    """One line on standard error that says all of this, and exit 2."""
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().split("\n")
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("Error: ")
    for word in words:
        assert word in lines[0]


@pytest.fixture
def few(monkeypatch):
    """A run of four rules and small networks, without training and without claims."""
    rules = {name: RULES[name] for name in ("relu", "dense", "embedding", "tanh")}
    monkeypatch.setattr(spread, "cores", lambda: 1)  # what is changed here, other processes would not see
    monkeypatch.setattr(job, "RULES", rules)
    monkeypatch.setattr(job, "EFFORT", {"odd": job.EFFORT["odd"]})
    monkeypatch.setattr(experiments, "EXPERIMENTS", ())
    monkeypatch.setattr(job, "architecture", functools.partial(sampling.architecture, depth=2))
    monkeypatch.setattr(job, "claims", lambda seed: iter(()))
    return rules


# --- check -----------------------------------------------------------------------------------------------------------


def test_a_right_rule_passes():
    result = invoke("check", "relu", "--dtype", "float32", "--values", "kinks", "--verbose")
    assert result.exit_code == 0, result.output
    assert "relu: x in float32 is right [vjp]" in result.output
    assert " 0 wrong, 0 raised" in result.output


def test_a_right_network_passes_at_an_input_of_choice():
    expression = "serial(dense(5), relu, residual(tanh))"
    result = invoke("check", "--expression", expression, "--input", "(2, 3)", "--values", "normal", "--seed", 4, "-v")
    assert result.exit_code == 0, result.output
    assert f"{expression}: params[0][0] in float32 is right" in result.output


def test_a_wrong_rule_fails_and_says_how_to_come_back(few, monkeypatch):
    monkeypatch.setitem(RULES, "relu", faults.faulty(RULES["relu"], faults.on_leaf(0, lambda bar: -bar)))
    result = invoke("check", "relu", "--dtype", "float64")
    assert result.exit_code == 1
    assert "relu: x in float64 is wrong [vjp]" in result.output
    assert "the sign is wrong everywhere" in result.output
    assert "at input=(3, 2) values=normal seed=0" in result.output


def test_ctrl_c_is_one_line(monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(check, "check", interrupt)
    result = invoke("check", "relu")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "interrupted\n")


BAD_CHECKS = [
    (["nosuch"], ["unknown rule 'nosuch'", "rules: identity"]),
    (["rellu"], ["did you mean relu"]),
    (["serial"], ["serial"]),
    (
        ["own.kernels.scale"],
        ["'own.kernels.scale' is no rule; a function is own.kernels:scale, with a colon before it"],
    ),
    ([], ["name rules, or functions as package.module:function, or give one --expression"]),
    (["relu", "--expression", "tanh"], ["name rules or functions, or give one --expression"]),
    (["relu", "--input", "(3,)"], ["--input belongs to an --expression"]),
    (["--expression", "serial(dense(5)"], ["is not an expression"]),
    (["--expression", "serial(dense(5), 3 + 4)"], ["is neither a rule nor a call of one"]),
    (["--expression", "relu(relu)"], ["'relu' at column 6"]),
    (["--expression", "__import__('os')"], ["unknown rule '__import__'"]),
    (["--expression", "dense"], ["dense needs the length o", "dense(3)"]),
    (["--expression", "dense(2.5)"], ["length o is 2.5"]),
    (["--expression", "relu(slope=1)"], ["relu has no slope"]),
    (["--expression", "split", "--input", "(3, 3)"], ["shape (3, 3) where (*batch, 2*d) was expected"]),
    (["--expression", "parallel(relu, tanh)", "--input", "(3, 3)"], ["reads 2 shapes"]),
    (["--expression", "serial(tanh, embedding(5, 4))"], ["embedding: indices is float, but integer was expected"]),
    (["--expression", "serial(scan(tanh), relu)"], ["scan needs a cell"]),
    (["--expression", "tanh", "--input", "(3, x)"], ["--input is '(3, x)'"]),
    (["--expression", "tanh", "--input", "(3, -1)"], ["--input is '(3, -1)'"]),
    (["--expression", "softmax", "--input", "(3, 0)"], ["softmax has no value where an array has no elements"]),
    (
        ["--expression", "dense(9999999)"],
        ["dense(9999999) computes 8", "at most 16777216 are checked", "choose smaller"],
    ),
    (["--expression", "dense(99999999999)"], ["length o is 99999999999; a whole number from 0 to 2³¹ − 1"]),
    (["--expression", "embedding(30000, 30000)"], ["computes 9", "choose smaller lengths"]),
    (["--expression", "repeat(tanh, 1000000000)"], ["computes 3e+09 numbers"]),
    (["--expression", "repeat(repeat(tanh, 9999), 9999)"], ["computes 3e+08 numbers"]),
    (["--expression", f"serial({'concatenate(relu, relu), ' * 40}logsumexp)"], ["computes 4e+13 numbers"]),
    (["--expression", "repeat(tanh, -1)"], ["repeat needs a whole number from 1 to 2³¹ − 1, not -1"]),
    (["--expression", "repeat(tanh)"], ["repeat takes (layer, times), but 1 came"]),
    (
        ["--expression", "repeat(tanh, 10**9)"],
        ["'10 ** 9' at column 14 is neither a rule nor a call of one, nor a number"],
    ),
    (["--expression", "serial(3)"], ["'serial(3)' at column 1: serial joins rules, but 3 came"]),
    (["--expression", "scan(5)"], ["scan joins rules, but 5 came"]),
    (["--expression", "tied()"], ["'tied()' at column 1: tied needs at least one layer"]),
    (["--expression", "residual(tanh, tanh)"], ["residual takes (layer), but 2 came"]),
    (["--expression", "dense([3])"], ["dense: the length o is [3]; a whole number"]),
    (["--expression", "dense(3, o=4)"], ["dense: the length o came twice"]),
    (["--expression", "dense(**{'o': 3})"], ["dense has no **; it has i, o"]),
    (["--expression", "layer_norm(eps=-1)"], ["layer_norm: eps is -1, but a finite number of at least 0 was expected"]),
    (["--expression", "layer_norm(eps=[1])"], ["layer_norm: eps is [1], a list"]),
    (["--expression", "dropout(rate=1)"], ["dropout: rate is 1, but a finite number of at least 0 and below 1"]),
    (["--expression", "gelu(approximate='x')"], ["gelu: approximate is 'x', but True or False was expected"]),
    (["--expression", " "], ["' ' is not an expression: invalid syntax"]),
    (["--expression", "tanh\0"], ["is not an expression"]),
    (["--expression", "residual(" * 500 + "tanh" + ")" * 500], ["residual(res...' is not an expression"]),
    (["relu", "--profile", "fast"], ["'fast' is not one of 'quick', 'default', 'thorough'; see main check --help"]),
    (["relu", "--nosuch"], ["No such option", "--nosuch"]),
    (["--expression", "tanh", "--platform", "tpu"], ["--platform tpu is not available; here there is cpu"]),
]


@pytest.mark.parametrize(("arguments", "words"), BAD_CHECKS, ids=lambda value: " ".join(value)[:80].replace("\0", "?"))
def test_bad_input_is_one_line(arguments, words):
    result = invoke("check", *arguments)
    bad(result, *words)
    assert "column None" not in result.stderr
    assert "column 0" not in result.stderr


def test_what_is_too_large_to_check_is_too_large_to_explain():
    bad(invoke("explain", "dense(9999999)"), "dense(9999999) computes", "choose smaller lengths")


def test_rules_are_listed():
    result = invoke("rules")
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.output.splitlines()] == list(RULES)


def test_the_package_is_the_command_too():
    ran = subprocess.run([sys.executable, "-m", "manual_backprop", "rules"], capture_output=True, text=True, check=True)
    assert ran.stdout == invoke("rules").stdout


# --- run -------------------------------------------------------------------------------------------------------------


def test_a_run_writes_the_record_and_the_page(few, tmp_path):
    result = invoke(
        "run", "--output", tmp_path / "new" / "folder", "--architectures", 2, "--dtype", "float32", "--quiet"
    )
    assert result.exit_code == 0, result.output
    path = tmp_path / "new" / "folder" / "record.jsonl"
    loaded = record.load(path)
    assert loaded.finished
    assert loaded.header["precisions"] == ["float32"]
    assert {f["subject"] for f in loaded.findings if f["family"] == "rule"} == set(few)
    assert len({f["subject"] for f in loaded.findings if f["family"] == "architecture"}) == 2
    assert {line["subject"] for line in loaded.lowerings} == set(few)
    assert loaded.coverage["architectures"] == 2
    assert "<html" in (path.parent / "index.html").read_text()
    assert "4 rules and 2 architectures" in result.output

    assert invoke("compare", path, path).exit_code == 0
    page = tmp_path / "again.html"
    assert invoke("render", path, "--output", page).exit_code == 0
    assert page.read_text() == (path.parent / "index.html").read_text()


def test_a_run_without_architectures(few, tmp_path):
    result = invoke("run", "--output", tmp_path, "--architectures", 0, "--dtype", "float64", "--quiet")
    assert result.exit_code == 0, result.output
    assert record.load(tmp_path / "record.jsonl").finished


def test_the_same_seed_finds_the_same(few, tmp_path):
    for name in ("one", "other"):
        invoke("run", "--output", tmp_path / name, "--architectures", 1, "--seed", 5, "--dtype", "float32", "--quiet")
    one, other = (record.load(tmp_path / name / "record.jsonl") for name in ("one", "other"))
    assert one.findings == other.findings


def test_a_rule_that_raises_is_a_finding_and_the_run_goes_on(few, tmp_path):
    few["relu"] = faults.faulty(RULES["relu"], faults.raising)
    few["tanh"] = faults.faulty(RULES["tanh"], faults.on_leaf(0, faults.times(1.001)))
    result = invoke("run", "--output", tmp_path, "--architectures", 0, "--dtype", "float32", "--quiet")
    assert result.exit_code == 1
    loaded = record.load(tmp_path / "record.jsonl")
    assert loaded.finished
    verdicts = {f["subject"]: f["verdict"] for f in loaded.findings if f["check"] == "vjp"}
    assert verdicts == {"relu": "raised", "dense": "right", "embedding": "right", "tanh": "wrong"}
    (raised,) = {f["message"] for f in loaded.findings if f["verdict"] == "raised"}
    assert raised == "ZeroDivisionError: planted"
    assert "wrong: tanh x float32" in result.output
    assert "manual-backprop check --expression tanh" in result.output


def test_an_interruption_leaves_a_record_and_a_page(few, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    few["embedding"] = faults.faulty(RULES["embedding"], interrupt)
    result = invoke("run", "--output", tmp_path, "--architectures", 2, "--dtype", "float32", "--quiet")
    assert result.exit_code == 130
    loaded = record.load(tmp_path / "record.jsonl")
    assert not loaded.finished
    assert {f["subject"] for f in loaded.findings} == {"relu", "dense"}
    assert "<html" in (tmp_path / "index.html").read_text()
    assert "interrupted: " in result.output


def test_an_interrupted_rerun_keeps_the_older_record_and_page(few, tmp_path, monkeypatch):
    arguments = ["run", "--output", tmp_path, "--architectures", 0, "--dtype", "float32", "--quiet"]
    assert invoke(*arguments).exit_code == 0
    older = {path.name: path.read_text() for path in tmp_path.iterdir()}

    def interrupt(*_):
        raise KeyboardInterrupt

    few["dense"] = faults.faulty(RULES["dense"], interrupt)
    result = invoke(*arguments)
    assert result.exit_code == 130
    assert {name: (tmp_path / name).read_text() for name in older} == older
    assert "record.interrupted.jsonl" in result.output
    loaded = record.load(tmp_path / "record.interrupted.jsonl")
    assert {f["subject"] for f in loaded.findings} == {"relu"}
    assert "<html" in (tmp_path / "record.interrupted.html").read_text()


def test_ctrl_c_leaves_a_record_and_a_page(tmp_path):
    # A process that was started in the background ignores the signal; at a terminal it does not.
    start = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    start += "from manual_backprop.command.main import main; main()"
    arguments = ["run", "--output", str(tmp_path), "--quiet", "--dtype", "float32"]
    child = subprocess.Popen([sys.executable, "-c", start, *arguments], start_new_session=True)

    def begun():
        return any(p.stat().st_size > 2000 for p in tmp_path.iterdir())

    deadline = time.monotonic() + 60
    while not begun() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(child.pid, signal.SIGINT)
    assert child.wait(timeout=60) == 130
    loaded = record.load(tmp_path / "record.jsonl")
    assert not loaded.finished
    assert loaded.findings
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index.html", "record.jsonl"]


def test_a_place_that_cannot_be_written_is_refused_before_anything_runs(tmp_path):
    (tmp_path / "file").write_text("mine")
    bad(invoke("run", "--output", tmp_path / "file" / "below"), "--output", "choose another folder")
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / "record.jsonl").mkdir()
    bad(invoke("run", "--output", tmp_path), "is a folder")
    bad(invoke("run", "--output", ""), "--output is ''; name a folder")


def test_an_unavailable_platform_overwrites_nothing(tmp_path):
    (tmp_path / "record.jsonl").write_text("an older record")
    bad(invoke("run", "--output", tmp_path, "--platform", "gpu"), "--platform gpu is not available")
    assert (tmp_path / "record.jsonl").read_text() == "an older record"


# --- compare and render ----------------------------------------------------------------------------------------------


def lines(*verdicts):
    finding = {"kind": "finding", "family": "rule", "check": "vjp", "leaf": "x", "dtype": "float32", "points": 7}
    numbers = dict.fromkeys(("absolute", "relative", "ulps", "ratio", "mean_ratio", "spread"), 0.0)
    rest = dict.fromkeys(("diagnosis", "message", "example", "reproduction", "worst")) | {"abstained": 0}
    header = {"kind": "header", "versions": {}, "platform": "cpu", "device": "cpu", "command": "none", "seed": 0}
    yield header | {"environment": {}, "architectures": 0, "precisions": ["float32"]}
    for i, verdict in enumerate(verdicts):
        yield finding | numbers | rest | {"subject": f"rule {i}", "verdict": verdict}
    yield {"kind": "end", "finished": True}


def test_a_worse_record_fails_the_comparison(tmp_path):
    record.write(tmp_path / "before", lines("right", "right"))
    record.write(tmp_path / "after", lines("right", "wrong"))
    result = invoke("compare", tmp_path / "before", tmp_path / "after", "--page", tmp_path / "changes.html")
    assert result.exit_code == 1
    assert "rule 1" in result.output
    assert "1 changes, 1 of them for the worse" in result.output
    assert "rule 1" in (tmp_path / "changes.html").read_text()
    assert invoke("compare", tmp_path / "after", tmp_path / "before").exit_code == 0


def test_a_damaged_record_is_named_with_its_line(tmp_path):
    good, damaged = tmp_path / "good.jsonl", tmp_path / "damaged.jsonl"
    record.write(good, lines("right"))
    damaged.write_text(good.read_text().replace('"ratio"', '"rat', 1))
    for arguments in (["compare", good, damaged], ["compare", damaged, good], ["render", damaged]):
        bad(
            invoke(*arguments, *(["--output", tmp_path / "page"] if arguments[0] == "render" else [])),
            "damaged",
            "line 2",
        )
    bad(invoke("compare", good, tmp_path / "missing"), "missing")
    assert not (tmp_path / "page").exists()


def test_a_page_that_cannot_be_written_is_one_line(tmp_path):
    record.write(tmp_path / "good", lines("right"))
    bad(invoke("render", tmp_path / "good", "--output", tmp_path / "good" / "page.html"), "page")


def test_a_record_is_json_line_by_line(tmp_path):
    record.write(tmp_path / "good", lines("right"))
    kinds = [json.loads(line)["kind"] for line in (tmp_path / "good").read_text().splitlines()]
    assert kinds == ["header", "finding", "end"]


def test_processes_decide_nothing():
    """One process or two: the same findings of the same networks."""
    found = {}
    for processes in (1, 2):
        plan = job.Plan(seed=3, architectures=4, dtypes=("float32",), processes=processes)
        lines = [line for step in job._architectures(plan) for line in step.lines if line["kind"] == "finding"]
        found[processes] = [(line["subject"], line["check"], line["leaf"], line["verdict"]) for line in lines]
    assert found[1]
    assert found[1] == found[2]
