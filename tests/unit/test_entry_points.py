"""The command can be run as a module, where it is not on the path."""

from __future__ import annotations

import subprocess
import sys

import pytest


def run(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("module", ["cola", "sweeps"])
def test_packages_run_the_command(module: str) -> None:
    done = run(module, "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("cola ")


def test_an_error_is_one_line_there_too() -> None:
    done = run("sweeps.cli", "plan", "no-such-study")
    assert done.returncode == 2
    assert done.stderr.startswith("error: study no-such-study: neither a file nor a shipped study")
