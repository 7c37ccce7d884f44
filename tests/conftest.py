"""What every test shares: how much Hypothesis tries, and the programs that are compiled once for all processes."""

import os

from manual_backprop.reference import strategies

pytest_plugins = ["pytester"]


def pytest_configure(config):
    if not config.getoption("--gradient-profile") and not config.getoption("--hypothesis-profile"):
        strategies.load_profile("default")
    if hasattr(config, "cache"):  # what one worker or an earlier run has compiled, the others read
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(config.cache.mkdir("jax")))
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
