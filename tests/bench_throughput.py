"""How many random architectures a second are checked against autodiff in float64, once warm.

    taskset -c 0 python -m tests.bench_throughput [ARCHITECTURES] [SEED]

The first pass compiles every rule once per shape; the second checks the same networks at other values.
"""

import os
import random
import sys
import time

from manual_backprop.reference.contract import contract
from manual_backprop.reference.points import point
from manual_backprop.sampling import architecture


def passes(architectures: int = 100, seed: int = 0) -> list[float]:
    """Seconds of a cold pass and of two warm ones."""
    networks = [architecture(random.Random(f"{seed}:{i}")) for i in range(architectures)]
    seconds = []
    for repetition in range(3):
        start = time.perf_counter()
        for rule, shape in networks:
            wrong = [f for f in contract(rule, point(rule, shape, "normal", repetition), ("float64",)) if not f.ok]
            assert not wrong, wrong[0]
        seconds.append(time.perf_counter() - start)
    return seconds


if __name__ == "__main__":
    architectures, seed = map(int, (*sys.argv[1:], *("100", "0")[len(sys.argv) - 1 :]))
    for name, seconds in zip(("cold", "warm", "warm"), passes(architectures, seed), strict=True):
        cores = len(os.sched_getaffinity(0))
        print(f"{name}: {architectures / seconds:7.1f} architectures a second on {cores} core(s)")
