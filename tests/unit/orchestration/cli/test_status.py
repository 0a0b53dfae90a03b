"""The status of what runs on Slurm, as a login node prints it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from orchestration.cli.status import THERE


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
