"""Where Slurm's commands and a cluster's shared files are: this machine, or one behind ssh.

ssh is OpenSSH's client with the user's own configuration. It asks no question: a key that needs a
passphrase needs an agent. Arguments are quoted for the shell at the other end, and no text of a
study or of a description is ever part of a command there.
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import logging
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

from cola.errors import ClusterError, SpecError, StorageError, one_line
from cola.files import file_lock, storage_errors, write_atomically

log = logging.getLogger(__name__)

ANSWER_SECONDS = 60.0  # for a command; a controller under load takes long. A chosen value
CONNECT_SECONDS = 10  # for an ssh host to answer; a chosen value
UNREACHED = 255  # OpenSSH's exit code for a host, a key or a connection that fails
NOT_FOUND = 127  # a shell's
ABSENT = 44  # of `READ` and `NAMES`, a chosen value
MARK = "cola-output-begins"
# What a login shell's profile prints comes before the mark; commands are found as in a session.
SHELL = f'printf "%s\\n" {MARK}; exec "$@"'
READ = '[ -f "$1" ] || exit 44; exec tail -c "+$2" -- "$1"'
# One line a file: what it holds in base64, or - where there is none.
READ_ALL = """while IFS= read -r file; do
if [ -f "$file" ]; then base64 -w 0 -- "$file" && echo || exit 1; else echo -; fi
done"""
NAMES = '[ -d "$1" ] || exit 44; exec ls -1A -- "$1"'
WRITE = 'mkdir -p -- "$1" && cat > "$2" && mv -f -- "$2" "$3"'
LOCK = 'mkdir -p -- "$1" && exec flock -- "$2" sh -c "echo locked; cat > /dev/null"'
ON_STORAGE = "check the folder that `shared` names, its permissions and its disk"


Given = str | bytes | None  # what a command reads from its input


class UnreachableError(SpecError):
    """An ssh host does not answer, or takes no key of this user."""


@dataclass(frozen=True)
class Answer:
    """A command's exit code and what it has printed."""

    code: int
    output: bytes
    errors: str


class Machine(Protocol):
    """A machine that has Slurm's client commands and sees the shared folder.

    Files are whole or absent. All methods raise UnreachableError where it cannot be reached, and
    StorageError where a file cannot be read or written.
    """

    @property
    def where(self) -> str:
        """How the machine is named in messages."""

    def call(
        self,
        arguments: Sequence[str],
        *,
        given: Given = None,
        seconds: float = ANSWER_SECONDS,
    ) -> Answer:
        """Run a command with `given` as its input.

        Raises:
            ClusterError: there is no such command, or it has not ended in time.
        """

    def read(self, path: Path, offset: int = 0) -> bytes | None:
        """A file's content from a byte on; None where there is no such file."""

    def read_all(self, paths: Sequence[Path]) -> dict[Path, bytes]:
        """The contents of those of the files that exist, at once."""

    def write(self, path: Path, text: str) -> None:
        """Write a file, and its folder where there is none."""

    def names(self, folder: Path) -> list[str]:
        """Names of what is in a folder; none of an absent one."""

    def has_folder(self, path: Path) -> bool:
        """Whether there is such a folder."""

    def lock(self, path: Path) -> AbstractContextManager[None]:
        """Within, no other process holds the lock of this file."""


