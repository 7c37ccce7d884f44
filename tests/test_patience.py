"""What takes for ever is given up, and the process ends as it should."""

import subprocess
import sys
import time

HANGS = """
import jax, jax.numpy as jnp
from jax import lax

@jax.custom_vjp
def hangs(x):
    return jnp.sin(x)

def backward(x, y_bar):
    return (lax.while_loop(lambda a: jnp.all(jnp.isfinite(a)), lambda a: a * 0 + 1, x * y_bar),)

hangs.defvjp(lambda x: (hangs(x), x), backward)
"""


COMMAND = "from manual_backprop.command.main import main; main()"


def ran(*command, where) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *command], cwd=where, capture_output=True, text=True, timeout=120)


def test_pytest_ends_beside_what_hangs(tmp_path):
    (tmp_path / "hanging.py").write_text(HANGS)
    (tmp_path / "test_it.py").write_text(
        "import numpy as np, hanging\n"
        "def test_it(check_gradient):\n"
        "    check_gradient(hanging.hangs, np.ones(3, np.float32), seconds=3.0, checks='truth')\n"
        "def test_other():\n"
        "    pass\n"
    )
    ended = ran("-m", "pytest", "-q", "-p", "no:cacheprovider", where=tmp_path)
    assert "1 failed, 1 passed" in ended.stdout
    assert "given up after 3 seconds" in ended.stdout
    assert ended.returncode == 1, ended.stderr  # and not killed by a signal


def test_what_hangs_at_the_example_is_waited_for_once(tmp_path):
    (tmp_path / "hanging.py").write_text(HANGS)
    start = time.monotonic()
    asked = "check", "hanging:hangs", "--args", "f32[3]", "--seconds", "3"
    ended = ran("-c", COMMAND, *asked, where=tmp_path)
    assert time.monotonic() - start < 50  # and not three seconds for each of the checks
    assert ended.returncode == 2, ended.stderr  # nothing is known to be wrong, and nothing was checked
    assert "given up after 3 seconds" in ended.stdout
    assert "value was given up" in ended.stdout


COMPILES = """
import sys
import jax, jax.numpy as jnp
from manual_backprop.reference import patience

def slow(x):
    for _ in range(80):
        x = jnp.sort(jnp.sin(x)) + x[::-1]
    return x

patience.LAST_WAIT = 0.1  # so that the test is over sooner
try:
    patience.Patience(1.0).within(lambda: jax.jit(slow)(jnp.ones(8)))
except TimeoutError:
    sys.exit(3)
"""


def test_a_script_ends_as_it_should_beside_what_compiles(tmp_path):
    ended = ran("-c", COMPILES, where=tmp_path)
    assert ended.returncode == 3, ended.stderr  # and not killed by a signal
