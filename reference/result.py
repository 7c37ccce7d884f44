"""What the contract found about one function: for people, for programs, for a notebook."""

import dataclasses
import textwrap

from .finding import LEFT_OUT, Finding
from .trials import GIVEN

WIDTH = 98  # of a line of what is printed

NOT_FINITE = "not finite at the example's own values, where nothing was judged"
# These say something of a derivative whose truth is not known; that it is right, the others alone can say.
WITHOUT_TRUTH = ("value", "structure", "homogeneous", "additive", "zero", "repeatable", "residuals")
FOLLOWING = ("adjoint_identity", "taylor", "second_order")  # wrong as well where a cotangent is


@dataclasses.dataclass(frozen=True)
class Result:
    """What the contract found about one function.

    findings   one for every check, leaf and dtype: the worst of all its points
    outside    where the definition itself was not finite, by the words for the values
    advice     what would make the check quicker, or tell it more: of what the example has, all that was tried has it
    """

    subject: str
    findings: tuple[Finding, ...]
    outside: tuple[str, ...] = ()
    seconds: float = 0.0
    advice: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong, and something was found right: some checks may have abstained, not all."""
        return not self.failures and self.judged and not self.interrupted

    @property
    def judged(self) -> bool:
        """Whether any check could say that something is right or wrong: one that knows the truth, if any was asked."""
        asked = [f for f in self.findings if f.check not in WITHOUT_TRUTH]
        asked = asked or [f for f in self.findings if f.check != "residuals"]
        return bool(self.failures) or any(finding.verdict != "abstained" for finding in asked)

    @property
    def interrupted(self) -> tuple[str, ...]:
        """The checks that were not done when somebody stopped them."""
        return tuple(dict.fromkeys(finding.check for finding in self.findings if finding.interrupted))

    @property
    def failures(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if not finding.ok)

    @property
    def diagnosis(self) -> Finding | None:
        """The failure that says most: one that is explained, of the first check that has one."""
        return next((f for f in self.failures if f.diagnosis), next(iter(self.failures), None))

    def __str__(self):
        counts = self._counts()
        if not self.judged:
            said = dict.fromkeys(f.message for f in self.findings if f.message and not f.message.startswith(LEFT_OUT))
            reasons = "; ".join((*said, *([NOT_FINITE] if GIVEN in self.outside else [])))
            return f"{self.subject}: nothing could be judged ({reasons[:400]})"
        if not self.failures:
            early = self.interrupted or any(finding.given_up or finding.broken for finding in self.findings)
            state = "nothing was found wrong so far" if early else "the derivative is right"
            return f"{self.subject}: {state} ({counts})"
        checks = ", ".join(dict.fromkeys(f.check for f in self.failures))
        first, *rest = self._told()
        head = [f"{self.subject}: the derivative is WRONG", *_wrapped(counts), *_wrapped(f"fails {checks}")]
        blocks = ["\n".join(head), *("\n".join(_lines(f)) for f in (first, *rest))]
        if first.reproduction:
            blocks.append(f"reproduce:\n\n{first.reproduction}")
        return "\n\n".join(blocks)

    def _counts(self):
        right = sum(f.verdict == "right" for f in self.findings)
        abstained = sum(f.verdict == "abstained" and not f.interrupted for f in self.findings)
        late = dict.fromkeys(f.check for f in self.findings if f.given_up)
        said = f"{right} right, {len(self.failures)} wrong, {abstained} abstained"
        said += f"; {', '.join(late)} given up, and not all was tried: seconds= allows more" if late else ""
        broken = dict.fromkeys(f.check for f in self.findings if f.broken)
        said += f"; {', '.join(broken)} failed by a mistake of the checker, which is worth a report" if broken else ""
        said += f"; interrupted before {', '.join(self.interrupted)}" if self.interrupted else ""
        said += f"; {NOT_FINITE}" if GIVEN in self.outside else ""
        return said + (f"; {self.advice}" if self.advice else "")

    def _told(self):
        """Each leaf's failures once, the one that says most first."""
        leaves: dict = {}
        for finding in self.failures:
            known = leaves.get(finding.leaf)
            if known is None or (finding.diagnosis and not known.diagnosis):
                leaves[finding.leaf] = finding
        own = [f for f in leaves.values() if f.check not in FOLLOWING] or list(leaves.values())
        return sorted(own, key=lambda f: f is not self.diagnosis)

    def __rich__(self):
        from rich.table import Table

        table = Table(title=str(self).split("\n")[0], title_justify="left")
        for column in ("check", "leaf", "dtype", "verdict", "ulps", "what"):
            table.add_column(column)
        for f in self.findings:
            what = f.diagnosis or f.message or ""
            table.add_row(f.check, f.leaf, f.dtype, f.verdict, f"{f.ulps:.3g}" if f.ulps else "", what)
        return table

    def _repr_mimebundle_(self, include=(), exclude=(), **_):
        import io

        from rich.console import Console

        console = Console(record=True, width=120, file=io.StringIO())
        console.print(self)
        html = console.export_html(inline_styles=True, code_format="<pre>{code}</pre>")
        return {"text/plain": str(self), "text/html": html}


class Interrupted(KeyboardInterrupt):
    """Somebody stopped a check; `result` is what it had found until then."""

    def __init__(self, result: Result):
        super().__init__(str(result))
        self.result = result


def _lines(finding: Finding):
    """A failure in lines of one idea each: what, why, where, by how much."""
    if finding.verdict == "raised":
        yield f"{finding.leaf or 'the derivative'} in {finding.dtype} raises [{finding.check}]"
        yield from _wrapped(finding.message or "")
        return
    yield f"{finding.leaf} in {finding.dtype} is wrong [{finding.check}]"
    for said in dict.fromkeys(filter(None, (finding.diagnosis, finding.message))):
        yield from _wrapped(said)
    if finding.index is not None:
        yield f"  worst at {list(finding.index)}: got {finding.got:.9g}, expected {finding.expected:.9g}"
        if finding.ratio < float("inf"):
            yield f"  off by {finding.ratio:.3g} times what rounding allows"
    if finding.example:
        yield from _wrapped(f"arguments: {finding.example}")


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
