"""A real Slurm of two nodes on this machine (`up`, `down` and `on` beside this file)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from tests.paths import ROOT
from tests.waiting import until

HERE = Path(__file__).parent
# Nodes have a /tmp of their own, so that what both and this machine see lies elsewhere.
STATE = Path("/var/tmp/cola-slurm-rig")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "ip", "unshare", "nsenter")
JOB_SECONDS = 240.0  # for a job of a tiny study on a machine with other work


def missing() -> str | None:
    """Why there can be no rig here; None where there can."""
    if os.geteuid() != 0:
        return "a Slurm of two nodes needs root"
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"{', '.join(absent)} not installed (apt-get install slurm-wlm munge iproute2)"
    return None


class Rig:
    """The cluster and a user's description of it, `rig`."""

    def __init__(self) -> None:
        # `up` wants a folder below /tmp, which is of every node's own otherwise.
        self.shared = Path(f"/tmp/cola-slurm-{os.getpid()}")
        self.outputs = self.shared / "outputs"

    def start(self) -> None:
        """Start both nodes; this checkout's sources are below the shared folder for them."""
        shutil.copytree(
            ROOT, self.shared / "src",
            ignore=shutil.ignore_patterns(".git", ".venv", "outputs", "__pycache__", "data"),
        )  # fmt: skip
        folder = self.shared / "config" / "cola"
        folder.mkdir(parents=True)
        described = {
            "kind": "slurm", "shared": str(self.shared), "gpus_per_node": 0, "cpus_per_node": 2,
            "time": "15", "grace_seconds": 30,
        }  # fmt: skip
        (folder / "clusters.yaml").write_text(yaml.safe_dump({"clusters": {"rig": described}}))
        self._script("up", str(STATE), str(self.shared))
        self.environment = {
            **os.environ,
            "SLURM_CONF": str(STATE / "slurm.conf"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(self.shared / "src"),
            "XDG_CONFIG_HOME": str(self.shared / "config"),
            "OMP_NUM_THREADS": "1",
        }

    def stop(self) -> None:
        """End the nodes and all their processes, and remove what they wrote."""
        self._script("down", str(STATE))
        for folder in (STATE, self.shared):
            shutil.rmtree(folder, ignore_errors=True)

    def run(self, *command: str, code: int | None = 0, seconds: float = JOB_SECONDS) -> str:
        """What a command prints, `cola` or Slurm's own, outside of the nodes."""
        done = subprocess.run(
            command, env=self.environment, cwd=self.shared, timeout=seconds, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert code is None or done.returncode == code, done.stdout
        return done.stdout

    def on(self, node: int, *command: str) -> str:
        """What a command prints on a node, outside of Slurm."""
        done = subprocess.run(
            [HERE / "on", str(node), *command], capture_output=True, text=True, timeout=60
        )
        return done.stdout

    def log(self, name: str) -> str:
        """The output of all jobs of a name."""
        found = sorted((self.shared / "cola-jobs" / name).glob("*.log"))
        return "".join(path.read_text() for path in found)

    def wait_for(self, text: str, name: str, seconds: float = JOB_SECONDS) -> None:
        """Wait until the output of a name has this text."""
        until(lambda: text in self.log(name), f"{text!r} in the output of {name}", seconds)

    def wait_for_end(self, name: str, seconds: float = JOB_SECONDS) -> None:
        """Wait until no job of a name waits or runs."""
        queued = ("squeue", "--noheader", f"--name=cola-{name}")
        until(lambda: not self.run(*queued).strip(), f"the end of the jobs of {name}", seconds)

    def left_behind(self) -> list[str]:
        """Processes and folders of jobs that are left on the nodes."""
        processes = [
            line for node in (1, 2) for line in self.on(node, "ps", "-eo", "args").splitlines()
            if "raylet" in line or "gcs_server" in line or "orchestration.slurm" in line
        ]  # fmt: skip
        leftovers = [self.on(node, "cat", "/tmp/leftovers") for node in (1, 2)]
        folders = [
            name for node in (1, 2) for name in self.on(node, "ls", "/tmp").split()
            if name.startswith("cola-") and name != self.shared.name
        ]  # fmt: skip
        return [text for text in (*processes, *leftovers, *folders) if text.strip()]

    def _script(self, name: str, *arguments: str) -> None:
        # Its daemons outlive the call: they must hold nothing open that others wait for.
        log = Path(f"/tmp/cola-slurm-{name}.log")
        with log.open("w") as output:
            done = subprocess.run(
                [HERE / name, *arguments], stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        assert done.returncode == 0, log.read_text()
        log.unlink()
