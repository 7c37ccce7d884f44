"""Does a check see one wrong number among a million?  The share caught of single wrong elements, by size and dtype.

    python -m tests.bench_sensitivity [--most 1000000] [--peers 10000] [--output FOLDER] [--no-rules]

A fault is one element of a right cotangent that is zeroed, swapped with its neighbour, or off by one part in a
hundred.  The judge holds every element against its own allowance, so the share is taken over all elements at once;
at a few places the judge itself is asked, and has to say the same.  Beside it `jax.test_util.check_grads`, with its
defaults, for the same faults.  Then, for every rule of the catalogue, the smallest error that passes.
"""

import argparse
import dataclasses
import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from manual_backprop.reference.allowance import DTYPES, scale, yardsticks
from manual_backprop.reference.profiles import PROFILES
from manual_backprop.reference.session import Session
from manual_backprop.reference.subject import Subject

SIZES = (10, 100, 1000, 10_000, 100_000, 1_000_000)
PLACES = 4  # where the judge itself is asked, and check_grads
ASKED = 10_000  # elements up to which it is
RULES_TRIED = 3  # points of a rule


def _softmax(x):
    e = jnp.exp(x - jnp.max(x, axis=-1, keepdims=True))
    return e / jnp.sum(e, axis=-1, keepdims=True)


FUNCTIONS = {
    "tanh": jnp.tanh,
    "softmax": lambda x: _softmax(x.reshape(-1, 10)),
    "sum of squares": lambda x: jnp.sum(x * x),
    "matmul": lambda x: x.reshape(-1, 10) @ jnp.cos(jnp.arange(100.0)).reshape(10, 10).astype(x.dtype),
}


def _zeroed(bar):
    return np.zeros_like(bar)


def _swapped(bar):
    """Each element's neighbour, were the two exchanged."""
    pairs = np.arange(bar.size) ^ 1
    return bar[pairs]


def _off(bar):
    return bar * 1.01


FAULTS = {"zeroed": _zeroed, "swapped": _swapped, "off by 1/100": _off}


@dataclasses.dataclass(frozen=True)
class Share:
    """Of the faults of one kind that are possible, how many a checker sees; None where it accuses the right one too."""

    function: str
    dtype: str
    size: int
    fault: str
    checker: str
    caught: float | None


def measured(name: str, dtype: str, size: int, seed: int = 0) -> list[Share]:
    """The shares of the judge at one size."""
    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(np.random.default_rng(seed).normal(size=size), dtype)
        session = Session(Subject(FUNCTIONS[name], (x,), name=name), PROFILES["quick"], seed)
        trial = session.example[0]
        outputs, (bar,) = session.answer(trial, dtype)
        session.asked = True  # no differences: the definition is not in doubt, and they take long for a million
        nothing = outputs, (np.zeros_like(bar),)  # what may excuse a failure is measured at the first one
        list(session.judge("truth", trial, dtype, nothing, outputs=False, remember=False))
        yardstick = session.measured(trial, dtype)
        truth, allowance = yardstick.truth[1][0], yardstick.allowance[1][0]
        right = np.asarray(bar, np.float64)
        assert np.all(np.abs(right - truth) <= allowance), "the right one is accused"
        shares = []
        for fault, broken in FAULTS.items():
            wrong = np.asarray(broken(right).astype(bar.dtype), np.float64)
            seen = np.abs(wrong - truth) > allowance
            if size <= ASKED:
                _agrees(session, trial, dtype, outputs, np.array(bar), wrong, seen)
            shares.append(Share(name, dtype, size, fault, "judge", float(np.mean(seen))))
    return shares


def _agrees(session, trial, dtype, outputs, bar, wrong, seen):
    for place in np.random.default_rng(1).integers(bar.size, size=PLACES):
        changed = bar.copy()
        changed[place] = wrong[place]
        (finding,) = session.judge("truth", trial, dtype, (outputs, (changed,)), outputs=False, remember=False)
        assert (finding.verdict == "wrong") == seen[place], f"{finding} at {place} of {bar.size}"


def by_check_grads(name: str, dtype: str, size: int, seed: int = 0) -> list[Share]:
    """The shares of `jax.test_util.check_grads`, over a few places."""
    function = FUNCTIONS[name]

    def accuses(place, fault):
        def backward(x, y_bar):
            (bar,) = jax.vjp(function, x)[1](y_bar)
            if place is None:
                return (bar,)
            # The neighbour's old place keeps what it had: one element is wrong, as for the judge.
            value = {"zeroed": 0 * bar[place], "swapped": bar[place ^ 1], "off by 1/100": bar[place] * 1.01}[fault]
            return (bar.at[place].set(value.astype(bar.dtype)),)

        made = jax.custom_vjp(function)
        made.defvjp(lambda x: (function(x), x), backward)
        try:
            check_grads(jax.jit(made), (x,), order=1, modes=["rev"])
        except (AssertionError, TypeError, ValueError):
            return True
        return False

    from jax.test_util import check_grads

    with jax.enable_x64(dtype == "float64"):
        x = jnp.asarray(np.random.default_rng(seed).normal(size=size), dtype)
        useless = accuses(None, "")
        places = [int(p) for p in np.random.default_rng(1).integers(size, size=PLACES)]
        return [
            Share(
                name,
                dtype,
                size,
                fault,
                "check_grads",
                None if useless else float(np.mean([accuses(place, fault) for place in places])),
            )
            for fault in FAULTS
        ]


# --- what the allowance of a rule lets through -----------------------------------------------------------------------


