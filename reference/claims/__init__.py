"""The derivations of backpropagation as claims, each executed on random shapes and values and judged.

A    chains      the chain as a product of Jacobians, and its order of association
B    tensors     the weight gradient through explicit tensors
C    samples     many samples at once
D    paths, layers      the total derivative, and a network trained by the equations alone
"""

from collections.abc import Iterator

from . import chains, cost, layers, paths, samples, tensors  # noqa: F401  importing them registers their claims
from .cases import Case
from .evidence import REGISTERED, Claim, Evidence, Result

CLAIMS: dict[str, Claim] = dict(sorted(REGISTERED.items(), key=lambda item: (item[0][0], int(item[0][1:]))))


# What the claims call texts 1 to 4.
TEXTS = {
    1: "a question and its answer on the matrix form of backpropagation as Wikipedia gives it",
    2: "Agrahari, 'The math behind Backprop gradients which nobody talks about', 2019",
    3: "Wang, 'How gradients are back propagated in NN', 2019",
    4: "'The Total Derivative: Correcting the Misconception of Backpropagation's Chain Rule', 2025",
}


def claims(seed: int = 0) -> Iterator[dict]:
    """Record lines: one of kind `claim` for every claim, then those of kind `association`, what orders cost."""
    for each in CLAIMS.values():
        yield each.execute(Case(seed)).line()
    yield from cost.lines(seed)


__all__ = ["CLAIMS", "TEXTS", "Case", "Claim", "Evidence", "Result", "claims"]