class ThisMachine:
    """This machine, which has Slurm's commands itself."""

    where = "this machine"

    def call(
        self,
        arguments: Sequence[str],
        *,
        given: Given = None,
        seconds: float = ANSWER_SECONDS,
    ) -> Answer:
        """See `Machine`."""
        if shutil.which(arguments[0]) is None:
            raise ClusterError(
                f"{arguments[0]}: no such command; call `cola` on a machine that has Slurm's "
                "client commands (a login node), or name that machine (ssh in clusters.yaml)"
            )
        return run(arguments, given=given, seconds=seconds, name=arguments[0])

    def read(self, path: Path, offset: int = 0) -> bytes | None:
        """See `Machine`."""
        with storage_errors(path, remedy=ON_STORAGE, done="read"):
            try:
                with path.open("rb") as file:
                    file.seek(offset)
                    return file.read()
            except FileNotFoundError:
                return None

    def read_all(self, paths: Sequence[Path]) -> dict[Path, bytes]:
        """See `Machine`."""
        contents = {path: self.read(path) for path in paths}
        return {path: content for path, content in contents.items() if content is not None}

    def write(self, path: Path, text: str) -> None:
        """See `Machine`."""
        with storage_errors(path.parent, remedy=ON_STORAGE):
            write_atomically(path, text)

    def names(self, folder: Path) -> list[str]:
        """See `Machine`."""
        with storage_errors(folder, remedy=ON_STORAGE, done="read"):
            return [path.name for path in folder.iterdir()] if folder.is_dir() else []

    def has_folder(self, path: Path) -> bool:
        """See `Machine`."""
        return path.is_dir()

    @contextlib.contextmanager
    def lock(self, path: Path) -> Iterator[None]:
        """See `Machine`."""
        with contextlib.ExitStack() as stack:
            with storage_errors(path.parent, remedy=ON_STORAGE):
                stack.enter_context(file_lock(path))
            yield


