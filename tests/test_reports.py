"""Records and pages: what is written is read back, damage is named, and every failure is on the page."""

import contextlib
import json
import math
import os

import pytest

from manual_backprop.reports.record import FORMAT, Record, Recorder, RecordError, key_of, load, write

HEADER = {
    "kind": "header",
    "format": FORMAT,
    "created": "2026-01-02T03:04:05+00:00",
    "versions": {"python": "3.13.1", "jax": "0.12.0"},
    "platform": "cpu",
    "seed": 17,
    "command": "manual-backprop run --seed 17",
}
END = {"kind": "end", "finished": True, "seconds": 1.5}


def finding(**changes):
    return {
        "kind": "finding",
        "family": "rule",
        "subject": "layer_norm",
        "check": "vjp",
        "leaf": "gamma",
        "dtype": "float32",
        "verdict": "right",
        "absolute": 1e-7,
        "relative": 6e-8,
        "ulps": 0.5,
        "ratio": 0.01,
        "mean_ratio": 0.005,
        "spread": 0.002,
        "points": 12,
    } | changes


def test_a_record_comes_back_as_it_went(tmp_path):
    lines = [
        HEADER,
        finding(ratio=math.inf, worst={"index": [1, 2], "got": -math.inf, "expected": 0.1}),
        finding(leaf="nan", subject="inf", message="-inf", relative=None),
        {"kind": "curve", "subject": "iris", "verdict": "right", "steps": [0, 1], "loss_by_hand": [1.0, math.inf]}
        | {"loss_autodiff": [1.0, 0.5]},
        {"kind": "lowering", "subject": "relu", "part": "forward", "platform": "tpu", "lowers": True, "message": None},
        {"kind": "coverage", "pairs_possible": 4, "pairs_seen": 3, "missing": [["relu", "nan"]]},
        {"kind": "benchmark", "subject": "relu", "seconds": math.inf, "verdict": "slow"},
        END,
    ]
    path = tmp_path / "run.jsonl"
    write(path, lines)
    assert load(path) == Record(lines[0], lines[1:3], [lines[3]], [lines[4]], lines[5], lines[7], [lines[6]])
    assert all("NaN" not in row and "Infinity" not in row for row in path.read_text().splitlines())


def test_nan_comes_back_as_nan(tmp_path):
    write(tmp_path / "run.jsonl", [HEADER, finding(ratio=math.nan)])
    assert math.isnan(load(tmp_path / "run.jsonl").findings[0]["ratio"])


def test_text_of_any_kind_survives(tmp_path):
    hostile = 'ȳ "quoted"\n\\ \u2028 \x00 \ud800 </script>'
    write(tmp_path / "run.jsonl", [HEADER, finding(message=hostile)])
    assert load(tmp_path / "run.jsonl").findings[0]["message"] == hostile


def test_array_scalars_are_plain_numbers(tmp_path):
    np = pytest.importorskip("numpy")
    worst = {"index": [np.int64(1)], "got": np.float32(0.5), "expected": np.float64("nan")}
    write(tmp_path / "run.jsonl", [HEADER, finding(ratio=np.float32(0.5), ulps=np.float64("inf"), worst=worst)])
    line = load(tmp_path / "run.jsonl").findings[0]
    assert (line["ratio"], line["ulps"], line["worst"]["index"]) == (0.5, math.inf, [1])


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_run_leaves_a_whole_record(tmp_path, error):
    path = tmp_path / "run.jsonl"

    def run():
        with Recorder(path, HEADER) as recorder:
            recorder.add(finding())
            raise error

    with pytest.raises(error):
        run()
    record = load(path)
    assert record.findings == [finding()]
    assert not record.finished
    assert os.listdir(tmp_path) == ["run.jsonl"]


def test_lines_are_on_the_disk_before_the_run_ends(tmp_path):
    with Recorder(tmp_path / "run.jsonl", HEADER) as recorder:
        recorder.add(finding())
        (partial,) = tmp_path.iterdir()
        assert load(partial).findings == [finding()]


