"""The command can be run as a module, where it is not on the path."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["cola", "sweeps", "sweeps.cli"])
def test_modules_run_the_command(module: str) -> None:
    command = [sys.executable, "-m", module, "plan", "no-such-study"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: study no-such-study: neither a file nor a shipped study")
