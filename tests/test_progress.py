"""What a check says of where it is, on a terminal and nowhere else."""

import os
import subprocess
import sys

import pytest

SLOW = """
import time
import jax, jax.numpy as jnp, numpy as np
from manual_backprop.reference import check

@jax.custom_vjp
def slow(x):
    return jnp.sin(x)

def backward(x, y_bar):
    time.sleep(1.5)
    return (y_bar * jnp.cos(x),)

slow.defvjp(lambda x: (slow(x), x), backward)
"""
CHECKED = 'print("ok:", check(slow, np.ones(3, np.float32), profile="quick").ok)'


def on_a_terminal(code: str) -> str:
    pty = pytest.importorskip("pty", reason="there are no terminals of this kind here")
    ours, theirs = pty.openpty()
    child = subprocess.Popen([sys.executable, "-c", code], stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 4096):
            shown += part
    except OSError:  # it was closed
        pass
    os.close(ours)
    child.wait()
    return shown.decode(errors="replace")


def test_a_check_that_takes_long_says_on_a_terminal_what_it_is_at():
    shown = on_a_terminal(SLOW + CHECKED)
    assert "slow: value" in shown
    assert "0:00:03" in shown  # since its start, not since it is shown
    assert "ok: True" in shown


def test_a_log_is_told_nothing_of_it():
    ran = subprocess.run(
        [sys.executable, "-c", SLOW + CHECKED], capture_output=True, text=True, timeout=120, check=True
    )
    assert ran.stdout == "ok: True\n"
    assert "slow" not in ran.stderr


def test_of_several_targets_it_says_which_one(tmp_path):
    (tmp_path / "own.py").write_text(SLOW)
    command = "import os; from manual_backprop.command.main import main; "
    command += f"os.chdir({str(tmp_path)!r}); "
    command += "main(['check', 'own:slow', 'own:slow', '--args', 'f32[3]', '--checks', 'truth'])"
    shown = on_a_terminal(command)
    assert "1 of 2 · own:slow: truth" in shown
    assert "2 of 2 · own:slow: truth" in shown
    assert "2 targets: 2 right" in shown
