"""Environments in which Ray cannot start are named before it is tried."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from cola.errors import SpecError
from orchestration.cluster.interpreter import check_interpreter, home_problem, optimisation_problem
from orchestration.cluster.session import check_joined
from tests.paths import COLA


def test_pythonoptimize_2_is_one_line(tmp_path: Path) -> None:
    assert optimisation_problem(0) is None
    assert optimisation_problem(1) is None
    environment = {**os.environ, "PYTHONOPTIMIZE": "2"}
    done = subprocess.run(
        [*COLA, "run", "demo", "--set", f"output={tmp_path}"],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "PYTHONOPTIMIZE=2: removes the documentation of functions" in line
    assert list(tmp_path.iterdir()) == []  # no corpus was prepared


def test_no_home_and_no_entry_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)

    def no_entry(user: int) -> None:
        raise KeyError(user)

    monkeypatch.setattr("pwd.getpwuid", no_entry)
    assert "export HOME=" in (home_problem() or "")
    with pytest.raises(SpecError, match="HOME: is not set, and this user has no entry"):
        check_interpreter()
    monkeypatch.setenv("HOME", "/anywhere")
    assert home_problem() is None


def test_a_dashboard_is_not_joined() -> None:
    for address in (None, "auto", "10.0.0.1:6379"):
        check_joined(address)
    with pytest.raises(SpecError, match=r"is a dashboard, .*`cola submit THING --address https://"):
        check_joined("https://10.0.0.1:8265")
