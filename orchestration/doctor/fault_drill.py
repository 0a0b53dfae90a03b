"""A self-test of recovery: a tiny study of whose runs one has its worker, controller and driver
killed in turn, and one more worker made to hang. Its checkpoints lie where the user says.

The same study runs undisturbed first, on the local disk. After the faults every run must be
finished once, with the same losses to the last bit, and a further driver must find nothing to do.
"""

from __future__ import annotations

import contextlib
import email
import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

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
from orchestration.state.event_log import read_events
from orchestration.state.heartbeat import read_beats
from orchestration.state.journal import JournalReader
from orchestration.state.ledger import Ledger
from orchestration.state.paths import RunFolder, study_folder

POLL_SECONDS = 0.2
PATIENCE_SECONDS = 300.0
# What is done to which process of Ray's, by its title.
WORKER, CONTROLLER = "RayTrainWorker", "TrainController"
FAULTS = {
    "worker killed": (WORKER, signal.SIGKILL),
    "worker hung": (WORKER, signal.SIGSTOP),
    "controller killed": (CONTROLLER, signal.SIGKILL),
}


@dataclass(frozen=True)
class Injection:
    """One fault and what came of it."""

    fault: str
    process: int
    steps_repeated: int
    seconds_to_training: float


@dataclass(frozen=True)
class Check:
    """One thing that must hold after all faults."""

    holds: bool
    claim: str


class DrillError(RunError):
    """The drill could not be carried out: something did not happen in time."""


@dataclass(frozen=True)
class Victim:
    """The run to which everything is done, as its study's files tell of it."""

    study: StudySpec
    run: PlannedRun

    @property
    def folder(self) -> Path:
        """Its journal's and ledger's."""
        return Ledger(Path(self.study.output)).run_folder(self.run.key)

    def starts(self) -> list[dict[str, Any]]:
        """Every start of its workers."""
        found = _events(self.study, "workers started", "workers restarted")
        return [event for event in found if event["run"] == self.run.name]

    def fresh_checkpoint(self) -> bool:
        """Whether a whole checkpoint is of a step that the newest workers made."""
        starts = self.starts()
        if not starts:
            return False
        store = open_store(self.study.checkpoint.storage, self.folder)
        return any(
            item.step > starts[-1]["step"] and store.complete(item) for item in store.stored()
        )

    def watched(self) -> bool:
        """Whether the newest workers have told of a step: until then a hang is a slow start."""
        starts, beats = self.starts(), read_beats(self.folder)
        return bool(starts and beats) and all(beat.step > starts[-1]["step"] for beat in beats)

    def process(self, driver: BaseProcess, title: str) -> int:
        """Its worker or its controller, which must be below the driver: that is ours."""
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
        """It is what tells of workers that failed."""
        failed = _events(self.study, "workers failed")
        told = [event["driver"] for event in failed if event["run"] == self.run.name]
        return int(told[-1].rpartition(":")[2])


def drill_study(folder: Path, every_seconds: float = 1.0, storage: str | None = None) -> StudySpec:
    """Two families, some hundred steps each, on the sources of one package of Python's library.

    Checkpoints are made every so often; those that go elsewhere are uploaded beside the training.
    """
    upload = "sync" if storage is None else "async"
    values = load_yaml(Path(str(resources.files("orchestration") / "templates/fault-drill.yaml")))
    corpus = {"source": "files", "paths": [str(Path(email.__file__).parent)]}
    values["data"]["corpus"] = corpus
    values["checkpoint"] = {"every_seconds": every_seconds, "storage": storage, "upload": upload}
    return StudySpec.parse(values | {"output": str(folder)})


def carry_out(say: Callable[[str], None], storage: str | None = None) -> bool:
    """The drill in a temporary folder, told line by line; whether every check holds.

    Its files, and what it put into a folder of its own in `storage`, are kept where one does not.

    Raises:
        SpecError: for a storage that cannot be written.
    """
    check_storage(storage)
    folder = Path(tempfile.mkdtemp(prefix="cola-drill-"))
    place = None if storage is None else joined(resolved(storage), folder.name)
    kept = f"{folder}" if place is None else f"{folder} and {redacted(place)}"
    try:
        injections, checks = drill(folder, say, place)
    except DrillError as error:
        say(f"fail {error} (see {kept})")
        return False
    for injection in injections:
        say(
            f"{injection.fault} (process {injection.process}): trains again after "
            f"{injection.seconds_to_training:.1f} s, {injection.steps_repeated} steps repeated"
        )
    for check in checks:
        say(f"{'ok  ' if check.holds else 'fail'} {check.claim}")
    passed = all(check.holds for check in checks)
    if not passed:
        say(f"its files are kept in {kept}")
        return False
    shutil.rmtree(folder, ignore_errors=True)
    if place is not None:
        store = CheckpointStore(place)
        store.filesystem.delete_dir(store.root)
    return True


