"""The study of the drill, its drivers as processes of their own, and what its files say."""

from __future__ import annotations

import contextlib
import email
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import resources
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Self

import psutil
from rich.console import Console

from cola.errors import ColaError, RunError
from cola.logs import set_up_logging
from cola.spec import load_yaml
from cola.study import StudySpec
from orchestration.checkpoint.store import open_store
from orchestration.driver.progress import StudyView
from orchestration.driver.study_runner import run_study
from orchestration.planning.plan import PlannedRun
from orchestration.state.event_log import Event, read_events
from orchestration.state.heartbeat import read_beats
from orchestration.state.journal import JournalReader
from orchestration.state.ledger import Ledger
from orchestration.state.paths import RunFolder, study_folder

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2  # a chosen value: short beside the seconds that a recovery takes
PATIENCE_SECONDS = 300.0  # for each recovery; a chosen value
WORKER, CONTROLLER = "RayTrainWorker", "TrainController"  # in titles of processes of Ray


@dataclass(frozen=True)
class Injection:
    """One fault, and what its recovery cost."""

    fault: str
    process: int
    steps_repeated: int
    seconds_to_training: float


@dataclass(frozen=True)
class Check:
    """One claim that must hold after all faults."""

    holds: bool
    claim: str


class DrillError(RunError):
    """The drill was cut short: a driver ended early, or a recovery took too long."""


@dataclass(frozen=True)
class Victim:
    """The run that all faults hit, as its study's files describe it."""

    study: StudySpec
    run: PlannedRun

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Ledger(Path(self.study.output)).run_folder(self.run.key)

    def starts(self) -> list[dict[str, Any]]:
        """Events of every start of its workers."""
        found = events(self.study, Event.WORKERS_STARTED, Event.WORKERS_RESTARTED)
        return [event for event in found if event["run"] == self.run.name]

    def has_fresh_checkpoint(self) -> bool:
        """Whether the newest workers have saved a whole checkpoint of a step of theirs."""
        starts = self.starts()
        if not starts:
            return False
        store = open_store(self.study.checkpoint.storage, self.folder)
        return any(
            item.step > starts[-1]["step"] and store.complete(item) for item in store.stored()
        )

    def has_stepped(self) -> bool:
        """Whether all newest workers have sent a heartbeat after a step of theirs.

        Until then a hang passes for a slow start.
        """
        starts, beats = self.starts(), read_beats(self.folder)
        return bool(starts and beats) and all(beat.step > starts[-1]["step"] for beat in beats)

    def process(self, driver: BaseProcess, title: str) -> int:
        """Id of its worker or its controller (by `title`).

        Raises:
            DrillError: the driver has no such descendant; other processes are never touched.
        """
        pid = self._controller() if title == CONTROLLER else self._worker()
        for child in psutil.Process(driver.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.pid == pid and title in " ".join(child.cmdline()):
                    return pid
        raise DrillError(f"no process {title} {pid} below the driver: the study ended too early")

    def _worker(self) -> int:
        lines = JournalReader(RunFolder(self.folder).journal).new_lines()
        pids = [line.values["pid"] for line in lines if line.values.get("event") == "start"]
        return int(pids[-1])

    def _controller(self) -> int:
        # The controller writes the events of failed workers.
        failures = events(self.study, Event.WORKERS_FAILED)
        writers = [event["driver"] for event in failures if event["run"] == self.run.name]
        return int(writers[-1].rpartition(":")[2])


def drill_study(folder: Path, every_seconds: float = 1.0, storage: str | None = None) -> StudySpec:
    """A study of two families, some hundred steps each, on the sources of one of Python's packages.

    Checkpoints are saved every `every_seconds`; in another `storage` they are uploaded while the
    training continues.
    """
    upload = "sync" if storage is None else "async"
    values = load_yaml(Path(str(resources.files("orchestration") / "templates/fault-drill.yaml")))
    corpus = {"source": "files", "paths": [str(Path(email.__file__).parent)]}
    values["data"]["corpus"] = corpus
    values["checkpoint"] = {"every_seconds": every_seconds, "storage": storage, "upload": upload}
    return StudySpec.parse(values | {"output": str(folder)})


@dataclass
class Drivers:
    """Driver processes, which are killed on the way out."""

    processes: list[BaseProcess] = field(default_factory=list)

    @property
    def last(self) -> BaseProcess:
        """The driver that was started last."""
        return self.processes[-1]

    def start(self, *studies: StudySpec) -> BaseProcess:
        """Start a driver that runs the studies one after the other."""
        process = multiprocessing.get_context("spawn").Process(
            target=driver_main, args=([study.model_dump(mode="json") for study in studies],)
        )
        process.start()
        self.processes.append(process)
        log.debug("driver %s runs %s", process.pid, [study.output for study in studies])
        return process

    def kill_last(self) -> int:
        """Kill the last driver; its process id."""
        self.last.kill()
        self.last.join()
        return self.last.pid or 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for process in self.processes:
            process.kill()


def driver_main(studies: list[dict[str, Any]]) -> None:
    """A driver's process: runs the studies, and ends with 1 unless all of their runs finish."""
    parsed = [StudySpec.parse(values) for values in studies]
    with drivers_log(parsed[0]).open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    set_up_logging()
    try:
        if not all(map(run_here, parsed)):
            raise SystemExit(1)
    except ColaError as error:
        log.error("%s", error)
        raise SystemExit(error.exit_code) from None


def run_here(study: StudySpec) -> bool:
    """Whether every run of the study finishes, run in this process."""
    with drivers_log(study).open("a") as file:
        return run_study(study, None, StudyView(Console(file=file, width=200))).complete


def drivers_log(study: StudySpec) -> Path:
    """Where drivers of the drill write what people would see: beside their output."""
    return Path(study.output).parent / "drivers.log"


def measured(fault: str, pid: int, victim: Victim, *, seen: int, began: float) -> Injection:
    """What recovery cost: its start is the one after the `seen` ones; `began` in Unix seconds."""
    start = victim.starts()[seen]
    return Injection(fault, pid, int(start["repeated"]), start["time"] - began)


def wait_until(driver: BaseProcess, condition: Callable[[], bool], what: str) -> None:
    """Wait for the condition.

    Raises:
        DrillError: the driver ends before it, or it takes too long.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if driver.exitcode is not None:
            raise DrillError(f"the driver ended ({driver.exitcode}) while waiting for {what}")
        if time.monotonic() > deadline:
            raise DrillError(f"waited {PATIENCE_SECONDS:g} s for {what}, which did not happen")
        threading.Event().wait(POLL_SECONDS)


def events(study: StudySpec, *kinds: str) -> list[dict[str, Any]]:
    """The study's events of these kinds, in order."""
    return [event for event in read_events(study_folder(study)) if event["event"] in kinds]


def losses(study: StudySpec) -> dict[str, dict[int, float]]:
    """Training losses by run key and step."""
    return {
        path.parent.name: {
            line.step: line.values["train/loss"]
            for line in JournalReader(path).new_lines()
            if line.kind == "train"
        }
        for path in sorted(Path(study.output).glob("runs/*/journal.jsonl"))
    }
