"""A self-test of recovery: faults in one run of a tiny study, whose checkpoints the user places.

The run's worker, controller and driver are killed in turn, a worker is made to hang, a driver is
frozen until another one has taken its run over, and a disk is filled. The same study runs
undisturbed first, on the local disk. After the faults every run must be finished once, with losses
equal to the last bit, and a further driver must find nothing to do.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

from cola.study import StudySpec
from orchestration.checkpoint.address import joined, redacted, resolved
from orchestration.checkpoint.store import CheckpointStore, check_storage
from orchestration.doctor.drill_setup import (
    CONTROLLER,
    WORKER,
    Check,
    DrillError,
    Drivers,
    Injection,
    Victim,
    drill_study,
    events,
    losses,
    measured,
    run_here,
    wait_until,
)
from orchestration.doctor.output_faults import FROZEN, FullDisk, freeze, small_disk
from orchestration.planning.plan import plan_study
from orchestration.state.event_log import Event
from orchestration.state.ledger import Ledger

EXPECTED_MINUTES = 7  # on two cores that have little else to do
HANG = "worker hung"
# Fault -> title of the process of Ray that is hit, and the signal that it gets.
FAULTS = {
    "worker killed": (WORKER, signal.SIGKILL),
    HANG: (WORKER, signal.SIGSTOP),
    "controller killed": (CONTROLLER, signal.SIGKILL),
}
PARTS = len(FAULTS) + 4  # undisturbed, frozen, driver killed, to the end


class Progress:
    """Lines with the time since the drill began."""

    def __init__(self, notify: Callable[[str], None]) -> None:
        self._notify, self._began = notify, time.monotonic()

    def __call__(self, text: str) -> None:
        """Print one line."""
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        self._notify(f"[{minutes}:{seconds:02d} of about {EXPECTED_MINUTES}:00] {text}")


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
        injections, checks = drill(folder, Progress(notify), stored)
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
    with small_disk(folder / "small-disk", notify) as mounted, Drivers() as drivers:
        disk = None if mounted is None else FullDisk(drill_study(mounted), drivers, notify)
        injections = _inject_all(reference, disturbed, drivers, disk=disk, notify=notify)
        notify("a further driver looks for something to do")
        ended_well = drivers.last.exitcode == 0 and run_here(disturbed)
        checks = _checks(reference, disturbed, ended_well)
        if disk is not None:
            checks += disk.checks(losses(reference))
    return injections, checks


def _inject_all(
    reference: StudySpec,
    disturbed: StudySpec,
    drivers: Drivers,
    *,
    disk: FullDisk | None,
    notify: Callable[[str], None],
) -> list[Injection]:
    """Run the reference, then the disturbed study with its faults, until the last driver ends."""
    plan = plan_study(disturbed)
    victim = Victim(disturbed, max(plan, key=lambda run: len(run.spec.stages)))
    parts = iter(range(1, PARTS + 1))

    def begin(text: str) -> None:
        notify(f"part {next(parts)} of {PARTS}: {text}")

    begin("the study undisturbed")
    driver = drivers.start(reference, disturbed)

    def undisturbed_is_finished() -> bool:
        return len(events(reference, Event.FINISHED)) == len(plan)

    wait_until(driver, undisturbed_is_finished, "the undisturbed study")
    injections = []
    for fault in FAULTS:
        wait_until(driver, victim.has_fresh_checkpoint, f"a checkpoint before: {fault}")
        if fault == HANG:
            wait_until(driver, victim.has_stepped, f"a sign of life before: {fault}")
        begin(f"injecting: {fault}")
        injections.append(_inject(driver, victim, fault))
    wait_until(driver, victim.has_fresh_checkpoint, f"a checkpoint before: {FROZEN}")
    begin(f"injecting: {FROZEN}, until its lease is stale" + (", and a full disk" if disk else ""))
    meanwhile = disk.fill if disk is not None else lambda: None
    injections.append(freeze(driver, victim, drivers, meanwhile=meanwhile, notify=notify))
    successor = drivers.last
    wait_until(successor, victim.has_fresh_checkpoint, "a checkpoint before: driver killed")
    begin("injecting: driver killed")
    injections.append(_kill_driver(drivers, victim))
    begin("the runs to their end")
    drivers.last.join()
    if disk is not None:
        disk.resumed.join()
    return injections


def _inject(driver: BaseProcess, victim: Victim, fault: str) -> Injection:
    """Send the fault's signal to a process of the run, and wait until it trains again."""
    title, number = FAULTS[fault]
    pid = victim.process(driver, title)
    began, seen = time.time(), len(victim.starts())
    os.kill(pid, number)
    wait_until(driver, lambda: len(victim.starts()) > seen, f"the run to resume after: {fault}")
    return measured(fault, pid, victim, seen=seen, began=began)


def _kill_driver(drivers: Drivers, victim: Victim) -> Injection:
    """Kill the last driver, start another one, and wait until the run trains again."""
    pid = drivers.kill_last()
    began, seen = time.time(), len(victim.starts())
    driver = drivers.start(victim.study)
    wait_until(driver, lambda: len(victim.starts()) > seen, "the runs to resume")
    return measured("driver killed", pid, victim, seen=seen, began=began)


def _checks(reference: StudySpec, disturbed: StudySpec, ended_well: bool) -> list[Check]:
    """What must hold of the disturbed study, whatever its faults."""
    plan, ledger = plan_study(disturbed), Ledger(Path(disturbed.output))
    done = [run for run in plan if ledger.entry(run.key).state == "finished"]
    finished = events(disturbed, Event.FINISHED)
    ends = [event["run"] for event in finished]
    last_end = max((event["time"] for event in finished), default=0.0)
    late = [event for event in events(disturbed, Event.LAUNCHED) if event["time"] > last_end]
    expected, found = losses(reference), losses(disturbed)
    points = sum(len(steps) for steps in expected.values())
    return [
        Check(ended_well, "the drivers after the faults ended without an error"),
        Check(done == plan, f"no run is lost: {len(done)} of {len(plan)} finished"),
        Check(sorted(ends) == sorted(run.name for run in plan), "each run finished once"),
        Check(
            len(events(disturbed, Event.LEASE_LOST)) > 0,
            "the frozen driver finds its runs taken over, and leaves them alone",
        ),
        Check(not late, "a further driver starts nothing: no run is repeated"),
        Check(found == expected, f"all {points} logged losses equal the undisturbed study's"),
    ]
