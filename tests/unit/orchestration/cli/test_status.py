"""The status of what runs on Slurm, as a login node prints it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from typer.testing import CliRunner

from orchestration.cli.status import THERE, Shown, show_status_there
from sweeps.cli import app


def shown(setup: str) -> subprocess.CompletedProcess[str]:
    script = THERE.format(setup=setup, columns=160)
    command = ["bash", "-c", script, "bash", "status", "a b.yaml"]
    return subprocess.run(
        command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"}, timeout=60
    )


def test_what_the_set_up_prints_is_no_part_of_the_answer(tmp_path: Path) -> None:
    program = tmp_path / "cola"
    program.write_text('#!/bin/sh\nprintf "%s|" "$COLUMNS" "$@"\n')
    program.chmod(0o755)
    done = shown(f"echo Loading modules\nexport PATH={tmp_path}:$PATH")
    assert (done.returncode, done.stdout) == (0, "160|status|a b.yaml|")
    assert done.stderr == "Loading modules\n"


def test_a_machine_without_the_command_names_what_gives_it() -> None:
    done = shown("true")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("no command cola: add what makes its environment to setup")


def test_options_of_what_is_shown_go_to_the_other_machine(
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls: list[list[str]] = []

    def call(command: list[str], seconds: float) -> SimpleNamespace:
        calls.append(command)
        return SimpleNamespace(code=0, output=b"shown\n", errors=b"")

    site = SimpleNamespace(machine=SimpleNamespace(call=call))
    to = cast(Any, SimpleNamespace(site=site, setup_of=lambda name: ["true"]))
    show_status_there(to, Path("a.yaml"), [], swept=True, how=Shown(wide=True))
    show_status_there(to, Path("a.yaml"), [], swept=False, how=Shown(workers=True))
    assert [command[4:] for command in calls] == [
        ["sweep", "status", "a.yaml", "--wide"], ["status", "a.yaml", "--workers"],
    ]  # fmt: skip
    assert capsys.readouterr().out == "shown\nshown\n"


def test_what_a_submitted_study_does_not_take_is_named_as_it_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clusters.yaml").write_text("clusters: {mine: {kind: slurm, shared: /shared}}")
    for option, value in (("--output", "elsewhere"), ("--set", "name=a")):
        call = ["status", "books", "--cluster", "mine", option, value]
        said = str(CliRunner().invoke(app, call).exception)
        assert said.startswith(f"{option} {value}: is not for a study on Slurm")
