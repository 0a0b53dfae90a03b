"""Nothing that a run starts on this machine can be reached from outside, or stays behind."""

from __future__ import annotations

import contextlib
import getpass
import ipaddress
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import write_study
from tests.paths import COLA
from tests.waiting import until


def listening(process: psutil.Process) -> set[tuple[str, str]]:
    """(address, process name) of every socket on which the process or a child of it listens."""
    found = set()
    for each in [process, *process.children(recursive=True)]:
        try:
            name = each.name()
            for connection in each.net_connections(kind="inet"):
                if connection.status == psutil.CONN_LISTEN:
                    found.add((connection.laddr.ip, name))
        except psutil.NoSuchProcess:
            continue
    return found


def on_loopback(address: str) -> bool:
    """Also of an IPv4 address in IPv6 form, which `is_loopback` takes for another one."""
    parsed = ipaddress.ip_address(address)
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A temporary folder of its own, whose path is short enough for Ray's sockets."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        yield Path(folder)


@pytest.mark.slow(seconds=70)
@pytest.mark.ray
def test_every_socket_of_a_run_is_on_loopback_and_nothing_temporary_stays(
    tiny_study: dict[str, Any], tmp_path: Path, temporary: Path
) -> None:
    """Of one of several workers, and of one that trains in a process that stays."""
    ladder = [{"budget": 2.0e9, "core_parameters": size} for size in (60_000, 90_000)]
    larger = [{"core_parameters": 80_000, "workers": 2, "zero_stage": 1}]
    resources = {"cpus_per_worker": 1, "larger": larger}
    study = tiny_study | {"ladder": ladder, "families": {"ar": {}}, "resources": resources}
    process = subprocess.Popen(
        [*COLA, "run", str(write_study(study, tmp_path))],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"TMPDIR": str(temporary)},
    )
    seen: set[tuple[str, str]] = set()
    names: set[str] = set()
    watched = psutil.Process(process.pid)

    def look() -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            seen.update(listening(watched))
            names.update(child.name() for child in watched.children(recursive=True))

    ended = "the end of the run"  # a look at all processes takes tens of milliseconds
    until(lambda: process.poll() is not None, ended, meanwhile=look, every=0.5)
    assert process.stdout is not None
    assert process.returncode == 0, process.stdout.read()
    assert any("raylet" in name for name in names)
    for worker in ("TrainWorker", "WarmWorker"):
        assert any(worker in name for name in names)
    outside = {(address, name) for address, name in seen if not on_loopback(address)}
    assert seen
    assert outside == set()
    # Ray's logs of the last session say why a run failed, and the next start removes them; torch's
    # compiler has one folder for all of a user's processes.
    kept = {f"ray-{os.getuid()}", f"torchinductor_{getpass.getuser()}"}
    assert {path.name for path in temporary.iterdir()} <= kept
