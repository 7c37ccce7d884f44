"""Comparing two records: every kind of change is found, and a harmless rerun is not one."""

import random
import statistics

import pytest

from manual_backprop.reports.compare import compare, failures
from manual_backprop.reports.record import Record

EPS = 2.0**-23
UNITS = 64  # of eps that the allowance of these records is worth


def finding(subject="tanh", verdict="right", *, draws=(0.02, 0.03, 0.04), **changes):
    worst = max(draws)
    return {
        "kind": "finding",
        "family": "rule",
        "subject": subject,
        "check": "vjp",
        "leaf": "x",
        "dtype": "float32",
        "verdict": verdict,
        "ratio": worst,
        "relative": worst * UNITS * EPS,
        "mean_ratio": statistics.fmean(draws),
        "spread": statistics.pstdev(draws),
        "points": len(draws),
    } | changes


def record(*findings, seed=17, curves=(), lowerings=(), **header):
    end = {"kind": "end", "finished": True}
    return Record({"seed": seed, "platform": "cpu"} | header, list(findings), list(curves), list(lowerings), end=end)


def kinds(changes):
    return [change.kind for change in changes]


@pytest.mark.parametrize("before", ["right", "abstained", "wrong", "raised", None])
@pytest.mark.parametrize("now", ["wrong", "raised"])
def test_wrong_or_raised_fails_whatever_the_baseline_says(before, now):
    baseline = record(finding(verdict=before)) if before else record()
    (change,) = failures(compare(baseline, record(finding(verdict=now, diagnosis="off by a factor of 2"))))
    assert (change.kind, change.key) == (now, ("rule", "tanh", "vjp", "x", "float32"))
    assert "tanh x (vjp, float32)" in change.sentence
    assert "off by a factor of 2" in change.sentence


def test_equal_records_differ_in_nothing():
    same = record(finding(), finding("relu"), finding(dtype="bfloat16", verdict="abstained"))
    assert compare(same, same) == []


@pytest.mark.parametrize("before", ["wrong", "raised"])
def test_what_was_wrong_and_is_right_is_fixed(before):
    changes = compare(record(finding(verdict=before)), record(finding()))
    assert kinds(changes) == ["fixed"]
    assert failures(changes) == []
    assert changes[0].sentence == f"tanh x (vjp, float32) is right, {before} in the baseline"


def test_an_abstention_where_there_was_a_verdict_is_lost_coverage():
    (change,) = failures(compare(record(finding()), record(finding(verdict="abstained", message="not analytic"))))
    assert change.kind == "uncovered"
    assert change.sentence.endswith("no longer judged (abstained), right in the baseline: not analytic")


@pytest.mark.parametrize(
    ("lost", "sentence"),
    [
        (lambda line: line["leaf"] == "gamma" and line["check"] == "vjp" and line["subject"] == "layer_norm"
         and line["dtype"] == "float32", "layer_norm gamma (vjp, float32) is no longer covered"),
        (lambda line: line["leaf"] == "gamma" and line["check"] == "vjp" and line["subject"] == "layer_norm",
         "layer_norm gamma (vjp) is no longer covered"),
        (lambda line: line["subject"] == "layer_norm" and line["check"] == "vjp",
         "layer_norm (vjp) is no longer covered"),
        (lambda line: line["subject"] == "layer_norm" and line["leaf"] == "gamma",
         "layer_norm gamma is no longer covered"),
        (lambda line: line["subject"] == "layer_norm" and line["dtype"] == "float32",
         "layer_norm (float32) is no longer covered"),
        (lambda line: line["subject"] == "layer_norm", "layer_norm is no longer covered"),
        (lambda line: line["dtype"] == "bfloat16", "everything in bfloat16 is no longer covered"),
        (lambda line: True, "every rule is no longer covered"),
    ],
)  # fmt: skip
def test_what_is_lost_is_said_once_and_as_widely_as_it_is_lost(lost, sentence):
    grid = [
        finding(subject, check=check, leaf=leaf, dtype=dtype)
        for subject in ("layer_norm", "rms_norm")
        for check in ("vjp", "jacrev")
        for leaf in ("x", "gamma")
        for dtype in ("float32", "bfloat16")
    ]
    other = finding("serial(relu)", family="architecture")
    kept = [line for line in grid if not lost(line)]
    keep_dtypes = [other, {**other, "dtype": "bfloat16"}] if "bfloat16" not in sentence else [other]
    changes = compare(record(*grid, *keep_dtypes), record(*kept, *keep_dtypes))
    assert {change.sentence for change in failures(changes)} == {sentence}
    back = compare(record(*kept, *keep_dtypes), record(*grid, *keep_dtypes))
    assert {change.sentence for change in back} == {sentence.replace("no longer", "newly")}
    assert failures(back) == []


