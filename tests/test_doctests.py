"""Every example in a docstring gives what it says."""

import doctest
import importlib
import pkgutil

import pytest

PACKAGES = ["manual_backprop"] + [f"manual_backprop.{name}" for name in ("reference", "reports", "command")]


def modules():
    for name in PACKAGES:
        package = importlib.import_module(name)
        yield package
        for found in pkgutil.walk_packages(package.__path__, f"{name}."):
            if found.name not in PACKAGES:
                yield importlib.import_module(found.name)


EXAMPLES = [
    test for module in modules() for test in doctest.DocTestFinder(exclude_empty=True).find(module) if test.examples
]


@pytest.mark.parametrize("test", EXAMPLES, ids=lambda test: test.name)
def test_example(test):
    said = []
    doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=said.append, clear_globs=False)
    assert not said, "".join(said)


def test_there_are_examples_of_every_layer():
    assert {".".join(test.name.split(".")[:2]) for test in EXAMPLES} > {
        "manual_backprop.rules",
        "manual_backprop.reference",
    }
