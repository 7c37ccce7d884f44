"""Who is wrong, where the oracles do not agree."""

import dataclasses

from .finding import Finding

ORACLES = ("jacobian", "differences", "complex_step", "adjoint_identity", "taylor")  # besides autodiff in reverse


def blamed(findings) -> list[Finding]:
    """Where one oracle alone contradicts a derivative that autodiff and the others confirm, that oracle is wrong."""
    of_oracles = [f for f in findings if f.check in ORACLES and f.verdict in ("right", "wrong", "raised")]
    said = {name: [f for f in of_oracles if f.check == name] for name in ORACLES}
    accusing = [name for name, some in said.items() if any(not f.ok for f in some)]
    confirmed = all(f.ok for f in findings if f.check == "truth") and any(f.check == "truth" for f in findings)
    if len(accusing) != 1 or not confirmed or sum(bool(some) for some in said.values()) < 3:
        return findings
    message = (
        f"the oracle {accusing[0]} contradicts autodiff, the other oracles and the derivative: the oracle is wrong"
    )
    excuse = {"verdict": "abstained", "message": message}
    return [dataclasses.replace(f, **excuse) if f.check == accusing[0] and not f.ok else f for f in findings]
