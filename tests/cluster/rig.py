"""A real Slurm of two nodes on this machine (`up`, `down`, `node` and `on` beside this file)."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import chain
from pathlib import Path

import yaml

from orchestration.remote.packaging import PACKAGES
from tests.paths import ROOT
from tests.waiting import until

HERE = Path(__file__).parent
# Nodes have a /tmp of their own, so that what both and this machine see lies elsewhere.
STATE = Path("/var/tmp/cola-slurm-rig")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "ip", "unshare", "nsenter")
JOB_SECONDS = 240.0  # for a job of a tiny study on a machine with other work
OTHER_USER = "games"  # of every Debian, with an entry and without rights
CLUSTERS = {
    "rig": {"time": "15"},
    # Slurm warns it 70 to 130 s after its start.
    "short": {"time": "3", "grace_seconds": 20},
    "pair": {"time": "15", "nodes": 2},
}


def missing() -> str | None:
    """Why there can be no rig here; None where there can."""
    if os.geteuid() != 0:
        return "a Slurm of two nodes needs root"
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"{', '.join(absent)} not installed (apt-get install slurm-wlm munge iproute2)"
    return None


def described_clusters(shared: Path) -> str:
    """A user's `clusters.yaml`: the rig, by what its jobs ask for."""
    common = {"kind": "slurm", "shared": str(shared), "gpus_per_node": 0, "cpus_per_node": 2,
              "grace_seconds": 30}  # fmt: skip
    clusters = {name: common | own for name, own in CLUSTERS.items()}
    return yaml.safe_dump({"clusters": clusters})