def test_an_older_record_stands_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "run.jsonl"
    write(path, [HEADER, finding(subject="old"), END])
    with Recorder(path, HEADER) as recorder:
        recorder.add(finding(subject="new"))
        assert load(path).findings[0]["subject"] == "old"
        recorder.add(END)
    assert recorder.path == path
    assert load(path).findings[0]["subject"] == "new"
    assert load(path).finished
    assert os.listdir(tmp_path) == ["run.jsonl"]


@pytest.mark.parametrize("older", [[END], []], ids=["finished", "interrupted"])
def test_an_interrupted_record_takes_no_older_ones_place(tmp_path, older):
    path = tmp_path / "run.jsonl"
    assert write(path, [HEADER, finding(subject="old"), *older]) == path
    for name in ("run.interrupted.jsonl", "run.interrupted-2.jsonl"):
        recorder = Recorder(path, HEADER)
        with contextlib.suppress(KeyboardInterrupt), recorder:
            recorder.add(finding(subject=name))
            raise KeyboardInterrupt
        assert recorder.path == tmp_path / name
    assert write(path, [HEADER, {"kind": "end", "finished": False}]) == tmp_path / "run.interrupted-3.jsonl"
    assert load(path).findings[0]["subject"] == "old"
    assert load(tmp_path / "run.interrupted.jsonl").findings[0]["subject"] == "run.interrupted.jsonl"
    assert load(tmp_path / "run.interrupted-2.jsonl").findings[0]["subject"] == "run.interrupted-2.jsonl"
    assert len(os.listdir(tmp_path)) == 4


@pytest.fixture
def small_disk():
    """Files of at most four thousand bytes, while it is entered."""
    resource = pytest.importorskip("resource")

    @contextlib.contextmanager
    def small():
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return small


def test_a_disk_that_is_full_leaves_the_lines_that_were_written(tmp_path, small_disk):
    path = tmp_path / "run.jsonl"
    write(path, [HEADER, finding(subject="old"), END])
    recorder, added = Recorder(path, HEADER), []

    def run():
        with small_disk(), recorder:
            for i in range(1000):
                recorder.add(finding(subject=f"new {i}"))
                added.append(f"new {i}")

    with pytest.raises(
        RecordError, match=r"run.jsonl: [^\n]*; what was recorded so far is kept: make room and run again$"
    ):
        run()
    assert 5 < len(added) < 1000
    kept = load(recorder.path)
    assert [line["subject"] for line in kept.findings] == added
    assert not kept.finished
    assert load(path).findings[0]["subject"] == "old"
    assert sorted(os.listdir(tmp_path)) == ["run.interrupted.jsonl", "run.jsonl"]


def test_a_header_needs_no_format_nor_date(tmp_path):
    with Recorder(tmp_path / "run.jsonl", {"seed": 1}):
        pass
    header = load(tmp_path / "run.jsonl").header
    assert (header["format"], header["seed"]) == (FORMAT, 1)
    assert header["created"].startswith("20")


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ({"kind": "finding"}, "a finding without"),
        (finding(verdict="passed"), "'verdict' is 'passed', but one of right, wrong, raised, abstained was expected"),
        (finding(ratio="big"), "'ratio' is 'big', but a number of at least 0 or null was expected"),
        (finding(ratio=True), "'ratio' is True"),
        (finding(message=object()), "a record holds numbers, text, lists and objects"),
        (HEADER, "a second header"),
        ([], 'every line is an object with a "kind"'),
    ],
)
def test_a_line_that_readers_could_not_use_is_refused(tmp_path, line, complaint):
    with Recorder(tmp_path / "run.jsonl", HEADER) as recorder, pytest.raises(RecordError, match=complaint):
        recorder.add(line)
    assert load(tmp_path / "run.jsonl").findings == []


def test_nothing_follows_the_end(tmp_path):
    with Recorder(tmp_path / "run.jsonl", HEADER) as recorder:
        recorder.add(END)
        with pytest.raises(RecordError, match="has its end already"):
            recorder.add(finding())
    with pytest.raises(RecordError, match="is not open"):
        recorder.add(finding())


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(RecordError, match="is a folder"):
        write(tmp_path / "folder", [HEADER])
    with pytest.raises(RecordError, match=r"cannot write a record to .*No such file"):
        write(tmp_path / "missing" / "run.jsonl", [HEADER])
    with pytest.raises(RecordError, match="starts with its header"):
        write(tmp_path / "run.jsonl", [END])


