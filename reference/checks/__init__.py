"""What a correct derivative fulfils: named checks of one subject, each a generator of findings.

A check that does not apply raises `CannotTell` and says why; nothing is skipped in silence.  The first line of its
docstring is what `manual-backprop explain checks` prints.
"""

from . import anywhere, definition, further, linear, naming, options, others, shapes

ORDER = (definition, others, linear, anywhere, further, shapes, options)  # the first explains best
CHECKS = {
    name: check for module in ORDER for name, check in naming.CHECKS.items() if check.__module__ == module.__name__
}

__all__ = ["CHECKS"]
