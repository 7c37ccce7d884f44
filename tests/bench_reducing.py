"""How small the arguments become at which the wrong derivatives of tests/detection still fail.

    python -m tests.bench_reducing [--every 1] [--seconds 10] [--dtype f32] [--scripts]

For each case: how many numbers its arguments hold before and after, and with --scripts whether the script fails.
"""

import argparse
import subprocess
import sys
import time

import numpy as np

from tests.bench_detection import arguments, cases

MOST = 32


def failing(case, dtype: str):
    """A session and its first failure in the example's own dtype; None where a plain check does not find one."""
    from manual_backprop.reference.checks import CHECKS
    from manual_backprop.reference.profiles import PROFILES
    from manual_backprop.reference.session import Session
    from manual_backprop.reference.subject import Subject

    subject = Subject(case.make(), arguments(case, dtype), case.argnums, case.truth, case.name.split(".")[-1])
    session = Session(subject, PROFILES["default"])
    for check in ("truth", "value", "values", "kinks", "shapes", "precision"):
        list(CHECKS[check](session))
        own = [failed for failed in session.failed if failed.dtype == subject.dtype]
        if own or session.failed:
            return session, (own or session.failed)[0]
    return None


def count(trial) -> int:
    """The numbers that the arguments hold."""
    return sum(int(np.size(a)) for a in trial.primals)


def main():
    from manual_backprop.reference.reproduction import SHRINKING
    from manual_backprop.reference.reproduction.reducing import reduce
    from manual_backprop.reference.reproduction.script import script

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=SHRINKING)
    parser.add_argument("--dtype", default="f32")
    parser.add_argument("--scripts", action="store_true")
    options = parser.parse_args()
    small, done, failing_scripts = 0, 0, 0
    for case in [case for case in cases().values() if case.says][options.start :: options.every]:
        try:
            found = failing(case, options.dtype)
        except Exception as error:
            print(f"{case.name}: {type(error).__name__}: {str(error).splitlines()[:1]}", flush=True)
            continue
        if found is None:
            print(f"{case.name}: no plain failure", flush=True)
            continue
        session, failed = found
        start = time.perf_counter()
        smallest = reduce(session, failed, options.seconds)
        numbers, cotangents = count(smallest.trial), sum(np.count_nonzero(c) for c in smallest.trial.cotangent)
        done, small = done + 1, small + (numbers <= MOST)
        took = time.perf_counter() - start
        print(f"{case.name}: {count(failed.trial)} -> {numbers} numbers, {cotangents} cotangents, {took:.1f} s", end="")
        if options.scripts:
            try:
                text = script(session, smallest)
                ran = subprocess.run([sys.executable, "-I", "-c", text], capture_output=True, text=True, check=False)
                failing_scripts += "AssertionError: the" in ran.stderr
                said = (ran.stderr or ran.stdout).strip().split("\n")[-1]
                print(f", {text.count(chr(10))} lines", "" if "AssertionError: the" in ran.stderr else said, end="")
            except Exception as error:
                print(f" no script: {error}", end="")
        print(flush=True)
    print(f"at most {MOST} numbers: {small} of {done}; scripts that fail: {failing_scripts}")


if __name__ == "__main__":
    main()