WHOLE = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in (HEADER, finding(), END))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "is empty"),
        ("\n", "is empty"),
        ("hello\n", "line 1: not JSON"),
        ("[1]\n", r"line 1: \[1\] came, but every line is an object"),
        ("{}\n", "line 1: {} came, but every line is an object"),
        (json.dumps(END) + "\n", "line 1: .end. where the header belongs"),
        (WHOLE.replace('"format": 1', '"format": 99'), "line 1: format 99, but this version reads up to 1; install"),
        (WHOLE.replace('"format": 1', '"format": "one"'), "line 1: 'format' is 'one', but a whole number"),
        (
            WHOLE.replace('"ratio": 0.01', '"ratio": "much"'),
            "line 2: 'ratio' is 'much', but a number of at least 0 or null",
        ),
        (WHOLE.replace('"ratio": 0.01', '"ratio": NaN'), "line 2: not JSON"),
        (WHOLE.replace('"right"', '"passed"'), "line 2: 'verdict' is 'passed'"),
        (WHOLE.replace('"dtype"', '"type"'), "line 2: a finding without 'dtype'"),
        (WHOLE.replace("\n", "\n\n", 1), "line 2: not JSON"),
        (WHOLE + WHOLE, "line 4: a second header"),
        (WHOLE + json.dumps(finding()) + "\n", "line 4: a line after the end"),
        (WHOLE[:-20], "line 3: the line is cut off; delete it"),
        (WHOLE[: WHOLE.index("\n") - 3], "line 1: the line is cut off"),
    ],
)
def test_damage_is_named_with_its_line(tmp_path, text, complaint):
    path = tmp_path / "run.jsonl"
    path.write_text(text)
    with pytest.raises(RecordError, match=complaint) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


