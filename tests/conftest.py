"""What every test shares: how much Hypothesis tries, and the programs that are compiled once for all processes."""

import os
import pathlib
import sys

import pytest

from manual_backprop.reference import strategies

pytest_plugins = ["pytester"]


def pytest_configure(config):
    config.addinivalue_line("markers", "breaks_the_checker: a check is made to fail by itself")
    if not config.getoption("--gradient-profile") and not config.getoption("--hypothesis-profile"):
        strategies.load_profile("default")
    if hasattr(config, "cache"):  # what one worker or an earlier run has compiled, the others read
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(config.cache.mkdir("jax")))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


@pytest.fixture
def paste():
    """Runs what was reproduced, as a user who pastes it; what it sets of JAX is undone after the test."""
    yield lambda text: exec(text, {"__name__": "__main__"})
    sys.modules["jax"].config.update("jax_enable_x64", False)


@pytest.fixture(autouse=True)
def _no_check_breaks(request, monkeypatch):
    """A check that fails by a mistake of its own abstains, which no test of what is right would see."""
    checker = sys.modules.get("manual_backprop.reference.checker")
    if checker is None or request.node.get_closest_marker("breaks_the_checker"):
        yield
        return
    told, seen = checker._raised, []

    def raised(error, seconds):
        said = told(error, seconds)
        seen.extend([said["message"]] if said["message"].startswith(checker.BROKEN) else [])
        return said

    monkeypatch.setattr(checker, "_raised", raised)
    yield
    assert not seen, seen


@pytest.fixture(autouse=True)
def _leaves_no_setting():
    yield
    if "jax" in sys.modules and sys.modules["jax"].config.jax_enable_x64:
        sys.modules["jax"].config.update("jax_enable_x64", False)
        pytest.fail("64-bit JAX was left on")


RESIDENT = 2.5e9  # bytes of one process, above which what it compiled is dropped: it is read again from the disk


def pytest_runtest_teardown(item, nextitem):
    if "jax" in sys.modules and _resident() > RESIDENT:
        sys.modules["jax"].clear_caches()


def _resident() -> float:
    """The memory of this process, where the system tells."""
    try:
        return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
