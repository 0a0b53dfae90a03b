"""A job's Ray cluster over its nodes: started, and ended within seconds."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cola import process_environment
from cola.errors import ClusterError
from orchestration.slurm.marked import MARK, end_processes
from orchestration.slurm.node import BLOCKED, READY, TEMPORARY
from orchestration.slurm.ports import free_ports, local_folder, wait_for

log = logging.getLogger(__name__)

ATTEMPTS = 3  # to start the head: another process may take a port in between. A chosen value
HEAD_SECONDS = 300.0  # for Ray's head to start; a chosen value, 6 s on an idle machine
END_SECONDS = 10.0  # for a node to end what it has started; a chosen value, 1 s on an idle machine


@dataclass
class JobNodes:
    """Ray on the nodes of a job.

    `host` is this machine's address for the other nodes, `others` their names; `options` are those
    of `ray start` on every node. The token is this job's own unless the user has given one.
    """

    job: str
    host: str
    others: Sequence[str]
    options: Sequence[str]
    cpus: int
    address: str = ""
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.mark = f"{self.job}-{secrets.token_hex(4)}"
        self.folder: Path = local_folder(f"cola-{os.getuid()}-{self.mark}")
        self.environment = process_environment.slurm_job(
            secrets.token_hex(32), alone=not self.others
        )

    def start(self) -> None:
        """Start the head here, and a node of Ray on each other machine.

        Raises:
            ClusterError: the head does not start.
        """
        if not any(self._start_head() for _ in range(ATTEMPTS)):
            raise ClusterError(
                f"job {self.job}: Ray's head does not start on {self.host}; its own last line is "
                "above"
            )
        if self.others:
            self.processes.append(self._launch(self._srun()))
        log.info("job %s: Ray at %s, other nodes %s", self.job, self.address, self.others)

    def _start_head(self) -> bool:
        port, dashboard, client = free_ports(self.host, 3)
        self.address = f"{self.host}:{port}"
        head = self._launch(
            [
                *self._node(),
                "--head",
                f"--dashboard-port={dashboard}",
                f"--client-port={client}",
                "--",
                *self.options,
            ]
        )
        ready = self.folder / READY
        up = wait_for(lambda: head.poll() is not None or ready.exists(), HEAD_SECONDS)
        if up and head.poll() is None:
            self.processes.append(head)
            return True
        close(head)
        return False

    def _node(self) -> list[str]:
        return [
            *(sys.executable, "-m", "orchestration.slurm.node", f"--mark={self.mark}"),
            *(f"--folder={self.folder}", f"--address={self.address}"),
        ]

    def _srun(self) -> list[str]:
        """One task on each of the other nodes; a lost one leaves the others up.

        srun takes neither the number of processors from sbatch's options, nor the tasks' memory.
        """
        count = len(self.others)
        return [
            *("srun", f"--nodes={count}", f"--ntasks={count}", "--ntasks-per-node=1"),
            *(f"--nodelist={','.join(self.others)}", f"--cpus-per-task={self.cpus}"),
            *("--kill-on-bad-exit=0", "--no-kill", "--export=ALL", "--input=all", "--unbuffered"),
            *(*self._node(), "--", *self.options),
        ]

    def _launch(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start a process that ends when its standard input is closed."""
        log.debug("%s", " ".join(command))
        return subprocess.Popen(  # noqa: S603
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env=self.environment,
        )

    @property
    def lost_head(self) -> bool:
        """Whether Ray's head has ended by itself."""
        return bool(self.processes) and self.processes[0].poll() is not None

    def run(self, command: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start a command here that Slurm's signals do not reach; its output is the job's."""
        return subprocess.Popen(  # noqa: S603
            list(command),
            stdin=subprocess.DEVNULL,
            env={
                **self.environment,
                MARK: self.mark,
                "TMPDIR": str(self.folder / TEMPORARY),
            },
            preexec_fn=take_interrupts,  # safe: this process has one thread
        )

    def end(self) -> None:
        """End Ray on every node, and whatever this job has started on this one."""
        for process in self.processes:
            if process.stdin is not None:
                process.stdin.close()
        for process in self.processes:
            close(process)
        self.processes.clear()
        end_processes(self.mark, self.folder)


def take_interrupts() -> None:
    """In a new process: SIGINT is taken, and the signals that Slurm sends are not."""
    signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def close(process: subprocess.Popen[bytes]) -> None:
    """Close a node's input and wait for its end; one that does not end is killed."""
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        log.warning("process %d does not end; it is killed", process.pid)
        process.kill()
        process.wait()
