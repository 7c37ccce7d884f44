"""The simplest mistake that reproduces a wrong cotangent, verified numerically before it is said."""

import numpy as np


def diagnose(name: str, got: dict, truths: dict, allowances: dict, scope: dict[str, float]) -> str | None:
    """A sentence about one leaf, or None where no single mistake explains it.

    `scope` holds the lengths and options by name that a wrong factor may equal.
    """
    bar, truth = np.asarray(got[name], np.float64), truths[name]
    allowance = allowances[name]
    if not np.isfinite(bar).all():
        return f"{np.sum(~np.isfinite(bar))} of {bar.size} elements are not finite, the truth is"

    def explains(candidate):
        with np.errstate(invalid="ignore"):
            return candidate.shape == bar.shape and bool(np.all(np.abs(bar - candidate) <= 2 * allowance))

    if not bar.any():
        return "zero everywhere: the cotangent was dropped"
    if explains(-truth):
        return "the sign is wrong everywhere"
    return (
        _factor(bar, truth, explains, scope)
        or _arranged(bar, truth, explains)
        or _exchanged(name, truths, explains)
        or _shifted(bar, truth, explains)
        or _located(bar, truth, allowance)
    )


def _factor(bar, truth, explains, scope):
    norm = np.vdot(truth, truth)
    factor = float(np.vdot(truth, bar) / norm) if norm else 0.0
    if np.count_nonzero(truth) < 2 or not factor or not explains(factor * truth):
        return None
    for what, value in scope.items():
        for power, words in ((1, what), (-1, f"1 / {what}"), (0.5, f"√({what})"), (-0.5, f"1 / √({what})")):
            if value > 0 and value != 1 and explains(value**power * truth):
                return (
                    f"off by a factor of {factor:.6g} everywhere, which is {words}: a mean or a sum too many or too few"
                )
    return f"off by a factor of {factor:.6g} everywhere: a constant was dropped or repeated"


def _arranged(bar, truth, explains):
    if truth.ndim >= 2 and explains(np.swapaxes(truth, -1, -2)):
        return "transposed"
    for axis in range(truth.ndim):
        if truth.shape[axis] > 1 and explains(np.flip(truth, axis)):
            return f"reversed along axis {axis}"
        if truth.shape[axis] > 1 and any(explains(np.roll(truth, shift, axis)) for shift in (1, -1)):
            return f"shifted by one place along axis {axis}"
    return None


def _exchanged(name, truths, explains):
    for other, value in truths.items():
        if other != name and value is not None and value.size > 1 and explains(value):
            return f"exchanged: this is the cotangent of {other}"
    return None


def _shifted(bar, truth, explains):
    off = bar - truth
    if off.size > 1 and explains(truth + np.mean(off)):
        return f"off by the constant {np.mean(off):.6g} everywhere: a term was added or not subtracted"
    for axis in range(off.ndim):
        if off.shape[axis] > 1 and explains(truth + np.mean(off, axis=axis, keepdims=True)):
            return f"off by a constant along axis {axis}: a mean over that axis was not subtracted"
    return None


def _located(bar, truth, allowance):
    wrong = np.abs(bar - truth) > allowance
    share = np.argwhere(wrong)
    if wrong.size > 1 and len(share) == 1:
        return f"wrong at the one element {share[0].tolist()} alone"
    for axis in range(wrong.ndim):
        places = np.unique(share[:, axis])
        if wrong.shape[axis] > 1 and len(places) == 1:
            return f"wrong at place {places[0]} of axis {axis} alone"
    return None