class Rig:
    """The cluster and a user's descriptions of it (`CLUSTERS`)."""

    def __init__(self) -> None:
        # `up` wants a folder below /tmp, which is of every node's own otherwise.
        self.shared = Path(f"/tmp/cola-slurm-{os.getpid()}")
        self.outputs = self.shared / "outputs"
        self.other_shared = self.shared / OTHER_USER

    def start(self) -> None:
        """Start both nodes; this checkout's sources are below the shared folder for them."""
        for package in PACKAGES:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / package, self.shared / "src" / package, ignore=ignored)
        for folder in (self.shared, self.other_shared):
            (folder / "config" / "cola").mkdir(parents=True)
            text = described_clusters(folder)
            (folder / "config" / "cola" / "clusters.yaml").write_text(text)
        shutil.chown(self.other_shared, OTHER_USER)
        below = [path for path in (sys.prefix, sys.base_prefix) if path.startswith("/tmp/")]
        self._script("up", str(STATE), str(self.shared), *below)
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

    def as_other_user(self, *command: str) -> str:
        """What a command of `OTHER_USER` prints, on the first node; it must succeed."""
        own = {
            **{name: self.environment[name] for name in ("SLURM_CONF", "PATH", "PYTHONPATH")},
            "XDG_CONFIG_HOME": str(self.other_shared / "config"),
            "HOME": str(self.other_shared),
            "USER": OTHER_USER,
            "OMP_NUM_THREADS": "1",
        }
        variables = [f"{name}={value}" for name, value in own.items()]
        user = ("runuser", "-u", OTHER_USER, "--", "env", "-i", *variables)
        done = subprocess.run(
            [HERE / "on", "1", *user, *command],
            cwd=self.other_shared, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=JOB_SECONDS,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    def lose(self, node: int) -> None:
        """End a node at once, with all that runs on it; its disk stays."""
        found = subprocess.run(
            ["ip", "netns", "pids", f"cn{node}"], capture_output=True, text=True, check=True
        )
        for pid in found.stdout.split():
            with contextlib.suppress(OSError):
                if (Path("/proc") / pid / "comm").read_text().strip() == "slurmd":
                    os.kill(int(pid), signal.SIGKILL)  # the first process of its machine

    def bring_back(self, node: int) -> None:
        """Start a lost node again, and wait until Slurm gives it jobs."""
        self._script("node", str(STATE), str(node))
        state = ("sinfo", "--noheader", f"--nodes=n{node}", "--format=%T")
        until(lambda: self.run(*state).strip() == "idle", f"node {node} to return", 60)

    def remove_abandoned(self, node: int) -> None:
        """What the next job on a node does first: of one that was lost the job's folder is left."""
        rule = "from orchestration.state.scratch import remove_abandoned as r; r(Path('/tmp'))"
        program = (sys.executable, "-c", f"from pathlib import Path; {rule}")
        self.on(node, "env", f"PYTHONPATH={self.shared / 'src'}", *program)

    def kill_driver(self, node: int) -> None:
        """Kill the driver of a node's only study or sweep; its supervisor stays."""
        listed = self.on(node, "ps", "-wweo", "pid=,ppid=,args=").splitlines()
        processes = [line.split(maxsplit=2) for line in listed]
        (supervisor,) = [pid for pid, _, args in processes if re.search(r"cola (sweep )?run", args)]
        (driver,) = [
            pid for pid, parent, args in processes if parent == supervisor and "spawn_main" in args
        ]
        self.on(node, "kill", "-9", driver)

    def jobs(self, name: str) -> list[str]:
        """State, first node and number of starts of every job of a name that waits or runs."""
        form = "--format=%T %B %A"
        return self.run("squeue", "--noheader", f"--name=cola-{name}", form).splitlines()

    def cancel_all(self) -> None:
        """End all jobs, such as those that a failed test has left."""
        left = self.run("squeue", "--noheader", "--format=%A").split()
        if left:
            self.run("scancel", *left)
            until(lambda: not self.run("squeue", "--noheader").strip(), "the jobs' end", 120)

    def on(self, node: int, *command: str) -> str:
        """What a command prints on a node, outside of Slurm."""
        done = subprocess.run(
            [HERE / "on", str(node), *command], capture_output=True, text=True, timeout=60
        )
        return done.stdout

    def start_now(self, name: str) -> None:
        """Have a job that is queued again start soon: Slurm waits two minutes by itself. Not in the
        second of its end, in which the nodes still revoke the credential that both starts have."""
        self.until(lambda: any("PENDING" in job for job in self.jobs(name)), "the queue", name, 90)
        for job in self.jobs(name):
            self.run("scontrol", "update", f"jobid={job.split()[2]}", "starttime=now+3seconds")

    def teardown_seconds(self, name: str) -> list[float]:
        """How long each start of a name took to end Ray after its study had left."""
        return [float(text) for text in re.findall(r"Ray ended after ([\d.]+) s", self.log(name))]

    def log(self, name: str) -> str:
        """The output of all jobs of a name, of whichever user."""
        # Folders that a job removes meanwhile are passed over, where a glob would fail.
        found = [
            Path(folder) / file for folder, _, files in os.walk(self.shared)
            if folder.endswith(f"/cola-jobs/{name}") for file in files if file.endswith(".log")
        ]  # fmt: skip
        return "".join(path.read_text() for path in sorted(found))

    def until(
        self, condition: Callable[[], bool], what: str, name: str, seconds: float = JOB_SECONDS
    ) -> None:
        """Wait for something of a name's jobs; where it does not come, their output is shown."""
        try:
            until(condition, what, seconds)
        except AssertionError as error:
            queue = self.run("squeue", code=None)
            raise AssertionError(f"{error}\n{queue}\n{self.log(name)[-4000:]}") from None

    def wait_for(self, text: str, name: str, seconds: float = JOB_SECONDS) -> None:
        """Wait until the output of a name has this text."""
        what = f"{text!r} in the output of {name}"
        self.until(lambda: text in self.log(name), what, name, seconds)

    def wait_for_end(self, name: str, seconds: float = JOB_SECONDS) -> None:
        """Wait until no job of a name waits or runs."""
        what = f"the end of the jobs of {name}"
        self.until(lambda: not self.jobs(name), what, name, seconds)

    def left_behind(self) -> list[str]:
        """Processes and folders of jobs that are left on the nodes."""
        listed = [self.on(node, "ps", "-wweo", "stat=,args=").splitlines() for node in (1, 2)]
        processes = [
            line for line in chain(*listed)
            if ("raylet" in line or "gcs_server" in line or "orchestration.slurm" in line)
            and not line.startswith("Z")  # it has ended, and its parent has not asked how
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
                [HERE / name, *arguments], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env={**os.environ, "PREFIX": sys.base_prefix},
            )  # fmt: skip
        assert done.returncode == 0, log.read_text()
        log.unlink()
