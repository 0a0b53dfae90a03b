"""Ray on one node of a job: `python -m orchestration.slurm.node OPTIONS -- RAY-START-OPTIONS`.

It starts Ray, keeps it until its standard input is closed (by the job's process, or with it), and
ends with SIGKILL what it has started. `ray stop` would take 16 s, and end every Ray of the user on
the node. Little but the standard library is imported, so that a node is up soon.

SIGTERM is blocked in all of these processes: Slurm sends it to each of them when a job is
cancelled, and a training can save its checkpoint only where Ray stays up. The job's process takes
it, and closes the pipe when the study has left.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from orchestration.slurm.marked import MARK, adopt_orphans, end_processes, guard
from orchestration.state.scratch import LOCK, held_lock, remove_abandoned

LOG = "node.log"  # in the job's local folder
READY, STARTED = "ready", "Ray runtime started"  # what `ray start` prints then
TEMPORARY = "tmp"  # what else is written there: nothing of it outlives the job
POLL_SECONDS = 0.2  # a chosen value
# In which a node that does not start, or that the head refuses, tries again; a chosen value.
JOIN_SECONDS = 300.0
MOST_LINES = 3  # of Ray's output that are shown; a chosen value
CAUSE = re.compile(r"exit code|error|exception|fatal", re.IGNORECASE)
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
BLOCKED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options of one node; `ray` holds further arguments of `ray start`."""
    parser = argparse.ArgumentParser(prog="orchestration.slurm.node")
    parser.add_argument("--mark", required=True)
    parser.add_argument("--folder", required=True, type=Path)
    parser.add_argument("--address", required=True, help="HOST:PORT of the head")
    parser.add_argument("--head", action="store_true", help="this node is the head")
    parser.add_argument("--dashboard-port", type=int, default=0)
    parser.add_argument("--client-port", type=int, default=0)
    parser.add_argument("ray", nargs="*")
    return parser.parse_args(list(arguments))


def ray_command(options: argparse.Namespace, own_address: str) -> list[str]:
    """`ray start` with explicit addresses and ports that the system chooses.

    Ray would find its own address by asking for a route to an outside one, and its workers would
    share a range of ports with every other Ray of the node.
    """
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"),
        *(f"--node-ip-address={own_address}", f"--temp-dir={options.folder}"),
        *("--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"),
        *options.ray,
    ]
    if not options.head:
        return [*command, f"--address={options.address}"]
    return [
        *command,
        "--head",
        f"--port={options.address.rpartition(':')[2]}",
        "--dashboard-host=127.0.0.1",
        f"--dashboard-port={options.dashboard_port}",
        f"--ray-client-server-port={options.client_port}",
    ]


def address_towards(head: str) -> str:
    """This machine's address on the way to the head; nothing is sent."""
    host, _, port = head.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((host.strip("[]"), int(port)))
        return str(probe.getsockname()[0])


def main(arguments: Sequence[str]) -> int:
    """Run the node; 0 once the job's process has closed the pipe, 1 where Ray ended before."""
    options = parse(arguments)
    options.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (options.folder / TEMPORARY).mkdir(exist_ok=True)
    guardian, guarded = guard(options.mark, options.folder)
    held = held_lock(options.folder / LOCK)
    remove_abandoned(options.folder.parent)  # of jobs that were killed with their guardian
    adopt_orphans()
    signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
    closed = threading.Event()
    threading.Thread(target=wait_for_end_of_input, args=(closed,), daemon=True).start()
    log = options.folder / LOG
    until = time.monotonic() + (0.0 if options.head else JOIN_SECONDS)
    ray = start_ray(options, log)
    while not closed.wait(POLL_SECONDS):
        if ray.poll() is None:
            note_start(options.folder)
            continue
        if time.monotonic() > until:
            break
        # A head that is busy refuses nodes; and Ray gives up its own start after 30 s, which a busy
        # machine does not hold. What it had started by then would be a second node.
        end_processes(options.mark, options.folder, guardian)
        ray = start_ray(options, log)
    failed = ray.returncode is not None
    if failed:
        print(f"{socket.gethostname()}: Ray ended: {why(log)}", file=sys.stderr, flush=True)
    end_processes(options.mark, options.folder, guardian)
    shutil.rmtree(options.folder, ignore_errors=True)
    held.close()
    os.close(guarded)
    return 1 if failed else 0


def wait_for_end_of_input(closed: threading.Event) -> None:
    """Set the event when standard input ends."""
    while os.read(0, 4096):
        pass
    closed.set()


def note_start(folder: Path) -> None:
    """Show the job's process that Ray is up: its port alone does not."""
    ready = folder / READY
    if not ready.exists() and STARTED in (folder / LOG).read_text("utf-8", errors="replace"):
        ready.touch()


def start_ray(options: argparse.Namespace, log: Path) -> subprocess.Popen[bytes]:
    """Start Ray with the job's mark; what it prints goes to the log."""
    with log.open("ab") as output:
        return subprocess.Popen(  # noqa: S603
            ray_command(options, address_towards(options.address)),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment(options),
        )


def environment(options: argparse.Namespace) -> dict[str, str]:
    """The environment of Ray on this node."""
    temporary = str(options.folder / TEMPORARY)
    return {**os.environ, MARK: options.mark, "TMPDIR": temporary}


def why(log: Path) -> str:
    """What Ray printed of its end: lines with an error, else the last one."""
    lines = COLOURS.sub("", log.read_text("utf-8", errors="replace")).splitlines()
    said = [line.strip() for line in lines if line.strip()]
    causes = [line for line in said if CAUSE.search(line)]
    return " | ".join((causes or said)[-MOST_LINES:]) or "no word of why"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
