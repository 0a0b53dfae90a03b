"""Real Ray nodes on this machine for tests: a head and workers, each a `ray start` of its own."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from orchestration.slurm.ports import free_ports
from tests.waiting import until

BINARIES = Path(sys.executable).parent


@dataclass
class RayNodes:
    """A token-protected cluster on loopback; `stop` ends what is left of it."""

    folder: Path
    head_cpus: int = 0
    takes_jobs: bool = False  # has the dashboard, with a process for each of its modules
    environment: dict[str, str] = field(default_factory=dict)
    nodes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.gcs, self.dashboard, self._client = free_ports("127.0.0.1", 3)
        # Of a short path, as sockets lie in it, which pytest's own folder does not have. Also what
        # killed processes leave is there, and a dashboard clears nothing away when asked to end.
        self.temporary = Path(f"/tmp/ray-{secrets.token_hex(3)}")
        self.temporary.mkdir()
        self._added = 0
        self.environment = {
            **os.environ,
            "PATH": f"{BINARIES}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",  # more nodes may join
            "RAY_USAGE_STATS_ENABLED": "0",
            # Short, so that a dead node is seen soon.
            "RAY_health_check_period_ms": "1000",
            "RAY_health_check_failure_threshold": "5",
            "COLUMNS": "200",
            **self.environment,
        }
        self.start_head()

    @property
    def address(self) -> str:
        """What drivers join."""
        return f"127.0.0.1:{self.gcs}"

    @property
    def url(self) -> str:
        """The dashboard, which takes jobs."""
        return f"http://127.0.0.1:{self.dashboard}"

    def __enter__(self) -> RayNodes:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start_head(self) -> None:
        """Start the head (again, at the same ports)."""
        self._start(
            "head",
            "127.0.0.1",
            "--head",
            f"--port={self.gcs}",
            "--dashboard-host=127.0.0.1",
            f"--dashboard-port={self.dashboard}",
            f"--ray-client-server-port={self._client}",
            f"--include-dashboard={self.takes_jobs}",
            f"--temp-dir={self.temporary}",
            cpus=self.head_cpus,
        )
        port = self.dashboard if self.takes_jobs else self.gcs
        until(lambda: self._listens(port), "the head", 90)

    def add(self, name: str, cpus: int = 1, *options: str) -> None:
        """Start one more node."""
        host = f"127.0.0.{2 + self._added}"
        self._added += 1
        self._start(name, host, f"--address={self.address}", *options, cpus=cpus)
        log = self.folder / f"{name}.log"
        until(lambda: "Ray runtime started" in log.read_text(), f"node {name}", 90)

    def holding(self, pid: int) -> str:
        """The node to which a process belongs."""
        above = {each.pid for each in psutil.Process(pid).parents()}
        (found,) = (name for name, process in self.nodes.items() if process.pid in above)
        return found

    def kill(self, name: str) -> None:
        """SIGKILL a whole node: its raylet and all its workers."""
        process = self.nodes.pop(name)
        found = psutil.Process(process.pid)
        for each in [*found.children(recursive=True), found]:
            if each.is_running():
                each.kill()
        process.wait(30)

    def stop(self) -> None:
        """End all nodes, the head last, and remove what they wrote."""
        for name in reversed(list(self.nodes)):
            self.kill(name)
        shutil.rmtree(self.temporary, ignore_errors=True)

    def run(self, *arguments: str, **changes: str) -> subprocess.Popen[str]:
        """`cola` with the cluster's token, in a process group of its own."""
        return subprocess.Popen(
            [BINARIES / "cola", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**self.environment, **changes},
            start_new_session=True,
        )

    def ray(self, *arguments: str) -> str:
        """Ray's own command line."""
        done = subprocess.run(
            [BINARIES / "ray", *arguments],
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=120,
            check=True,
        )
        return done.stdout

    def _start(self, name: str, host: str, *options: str, cpus: int) -> None:
        (agent,) = free_ports("127.0.0.1", 1)
        command = [
            BINARIES / "ray", "start", "--block", f"--node-ip-address={host}",
            f"--num-cpus={cpus}", f"--dashboard-agent-listen-port={agent}", *options,
        ]  # fmt: skip
        with (self.folder / f"{name}.log").open("a") as log:
            self.nodes[name] = subprocess.Popen(
                command,
                env=self.environment | {"TMPDIR": str(self.temporary)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @staticmethod
    def _listens(port: int) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0
