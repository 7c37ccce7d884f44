"""How many wrong derivatives are caught and explained, and how many right ones accused, beside other checkers.

    python -m tests.bench_detection [--dtype f32] [--profile default] [--peers] [--only NAME ...] [--jobs 4]

The cases are those of tests/detection: each is checked by this project, by `jax.test_util.check_grads` (its defaults,
reverse mode), and by `torch.autograd.gradcheck` where PyTorch is installed and the function takes it (its defaults;
the derivative by hand goes in as the backward of an autograd function).
"""

import argparse
import concurrent.futures
import dataclasses
import importlib
import importlib.util
import multiprocessing
import pathlib
import sys
import time
import warnings

import numpy as np

HERE = pathlib.Path(__file__).parent / "detection"
WIDER = {"f32": "f64", "c64": "c128"}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one checker said of one case."""

    case: str
    checker: str
    accused: bool
    fault: str | None = None
    text: str = ""
    seconds: float = 0.0


def cases() -> dict:
    """Every case of tests/detection by name."""
    from tests.detection.case import CASES

    for path in sorted(HERE.glob("*.py")):
        if path.stem not in ("__init__", "case"):
            importlib.import_module(f"tests.detection.{path.stem}")
    return CASES


def arguments(case, dtype: str, seed: int = 0):
    """The example arguments of a case in a precision."""
    from manual_backprop.reference.specification import draw, parse

    text = case.args
    if dtype == "f64":
        for narrow, wide in WIDER.items():
            text = text.replace(narrow, wide)
    return draw(parse(text), np.random.default_rng(seed))


def by_contract(case, dtype: str, profile: str) -> Outcome:
    """What `check` says."""
    import jax

    from manual_backprop.reference import check

    with jax.enable_x64(dtype == "f64"):
        args = arguments(case, dtype)
        start = time.perf_counter()
        try:
            result = check(
                case.make(),
                *args,
                argnums=case.argnums,
                truth=case.truth,
                profile=profile,
                name=case.name,
                reproduce=False,
            )
        except Exception as error:
            message = f"{type(error).__name__}: {error}"
            return Outcome(case.name, "check", True, "raised", message, time.perf_counter() - start)
        seconds = time.perf_counter() - start
    if broken := next((str(finding) for finding in result.findings if finding.broken), None):
        return Outcome(case.name, "check", not case.says, "raised", broken, seconds)  # counted against it
    best = result.diagnosis
    return Outcome(case.name, "check", not result.ok, best.fault if best else None, str(result), seconds)


def by_check_grads(case, dtype: str, profile: str) -> Outcome:
    """What `jax.test_util.check_grads` says, with its defaults."""
    import jax
    from jax.test_util import check_grads

    with jax.enable_x64(dtype == "f64"):
        args = arguments(case, dtype)
        function, floats = _of_floats(case.make(), args, case.argnums)
        start = time.perf_counter()
        try:
            check_grads(function, floats, order=1, modes=["rev"])
            said = ""
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
    return Outcome(case.name, "check_grads", bool(said), None, said[:200], time.perf_counter() - start)


def by_gradcheck(case, dtype: str, profile: str) -> Outcome:
    """What `torch.autograd.gradcheck` says, with its defaults."""
    import jax
    import torch

    with jax.enable_x64(dtype == "f64"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        args = arguments(case, dtype)
        function, floats = _of_floats(case.make(), args, case.argnums)
        leaves, structure = jax.tree.flatten(floats)

        class Both(torch.autograd.Function):
            @staticmethod
            def forward(context, *tensors):
                flat = structure.unflatten([t.detach().numpy() for t in tensors])
                out, context.pull = jax.vjp(lambda *f: jax.tree.leaves(function(*f)), *flat)
                return tuple(torch.from_numpy(np.array(o)) for o in out)

            @staticmethod
            def backward(context, *bars):
                given = context.pull([np.asarray(bar.detach().numpy()) for bar in bars])
                return tuple(torch.from_numpy(np.array(g)) for g in jax.tree.leaves(tuple(given)))

        start = time.perf_counter()
        try:
            tensors = [torch.from_numpy(np.array(a)).requires_grad_() for a in leaves]
            torch.autograd.gradcheck(Both.apply, tuple(tensors))
            said = ""
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
    return Outcome(case.name, "gradcheck", bool(said), None, said[:200], time.perf_counter() - start)


CHECKERS = {"check": by_contract, "check_grads": by_check_grads, "gradcheck": by_gradcheck}


def _of_floats(function, args, argnums):
    """The function of its float leaves alone, as those checkers need it."""
    import jax
    import jax.numpy as jnp

    chosen = range(len(args)) if argnums is None else (argnums,) if isinstance(argnums, int) else argnums
    leaves, structure = jax.tree.flatten(args, is_leaf=lambda a: a is None)
    owners = [i for i, a in enumerate(args) for _ in jax.tree.leaves(a, is_leaf=lambda b: b is None)]

    def floating(a):
        return hasattr(a, "dtype") and jnp.issubdtype(a.dtype, jnp.inexact)

    places = [i for i, a in enumerate(leaves) if floating(a) and owners[i] in chosen]

    def of(*floats):
        filled = list(leaves)
        for place, value in zip(places, floats, strict=True):
            filled[place] = value
        out = function(*structure.unflatten(filled))
        return [o for o in jax.tree.leaves(out) if jnp.issubdtype(jnp.result_type(o), jnp.inexact)]

    return of, tuple(leaves[i] for i in places)


def work(job) -> Outcome:
    """One case by one checker, in a process of the pool."""
    name, checker, dtype, profile = job
    import jax

    case = cases()[name]
    jax.clear_caches()
    try:
        return CHECKERS[checker](case, dtype, profile)
    except Exception as error:  # the bench goes on
        return Outcome(name, checker, True, "raised", f"{type(error).__name__}: {error}")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dtype", choices=("f32", "f64"), default="f32")
    parser.add_argument("--profile", default="default")
    parser.add_argument("--peers", action="store_true", help="the other checkers as well")
    parser.add_argument("--only", nargs="*", help="names of cases, or the beginning of one")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--verbose", action="store_true", help="what was said of every case that went wrong")
    options = parser.parse_args(arguments)
    known = cases()
    names = [n for n in known if not options.only or any(n.startswith(o) for o in options.only)]
    checkers = list(CHECKERS) if options.peers else ["check"]
    if options.peers and importlib.util.find_spec("torch") is None:
        print("gradcheck is left out: PyTorch is not installed")
        checkers.remove("gradcheck")
    jobs = [(n, c, options.dtype, options.profile) for c in checkers for n in names]
    context = multiprocessing.get_context("spawn")
    outcomes = []
    with concurrent.futures.ProcessPoolExecutor(options.jobs, context) as pool:
        for outcome in pool.map(work, jobs):
            outcomes.append(outcome)
            print(f"\r{len(outcomes)} of {len(jobs)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    for checker in checkers:
        told(checker, [o for o in outcomes if o.checker == checker], known, options.verbose)


def told(checker, outcomes, known, verbose):
    """The counts of one checker, and the cases that it got wrong."""
    wrong = [o for o in outcomes if known[o.case].says]
    right = [o for o in outcomes if not known[o.case].says]
    caught, accused = [o for o in wrong if o.accused], [o for o in right if o.accused]
    line = f"{checker:12} caught {len(caught)} of {len(wrong)}   accused {len(accused)} of {len(right)} right ones"
    times = sorted(o.seconds for o in outcomes)
    line += f"   {times[len(times) // 2]:.2f} s a case (median), {times[-1]:.1f} s at most" if times else ""
    print(line)
    if checker != "check":
        return
    explained = [o for o in caught if o.fault in known[o.case].says]
    print(f"{'':12} diagnosis right for {len(explained)} of {len(caught)} caught")
    for word, listed in (
        ("missed", [o for o in wrong if not o.accused]),
        ("falsely accused", accused),
        ("otherwise explained", [o for o in caught if o not in explained]),
    ):
        for o in listed:
            says = "/".join(known[o.case].says)
            print(f"  {word}: {o.case} ({says or 'right'}) said {o.fault}")
            if verbose:
                print("      " + o.text.replace("\n", "\n      "))


if __name__ == "__main__":
    sys.exit(main())
