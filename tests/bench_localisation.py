"""How often the layer and the argument of a planted fault are named, and how small the reproductions become.

    python -m tests.bench_localisation [--networks 100] [--seed 0] [--dtype float32] [--verbose]

Random networks of six elementary layers and more; one layer, drawn at random, has a mistake in one of its cotangents.
Networks in which the mistake changes no cotangent at the point (it is multiplied by zero further down) do not count.
"""

import argparse
import dataclasses
import random
import time

import jax
import jax.numpy as jnp
import numpy as np

from manual_backprop.combinators import Network
from manual_backprop.reference.contract import contract, primal_names
from manual_backprop.reference.locating import locate
from manual_backprop.reference.points import input_leaves, point
from manual_backprop.reference.shrinking import shrink
from manual_backprop.sampling import architecture
from manual_backprop.signature import is_leaf
from tests.faults import faulty

LAYERS = 6


def largest_off(bar):
    flat = jnp.ravel(bar)
    return flat.at[jnp.argmax(jnp.abs(flat))].multiply(1.05).reshape(bar.shape) if flat.size else bar


CHANGES = {
    "sign": lambda bar: -bar,
    "twice": lambda bar: 2 * bar,
    "zero": lambda bar: 0 * bar,
    "5 % off": lambda bar: bar * jnp.asarray(1.05, bar.dtype),
    "one element 5 % off": largest_off,
    "shifted": lambda bar: jnp.roll(bar, 1),
}


class Fault:
    """A change of one float cotangent of a layer, chosen when its backward pass is traced; it knows the name."""

    def __init__(self, rule, change, where: float):
        self.rule, self.change, self.where, self.leaf = rule, change, where, None

    def __call__(self, backward, residuals, y_bar):
        paths, structure = jax.tree_util.tree_flatten_with_path(tuple(backward(residuals, y_bar)))
        chosen = int(self.where * len(paths))
        path, _ = paths[chosen]
        self.leaf = primal_names(self.rule)[path[0].idx] + jax.tree_util.keystr(path[1:])
        return structure.unflatten([self.change(bar) if i == chosen else bar for i, (_, bar) in enumerate(paths)])


def places(rule, path=()):
    """The paths of all elementary layers, in the order in which they are written."""
    if not isinstance(rule, Network):
        return [path]
    return [place for i, layer in enumerate(rule.layers) for place in places(layer, (*path, i))]


def at(rule, path):
    return at(rule.layers[path[0]], path[1:]) if path else rule


def replaced(rule, path, part):
    if not path:
        return part
    layers = [replaced(p, path[1:], part) if i == path[0] else p for i, p in enumerate(rule.layers)]
    return rule.combinator(*layers, *rule.arguments)


def numbers(rule, shape) -> int:
    """How many numbers the input and the parameters of a rule hold."""
    x = input_leaves(rule, shape)
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves((x, rule.shapes(x)[0]), is_leaf=is_leaf))


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What was planted, what was said of it, and how small the reproduction became."""

    planted: str
    said: str
    layer: bool
    leaf: bool
    layers: int
    numbers: int
    seconds: float


def outcome(draw: random.Random, seed: int, dtype: str) -> Outcome | None:
    """One network with one fault; None where it is too small or the fault does not show."""
    network, shape = architecture(draw)
    paths = places(network)
    if len(paths) < LAYERS:
        return None
    path, change = draw.choice(paths), draw.choice(list(CHANGES))
    fault = Fault(at(network, path), CHANGES[change], draw.random())
    wrong = replaced(network, path, faulty(fault.rule, fault))

    def fails(rule, shape):
        return any(f.verdict == "wrong" for f in contract(rule, point(rule, shape, "normal", seed), (dtype,)))

    if not fails(wrong, shape):
        return None
    start = time.perf_counter()
    found = locate(wrong, point(wrong, shape, "normal", seed), dtype)
    begin = (found.layer, found.point.input) if found else (wrong, shape)
    smallest, lengths = shrink(*(begin if fails(*begin) else (wrong, shape)), fails)
    return Outcome(
        f"{change} of {fault.leaf} at {'.'.join(map(str, path))} of {network} {shape}",
        str(found),
        found is not None and found.path == path,
        found is not None and found.path == path and found.leaf == fault.leaf,
        len(places(smallest)),
        numbers(smallest, lengths),
        time.perf_counter() - start,
    )


def outcomes(networks: int, seed: int, dtype: str):
    """The first so many networks that count."""
    done, i = 0, 0
    while done < networks:
        if found := outcome(random.Random(f"{seed}:{i}"), i, dtype):
            done += 1
            yield found
        i += 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--networks", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    all_of_them = []
    for found in outcomes(options.networks, options.seed, options.dtype):
        all_of_them.append(found)
        if options.verbose or not found.leaf:
            print(f"{'found' if found.leaf else 'MISSED'}: {found.planted}\n  said: {found.said}", flush=True)
    count = len(all_of_them)
    small = sum(found.layers <= 3 and found.numbers <= 32 for found in all_of_them)
    print(f"layer named          {sum(f.layer for f in all_of_them)} of {count}")
    print(f"layer and argument   {sum(f.leaf for f in all_of_them)} of {count}")
    print(
        f"at most 3 layers and 32 numbers   {small} of {count}; largest {max(f.numbers for f in all_of_them)} numbers"
    )
    print(f"seconds per network  {np.mean([f.seconds for f in all_of_them]):.1f}")


if __name__ == "__main__":
    main()
