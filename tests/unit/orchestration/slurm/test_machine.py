"""Commands and files of a login node, over a real sshd on this machine's loopback."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from cola.errors import ClusterError, SpecError, StorageError
from orchestration.cli.destinations import SlurmDestination, destination
from orchestration.recipes.job_site import job_site, machine_of
from orchestration.remote.clusters import ClusterSpec
from orchestration.slurm.jobs import JobSite, described, jobs_of
from orchestration.slurm.machine import HERE, Answer, Given, Machine, SshMachine, UnreachableError
from orchestration.slurm.record import JobRecord, log_file, write_job
from tests.servers import free_port
from tests.waiting import until

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin")
pytestmark = pytest.mark.skipif(
    SSHD is None or shutil.which("ssh") is None, reason="openssh-server is not installed"
)
STRANGE = "a 'b\" $(touch never); \\ *\nü"  # for a shell that reads it


@dataclass(frozen=True)
class LoginNode:
    """A running sshd, and a configuration of OpenSSH for the hosts of these tests."""

    configuration: Path
    port: int

    def machine(self, host: str) -> SshMachine:
        return SshMachine(host, str(self.configuration))


@pytest.fixture(scope="module")
def login(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoginNode]:
    folder, port = tmp_path_factory.mktemp("ssh"), free_port(0)
    for name in ("host", "user", "stranger"):
        key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(key, check=True)
    (folder / "authorized").write_text((folder / "user.pub").read_text())
    host_key = (folder / "host.pub").read_text()
    (folder / "known").write_text(f"[127.0.0.1]:{port} {host_key}")
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/authorized\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nPermitRootLogin yes\n"
    )
    common = (
        f"HostName 127.0.0.1\nUser {getpass.getuser()}\nUserKnownHostsFile {folder}/known\n"
        "IdentitiesOnly yes\nIdentityAgent none\n"
    )
    configuration = folder / "config"
    configuration.write_text(
        f"Host login\nPort {port}\nIdentityFile {folder}/user\n{common}"
        f"Host stranger\nPort {port}\nIdentityFile {folder}/stranger\n{common}"
        f"Host silent\nPort {free_port(0)}\nIdentityFile {folder}/user\n{common}"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where sshd separates its privileges
    with (folder / "sshd.log").open("w") as output:
        server = subprocess.Popen(
            [str(SSHD), "-D", "-e", "-f", str(folder / "sshd_config")], stderr=output
        )
    try:
        until(
            lambda: (
                "Server listening" in (folder / "sshd.log").read_text() or server.poll() is not None
            ),
            "sshd to listen",
            20,
        )
        assert server.poll() is None, (folder / "sshd.log").read_text()
        yield LoginNode(configuration, port)
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(params=["here", "ssh"])
def machine(request: pytest.FixtureRequest, login: LoginNode) -> Machine:
    return HERE if request.param == "here" else login.machine("login")


def test_files_are_written_and_read_as_they_are(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "jobs of 'x'" / "a $HOME.txt"
    assert machine.read(path) is None
    assert machine.names(path.parent) == []
    machine.write(path, STRANGE)
    assert machine.read(path) == STRANGE.encode() == path.read_bytes()
    assert machine.read(path, 3) == STRANGE.encode()[3:]
    assert machine.read(path, len(STRANGE.encode())) == b""
    machine.write(path, "shorter")
    assert path.read_text() == "shorter"
    assert machine.names(path.parent) == [path.name]
    assert (machine.has_folder(path.parent), machine.has_folder(path)) == (True, False)
    empty = path.with_name("empty")
    machine.write(empty, "")
    absent = path.with_name("absent")
    assert machine.read_all([absent, path, empty]) == {path: b"shorter", empty: b""}
    assert machine.read_all([]) == {}


def test_arguments_arrive_as_they_are(machine: Machine, tmp_path: Path) -> None:
    answer = machine.call(["printf", "%s|", STRANGE, "--", ""], given="unread")
    assert answer.output.decode() == f"{STRANGE}|--||"
    assert machine.call(["cat"], given=STRANGE).output.decode() == STRANGE
    failed = machine.call(["bash", "-c", "echo out; echo err >&2; exit 3"])
    assert (failed.code, failed.output, failed.errors.strip()) == (3, b"out\n", "err")
    assert not Path("never").exists()


def test_a_lock_keeps_others_out_until_it_is_left(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "jobs" / "submit.lock"
    wanted = ["flock", "--nonblock", str(path), "true"]
    with machine.lock(path):
        assert HERE.call(wanted).code == 1
    until(lambda: HERE.call(wanted).code == 0, "the lock to be left", 10)


def test_a_file_that_cannot_be_written_is_named(login: LoginNode, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"^login:.*/file/x: cannot be written \(.*File exists"):
        login.machine("login").write(tmp_path / "file" / "x", "text")
    lock = login.machine("login").lock(tmp_path / "file" / "x")
    refused = r"^login:.*: cannot be locked \(.*; check the folder"
    with pytest.raises(StorageError, match=refused), lock:
        pass


def test_a_command_that_is_not_there_is_named(login: LoginNode) -> None:
    with pytest.raises(ClusterError, match=r"^sbatch-x: no such command on login; have its login"):
        login.machine("login").call(["sbatch-x"])


@pytest.mark.parametrize(
    ("host", "reason"),
    [("silent", "Connection refused"), ("stranger", "Permission denied")],
)
def test_a_host_that_does_not_let_in_is_one_line(login: LoginNode, host: str, reason: str) -> None:
    machine = login.machine(host)
    line = rf"^ssh={host}: .*{reason}.*; see that `ssh {host} true` works without a question"
    with pytest.raises(UnreachableError, match=line):
        machine.call(["true"])
    with pytest.raises(UnreachableError, match=line), machine.lock(Path("/tmp/never/submit.lock")):
        pass
    assert issubclass(UnreachableError, SpecError)


def test_connections_are_shared_unless_the_user_says_how(login: LoginNode) -> None:
    machine = login.machine("login")
    options = " ".join(machine.client)
    assert "BatchMode=yes" in options
    assert "ControlPersist=60" in options
    theirs = login.configuration.with_name("shared")
    theirs.write_text(f"Host *\nControlPath /tmp/theirs\n{login.configuration.read_text()}")
    assert "ControlP" not in " ".join(SshMachine("login", str(theirs)).client)


def test_jobs_of_a_login_node_are_found_by_its_files(login: LoginNode, tmp_path: Path) -> None:
    site = JobSite(str(tmp_path), login.machine("login"))
    record = JobRecord(name="tiny", kind="study", job="41", state="succeeded")
    site.folder("tiny").mkdir(parents=True)
    write_job(site.folder("tiny"), record)
    (found,) = described(site, "tiny", ["41"], queued={})
    assert str(found) == "cola-tiny, job 41: succeeded"
    (site.folder("tiny") / "cola-tiny-42.json").write_text("{")
    with pytest.raises(StorageError, match=r"cola-tiny-42\.json: is not record of a job"):
        described(site, "tiny", ["42"], queued={})


class Counted(SshMachine):
    """A login node that counts the calls it gets, and has no queue."""

    calls = 0

    def call(
        self, arguments: Sequence[str], *, given: Given = None, seconds: float = 60.0
    ) -> Answer:
        type(self).calls += 1
        if arguments[0] == "squeue":
            return Answer(0, b"", "")
        return super().call(arguments, given=given, seconds=seconds)


def test_a_list_of_many_ended_jobs_takes_three_calls(login: LoginNode, tmp_path: Path) -> None:
    site = JobSite(str(tmp_path), Counted("login", str(login.configuration)))
    site.folder("tiny").mkdir(parents=True)
    for number in range(300):
        job = str(1000 + number)
        write_job(
            site.folder("tiny"),
            JobRecord(name="tiny", kind="study", job=job, state="failed", reason=job),
        )
        log_file(site.folder("tiny"), "tiny", job).write_text("")
    found = jobs_of(site, "tiny")
    assert [(job.job, job.reason) for job in found] == [(str(1000 + n),) * 2 for n in range(300)]
    assert Counted.calls == 3


def test_a_cluster_names_its_login_node(
    login: LoginNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    described = {
        "kind": "slurm", "shared": "/shared", "ssh": "login",
        "ssh_config": str(login.configuration),
    }  # fmt: skip
    (tmp_path / "clusters.yaml").write_text(yaml.safe_dump({"clusters": {"far": described}}))
    found = destination(None, "far")
    assert isinstance(found, SlurmDestination)
    assert found.site.machine.call(["echo", "there"]).output == b"there\n"
    assert machine_of(None, None) is HERE
    absent = ClusterSpec.parse(described | {"ssh_config": str(tmp_path / "no")})
    with pytest.raises(SpecError, match=r"ssh_config=.*/no: is no file"):
        job_site(absent)
