"""A finding: one thing that was compared, how far apart it was, and what that means."""

import dataclasses
from typing import Literal

GIVEN_UP = "given up after"  # how a check says that it took too long
BROKEN = "this check itself failed, which is a mistake of its own"
INTERRUPTED = "interrupted before it was done"
LEFT_OUT = "left out by"  # a profile that tries less
Verdict = Literal["right", "wrong", "raised", "abstained"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """What one check found about one leaf in one dtype.

    ratio      the largest discrepancy over its allowance, elementwise; at most 1 where the verdict is right
    relative   the largest discrepancy over the largest expected magnitude
    ulps       the same in units of the dtype's epsilon
    index      where the worst element is, with what came (`got`) and what was `expected` there
    fault      the kind of mistake that the diagnosis names, one of `diagnosis.KINDS`
    """

    subject: str
    check: str
    leaf: str
    dtype: str
    verdict: Verdict
    absolute: float = 0.0
    relative: float = 0.0
    ulps: float = 0.0
    ratio: float = 0.0
    index: tuple[int, ...] | None = None
    got: float | None = None
    expected: float | None = None
    diagnosis: str | None = None
    message: str | None = None
    example: str | None = None
    reproduction: str | None = None
    fault: str | None = None

    @property
    def ok(self) -> bool:
        return self.verdict in ("right", "abstained")

    @property
    def given_up(self) -> bool:
        """Whether it took too long to find out."""
        return bool(self.message) and self.message.startswith(GIVEN_UP)

    @property
    def broken(self) -> bool:
        """Whether the check itself raised what it should not."""
        return bool(self.message) and self.message.startswith(BROKEN)

    @property
    def interrupted(self) -> bool:
        """Whether somebody stopped it."""
        return self.message == INTERRUPTED

    def __str__(self):
        head = f"{self.subject}: {self.leaf} in {self.dtype} " if self.leaf else f"{self.subject}: in {self.dtype} "
        if self.verdict in ("raised", "abstained"):
            return f"{head}{self.verdict} [{self.check}]: {self.message}"
        if self.verdict == "right":
            return f"{head}is right [{self.check}]: {self.ulps:.3g} ulps off, {self.ratio:.2g} of what is allowed"
        lines = [f"{head}is wrong [{self.check}]: {self.message or self._distance()}"]
        if self.diagnosis and self.diagnosis != self.message:
            lines.append(f"  {self.diagnosis}")
        if self.index is not None:
            lines.append(f"  worst at {list(self.index)}: got {self.got:.9g}, expected {self.expected:.9g}")
        if self.example:
            lines.append(f"  at {self.example}")
        if self.reproduction:
            apart = "\n" if "\n" in self.reproduction else " "
            lines.append(f"  reproduce:{apart}{self.reproduction}")
        return "\n".join(lines)

    def _distance(self):
        return f"{self.relative:.3g} relative, {self.ulps:.3g} ulps, {self.ratio:.3g} times what rounding allows"


class CannotTell(Exception):  # noqa: N818 - not an error: the check has no opinion
    """A check that does not apply says why."""
