r"""The order in which a product of matrices is multiplied out: the same numbers, at different costs.

A chain of n factors has n + 1 lengths d_0 … d_n; factor i is d_i × d_{i+1}.  An order is a tree: a leaf is the number
of a factor, a pair multiplies what its two sides give.  Multiplying b × c by c × d costs b c d multiplications.

    ((0, 1), 2)     from the left: where the first factor is a row, the derivative of a scalar, this is reverse mode
    (0, (1, 2))     from the right: forward mode
"""

import functools
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

Order = int | tuple["Order", "Order"]


def from_the_left(factors: int) -> Order:
    """((0 · 1) · 2) · …: reverse mode, since the factors of ∂C/∂x stand from the cost to the input.

    >>> from_the_left(3)
    ((0, 1), 2)
    """
    return functools.reduce(lambda order, i: (order, i), range(1, factors), 0)


def from_the_right(factors: int) -> Order:
    """0 · (1 · (2 · …)): forward mode.

    >>> from_the_right(3)
    (0, (1, 2))
    """
    return functools.reduce(lambda order, i: (i, order), range(factors - 2, -1, -1), factors - 1)


def bracketings(first: int, last: int) -> Iterator[Order]:
    """Every order for the factors first … last: Catalan many, 429 for 8 factors.

    >>> len(list(bracketings(0, 7)))
    429
    """
    if first == last:
        yield first
    for split in range(first, last):
        for left in bracketings(first, split):
            for right in bracketings(split + 1, last):
                yield left, right


def multiplications(lengths: Sequence[int], order: Order) -> int:
    """How many numbers an order multiplies, exactly.

    >>> multiplications((1, 5, 7, 3), ((0, 1), 2)), multiplications((1, 5, 7, 3), (0, (1, 2)))
    (56, 120)
    """
    return _cost(tuple(lengths), order)[2]


def _cost(lengths, order):
    if isinstance(order, int):
        return order, order + 1, 0
    (start, middle, left), (_, stop, right) = _cost(lengths, order[0]), _cost(lengths, order[1])
    return start, stop, left + right + lengths[start] * lengths[middle] * lengths[stop]


def optimal(lengths: Sequence[int]) -> tuple[int, Order]:
    """(the fewest multiplications, an order that needs no more), by dynamic programming over all parts of the chain.

        best(i, j) = min over s of  best(i, s) + best(s + 1, j) + d_i d_{s+1} d_{j+1}

    Source: Godbole, 'On Efficient Computation of Matrix Chain Products', 1973.

    >>> optimal((1, 5, 7, 3))
    (56, ((0, 1), 2))
    """
    factors = len(lengths) - 1
    best: dict[tuple[int, int], tuple[int, Order]] = {(i, i): (0, i) for i in range(factors)}
    for width in range(1, factors):
        for i in range(factors - width):
            j = i + width
            cost, split = min(
                (best[i, s][0] + best[s + 1, j][0] + lengths[i] * lengths[s + 1] * lengths[j + 1], -s)
                for s in range(i, j)
            )  # of equal splits the one furthest to the right, which leaves the most to reverse mode
            best[i, j] = cost, (best[i, -split][1], best[1 - split, j][1])
    return best[0, factors - 1]


def product(matrices: Sequence, order: Order):
    """Multiply matrices in an order; anything with `@` will do.

    >>> print(product([np.ones((1, 2)), np.ones((2, 3)), np.ones((3, 1))], ((0, 1), 2)))
    [[6.]]
    """
    if isinstance(order, int):
        return matrices[order]
    return product(matrices, order[0]) @ product(matrices, order[1])


def lengths_of(matrices: Sequence[np.ndarray]) -> tuple[int, ...]:
    """The lengths of a chain of matrices, which must fit."""
    for i, (left, right) in enumerate(itertools.pairwise(matrices)):
        if left.shape[1] != right.shape[0]:
            raise ValueError(f"factor {i} is {left.shape} and factor {i + 1} {right.shape}; the lengths between differ")
    return (*(matrix.shape[0] for matrix in matrices), matrices[-1].shape[1])


def written(order: Order, names: Sequence[str] | None = None) -> str:
    """An order with its brackets.

    >>> written(((0, 1), 2), "ABC")
    '(A B) C'
    """

    def inner(order):
        if isinstance(order, int):
            return names[order] if names else str(order)
        return f"({inner(order[0])} {inner(order[1])})"

    text = inner(order)
    return text[1:-1] if isinstance(order, tuple) else text


__all__ = [
    "Order",
    "bracketings",
    "from_the_left",
    "from_the_right",
    "lengths_of",
    "multiplications",
    "optimal",
    "product",
    "written",
]