@dataclass(frozen=True)
class SshMachine:
    """A login node that OpenSSH's client reaches; `configuration` stands for the user's own."""

    host: str
    configuration: str | None = None

    @property
    def where(self) -> str:
        """See `Machine`."""
        return self.host

    @cached_property
    def client(self) -> list[str]:
        """ssh with its options. Connections are shared, as the user's configuration says or here.

        Raises:
            SpecError: there is no ssh, or it does not read its configuration.
        """
        if shutil.which("ssh") is None:
            raise SpecError(f"ssh={self.host}: this machine has no command ssh; install OpenSSH")
        given = ["-F", self.configuration] if self.configuration is not None else []
        shown = run(["ssh", *given, "-G", "--", self.host], seconds=ANSWER_SECONDS, name="ssh")
        if shown.code != 0:
            raise SpecError(
                f"ssh={self.host}: {last_line(shown.errors)}; correct the configuration of ssh"
            )
        options = ["BatchMode=yes", f"ConnectTimeout={CONNECT_SECONDS}", "ServerAliveInterval=15"]
        if b"\ncontrolpath " not in shown.output or b"\ncontrolpath none" in shown.output:
            options += self._shared_connection(given)
        return ["ssh", *given, *(f"-o{option}" for option in options), "--", self.host]

    def _shared_connection(self, given: list[str]) -> list[str]:
        """Options by which this process connects once; the connection ends with it."""
        folder = tempfile.mkdtemp(prefix="cola-ssh-", dir="/tmp")
        path = f"{folder}/socket"
        end = ["ssh", *given, "-q", f"-oControlPath={path}", "-Oexit", "--", self.host]

        def close() -> None:
            with contextlib.suppress(ClusterError):
                run(end, seconds=ANSWER_SECONDS, name="ssh")
            shutil.rmtree(folder, ignore_errors=True)

        atexit.register(close)
        return ["ControlMaster=auto", f"ControlPath={path}", "ControlPersist=60"]

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The command line that runs these arguments there."""
        there = ["bash", "-l", "-c", SHELL, "bash", *arguments]
        return [*self.client, shlex.join(there)]

    def call(
        self,
        arguments: Sequence[str],
        *,
        given: Given = None,
        seconds: float = ANSWER_SECONDS,
    ) -> Answer:
        """See `Machine`."""
        answer = run(
            self.command(arguments), given=given, seconds=seconds,
            name=f"{arguments[0]} on {self.host}",
        )  # fmt: skip
        before, mark, output = answer.output.partition(f"{MARK}\n".encode())
        if answer.code == UNREACHED:  # also of a connection that is lost meanwhile
            raise self._unreachable(last_line(answer.errors))
        if not mark:
            raise ClusterError(
                f"ssh={self.host}: its shell ends before the command "
                f"({last_line(answer.errors or before.decode(errors='replace'))}); see that "
                f"`ssh {self.host} bash -l -c true` works"
            )
        if answer.code == NOT_FOUND:
            raise ClusterError(
                f"{arguments[0]}: no such command on {self.host}; have its login shell find it "
                "(PATH in ~/.bash_profile), or name a login node that has Slurm's client commands"
            )
        return Answer(answer.code, output, answer.errors)

    def read(self, path: Path, offset: int = 0) -> bytes | None:
        """See `Machine`."""
        answer = self.call(["sh", "-c", READ, "sh", str(path), str(offset + 1)])
        if answer.code == ABSENT:
            return None
        self._check(answer, path, "read")
        return answer.output

    def read_all(self, paths: Sequence[Path]) -> dict[Path, bytes]:
        """See `Machine`."""
        if not paths:
            return {}
        # By the input: thousands of names are more than a command line holds.
        given = "".join(f"{path}\n" for path in paths)
        answer = self.call(["sh", "-c", READ_ALL], given=given)
        self._check(answer, paths[0].parent, "read")
        lines = answer.output.splitlines()
        return {
            path: base64.b64decode(line)
            for path, line in zip(paths, lines, strict=True)
            if line != b"-"
        }

    def write(self, path: Path, text: str) -> None:
        """See `Machine`."""
        places = [str(path.parent), str(path.with_name(f".{path.name}.new")), str(path)]
        self._check(self.call(["sh", "-c", WRITE, "sh", *places], given=text), path, "written")

    def names(self, folder: Path) -> list[str]:
        """See `Machine`."""
        answer = self.call(["sh", "-c", NAMES, "sh", str(folder)])
        if answer.code == ABSENT:
            return []
        self._check(answer, folder, "read")
        return answer.output.decode(errors="replace").splitlines()

    def has_folder(self, path: Path) -> bool:
        """See `Machine`."""
        return self.call(["test", "-d", str(path)]).code == 0

    @contextlib.contextmanager
    def lock(self, path: Path) -> Iterator[None]:
        """See `Machine`; it is held as long as a connection."""
        command = self.command(["sh", "-c", LOCK, "sh", str(path.parent), str(path)])
        with tempfile.TemporaryFile() as errors, subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        ) as process:  # fmt: skip
            assert process.stdin is not None
            assert process.stdout is not None
            if b"locked\n" not in process.stdout:  # read until it comes, or the output ends
                process.wait()
                errors.seek(0)
                shown = last_line(errors.read().decode(errors="replace"))
                if process.returncode == UNREACHED:
                    raise self._unreachable(shown)
                raise StorageError(f"{self.host}:{path}: cannot be locked ({shown}); {ON_STORAGE}")
            try:
                yield
            finally:
                process.stdin.close()

    def _unreachable(self, shown: str) -> UnreachableError:
        return UnreachableError(
            f"ssh={self.host}: {shown}; see that `ssh {self.host} true` works without a question "
            "(key, agent, known_hosts, ~/.ssh/config)"
        )

    def _check(self, answer: Answer, path: Path, done: str) -> None:
        """Raise StorageError where a command on a file has failed."""
        with storage_errors(f"{self.host}:{path}", remedy=ON_STORAGE, done=done):
            if answer.code != 0:
                raise OSError(last_line(answer.errors))


HERE: Machine = ThisMachine()


def run(command: Sequence[str], *, given: Given = None, seconds: float, name: str) -> Answer:
    """Run a command of this machine.

    Its messages go through a file: a connection that ssh leaves for the next call may keep a pipe
    open.

    Raises:
        ClusterError: it has not ended in time, or cannot be started.
    """
    log.debug("%s", shlex.join(command))
    given = (given or "").encode() if not isinstance(given, bytes) else given
    with tempfile.TemporaryFile() as errors:
        try:
            done = subprocess.run(  # noqa: S603
                list(command), input=given, stdout=subprocess.PIPE, stderr=errors,
                timeout=seconds,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise ClusterError(
                f"{name}: has not answered for {seconds:g} s; see whether its machine is "
                "overloaded, and Slurm's controller up (scontrol ping)"
            ) from None
        except OSError as error:
            raise ClusterError(f"{name}: cannot be started ({one_line(error)})") from None
        errors.seek(0)
        return Answer(done.returncode, done.stdout, errors.read().decode(errors="replace"))


def last_line(text: str) -> str:
    """The last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    shown = lines[-1] if lines else "it ended without a message"
    return one_line(shown).removeprefix("ssh: ").rstrip(".")
