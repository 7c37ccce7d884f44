"""The pytest plugin: the check of a derivative, its options, and the record of what the tests compared.

It is imported by every pytest run of everyone who has the package installed, so it imports neither jax nor
hypothesis, and stays quiet until it is used.
"""

import shlex
import sys
import time

import pytest

PROFILES = ("quick", "default", "thorough")
PROPERTY = "gradient findings"
MARKED = ("profile", "checks", "seed", "argnums", "seconds")  # what the marker may say
MARKER = "gradient(profile=..., checks=[...], seed=..., argnums=..., seconds=...): how check_gradient checks"


def pytest_addoption(parser):
    group = parser.getgroup("manual-backprop", "gradient correctness")
    group.addoption("--gradient-report", metavar="DIR", help="write the record and the page of all findings to DIR")
    group.addoption(
        "--gradient-profile",
        choices=PROFILES,
        help="how much check_gradient and Hypothesis try: quick, default or thorough; without it check_gradient "
        "takes default and Hypothesis keeps its own settings",
    )


def pytest_configure(config):
    config.addinivalue_line("markers", MARKER)
    if profile := config.getoption("--gradient-profile"):
        _load_profile(profile)
    if config.getoption("--gradient-report") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Report(config), "manual-backprop-report")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    session.config.add_cleanup(lambda: _leave(session.config, exitstatus))


def _leave(config, exitstatus):
    """Python aborts where it ends beside what a check has given up; how a worker of pytest-xdist ends, nobody asks."""
    patience = sys.modules.get("manual_backprop.reference.patience")
    if patience and not hasattr(config, "workerinput"):
        patience.leave(int(exitstatus))


def _load_profile(profile):
    try:
        from manual_backprop.reference.strategies import load_profile
    except ModuleNotFoundError as error:
        if error.name != "hypothesis":
            raise
        return  # who does not have it has no examples to choose the number of
    load_profile(profile)


@pytest.fixture
def check_gradient(request, record_finding):
    """check_gradient(function, *args, **options): fail with the diagnosis where a derivative is wrong.

    Takes what `manual_backprop.reference.check` takes, and returns what it returns.  An option of the call comes
    before one of `@pytest.mark.gradient`, and that before --gradient-profile.
    """
    options = {"profile": request.config.getoption("--gradient-profile") or "default"}
    for mark in reversed(list(request.node.iter_markers("gradient"))):  # the closest to the test comes last
        unknown = [repr(value) for value in mark.args] + [name for name in mark.kwargs if name not in MARKED]
        if unknown:
            pytest.fail(f"@pytest.mark.gradient has {unknown[0]}; it may say {', '.join(MARKED)}", pytrace=False)
        options |= mark.kwargs

    def checked(function, *args, **more):
        from manual_backprop.reference.checker import check
        from manual_backprop.reference.finding import Finding
        from manual_backprop.reference.subject import Unusable

        from .targets import findings_of, reproducible

        def keep(finding):  # functions of one name in several tests are several
            record_finding(finding, family="target", subject=f"{request.node.nodeid}: {finding.subject}")

        try:
            result = check(function, *args, **options | more)
        except Unusable as error:
            name = getattr(function, "__name__", type(function).__name__)
            keep(Finding(name, "usable", "", "", "raised", message=str(error)))
            raise pytest.fail.Exception(str(error), pytrace=False) from None
        again = shlex.join(["pytest", request.node.nodeid])
        for finding in findings_of(reproducible(result, lambda finding: again)):
            keep(finding)
        if not result.ok:
            pytest.fail(str(result), pytrace=False)
        return result

    return checked


@pytest.fixture
def record_finding(request):
    """record_finding(finding, family="rule", **fields): put what was compared into the report, if one is asked for.

    The worst finding of each key is kept; `fields` replace those of its line, such as its subject.
    """
    if not request.config.getoption("--gradient-report"):
        yield lambda finding, family="rule", **fields: None
        return
    from manual_backprop.reports.ledger import Ledger

    from .lines import line_of

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