def let_through(rule) -> dict[str, tuple[float, float]]:
    """By dtype: the relative error that half of the elements may have, and the least error over the leaf's scale.

    Of the leaf that is allowed most, at normal points.
    """
    from manual_backprop.reference.points import instances, point

    found: dict = dict.fromkeys(DTYPES, (0.0, 0.0))
    for seed, (bound, shape) in enumerate(itertools.islice(instances(rule, RULES_TRIED, 0), RULES_TRIED)):
        at = point(bound, shape, "normal", seed)
        for dtype, yardstick in yardsticks(bound, at.primals, at.cotangent).items():
            leaves = zip(*(jax.tree.leaves(tree[1]) for tree in (yardstick.truth, yardstick.allowance)), strict=True)
            for truth, allowance in leaves:
                some = (truth != 0) & np.isfinite(truth) & np.isfinite(allowance)
                if some.any():
                    median = float(np.median(allowance[some] / np.abs(truth[some])))
                    floor = float(np.min(allowance[some])) / scale(truth)
                    found[dtype] = max(found[dtype], (median, floor))
    return found


# --- told ------------------------------------------------------------------------------------------------------------


def told(shares: list[Share]):
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Single wrong elements that are caught, in percent", box=SIMPLE)
    sizes = sorted({s.size for s in shares})
    for column in ("checker", "dtype", "function", "fault", *map(str, sizes)):
        table.add_column(column, justify="right" if column.isdigit() else "left")
    known = {(s.checker, s.dtype, s.function, s.fault, s.size): s.caught for s in shares}
    for row in sorted({key[:4] for key in known}, key=lambda k: (k[0] != "judge", DTYPES.index(k[1]), *k[2:])):
        cells = [known.get((*row, size), "") for size in sizes]
        table.add_row(*row, *("(right too)" if c is None else c if c == "" else f"{100 * c:.4g}" for c in cells))
    Console(width=140).print(table)


def rules_told():
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    from manual_backprop.rules import RULES

    table = Table(title="Error that passes: relative for half of the elements / least, over the scale", box=SIMPLE)
    for column in ("rule", *DTYPES):
        table.add_column(column)
    for rule in RULES.values():
        table.add_row(str(rule), *(f"{median:.1e} / {floor:.1e}" for median, floor in let_through(rule).values()))
    Console(width=140).print(table)


COLOURS = {"zeroed": "#1b6ca8", "swapped": "#2a9d5c", "off by 1/100": "#c0392b"}


def drawn(shares: list[Share]) -> str:
    """The mean share over the functions by size, a panel for each dtype; check_grads dashed."""
    from manual_backprop.reports.figures import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis

    sizes = sorted({s.size for s in shares})
    across, up = Axis(min(sizes), max(sizes), LEFT, WIDTH - RIGHT, log=True), Axis(0, 100, HEIGHT - BOTTOM, TOP + 14)
    text = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {2 * HEIGHT + 30}" '
        'font-family="sans-serif" font-size="11">'
    ]
    for i, dtype in enumerate(DTYPES):
        text.append(f'<g transform="translate({i % 2 * WIDTH} {i // 2 * HEIGHT})">')
        text.append(f'<text x="{LEFT}" y="{TOP}">{dtype}: single wrong elements caught, %</text>')
        text += [f'<text x="{x}" y="{HEIGHT - 10}" text-anchor="middle">{word}</text>' for x, word in across.ticks(7)]
        text += [f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{word}</text>' for y, word in up.ticks(5)]
        text += [f'<path d="M{LEFT} {y}H{WIDTH - RIGHT}" stroke="#ddd"/>' for y, _ in up.ticks(5)]
        for checker, (fault, colour) in itertools.product(("judge", "check_grads"), COLOURS.items()):
            points = []
            for size in sizes:
                some = [
                    s.caught for s in shares if (s.dtype, s.size, s.fault, s.checker) == (dtype, size, fault, checker)
                ]
                some = [c for c in some if c is not None]
                if some:
                    points.append(f"{across(size)} {up(100 * float(np.mean(some)))}")
            if points:
                dashed = ' stroke-dasharray="4 3"' if checker != "judge" else ""
                text.append(f'<path d="M{"L".join(points)}" fill="none" stroke="{colour}" stroke-width="1.6"{dashed}/>')
        text.append("</g>")
    for i, (fault, colour) in enumerate(COLOURS.items()):
        text.append(f'<text x="{LEFT + i * 120}" y="{2 * HEIGHT + 18}" fill="{colour}">{fault}</text>')
    text.append(f'<text x="{LEFT + 400}" y="{2 * HEIGHT + 18}">solid: the judge; dashed: check_grads</text></svg>')
    return "\n".join(text)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--most", type=int, default=SIZES[-1], help="elements at most")
    parser.add_argument("--peers", type=int, default=10_000, help="elements at most for check_grads; 0 leaves it out")
    parser.add_argument("--dtypes", nargs="*", default=DTYPES)
    parser.add_argument("--output", type=pathlib.Path, help="a folder for the plot")
    parser.add_argument("--no-rules", action="store_true", help="leave the catalogue out")
    options = parser.parse_args(arguments)
    shares = []
    for dtype, name, size in itertools.product(options.dtypes, FUNCTIONS, SIZES):
        if size <= options.most:
            shares += measured(name, dtype, size)
        if size <= min(options.peers, options.most):
            shares += by_check_grads(name, dtype, size)
        jax.clear_caches()
    told(shares)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        path = options.output / "sensitivity.svg"
        path.write_text(drawn(shares), encoding="utf-8")
        print(path)
    if not options.no_rules:
        rules_told()


if __name__ == "__main__":
    main()
