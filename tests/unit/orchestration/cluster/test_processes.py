"""Only Ray's own workers are ever ended."""

from __future__ import annotations

import subprocess
import sys

from orchestration.cluster.processes import kill_ray_worker


def test_a_process_that_is_no_ray_worker_is_left_alone() -> None:
    code = "import sys; sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        assert kill_ray_worker(process.pid) is False
        assert process.poll() is None
        process.communicate(timeout=30)
    assert kill_ray_worker(process.pid) is False  # gone


def test_a_ray_worker_is_ended() -> None:
    command = ["ray::pretending", "-c", "import sys; print(); sys.stdout.flush(); sys.stdin.read()"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, executable=sys.executable, **pipes) as process:
        assert process.stdout is not None
        process.stdout.read(1)  # its command line stands now
        assert kill_ray_worker(process.pid) is True
        assert process.wait(30) == -9