CURVE = {"kind": "curve", "subject": "iris", "verdict": "right", "steps": [0, 1], "loss_by_hand": [1.0, 0.5]}
CURVE |= {"loss_autodiff": [1.0, 0.5], "allowance_ulps": None, "accuracy_by_hand": 0.9}
COVERAGE = {"kind": "coverage", "pairs_possible": 4, "pairs_seen": 3, "missing": [["relu", "tanh"]]}
CLAIM = {"kind": "claim", "number": "A1", "title": "t", "verdict": "right", "deviations": [{"found": 1.0}]}
COST = {"kind": "association", "sweep": "width", "width": 3, "depth": 2, "forward": {"seconds": 1.0}, "reverse": {}}
LOWERING = {"kind": "lowering", "subject": "relu", "part": "forward", "platform": "tpu", "lowers": True}


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (finding(worst="far"), "'worst' is 'far', but an object or null was expected"),
        (finding(worst=[1]), r"'worst' is \[1\], but an object or null"),
        (finding(worst={"got": "much"}), "'worst.got' is 'much', but a number or null"),
        (finding(worst={"index": 3}), "'worst.index' is 3, but a list or null"),
        (finding(worst={"index": [0.5]}), "'worst.index.0' is 0.5, but a whole number"),
        (finding(points="many"), "'points' is 'many', but a whole number of at least 0 or null"),
        (finding(points=True), "'points' is True"),
        (finding(ulps=10**400), "'ulps' is 1000.*, but a number of at least 0 or null"),
        (finding(diagnosis=["no"]), r"'diagnosis' is \['no'\], but text or null"),
        (finding(leaf=None), "'leaf' is None, but text"),
        (HEADER | {"versions": ["jax"]}, r"'versions' is \['jax'\], but an object"),
        (HEADER | {"versions": {"jax": 1}}, "'versions.jax' is 1, but text or null"),
        (HEADER | {"precisions": "float32"}, "'precisions' is 'float32', but a list"),
        (HEADER | {"environment": "linux"}, "'environment' is 'linux', but an object"),
        (CURVE | {"steps": [0, 1, 2]}, "'loss_by_hand' has 2 numbers, but there are 3 steps"),
        (CURVE | {"steps": [0, "x"]}, "'steps.1' is 'x', but a whole number"),
        (CURVE | {"allowance_ulps": 3}, "'allowance_ulps' is 3, but a list or null"),
        (CURVE | {"accuracy_by_hand": "good"}, "'accuracy_by_hand' is 'good', but a number"),
        (COVERAGE | {"missing": "none"}, "'missing' is 'none', but a list"),
        (COVERAGE | {"missing": [["relu"]]}, r"'missing.0' is \['relu'\], but a list of 2 was expected"),
        (COVERAGE | {"missing": [["relu", 3]]}, "'missing.0.1' is 3, but text"),
        (COVERAGE | {"missing": ["re"]}, "'missing.0' is 're', but a list of 2"),
        (COVERAGE | {"architectures": "ten"}, "'architectures' is 'ten'"),
        (LOWERING | {"lowers": "yes"}, "'lowers' is 'yes', but true or false"),
        (LOWERING | {"message": 3}, "'message' is 3, but text or null"),
        (CLAIM | {"verdict": "proved"}, "'verdict' is 'proved', but one of right, wrong"),
        (CLAIM | {"checks": "all"}, "'checks' is 'all', but a whole number of at least 0 or null"),
        (CLAIM | {"deviations": [3]}, "'deviations.0' is 3, but an object"),
        (COST | {"width": 0}, "an association without 'width'"),
        (COST | {"forward": {"seconds": -1}}, "'forward.seconds' is -1, but a finite number of at least 0 or null"),
        (COST | {"reverse": 3}, "'reverse' is 3, but an object"),
        (
            COST | {"forward": {"seconds": "long"}},
            "'forward.seconds' is 'long', but a finite number of at least 0 or null",
        ),
        (END | {"finished": "yes"}, "'finished' is 'yes', but true or false"),
        (END | {"seconds": [1]}, r"'seconds' is \[1\], but a finite number of at least 0 or null"),
        (END | {"seconds": "nan"}, "'seconds' is nan, but a finite number"),
        (finding(ratio=-1.0), "'ratio' is -1.0, but a number of at least 0 or null"),
        (finding(points=-1), "'points' is -1, but a whole number of at least 0 or null"),
    ],
)
def test_a_field_that_is_not_as_declared_is_named_before_anything_is_made_of_it(tmp_path, line, complaint):
    path = tmp_path / "run.jsonl"
    lines = [line] if line["kind"] == "header" else [HEADER, finding(), line]
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))
    with pytest.raises(RecordError, match=f"line {len(lines)}: {complaint}"):
        load(path)
    if line["kind"] != "header":
        with Recorder(tmp_path / "new.jsonl", HEADER) as recorder, pytest.raises(RecordError, match=complaint):
            recorder.add(line)


def test_the_lines_of_the_table_are_right_without_their_fault(tmp_path):
    write(tmp_path / "run.jsonl", [HEADER, finding(), CURVE, COVERAGE, LOWERING, CLAIM, COST, END])
    assert load(tmp_path / "run.jsonl").finished


def test_json_that_is_too_deep_is_damage(tmp_path):
    (tmp_path / "run.jsonl").write_text(json.dumps(HEADER) + "\n" + "[" * 100000 + "\n")
    with pytest.raises(RecordError, match="line 2: not JSON"):
        load(tmp_path / "run.jsonl")


def test_what_is_no_record_at_all_is_named(tmp_path):
    (tmp_path / "run.jsonl").write_bytes(b"\x1f\x8b\x08\x00")
    with pytest.raises(RecordError, match="line 1: not JSON"):
        load(tmp_path / "run.jsonl")
    with pytest.raises(RecordError, match="cannot read the record"):
        load(tmp_path / "nothing.jsonl")


def test_a_cut_inside_a_letter_is_a_cut(tmp_path):
    content = WHOLE.replace("gamma", "γ").encode()
    (tmp_path / "run.jsonl").write_bytes(content[: content.index("γ".encode()) + 1])
    with pytest.raises(RecordError, match="line 2: the line is cut off"):
        load(tmp_path / "run.jsonl")


def test_a_missing_last_newline_is_no_damage(tmp_path):
    (tmp_path / "run.jsonl").write_text(WHOLE[:-1])
    assert load(tmp_path / "run.jsonl").finished


def test_a_key_is_the_same_in_every_run():
    assert key_of(finding(ratio=2.0)) == ("rule", "layer_norm", "vjp", "gamma", "float32")
