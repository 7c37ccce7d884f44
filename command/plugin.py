"""The pytest plugin: options, and the record of what the tests compared.

It is imported by every pytest run of everyone who has the package installed, so it imports neither jax nor
hypothesis, and stays quiet until it is used.
"""

import pytest

PROFILES = ("quick", "default", "thorough")


def pytest_addoption(parser):
    group = parser.getgroup("manual-backprop", "gradient correctness")
    group.addoption("--gradient-report", metavar="DIR", help="write the record and the page of all findings to DIR")
    group.addoption(
        "--gradient-profile", choices=PROFILES, default="default", help="how much to try: quick, default or thorough"
    )


def pytest_configure(config):
    if config.getoption("--gradient-report") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Report(config), "manual-backprop-report")


@pytest.fixture
def record_finding(request):
    """A function that adds a finding's line to the record; the worst line of each key is kept."""
    from ..reports.ledger import Ledger

    ledger = Ledger()
    yield ledger.add
    # User properties travel from the workers of pytest-xdist to the process that writes the record.
    request.node.user_properties.append(("gradient findings", ledger.lines()))


class _Report:
    """Gathers the lines of all tests, of all workers, and writes one record and one page."""

    def __init__(self, config):
        from ..reports.ledger import Ledger

        self.config, self.ledger, self.folder = config, Ledger(), config.getoption("--gradient-report")

    def pytest_runtest_logreport(self, report):
        if report.when == "teardown":
            for name, lines in report.user_properties:
                if name == "gradient findings":
                    for line in lines:
                        self.ledger.add(line)

    def pytest_sessionfinish(self, session):
        import pathlib

        from ..reports import page, record
        from .environment import header

        folder = pathlib.Path(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        lines = self.ledger.lines()
        end = {"kind": "end", "finished": True}
        record.write(folder / "record.jsonl", [header("pytest", {}), *lines, end])
        page.write(record.load(folder / "record.jsonl"), folder / "index.html")

    def pytest_terminal_summary(self, terminalreporter):
        terminalreporter.write_line(f"gradient report: {self.folder}/index.html")
