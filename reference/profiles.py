"""How much `check` tries: quick for every commit, default, thorough for a release."""

import dataclasses

from .trials import VALUES


@dataclasses.dataclass(frozen=True)
class Profile:
    """How much is tried.

    values      the kinds of values besides the example's
    dtypes      how many beyond the example's own and float64
    cotangents  how many at the example's values; the second has a single element
    without     the checks that are left out
    """

    name: str
    values: tuple[str, ...]
    dtypes: int
    cotangents: int
    thorough: bool = False
    without: tuple[str, ...] = ()


COSTLY = (
    *("jacobian", "differences", "complex_step", "adjoint_identity", "taylor"),
    *("eager", "repeatable", "vmap", "alone", "nested", "sharded", "second_order", "precision", "shapes", "options"),
)
PROFILES = {
    "quick": Profile("quick", ("ties", "zeros", "large"), 0, 2, without=COSTLY),
    "default": Profile("default", tuple(VALUES), 2, 3),
    "thorough": Profile("thorough", tuple(VALUES), 3, 6, thorough=True),
}
