"""Functions of a project of one's own, checked by the command: by name, by annotation, by a table in pyproject.toml."""

import html
import re
import shlex
import sys

import pytest
from click.testing import CliRunner

from manual_backprop.command.main import main
from manual_backprop.reference.checks import CHECKS
from manual_backprop.reference.finding import Finding
from manual_backprop.reports import record

KERNELS = '''
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float16, Int
from manual_backprop.signature import Lt

number = 3


def by_hand(bwd):
    def decorate(f):
        kernel = jax.custom_vjp(f)
        kernel.defvjp(lambda *args: (f(*args), args), bwd)
        return kernel
    return decorate


@by_hand(lambda kept, y_bar: (y_bar * kept[1], jnp.sum(y_bar * kept[0], 0)))
def scale(x: Float[Array, "n d"], w: Float[Array, "d"]):
    return x * w


@by_hand(lambda kept, y_bar: (y_bar * kept[1], jnp.mean(y_bar * kept[0], 0)))
def unsummed(x, w):
    return x * w


@by_hand(lambda kept, y_bar: (y_bar / kept[0],))
def log(x: Float[Array, "n"]):
    return jnp.log(x)


def root(x):
    return x * x * 0.5


def loud(x: Float[Array, "n"]):
    print("traced")
    return x * x


def pick(x: Float16[Array, "n c"], labels: Annotated[Int[Array, "n"], Lt("c")], power=2):
    """Nothing by hand: what it gets is what the test asks about."""
    assert (x.shape, labels.shape, labels.dtype) == ((5, 4), (5,), "int32")
    return x[jnp.arange(5), labels] ** power


def named(x: Float[Array, "n"], *, by): ...
def counted(labels: Int[Array, "n"]): ...
def unsaid(x): ...
def odd(x: Float[Array, "n"], axis: int): ...
def refusing(x): raise ValueError("never\\nmine")
'''
QUICK = ("--profile", "quick", "--checks", "structure,truth")
ARGS = ("--args", "f32[4,3] f32[3]")


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A folder with a package, which is the current one."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "__init__.py").touch()
    (tmp_path / "own" / "kernels.py").write_text(KERNELS)
    (tmp_path / "own" / "broken.py").write_text("import nosuch\n")
    (tmp_path / "own" / "leaving.py").write_text("raise SystemExit(3)\n")
    (tmp_path / "own" / "stopped.py").write_text("raise KeyboardInterrupt\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "own"]:
        del sys.modules[name]


def check(*arguments):
    result = CliRunner().invoke(main, ["check", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    return result


def listing(folder, text):
    (folder / "pyproject.toml").write_text(f"[tool.manual-backprop]\n{text}\n")


# --- by name ---------------------------------------------------------------------------------------------------------


def test_a_right_function_is_one_line():
    result = check("own.kernels:scale", *ARGS, *QUICK)
    assert result.exit_code == 0, result.output
    assert re.fullmatch(r"own\.kernels:scale: the derivative is right \(\d+ right, 0 wrong, .*\)\n", result.output)


def test_a_wrong_function_is_told_with_a_command_that_shows_it_again():
    result = check("own.kernels:scale", "own.kernels:unsummed", *ARGS, *QUICK, "--seed", 2)
    assert result.exit_code == 1
    assert "own.kernels:unsummed: the derivative is WRONG" in result.output
    assert "\nw in float32 is wrong [truth]\n" in result.output
    assert "off by a factor of 0.25 everywhere" in result.output
    assert result.output.splitlines()[-1] == "2 targets: 1 right, 1 wrong, 0 unusable"
    (again,) = re.findall(r"reproduce:\n\n# manual-backprop check (.*)", result.output)
    worst = re.findall("worst at .*", result.output)
    result = check(*shlex.split(again))
    assert result.exit_code == 1
    assert re.findall("worst at .*", result.output) == worst


def test_only_the_arguments_asked_for_are_differentiated():
    assert check("own.kernels:unsummed", *ARGS, *QUICK, "--argnums", "0").exit_code == 0
    assert check("own.kernels:unsummed", *ARGS, *QUICK, "--argnums", "0,1").exit_code == 1


def test_a_plain_implementation_is_the_truth():
    arguments = "own.kernels:log", "--args", "f32[3]>0", *QUICK
    assert check(*arguments).exit_code == 0
    assert check(*arguments, "--truth", "own.kernels:root").exit_code == 1


def test_arguments_come_from_annotations():
    assert check("own.kernels:scale", *QUICK).exit_code == 0
    result = check("own.kernels:pick", *QUICK, "--verbose")
    assert result.exit_code == 0, result.output
    assert "own.kernels:pick: x in float16 is right [truth]" in result.output
    assert "labels" not in result.output


def test_where_the_definition_is_not_finite_is_recorded(project):
    result = check("own.kernels:log", "--args", "f32[5]<-1", *QUICK, "--verbose", "--output", "out")
    assert result.exit_code == 2, result.output  # that the form is right is no derivative
    assert "nothing could be judged" in result.output
    (domain,) = [f for f in record.load("out/record.jsonl").findings if f["check"] == "domain"]
    assert domain["verdict"] == "abstained"
    assert "as given" in domain["message"]
    assert domain["message"] in result.output


# --- by a table ------------------------------------------------------------------------------------------------------

LISTED = """
profile = "quick"
checks = ["truth", "structure"]
targets = [
    "own.kernels:scale",
    {function = "own.kernels:unsummed", args = "f32[4,3] f32[3]", checks = ["truth"], seed = 1},
    {function = "own.kernels:unsummed", args = "f32[4,3] f32[3]", argnums = [0]},
    {function = "own.kernels:gone"},
]
"""


def test_one_bare_command_checks_what_is_listed(project):
    listing(project, LISTED)
    result = check("--output", "out")
    assert result.exit_code == 1
    assert result.stdout.count("the derivative is right") == 2
    assert "4 targets: 2 right, 1 wrong, 1 unusable" in result.stdout
    assert result.stderr == (
        "Error: own.kernels:gone: module 'own.kernels' has no attribute 'gone'; "
        "there are by_hand, scale, unsummed, log, root, loud, pick, named, counted, unsaid, odd, refusing\n"
    )
    loaded = record.load(project / "out" / "record.jsonl")
    assert loaded.finished
    assert {f["family"] for f in loaded.findings} == {"target"}
    found = {(f["subject"].split(":")[1], f["check"], f["verdict"]) for f in loaded.findings if f["leaf"] != "x"}
    assert found == {
        ("scale", "truth", "right"),
        ("scale", "structure", "right"),
        ("unsummed", "truth", "wrong"),
        ("gone", "usable", "raised"),
    }
    out = str(project / "out" / "record.jsonl")
    assert CliRunner().invoke(main, ["compare", out, out]).exit_code == 1


def test_the_command_line_comes_before_the_table(project):
    listing(project, LISTED)
    result = check("--checks", "structure", "--seed", 7, "--output", "out")
    assert result.exit_code == 2  # nothing is wrong with the structure, and one target is not there
    loaded = record.load(project / "out" / "record.jsonl")
    assert {f["check"] for f in loaded.findings} == {"structure", "usable"}
    assert loaded.header["seed"] == 7


def test_a_record_of_right_functions_compares_with_itself(project):
    listing(project, 'targets = ["own.kernels:scale"]')
    assert check(*QUICK, "--output", "out").exit_code == 0
    result = CliRunner().invoke(main, ["compare", "out/record.jsonl", "out/record.jsonl"])
    assert result.exit_code == 0, result.output


def test_an_interruption_leaves_what_was_judged(project):
    result = check("own.kernels:scale", "own.stopped:f", *ARGS, *QUICK, "--output", "out")
    assert result.exit_code == 130
    loaded = record.load(project / "out" / "record.jsonl")
    assert not loaded.finished
    assert {f["subject"] for f in loaded.findings} == {"own.kernels:scale"}


def test_ctrl_c_keeps_what_was_found_of_the_target_that_ran(project, monkeypatch):
    def stopped(session):
        yield Finding(str(session.subject), "eager", "x", "float32", "right")
        raise KeyboardInterrupt

    monkeypatch.setitem(CHECKS, "eager", stopped)
    arguments = "own.kernels:unsummed", "own.kernels:scale", *ARGS, "--checks", "truth,eager", "--output", "out"
    result = check(*arguments)
    assert result.exit_code == 130
    assert "own.kernels:unsummed: the derivative is WRONG" in result.stdout
    assert "interrupted before eager" in result.stdout
    assert "interrupted: 2 targets: 0 right, 1 wrong, 0 unusable, 1 not checked" in result.stdout
    loaded = record.load(project / "out" / "record.jsonl")
    assert not loaded.finished
    assert {(f["check"], f["leaf"], f["verdict"]) for f in loaded.findings if f["dtype"] == "float32"} == {
        ("truth", "x", "right"),
        ("truth", "w", "wrong"),
        ("eager", "x", "right"),
        ("eager", "", "abstained"),
    }


def test_what_a_function_prints_is_no_part_of_the_report():
    result = check("own.kernels:loud", *QUICK)
    assert result.exit_code == 0
    assert result.stdout.count("\n") == 1
    assert "traced" in result.stderr


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_page_is_about_targets_alone(project):
    check("own.kernels:scale", "own.kernels:unsummed", *ARGS, *QUICK, "--output", "out")
    page = (project / "out" / "index.html").read_text()
    table = page[page.index('<table class="targets">') : page.index('<section id="findings">')]
    cells = [re.sub("<[^>]*>", " ", row).split() for row in re.findall("<tr>.*", table)]
    assert cells[0] == ["target", "structure", "truth"]
    assert cells[1] == ["own.kernels:unsummed", "✓", "right", "✗", "wrong"]  # what fails comes first
    assert cells[2] == ["own.kernels:scale", "✓", "right", "✓", "right"]
    text = html.unescape(re.sub("<[^>]*>", " ", page))
    assert "1 target is wrong." in text
    assert "off by a factor of 0.25 everywhere" in text
    assert "manual-backprop check own.kernels:unsummed --args 'f32[4,3] f32[3]'" in text
    assert "No rule was checked" not in text


# --- bad input -------------------------------------------------------------------------------------------------------

F = "own.kernels:scale"
BAD = [
    (["own.kernels:scal"], ["own.kernels:scal: module 'own.kernels' has no attribute 'scal'; did you mean scale?"]),
    (["nosuch.kernels:f"], ["nosuch.kernels cannot be imported: ModuleNotFoundError: No module named 'nosuch'"]),
    (["own.broken:f"], ["own.broken cannot be imported: ModuleNotFoundError: No module named 'nosuch'"]),
    (["own.leaving:f"], ["own.leaving cannot be imported: SystemExit: 3"]),
    (["own.kernels:number"], ["own.kernels:number is 3, which is not callable"]),
    (["own.kernels:"], ["'own.kernels:' is no name of a function; package.module:function was expected"]),
    ([":f"], ["':f' is no name of a function"]),
    ([F, "--truth", "own.kernels:number"], ["own.kernels:number is 3, which is not callable"]),
    ([F, "--args", "f32[4,3] f32[2]"], ["own.kernels:scale: the function rejects its example arguments"]),
    (["own.kernels:refusing", "--args", "f32[2]"], ["rejects its example arguments: ValueError: never mine"]),
    ([F, "--args", "i32[4,3] i32[3]"], ["nothing differentiable among the arguments (int32[4, 3], int32[3])"]),
    ([F, "--args", "q32[3]"], ["arguments 'q32[3]', at character 1"]),
    ([F, "--checks", "truth,xyz"], ["--checks names 'xyz'; there are value, structure"]),
    ([F, "--checks", "turth"], ["--checks names 'turth'; did you mean truth?"]),
    ([F, "--argnums", "x"], ["--argnums is 'x'; whole numbers were expected, such as 0,1"]),
    ([F, "--argnums", "-1"], ["--argnums is (-1,); a list of whole numbers"]),
    ([F, "--argnums", "2", *ARGS], ["argnums is (2,), but there are 2 arguments"]),
    ([F, "--output", ""], ["--output is ''; name a folder"]),
    ([F, "relu"], ["functions are checked by themselves: without rules"]),
    ([F, "--values", "tied"], ["functions are checked by themselves"]),
    (["relu", "--args", "f32[3]"], ["--args belongs to functions, named as package.module:function"]),
    (["relu", "--output", "out"], ["--output belongs to functions"]),
    (["own.kernels:unsaid"], ["own.kernels:unsaid: x has no annotation; give --args, e.g. --args 'f32[4,8]"]),
    (["own.kernels:odd"], ["axis: cannot read the annotation <class 'int'>", "or give --args"]),
    (["own.kernels:named"], ["by has to be given by its name"]),
    (["own.kernels:counted"], ["no parameter is annotated as an array of floats; give --args"]),
]


def one_line(result, words):
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().split("\n")
    assert line.startswith("Error: ")
    for word in words:
        assert word in line


@pytest.mark.parametrize(("arguments", "words"), BAD, ids=lambda value: " ".join(value)[:60])
def test_bad_input_is_one_line(arguments, words, project):
    one_line(check(*arguments), words)
    assert not (project / "out").exists()


BAD_TABLES = [
    ("", 'needs targets = ["package.module:function", …]'),
    ("targets = []", "needs targets"),
    ("target = ['own.kernels:scale']", "it has target"),
    ("targets = 'own.kernels:scale'", "needs targets"),
    ("targets = [3]", 'target 1 of [tool.manual-backprop] is 3; "package.module:function" or {function = …}'),
    ("targets = [{args = 'f32[3]'}]", "target 1 of [tool.manual-backprop] is {'args': 'f32[3]'}"),
    ("targets = ['a:b', {function = 'a:b', arg = 'f32[3]'}]", "target 2 of [tool.manual-backprop] has 'arg'"),
    ("targets = ['a:b']\nprofil = 'quick'", "has 'profil'; it may have targets, profile, checks, seed, seconds"),
    ("targets = ['a:b']\nprofile = 'fast'", "profile is 'fast'; one of quick, default, thorough was expected"),
    ("targets = ['a:b']\nseed = -1", "seed is -1; a whole number of at least 0 was expected"),
    ("targets = ['a:b']\nseconds = 0", "seconds is 0; a number above 0 was expected"),
    ("targets = ['a:b']\nchecks = 'truth'", "checks is 'truth'; a list of names among value"),
    ("targets = ['a:b']\nchecks = ['turth']", "checks names 'turth'; did you mean truth?"),
    ("targets = [{function = 'a:b', argnums = ['x']}]", "argnums is ['x']; a list of whole numbers"),
    ("targets = [", "pyproject.toml: "),
]


@pytest.mark.parametrize(("text", "words"), BAD_TABLES, ids=lambda text: text[:60])
def test_a_bad_table_is_one_line(text, words, project):
    listing(project, text)
    one_line(check(), [words, "pyproject.toml"])


def test_without_a_table_there_is_nothing_to_check(project):
    (project / "pyproject.toml").write_text("[project]\nname = 'own'\n")
    one_line(check(), ["or list functions in [tool.manual-backprop] of pyproject.toml"])
    listing(project, 'targets = ["own.kernels:scale"]')
    one_line(check("--args", "f32[3]"), ["--args belongs to a target: name one"])


# --- explained -------------------------------------------------------------------------------------------------------


def test_checks_are_listed_and_explained():
    explain = lambda *names: CliRunner().invoke(main, ["explain", *names], env={"COLUMNS": "200"})  # noqa: E731
    listed = explain("checks")
    assert listed.exit_code == 0
    assert [line.split()[0] for line in listed.output.splitlines()] == list(CHECKS)
    assert CHECKS["zero"].__doc__ in listed.output
    assert CHECKS["zero"].__doc__ in explain("check:zero").output
    assert explain("zero").output == explain("check:zero").output
    one_line(explain("check:zer"), ["no check is called 'zer'; did you mean zero"])
