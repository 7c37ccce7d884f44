"""The worst finding of each key, with how the ratio was distributed over all the points of that key."""

import math

from .record import key_of

_WORSE = {"right": 0, "abstained": -1, "wrong": 1, "raised": 2}


class Ledger:
    """Collects finding lines, also of other ledgers; one line per key comes out, in order of first appearance.

    points, mean_ratio, spread    how many findings the line stands for, the mean and the standard deviation of
                                  their ratio
    abstained                     how many of them abstained; a line abstains only where all of them did
    """

    def __init__(self):
        self._kept: dict[tuple, dict] = {}
        self._sums: dict[tuple, list] = {}

    def add(self, line: dict) -> None:
        key = key_of(line)
        kept = self._kept.setdefault(key, line)
        if _badness(line) > _badness(kept):
            self._kept[key] = line
        sums = self._sums.setdefault(key, [0, 0.0, 0.0, 0])
        if "points" in line:  # a line of another ledger, which stands for many
            judged = line["points"] - line["abstained"]
            sums[0] += judged
            sums[1] += judged * line["mean_ratio"]
            sums[2] += judged * (line["spread"] ** 2 + line["mean_ratio"] ** 2)
            sums[3] += line["abstained"]
        elif line["verdict"] == "abstained":
            sums[3] += 1
        elif math.isfinite(line["ratio"]):
            sums[0] += 1
            sums[1] += line["ratio"]
            sums[2] += line["ratio"] * line["ratio"]  # a product overflows to infinity where a power raises

    def lines(self) -> list[dict]:
        return [line | self._distribution(key) for key, line in self._kept.items()]

    def _distribution(self, key):
        count, total, squares, abstained = self._sums[key]
        mean = total / count if count else 0.0
        spread = math.sqrt(max(squares / count - mean * mean, 0.0)) if count and math.isfinite(squares) else 0.0
        return {"points": count + abstained, "abstained": abstained, "mean_ratio": mean, "spread": spread}


def _badness(line):
    ratio = line["ratio"]
    return _WORSE[line["verdict"]], math.inf if math.isnan(ratio) else ratio
