"""Checks of how processes of one machine communicate: sockets and collectives."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import torch

from cola.errors import one_line
from orchestration.cluster.temporary_folder import ray_folder, too_long
from orchestration.doctor.finding import Finding

COLLECTIVE_SECONDS = 45  # for all processes: importing torch takes most of it; a chosen value


def sockets() -> Finding:
    """Whether loopback ports and sockets in the temporary folder work: Ray needs both."""
    remedy = "Ray cannot start here: allow loopback ports and sockets (a sandbox forbids them)"
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=5).close()
        folder = ray_folder().parent
        with (
            tempfile.TemporaryDirectory(dir=folder) as temporary,
            socket.socket(socket.AF_UNIX) as local,
        ):
            local.bind(str(Path(temporary) / "s"))
    except OSError as error:
        return Finding("sockets", "fail", one_line(error), remedy)
    problem = too_long()
    if problem is not None:
        return Finding("sockets", "warn", problem, "set TMPDIR to a shorter path")
    return Finding("sockets", "ok", f"127.0.0.1 and {folder}")


def collectives() -> Finding:
    """Whether an all-reduce works: over NCCL on the GPUs, or between two processes over gloo."""
    gpus = torch.cuda.device_count()
    backend, world = ("nccl", min(2, gpus)) if gpus else ("gloo", 2)
    remedy = f"install a torch build with {backend}"
    if not (torch.distributed.is_nccl_available() if gpus else gloo_available()):
        return Finding("collectives", "fail", f"no {backend}", remedy)
    with tempfile.TemporaryDirectory() as folder:
        failure = all_reduce(backend, world, Path(folder) / "meet")
    if failure is not None:
        remedy = "look for a firewall or a container without loopback, and at NCCL_DEBUG=INFO"
        return Finding("collectives", "fail", f"{backend}: {failure}", remedy)
    return Finding("collectives", "ok", f"{backend}, all-reduce over {world} processes")


def gloo_available() -> bool:
    """Whether torch was built with gloo."""
    return bool(torch.distributed.is_gloo_available())


def all_reduce(backend: str, world: int, meet: Path) -> str | None:
    """The first failure of an all-reduce over `world` processes on loopback; None without one."""
    command = [sys.executable, "-m", "orchestration.doctor.all_reduce"]
    variables = {**os.environ, "GLOO_SOCKET_IFNAME": loopback_interface(), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(  # noqa: S603 (this interpreter, arguments of ours)
            [*command, str(rank), str(world), str(meet), backend],
            env=variables,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    failures = []
    for process in processes:
        try:
            _, errors = process.communicate(timeout=COLLECTIVE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            failures.append(f"no answer within {COLLECTIVE_SECONDS} s")
            continue
        if process.returncode:
            lines = errors.strip().splitlines()
            failures.append(one_line(lines[-1]) if lines else "a process died")
    return failures[0] if failures else None


def loopback_interface() -> str:
    """Name of the interface with the address 127.0.0.1."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(item.address == "127.0.0.1" for item in addresses):
            return name
    return "lo"
