r"""Whether a discrepancy has grown, as far as a sample of points can tell.

Compared are ratios (discrepancy over allowance), never ulps: the allowance is measured at the same point as the
discrepancy, so an ill-conditioned point that another seed draws moves both.  Let m be the mean ratio over n points, s
its standard deviation, and q the ratio that one unit in normwise relative error is worth: the worst point's error is
relative/eps units, hence q = ratio·eps/relative.

    level    l = m + q                        below one unit nothing is known, and zero is only "below one unit"
    wobble   v = max(s/l, s'/l', pooled)      how far one point lies from the next, as a fraction of the level
    growth   r = l' / l                       the primed sample is the current one

If nothing changed, both levels are means of n and n' draws from one law with that mean and wobble.  For the gamma law
their sums have shapes a = n/v² and a' = n'/v², and Chernoff's bound on the quotient of two gamma variables is

    log P(quotient ≥ r) ≤ a' log r − (a + a') log((a + a'r) / (a + a'))

The discrepancy has grown where that bound is below −log(CHANCE·K), so that of CHANCE comparisons of K samples one cries
wolf; where r > 1 + v, the distance from one point of the baseline to the next; and where the worst ratio exceeds the
baseline's by more than q, to where the baseline never was.

The pooled wobble is the median of s/m over one dtype of both records, 1 (that of the exponential law) where there is
none: two points that happen to agree are not taken to be steadier than their neighbours.  No rule and no dtype has a
number of its own, and a harmless rerun (another seed, more points, one wild point, zeros that a new compiler turns
into a unit) is not growth.
"""

import collections
import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping

from .record import Record, key_of

CHANCE = 1000  # comparisons of an unchanged project, of which one may report growth
ANY = "*"

_EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
_EPS |= {"complex128": 2.0**-52, "complex64": 2.0**-23}


@dataclasses.dataclass(frozen=True)
class Sample:
    """The ratios of one key over its points: mean, standard deviation, count, worst, and the worth of one unit."""

    mean: float
    spread: float
    points: int
    worst: float
    unit: float

    def level(self, unit: float) -> float:
        return self.mean + unit


def grown(baseline: Record, current: Record) -> dict[tuple[str, ...], tuple[Sample, Sample]]:
    """The keys whose discrepancy has grown, with the samples before and after."""
    expressions = baseline.header.get("seed") is not None and baseline.header.get("seed") == current.header.get("seed")
    before, after = _samples(baseline, expressions), _samples(current, expressions)
    keys = [key for key in before if key in after]
    if not keys:
        return {}
    surprise = math.log(CHANCE * len(keys))
    pooled = _pooled_wobble([*before.items(), *after.items()])
    return {
        key: (before[key], after[key]) for key in keys if _has_grown(before[key], after[key], pooled[key[4]], surprise)
    }


def _has_grown(old: Sample, new: Sample, pooled: float, surprise: float) -> bool:
    unit = max(old.unit, new.unit)
    if unit == 0.0 or new.worst <= old.worst + unit:
        return False
    growth = new.level(unit) / old.level(unit)
    wobble = max(pooled, *(sample.spread / sample.level(unit) for sample in (old, new)))
    a, a_now = old.points / wobble**2, new.points / wobble**2
    log_chance = a_now * math.log(growth) - (a + a_now) * math.log((a + a_now * growth) / (a + a_now))
    return log_chance < -surprise and growth > 1 + wobble


def _pooled_wobble(samples: Iterable[tuple[tuple, Sample]]) -> Mapping[str, float]:
    wobbles = collections.defaultdict(lambda: [1.0])
    for (*_, dtype), sample in samples:
        if min(sample.spread, sample.mean) > 0.0:  # points that all agree do not tell how far others may lie
            wobbles[dtype].append(sample.spread / sample.mean)
    return collections.defaultdict(lambda: 1.0) | {dtype: statistics.median(wobbles[dtype]) for dtype in wobbles}


def _samples(record: Record, expressions: bool) -> dict[tuple[str, ...], Sample]:
    """One sample per key; without `expressions`, one per dtype for all architectures, each of them one point."""
    samples, architectures = {}, collections.defaultdict(lambda: collections.defaultdict(list))
    for finding in record.findings:
        sample = _sample(finding)
        if sample is None:
            continue
        if finding["family"] == "architecture" and not expressions:
            architectures[finding["dtype"]][finding["subject"]].append(sample)
        else:
            samples[key_of(finding)] = sample
    for dtype, subjects in architectures.items():
        means = [statistics.fmean(sample.mean for sample in group) for group in subjects.values()]
        every = [sample for group in subjects.values() for sample in group]
        samples["architecture", ANY, ANY, ANY, dtype] = Sample(
            statistics.fmean(means),
            statistics.pstdev(means),
            len(means),
            max(sample.worst for sample in every),
            statistics.median(sample.unit for sample in every),
        )
    return samples


def _sample(finding) -> Sample | None:
    """The ratios of a finding that is right; what is wrong needs no statistics, and other dtypes have no unit."""
    ratio, relative, eps = finding.get("ratio"), finding.get("relative"), _EPS.get(finding["dtype"])
    if finding["verdict"] != "right" or ratio is None or relative is None or eps is None:
        return None
    mean, spread = finding.get("mean_ratio"), finding.get("spread") or 0.0
    mean = ratio if mean is None else mean
    if not all(map(math.isfinite, (ratio, relative, mean, spread))):
        return None
    unit = ratio * eps / relative if relative > 0.0 else 0.0
    judged = (finding.get("points") or 1) - (finding.get("abstained") or 0)
    return Sample(mean, spread, max(judged, 1), ratio, unit)
