"""A self-test of recovery: a tiny study whose worker, controller and driver are killed in turn,
and one more of whose workers is made to hang.

The same study runs undisturbed first. After the faults every run must be finished once, with the
same losses to the last bit, and a further driver must find nothing to do.
"""

from __future__ import annotations

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
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from cola.spec import StudySpec
from orchestration.events import read_events
from orchestration.journal import JournalReader
from orchestration.ledger import Ledger
from orchestration.plan import plan_study, study_folder
from orchestration.progress import StudyView
from orchestration.study_runner import run_study

POLL_SECONDS = 0.2
PATIENCE_SECONDS = 300.0
# What is done to which process of Ray's, by its title.
FAULTS = {
    "worker killed": ("RayTrainWorker", signal.SIGKILL),
    "worker hung": ("RayTrainWorker", signal.SIGSTOP),
    "controller killed": ("TrainController", signal.SIGKILL),
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


class DrillError(Exception):
    """The drill could not be carried out: something did not happen in time."""


def drill_study(folder: Path) -> StudySpec:
    """Two families, a few hundred steps each, on the sources of one package of Python's library."""
    return StudySpec.parse(
        {
            "name": "fault-drill",
            "families": {"ar": {}, "cola": {"latent_dim": 4, "block_size": 8, "log_snr": 3.0}},
            "ladder": [{"budget": 1.2e11, "core_parameters": 60_000}],
            "data": {
                "corpus": {"source": "files", "paths": [str(Path(email.__file__).parent)]},
                "tokenizer": {"kind": "bpe", "vocab_size": 320},
                "sequence_length": 32,
                "validation_fraction": 0.1,
            },
            "max_epochs": 100,
            "training": {"batch_sequences": 8, "precision": "float32"},
            "evaluation": {
                "validation_sequences": 8,
                "points": 2,
                "samples": 0,
                "diagnostic_sequences": 0,
                "likelihood": {"mask_samples": 2, "ode_steps": 2},
            },
            "checkpoint": {"every_seconds": 1.0},
            "resources": {"hang_seconds": 12.0},
            "tracking": {"log_every_steps": 5},
            "output": str(folder),
        }
    )


def carry_out(say: Callable[[str], None]) -> bool:
    """The drill in a temporary folder, told line by line; whether every check holds.

    The folder is kept where one does not.
    """
    folder = Path(tempfile.mkdtemp(prefix="cola-drill-"))
    try:
        injections, checks = drill(folder, say)
    except DrillError as error:
        say(f"fail {error} (see {folder})")
        return False
    for injection in injections:
        say(
            f"{injection.fault} (process {injection.process}): trains again after "
            f"{injection.seconds_to_training:.1f} s, {injection.steps_repeated} steps repeated"
        )
    for check in checks:
        say(f"{'ok  ' if check.holds else 'fail'} {check.claim}")
    passed = all(check.holds for check in checks)
    if passed:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        say(f"its files are kept in {folder}")
    return passed


def drill(folder: Path, say: Callable[[str], None]) -> tuple[list[Injection], list[Check]]:
    """Carry it out in `folder`.

    Raises:
        DrillError: when a driver ends early, or a recovery takes too long.
    """
    reference, disturbed = drill_study(folder / "reference"), drill_study(folder / "disturbed")
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
    say("the study undisturbed")
    driver = _start(reference, drivers)
    driver.join()
    if driver.exitcode != 0:
        raise DrillError("the undisturbed study failed")
    injections = []
    driver = _start(disturbed, drivers)
    for fault in FAULTS:
        _until(driver, lambda: _fresh_checkpoint(disturbed), f"a checkpoint before: {fault}")
        say(f"injecting: {fault}")
        injections.append(_inject(driver, disturbed, fault))
    _until(driver, lambda: _fresh_checkpoint(disturbed), "a checkpoint before: driver killed")
    say("injecting: driver killed")
    os.kill(driver.pid or 0, signal.SIGKILL)
    driver.join()
    began, seen = time.time(), len(_starts(disturbed))
    pid, driver = driver.pid or 0, _start(disturbed, drivers)
    _until(driver, lambda: len(_starts(disturbed)) > seen, "the runs to go on")
    injections.append(_injection("driver killed", pid, disturbed, seen, began))
    driver.join()
    last = _start(disturbed, drivers)
    last.join()
    return injections, _checks(reference, disturbed, driver.exitcode == 0 == last.exitcode)


def _start(study: StudySpec, drivers: list[BaseProcess]) -> BaseProcess:
    process = multiprocessing.get_context("spawn").Process(
        target=_drive, args=(study.model_dump(mode="json"),)
    )
    process.start()
    drivers.append(process)
    return process


def _drive(values: dict[str, Any]) -> None:
    study = StudySpec.parse(values)
    with (Path(study.output).parent / "drivers.log").open("a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        result = run_study(study, None, StudyView(Console(file=log, width=200)))
    if not result.complete:
        raise SystemExit(1)


def _inject(driver: BaseProcess, study: StudySpec, fault: str) -> Injection:
    """Do it to one process below the driver, and wait until its run trains again."""
    title, number = FAULTS[fault]
    pid = _child(driver, title)
    began, seen = time.time(), len(_starts(study))
    os.kill(pid, number)
    _until(driver, lambda: len(_starts(study)) > seen, f"the run to go on after: {fault}")
    return _injection(fault, pid, study, seen, began)


def _injection(fault: str, pid: int, study: StudySpec, seen: int, began: float) -> Injection:
    start = _starts(study)[seen]
    return Injection(fault, pid, int(start["repeated"]), start["time"] - began)


def _starts(study: StudySpec) -> list[dict[str, Any]]:
    return _events(study, "workers started", "workers restarted")


def _fresh_checkpoint(study: StudySpec) -> bool:
    """Whether some run was saved after the last start of workers."""
    starts = _starts(study)
    return bool(starts) and any(
        path.stat().st_mtime > starts[-1]["time"] + 1
        for path in Path(study.output).glob("runs/*/ray/attempt-*/step-*/manifest-00000.json")
    )


def _child(driver: BaseProcess, title: str) -> int:
    """A process below the driver, which is ours, by its title."""
    for child in psutil.Process(driver.pid).children(recursive=True):
        try:
            if title in " ".join(child.cmdline()):
                return int(child.pid)
        except psutil.NoSuchProcess:
            continue
    raise DrillError(f"no process {title} below the driver: the study ended too early")


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
