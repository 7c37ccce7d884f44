"""The geometry of the page's charts: plain numbers and path strings, drawn by a template as inline SVG."""

import bisect
import dataclasses
import itertools
import math

from .words import count, number

WIDTH, HEIGHT = 460, 190
LEFT, RIGHT, TOP, BOTTOM = 44, 16, 14, 26
LANE = 30  # width or height of the lane for exactly zero
GAP = 24  # between a lane and the axis beside it
BINS_PER_DECADE = 8
FARTHEST = 1e-6, 100.0  # ratios beyond these are counted in the outermost bins: a chart is for the many
LONGEST = 600  # points drawn of one curve; further ones are told by the extremes of their stretch


@dataclasses.dataclass(frozen=True)
class Axis:
    """A scale from values to places, linear or logarithmic, and the values worth a tick."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = map(math.log10, (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return round(self.start + (self.stop - self.start) * (value - low) / (high - low), 1)

    def ticks(self, most: int) -> list[tuple[float, str]]:
        if self.log:
            low, high = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            step = max(1, math.ceil((high - low + 1) / most))
            return [(self(10.0**power), number(10.0**power)) for power in range(low, high + 1, step)]
        step = _round_step((self.high - self.low) / most)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [(self(i * step), number(i * step, 4)) for i in range(first, last + 1)]


def _round_step(least):
    magnitude = 10.0 ** math.floor(math.log10(least))
    return next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= least * (1 - 1e-9))


def histogram(ratios: list[float], low: float, high: float) -> dict:
    """How ratios are distributed on a log axis from low to high: bars, with lanes for zero and for no number."""
    finite = sorted(ratio for ratio in ratios if math.isfinite(ratio) and ratio > 0)
    lost = len([ratio for ratio in ratios if not math.isfinite(ratio)])
    axis = Axis(low, high, LEFT + LANE + GAP, WIDTH - RIGHT - (LANE + GAP if lost else 0), log=True)
    bins = round(BINS_PER_DECADE * math.log10(high / low))
    edges = [low * 10 ** (i / BINS_PER_DECADE) for i in range(bins + 1)]
    inner = [bisect.bisect_left(finite, edge) for edge in edges[1:-1]]  # the outermost bins take what lies beyond
    counts = [stop - start for start, stop in itertools.pairwise([0, *inner, len(finite)])]
    zeros = len(ratios) - len(finite) - lost
    height = Axis(0, max([*counts, zeros, lost, 1]), HEIGHT - BOTTOM, TOP)
    bars = [
        _bar(
            axis(start),
            axis(stop),
            height,
            n,
            f"{number(start)} {'or more' if stop == edges[-1] else 'to ' + number(stop)}",
            wrong=start >= 1,
        )
        for (start, stop), n in zip(itertools.pairwise(edges), counts, strict=True)
        if n
    ]
    if zeros:
        bars.append(_bar(LEFT, LEFT + LANE, height, zeros, "exactly zero", zero=True))
    if lost:
        bars.append(_bar(WIDTH - RIGHT - LANE, WIDTH - RIGHT, height, lost, "not finite", wrong=True))
    return {"bars": bars, "ticks": axis.ticks(5), "allowance": axis(1.0), "counts": height.ticks(3), "lost": bool(lost)}


def _bar(start, stop, height, n, label, wrong=False, zero=False):
    top = min(height(n), HEIGHT - BOTTOM - 1.5)  # even one finding is seen
    place = {"x": start + 0.5, "width": round(stop - start - 1, 1), "y": top, "height": round(HEIGHT - BOTTOM - top, 1)}
    return place | {"title": f"{label}: {count(n)}", "wrong": wrong, "zero": zero}


def ratio_range(ratios: list[float]) -> tuple[float, float]:
    """Whole decades that hold the positive ratios, and the allowance with room to its right."""
    finite = [ratio for ratio in ratios if math.isfinite(ratio) and ratio > 0]
    least, most = FARTHEST
    low, high = max(min([*finite, 0.1]), least), min(max([*finite, 1.0]), most / 10)
    return 10.0 ** math.floor(math.log10(low)), 10.0 ** (math.floor(math.log10(high)) + 1)


def lines(steps: list, series: dict[str, list], zero_lane: bool = False) -> dict | None:
    """Several curves over the same steps as paths; logarithmic where all values are positive and span a decade.

    With `zero_lane` the axis is logarithmic and zeros lie in a lane of their own below it.
    """
    drawn = {name: _points(steps, values) for name, values in series.items()}
    everything = [value for points in drawn.values() for _, value in points]
    positive = [value for value in everything if value > 0]
    if len(everything) < 2:
        return None
    xs = [step for points in drawn.values() for step, _ in points]
    across = Axis(min(xs), max(max(xs), min(xs) + 1), LEFT, WIDTH - RIGHT)
    floor = HEIGHT - BOTTOM
    if zero_lane and len(positive) < len(everything):
        floor -= LANE / 2
    if zero_lane or (len(positive) == len(everything) and max(positive) > 10 * min(positive)):
        low, high = _decades(positive or [1.0])
        up = Axis(low, high, floor, TOP, log=True)
    else:
        low, high = min(everything), max(everything)
        margin = (high - low or abs(high) or 1) * 0.06
        up = Axis(low - margin if low < 0 or low > margin else 0, high + margin, floor, TOP)
    zero = HEIGHT - BOTTOM - 4
    return {
        "paths": {name: _path(points, across, up, zero) for name, points in drawn.items()},
        "x_ticks": across.ticks(5),
        "y_ticks": up.ticks(4),
        "zero": zero if floor < HEIGHT - BOTTOM else None,
    }


def _decades(values):
    low, high = math.log10(min(values)), math.log10(max(values))
    margin = 0.06 * max(high - low, 1)
    return 10 ** max(low - margin, -300), 10 ** min(high + margin, 300)  # within what a float can hold


def _points(steps, values):
    """The finite points of a curve; of a long one the lowest and the highest of each stretch."""
    points = [
        (step, value)
        for step, value in zip(steps, values or [], strict=False)
        if isinstance(value, int | float) and math.isfinite(value)
    ]
    size = math.ceil(len(points) / (LONGEST / 2))
    if size <= 2:
        return points
    stretches = [points[i : i + size] for i in range(0, len(points), size)]
    return [p for s in stretches for p in sorted({min(s, key=lambda p: p[1]), max(s, key=lambda p: p[1])})]


def _path(points, across, up, zero):
    places = [(across(x), up(y) if not up.log or y > 0 else zero) for x, y in points]
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in places)