def test_random_architectures_are_no_coverage_but_their_dtypes_are():
    def nets(*expressions, dtype="float32"):
        return [finding(expression, family="architecture", dtype=dtype) for expression in expressions]

    rules = [finding(), finding(dtype="bfloat16")]
    baseline = record(*rules, *nets("serial(relu)", "tanh"), *nets("relu", dtype="bfloat16"))
    assert failures(compare(baseline, record(*rules, *nets("gelu"), *nets("tanh", dtype="bfloat16"), seed=18))) == []
    (change,) = failures(compare(baseline, record(*rules, *nets("gelu"), seed=18)))
    assert change.sentence == "architectures in bfloat16 are no longer covered"


def test_another_environment_is_said_and_fails_nothing():
    changes = compare(
        record(finding(), versions={"jax": "0.10.2", "python": "3.11"}),
        record(finding(draws=[0.9] * 50), versions={"jax": "0.12.0", "python": "3.11"}, platform="cuda"),
    )
    assert {change.sentence for change in changes} == {
        "jax was 0.10.2 in the baseline and is 0.12.0",
        "platform was cpu in the baseline and is cuda; growth is not judged across platforms",
    }
    assert failures(changes) == []


def test_an_interrupted_run_is_said():
    run = record(finding())
    (change,) = compare(run, Record(run.header, run.findings))
    assert change.sentence == "the current run was interrupted: it judged what it reached"


def test_training_curves():
    def curve(verdict):
        return {"kind": "curve", "subject": "iris", "verdict": verdict, "steps": []}

    right, wrong = record(curves=[curve("right")]), record(curves=[curve("wrong")])
    assert kinds(failures(compare(right, wrong))) == ["wrong"]
    assert kinds(failures(compare(wrong, wrong))) == ["wrong"]
    assert kinds(failures(compare(right, record()))) == ["uncovered"]
    assert kinds(compare(wrong, right)) == ["fixed"]
    assert kinds(compare(record(), right)) == ["covered"]
    assert compare(right, right) == []


def test_lowerings():
    def lowering(lowers):
        line = {"kind": "lowering", "subject": "relu", "part": "backward", "platform": "tpu", "lowers": lowers}
        return record(lowerings=[line | {"message": None if lowers else "no such primitive"}])

    (change,) = failures(compare(lowering(True), lowering(False)))
    assert change.sentence == "relu backward does not lower for tpu, and did in the baseline: no such primitive"
    assert kinds(failures(compare(lowering(True), record()))) == ["uncovered"]
    assert kinds(compare(lowering(False), lowering(True))) == ["fixed"]
    assert compare(lowering(False), lowering(False)) == []


# Growth: rounding errors of several laws; the numbers are ratios, 1/UNITS being one unit of eps.

LAWS = {
    "exponential": lambda rng: rng.expovariate(1),
    "half normal": lambda rng: abs(rng.gauss(0, 1)),
    "worst of eight": lambda rng: max(abs(rng.gauss(0, 1)) for _ in range(8)),
    "lognormal": lambda rng: 2.718 ** rng.gauss(0, 1),
    "mostly zero": lambda rng: float(rng.random() < 0.1),
    "whole units": lambda rng: float(round(rng.expovariate(1))),
    "one in twenty is twenty times worse": lambda rng: rng.expovariate(1) * (20 if rng.random() < 0.05 else 1),
}


def drawn(seed, points, factor=1.0, rules=300):
    """A record of many rules, each with a law and a scale of its own that are the same under every seed."""
    scales, rng = random.Random(99), random.Random(seed)
    lines = []
    for number in range(rules):
        law = list(LAWS.values())[number % len(LAWS)]
        scale = 10 ** scales.uniform(-3, -1)
        draws = [min(1.0, scale * factor * law(rng)) for _ in range(points)]
        lines.append(finding(f"rule{number}", draws=draws))
    return record(*lines, seed=seed)


