"""A self-test of recovery: faults in one run of a tiny study, whose checkpoints the user places.

The run's worker, controller and driver are killed in turn, and a worker is made to hang. The same
study runs undisturbed first, on the local disk. After the faults every run must be finished once,
with losses equal to the last bit, and a further driver must find nothing to do.
"""

from __future__ import annotations

import contextlib
import email
import logging
import multiprocessing
import os
import shutil
import signal
import tempfile
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

from cola.errors import RunError
from cola.logs import set_up_logging
from cola.spec import load_yaml
from cola.study import StudySpec
from orchestration.checkpoint.address import joined, redacted, resolved
from orchestration.checkpoint.store import CheckpointStore, check_storage, open_store
from orchestration.driver.progress import StudyView
from orchestration.driver.study_runner import run_study
from orchestration.planning.plan import PlannedRun, plan_study
from orchestration.state.event_log import Event, read_events
from orchestration.state.heartbeat import read_beats
from orchestration.state.journal import JournalReader
from orchestration.state.ledger import Ledger
from orchestration.state.paths import RunFolder, study_folder

log = logging.getLogger(__name__)

POLL_SECONDS = 0.2
PATIENCE_SECONDS = 300.0  # for each recovery; a chosen value
# Fault -> title of the process of Ray that is hit, and the signal that it gets.
WORKER, CONTROLLER = "RayTrainWorker", "TrainController"
HANG = "worker hung"
FAULTS = {
    "worker killed": (WORKER, signal.SIGKILL),
    HANG: (WORKER, signal.SIGSTOP),
    "controller killed": (CONTROLLER, signal.SIGKILL),
}


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
        events = _events(self.study, Event.WORKERS_STARTED, Event.WORKERS_RESTARTED)
        return [event for event in events if event["run"] == self.run.name]

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
        failures = _events(self.study, Event.WORKERS_FAILED)
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


def run_drill(notify: Callable[[str], None], storage: str | None = None) -> bool:
    """Whether every check holds after a drill in a temporary folder, reported line by line.

    If one does not, the drill's files, and its own folder in `storage`, are kept.

    Raises:
        StorageError: the storage cannot be written.
    """
    check_storage(storage)
    folder = Path(tempfile.mkdtemp(prefix="cola-drill-"))
    stored = None if storage is None else joined(resolved(storage), folder.name)
    kept = f"{folder}" if stored is None else f"{folder} and {redacted(stored)}"
    try:
        injections, checks = drill(folder, notify, stored)
    except DrillError as error:
        notify(f"fail {error} (see {kept})")
        return False
    for injection in injections:
        notify(
            f"{injection.fault} (process {injection.process}): trains again after "
            f"{injection.seconds_to_training:.1f} s, {injection.steps_repeated} steps repeated"
        )
    for check in checks:
        notify(f"{'ok  ' if check.holds else 'fail'} {check.claim}")
    if not all(check.holds for check in checks):
        notify(f"its files are kept in {kept}")
        return False
    shutil.rmtree(folder, ignore_errors=True)
    if stored is not None:
        store = CheckpointStore(stored)
        store.filesystem.delete_dir(store.root)
    return True


def drill(
    folder: Path, notify: Callable[[str], None], storage: str | None = None
) -> tuple[list[Injection], list[Check]]:
    """Inject all faults, with files in `folder` and checkpoints in an empty `storage`.

    Raises:
        DrillError: a driver ends early, or a recovery takes too long.
    """
    reference = drill_study(folder / "reference", every_seconds=60.0)
    disturbed = drill_study(folder / "disturbed", storage=storage)
    with Drivers() as drivers:
        injections = _inject_all(reference, disturbed, drivers, notify=notify)
        ended_well = drivers.last.exitcode == 0 and _run(disturbed)
    return injections, _checks(reference, disturbed, ended_well)


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
            target=_driver_main, args=([study.model_dump(mode="json") for study in studies],)
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


