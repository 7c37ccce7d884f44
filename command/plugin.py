"""The pytest plugin: options, and the record of what the tests compared.

It is imported by every pytest run of everyone who has the package installed, so it imports neither jax nor
hypothesis, and stays quiet until it is used.
"""

import shlex
import sys
import time

import pytest

PROFILES = ("quick", "default", "thorough")
PROPERTY = "gradient findings"


def pytest_addoption(parser):
    group = parser.getgroup("manual-backprop", "gradient correctness")
    group.addoption("--gradient-report", metavar="DIR", help="write the record and the page of all findings to DIR")
    group.addoption(
        "--gradient-profile",
        choices=PROFILES,
        help="how much Hypothesis tries: quick, default or thorough; without it Hypothesis keeps its own settings",
    )


def pytest_configure(config):
    if profile := config.getoption("--gradient-profile"):
        from manual_backprop.reference.strategies import load_profile

        load_profile(profile)
    if config.getoption("--gradient-report") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Report(config), "manual-backprop-report")


@pytest.fixture
def record_finding(request):
    """record_finding(finding, family="rule", **fields): put what was compared into the report, if one is asked for.

    The worst finding of each key is kept; `fields` replace those of its line, such as its subject.
    """
    if not request.config.getoption("--gradient-report"):
        yield lambda finding, family="rule", **fields: None
        return
    from manual_backprop.reports.ledger import Ledger

    from .run import line_of

    ledger = Ledger()
    yield lambda finding, family="rule", **fields: ledger.add(line_of(finding) | {"family": family} | fields)
    # User properties travel from the workers of pytest-xdist to the process that writes the record.
    request.node.user_properties.append((PROPERTY, ledger.lines()))


class _Report:
    """Gathers the lines of all tests, of all workers, and writes one record and one page."""

    def __init__(self, config):
        import pathlib

        from manual_backprop.reports.ledger import Ledger

        self.ledger, self.folder = Ledger(), pathlib.Path(config.getoption("--gradient-report"))
        self.start = time.monotonic()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise pytest.UsageError(f"--gradient-report {self.folder}: {error.strerror}; name another folder") from None

    def pytest_runtest_logreport(self, report):
        if report.when == "teardown":
            for name, lines in report.user_properties:
                if name == PROPERTY:
                    for line in lines:
                        self.ledger.add(line)

    def pytest_sessionfinish(self, session, exitstatus):
        from manual_backprop.reports import page, record

        from .environment import header

        path = self.folder / "record.jsonl"
        finished = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
        end = {"kind": "end", "finished": finished, "seconds": time.monotonic() - self.start}
        record.write(path, [header("pytest " + shlex.join(sys.argv[1:]), {}), *self.ledger.lines(), end])
        page.write(record.load(path), self.folder / "index.html")

    def pytest_terminal_summary(self, terminalreporter):
        terminalreporter.write_line(f"gradient report: {self.folder / 'index.html'}")