def drill(
    folder: Path, say: Callable[[str], None], storage: str | None = None
) -> tuple[list[Injection], list[Check]]:
    """Carry it out in `folder`, with the disturbed study's checkpoints in an empty `storage`.

    Raises:
        DrillError: when a driver ends early, or a recovery takes too long.
    """
    reference = drill_study(folder / "reference", every_seconds=60.0)
    disturbed = drill_study(folder / "disturbed", storage=storage)
    drivers: list[BaseProcess] = []
    try:
        return _disturbed(reference, disturbed, drivers, say)
    finally:
        for driver in drivers:
            driver.kill()


def _disturbed(
    reference: StudySpec,
    disturbed: StudySpec,
    drivers: list[BaseProcess],
    say: Callable[[str], None],
) -> tuple[list[Injection], list[Check]]:
    plan = plan_study(disturbed)
    victim = Victim(disturbed, max(plan, key=lambda run: len(run.spec.stages)))
    say("the study undisturbed")
    driver = _start(drivers, reference, disturbed)
    ended = len(plan)
    _until(driver, lambda: len(_events(reference, "finished")) == ended, "the undisturbed study")
    injections = []
    for fault in FAULTS:
        _until(driver, victim.fresh_checkpoint, f"a checkpoint before: {fault}")
        if fault == "worker hung":
            _until(driver, victim.watched, f"a sign of life before: {fault}")
        say(f"injecting: {fault}")
        injections.append(_inject(driver, victim, fault))
    _until(driver, victim.fresh_checkpoint, "a checkpoint before: driver killed")
    say("injecting: driver killed")
    os.kill(driver.pid or 0, signal.SIGKILL)
    driver.join()
    began, seen = time.time(), len(victim.starts())
    pid, driver = driver.pid or 0, _start(drivers, disturbed)
    _until(driver, lambda: len(victim.starts()) > seen, "the runs to go on")
    injections.append(_injection("driver killed", pid, victim, seen, began))
    driver.join()
    ended_well = driver.exitcode == 0 and _run(disturbed)
    return injections, _checks(reference, disturbed, ended_well)


def _start(drivers: list[BaseProcess], *studies: StudySpec) -> BaseProcess:
    """A driver that carries them out one after the other."""
    process = multiprocessing.get_context("spawn").Process(
        target=_drive, args=([study.model_dump(mode="json") for study in studies],)
    )
    process.start()
    drivers.append(process)
    return process


def _drive(studies: list[dict[str, Any]]) -> None:
    parsed = [StudySpec.parse(values) for values in studies]
    with _log(parsed[0]).open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    set_up_logging()
    if not all(map(_run, parsed)):
        raise SystemExit(1)


def _run(study: StudySpec) -> bool:
    """Carry it out in this process; whether every run has finished."""
    with _log(study).open("a") as log:
        return run_study(study, None, StudyView(Console(file=log, width=200))).complete


def _log(study: StudySpec) -> Path:
    return Path(study.output).parent / "drivers.log"


def _inject(driver: BaseProcess, victim: Victim, fault: str) -> Injection:
    """Do it to a process of the run, and wait until it trains again."""
    title, number = FAULTS[fault]
    pid = victim.process(driver, title)
    began, seen = time.time(), len(victim.starts())
    os.kill(pid, number)
    _until(driver, lambda: len(victim.starts()) > seen, f"the run to go on after: {fault}")
    return _injection(fault, pid, victim, seen, began)


def _injection(fault: str, pid: int, victim: Victim, seen: int, began: float) -> Injection:
    start = victim.starts()[seen]
    return Injection(fault, pid, int(start["repeated"]), start["time"] - began)


def _until(driver: BaseProcess, condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if driver.exitcode is not None:
            raise DrillError(f"the driver ended ({driver.exitcode}) while waiting for {what}")
        if time.monotonic() > deadline:
            raise DrillError(f"waited {PATIENCE_SECONDS:g} s in vain for {what}")
        threading.Event().wait(POLL_SECONDS)


def _checks(reference: StudySpec, disturbed: StudySpec, ended_well: bool) -> list[Check]:
    plan, ledger = plan_study(disturbed), Ledger(Path(disturbed.output))
    done = [run for run in plan if ledger.entry(run.key).state == "finished"]
    ends = [event["run"] for event in _events(disturbed, "finished")]
    last_end = max((event["time"] for event in _events(disturbed, "finished")), default=0.0)
    late = [event for event in _events(disturbed, "launched") if event["time"] > last_end]
    expected, found = _losses(reference), _losses(disturbed)
    points = sum(len(steps) for steps in expected.values())
    return [
        Check(ended_well, "the drivers after the faults ended without an error"),
        Check(done == plan, f"no run is lost: {len(done)} of {len(plan)} finished"),
        Check(sorted(ends) == sorted(run.name for run in plan), "each run finished once"),
        Check(not late, "a further driver starts nothing: no run is repeated"),
        Check(found == expected, f"all {points} logged losses equal the undisturbed study's"),
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