def _inject_all(
    reference: StudySpec,
    disturbed: StudySpec,
    drivers: Drivers,
    *,
    notify: Callable[[str], None],
) -> list[Injection]:
    """Run the reference, then the disturbed study with its faults, until the last driver ends."""
    plan = plan_study(disturbed)
    victim = Victim(disturbed, max(plan, key=lambda run: len(run.spec.stages)))
    notify("the study undisturbed")
    driver = drivers.start(reference, disturbed)

    def undisturbed_is_finished() -> bool:
        return len(_events(reference, Event.FINISHED)) == len(plan)

    _wait_until(driver, undisturbed_is_finished, "the undisturbed study")
    injections = []
    for fault in FAULTS:
        _wait_until(driver, victim.has_fresh_checkpoint, f"a checkpoint before: {fault}")
        if fault == HANG:
            _wait_until(driver, victim.has_stepped, f"a sign of life before: {fault}")
        notify(f"injecting: {fault}")
        injections.append(_inject(driver, victim, fault))
    _wait_until(driver, victim.has_fresh_checkpoint, "a checkpoint before: driver killed")
    notify("injecting: driver killed")
    pid = drivers.kill_last()
    began, seen = time.time(), len(victim.starts())
    driver = drivers.start(disturbed)
    _wait_until(driver, lambda: len(victim.starts()) > seen, "the runs to resume")
    injections.append(_injection("driver killed", pid, victim, seen=seen, began=began))
    driver.join()
    return injections


def _driver_main(studies: list[dict[str, Any]]) -> None:
    parsed = [StudySpec.parse(values) for values in studies]
    with _log(parsed[0]).open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    set_up_logging()
    if not all(map(_run, parsed)):
        raise SystemExit(1)


def _run(study: StudySpec) -> bool:
    """Whether every run of the study finishes, run in this process."""
    with _log(study).open("a") as log:
        return run_study(study, None, StudyView(Console(file=log, width=200))).complete


def _log(study: StudySpec) -> Path:
    return Path(study.output).parent / "drivers.log"


def _inject(driver: BaseProcess, victim: Victim, fault: str) -> Injection:
    """Send the fault's signal to a process of the run, and wait until it trains again."""
    title, number = FAULTS[fault]
    pid = victim.process(driver, title)
    began, seen = time.time(), len(victim.starts())
    os.kill(pid, number)
    _wait_until(driver, lambda: len(victim.starts()) > seen, f"the run to resume after: {fault}")
    return _injection(fault, pid, victim, seen=seen, began=began)


def _injection(fault: str, pid: int, victim: Victim, *, seen: int, began: float) -> Injection:
    """What recovery cost: its start is the one after the `seen` ones; `began` in Unix seconds."""
    start = victim.starts()[seen]
    return Injection(fault, pid, int(start["repeated"]), start["time"] - began)


def _wait_until(driver: BaseProcess, condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if driver.exitcode is not None:
            raise DrillError(f"the driver ended ({driver.exitcode}) while waiting for {what}")
        if time.monotonic() > deadline:
            raise DrillError(f"waited {PATIENCE_SECONDS:g} s for {what}, which did not happen")
        threading.Event().wait(POLL_SECONDS)


def _checks(reference: StudySpec, disturbed: StudySpec, ended_well: bool) -> list[Check]:
    plan, ledger = plan_study(disturbed), Ledger(Path(disturbed.output))
    done = [run for run in plan if ledger.entry(run.key).state == "finished"]
    finished = _events(disturbed, Event.FINISHED)
    ends = [event["run"] for event in finished]
    last_end = max((event["time"] for event in finished), default=0.0)
    late = [event for event in _events(disturbed, Event.LAUNCHED) if event["time"] > last_end]
    expected, losses = _losses(reference), _losses(disturbed)
    points = sum(len(steps) for steps in expected.values())
    return [
        Check(ended_well, "the drivers after the faults ended without an error"),
        Check(done == plan, f"no run is lost: {len(done)} of {len(plan)} finished"),
        Check(sorted(ends) == sorted(run.name for run in plan), "each run finished once"),
        Check(not late, "a further driver starts nothing: no run is repeated"),
        Check(losses == expected, f"all {points} logged losses equal the undisturbed study's"),
    ]


def _events(study: StudySpec, *kinds: str) -> list[dict[str, Any]]:
    return [event for event in read_events(study_folder(study)) if event["event"] in kinds]


def _losses(study: StudySpec) -> dict[str, dict[int, float]]:
    """Training losses by run key and step."""
    return {
        path.parent.name: {
            line.step: line.values["train/loss"]
            for line in JournalReader(path).new_lines()
            if line.kind == "train"
        }
        for path in sorted(Path(study.output).glob("runs/*/journal.jsonl"))
    }