@pytest.mark.parametrize("points", [1, 5, 12, 50])
def test_another_seed_is_not_growth(points):
    for seed in range(0, 16, 2):
        assert failures(compare(drawn(seed, points), drawn(seed + 1, points))) == []


def test_more_points_are_not_growth():
    assert failures(compare(drawn(0, 12), drawn(1, 120))) == []


def test_one_wild_point_is_not_growth():
    calm = [0.02, 0.03, 0.04] * 4
    assert failures(compare(record(finding(draws=calm)), record(finding(draws=[*calm[:-1], 0.6])))) == []


def test_zeros_that_become_a_unit_are_not_growth():
    zeros, units = record(finding(draws=[0.0] * 12)), record(finding(draws=[1 / UNITS, 0.0, 1 / UNITS] * 4))
    assert failures(compare(zeros, units)) == []
    assert failures(compare(zeros, zeros)) == []


def test_growth_within_what_the_baseline_has_seen_is_not_growth():
    before, after = record(finding(draws=[*[0.02] * 99, 0.5])), record(finding(draws=[0.3, 0.4] * 50))
    assert failures(compare(before, after)) == []
    beyond = record(finding(draws=[0.3, 0.4] * 49 + [0.6, 0.6]))
    assert kinds(failures(compare(before, beyond))) == ["grown"]


def test_a_slight_shift_over_very_many_points_is_not_growth():
    before = [0.1, 0.2, 0.3] * 3000
    assert (
        failures(compare(record(finding(draws=before)), record(finding(draws=[1.3 * draw for draw in before])))) == []
    )


@pytest.mark.parametrize(("factor", "points"), [(30, 12), (10, 50)])
def test_a_real_growth_is_found_and_still_right(factor, points):
    calm = [0.02, 0.03, 0.04, 0.01] * (points // 4)
    before = record(finding(draws=calm), *drawn(0, points).findings)
    (change,) = failures(
        compare(before, record(finding(draws=[factor * d / 2 for d in calm]), *drawn(1, points).findings))
    )
    assert (change.kind, change.key[1]) == ("grown", "tanh")
    assert "mean ratio 0.025 -> " in change.sentence


def test_zeros_that_become_many_units_have_grown():
    zeros, many = record(finding(draws=[0.0] * 24)), record(finding(draws=[0.6, 0.7, 0.8] * 8))
    assert kinds(failures(compare(zeros, many))) == ["grown"]
    assert failures(compare(many, zeros)) == []


def test_findings_whose_points_all_agree_are_compared_too():
    before = record(*[finding(f"rule{i}", draws=[0.1] * 50) for i in range(4)])
    after = record(*[finding(f"rule{i}", draws=[0.9 if i else 0.1] * 50) for i in range(4)])
    assert kinds(failures(compare(before, after))) == ["grown"] * 3


def test_a_ratio_without_a_norm_to_compare_with_is_left_alone():
    odd = {"relative": 0.0}
    assert failures(compare(record(finding(draws=[0.0], **odd)), record(finding(draws=[0.9], **odd)))) == []


def test_what_grows_in_every_architecture_is_found_without_comparing_expressions():
    def nets(seed, factor):
        rng = random.Random(seed)
        draws = [[factor * 0.02 * rng.expovariate(1) for _ in range(6)] for _ in range(100)]
        return record(
            *[finding(f"net{seed}{i}", family="architecture", draws=d) for i, d in enumerate(draws)], seed=seed
        )

    assert failures(compare(nets(1, 1), nets(2, 1))) == []
    (change,) = failures(compare(nets(1, 1), nets(2, 6)))
    assert change.sentence.startswith("architectures in float32 have grown: mean ratio")


def test_under_one_seed_architectures_are_compared_by_expression():
    def net(draws):
        return finding("serial(relu)", family="architecture", draws=draws)

    (change,) = failures(compare(record(net([0.02, 0.03] * 12)), record(net([0.6, 0.5] * 12))))
    assert change.key[1] == "serial(relu)"
