"""Ctrl-C before the command is loaded."""

from __future__ import annotations

import signal
import subprocess
import sys

LOADING = """
import os, signal, sys
from sweeps.interrupts import leaving_at_once
{before}
with leaving_at_once():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:  # as a library may
        sys.exit("swallowed")
print(signal.getsignal(signal.SIGINT))
"""


def run(before: str = "") -> subprocess.CompletedProcess[str]:
    code = LOADING.format(before=before)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_an_interrupt_while_loading_ends_with_130_and_prints_nothing() -> None:
    done = run()
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_a_process_that_ignores_interrupts_still_does() -> None:
    done = run(before="signal.signal(signal.SIGINT, signal.SIG_IGN)")
    assert (done.returncode, done.stdout.strip()) == (0, str(signal.Handlers.SIG_IGN))
