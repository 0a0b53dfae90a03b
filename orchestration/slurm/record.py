"""What is remembered of a job beyond Slurm: how it ended, and whether its starts made progress."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from cola.errors import StorageError, one_line, validation_problem
from cola.files import read_record, storage_errors, write_atomically
from cola.jsonl import LineReader
from cola.records import SweepFile
from orchestration.planning.decisions import saved_plan
from orchestration.state.journal import JournalReader
from orchestration.state.paths import OutputFolder, RunFolder

WorkKind = Literal["study", "sweep"]
JobState = Literal["running", "queued again", "succeeded", "stopped", "failed"]
REMOVE = "remove it: only the count of starts is lost"
Record = TypeVar("Record", bound=BaseModel)
MOST_IDLE_STARTS = 3  # of a job, one after the other, that took no step; a chosen value


class JobRecord(BaseModel):
    """A job of Slurm that ran a study or sweep; the file lies beside its log.

    `progress` counts steps and trials when it was last started, `idle_starts` the starts since
    then that have added none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    kind: WorkKind
    job: str
    state: JobState = "running"
    reason: str | None = None
    exit_code: int | None = None
    nodes: list[str] = []
    starts: int = 0
    idle_starts: int = 0
    progress: int = 0
    changed: float = 0.0  # Unix seconds

    def started(self, progress: int, nodes: list[str]) -> JobRecord:
        """The record at one more start, when the work has come as far as `progress`."""
        idle = 0 if not self.starts or progress > self.progress else self.idle_starts + 1
        return self.model_copy(
            update={
                "starts": self.starts + 1,
                "idle_starts": idle,
                "progress": progress,
                "nodes": nodes,
                "state": "running",
                "reason": None,
                "exit_code": None,
            }
        )

    def may_start_again(self, progress: int) -> bool:
        """Whether another start would not be one too many without a step."""
        return progress > self.progress or self.idle_starts + 1 < MOST_IDLE_STARTS


class LastSubmission(BaseModel):
    """What the last submission of a name has its jobs run; the file lies beside their logs.

    `version` is the digest of the whole, `share` that of the specification in the scripts, in which
    jobs side by side share out what is of the whole study. `rungs` are those that a job takes
    alone, by its number.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    share: str
    sources: str | None = None  # the folder of those that were sent; None: the environment's
    rungs: dict[str, str] = {}


def submission_file(folder: Path) -> Path:
    """The file of the last submission of a name."""
    return folder / "submission.json"


def record_file(folder: Path, name: str, job: str) -> Path:
    """The file of a job's record."""
    return folder / f"cola-{name}-{job}.json"


def log_file(folder: Path, name: str, job: str) -> Path:
    """The file of a job's output."""
    return folder / f"cola-{name}-{job}.log"


def read_job(folder: Path, name: str, job: str) -> JobRecord | None:
    """The record of a job; None where it has not started.

    Raises:
        StorageError: the file is damaged.
    """
    path = record_file(folder, name, job)
    return read_record(path, JobRecord, what="record of a job", remedy=REMOVE)


def parsed_job(content: bytes | None, where: str) -> JobRecord | None:
    """The record in a file's content, which may come from another machine; None of no file.

    Raises:
        StorageError: it is damaged; `where` names the file.
    """
    return parsed(content, where, JobRecord, what="record of a job", remedy=REMOVE)


def parsed_submission(content: bytes | None, where: str) -> LastSubmission | None:
    """The last submission in a file's content; None of no file.

    Raises:
        StorageError: it is damaged; `where` names the file.
    """
    remedy = "`cola stop` the jobs, then remove it"
    return parsed(content, where, LastSubmission, what="record of a submission", remedy=remedy)


def parsed(
    content: bytes | None, where: str, model: type[Record], *, what: str, remedy: str
) -> Record | None:
    """The record in a file's content; None of no file.

    Raises:
        StorageError: it is damaged.
    """
    if content is None:
        return None
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        problem = one_line(validation_problem(error))
        raise StorageError(
            f"{where}: is not {what} that this version reads ({problem}); {remedy}"
        ) from None


def write_job(folder: Path, record: JobRecord) -> None:
    """Write the record.

    Raises:
        StorageError: the folder cannot be written.
    """
    path = record_file(folder, record.name, record.job)
    stamped = record.model_copy(update={"changed": time.time()})
    with storage_errors(path, remedy="free space in the job's folder, or check its permissions"):
        write_atomically(path, stamped.model_dump_json(indent=1) + "\n")


def work_done(output: Path, name: str, kind: WorkKind) -> int:
    """Steps that the work's runs have taken, and trials that have ended; 0 before the first start.

    A step that is repeated after a lost checkpoint counts once: starts that always train the same
    steps make no progress.
    """
    keys, trials = run_keys(output, name, kind)
    return trials + sum(last_step(RunFolder(OutputFolder(output).runs / key)) for key in keys)


def run_keys(output: Path, name: str, kind: WorkKind) -> tuple[list[str], int]:
    """Keys of the runs that belong to a study or sweep, and how many trials have ended."""
    if kind == "study":
        try:
            plan = saved_plan(OutputFolder(output).studies / name)
        except StorageError:
            return [], 0
        return sorted({slot["run_key"] for slot in plan.values()}), 0
    keys: set[str] = set()
    ended = 0
    with contextlib.suppress(OSError):
        for _, line in LineReader(
            OutputFolder(output).sweeps / name / SweepFile.TRIALS
        ).new_lines():
            keys |= set(line.get("run_keys") or ())
            ended += line.get("event") == "ended"
    return sorted(keys), ended


def last_step(folder: RunFolder) -> int:
    """The largest step in a run's journal; 0 where there is none that can be read."""
    try:
        return max((line.step for line in JournalReader(folder.journal).new_lines()), default=0)
    except StorageError:
        return 0
