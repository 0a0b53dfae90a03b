"""Faults around an output folder: a driver that is frozen until its lease is stale, a full disk."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

from cola.files import is_temporary
from cola.study import StudySpec
from orchestration.doctor.drill_setup import (
    PATIENCE_SECONDS,
    POLL_SECONDS,
    WORKER,
    Check,
    DrillError,
    Drivers,
    Injection,
    Victim,
    losses,
    measured,
    wait_until,
)
from orchestration.planning.plan import plan_study
from orchestration.state.ledger import LEASE_STALE_SECONDS

FROZEN = "driver frozen"
DISK_MEGABYTES = 32  # chosen: a few times what the drill's study writes
CHUNK_BYTES = 65536  # chosen: what is left below it is filled byte by byte


def freeze(
    driver: BaseProcess,
    victim: Victim,
    drivers: Drivers,
    *,
    meanwhile: Callable[[], None],
    notify: Callable[[str], None],
) -> Injection:
    """Stop a driver and its worker until another driver trains their run, then let them continue.

    `meanwhile` is called while the lease becomes stale. The first driver must end by itself.

    Raises:
        DrillError: it does not, or the other one does not train.
    """
    worker, seen = victim.process(driver, WORKER), len(victim.starts())
    frozen = [worker, driver.pid or 0]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    stale = time.monotonic() + LEASE_STALE_SECONDS + 1
    meanwhile()
    time.sleep(max(0.0, stale - time.monotonic()))
    notify("another driver takes the run over")
    began = time.time()
    successor = drivers.start(victim.study)
    wait_until(successor, lambda: len(victim.starts()) > seen, f"the run to resume after: {FROZEN}")
    injection = measured(FROZEN, driver.pid or 0, victim, seen=seen, began=began)
    notify("the frozen driver continues")
    for pid in frozen:
        os.kill(pid, signal.SIGCONT)
    driver.join(PATIENCE_SECONDS)
    if driver.exitcode is None:
        raise DrillError(f"the driver that was frozen did not end within {PATIENCE_SECONDS:g} s")
    return injection


@contextlib.contextmanager
def small_disk(folder: Path, notify: Callable[[str], None]) -> Iterator[Path | None]:
    """A file system of its own of a few megabytes; None where this user may not mount one."""
    folder.mkdir()
    size = f"size={DISK_MEGABYTES}m"
    try:
        done = subprocess.run(  # noqa: S603 (arguments of ours)
            ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)],  # noqa: S607
            capture_output=True,
            text=True,
            check=False,
        )
        problem = done.stderr.strip() if done.returncode else None
    except OSError as error:
        problem = str(error)
    if problem is not None:
        notify(f"skipped: a full disk, as none can be mounted here ({problem})")
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)  # noqa: S603, S607


class FullDisk:
    """The drill's study on a disk that is filled while it trains, and once there is room again."""

    resumed: BaseProcess  # the driver that is started once there is room

    def __init__(self, study: StudySpec, drivers: Drivers, notify: Callable[[str], None]) -> None:
        self._study, self._drivers, self._notify = study, drivers, notify
        self._filler = Path(study.output) / "filler"
        self._code: int | None = None
        self._left: list[str] = []

    def fill(self) -> None:
        """Start a driver, fill its disk until it ends, make room, and start the same one again.

        Raises:
            DrillError: it does not end by itself.
        """
        driver = self._drivers.start(self._study)
        victim = Victim(self._study, plan_study(self._study)[0])
        wait_until(driver, victim.has_fresh_checkpoint, "a checkpoint before: disk full")
        began = time.monotonic()
        with self._filler.open("ab", buffering=0) as filler:
            while driver.exitcode is None:  # what retention makes free is filled, too
                fill_up(filler.fileno())
                driver.join(POLL_SECONDS)
                if time.monotonic() - began > PATIENCE_SECONDS:
                    raise DrillError(f"on a full disk no driver ended in {PATIENCE_SECONDS:g} s")
        self._code = driver.exitcode
        root = Path(self._study.output)
        self._left = [path.name for path in root.rglob(".*") if is_temporary(path)]
        self._filler.unlink()
        self._notify(
            f"disk full: its driver ended with exit code {self._code} after "
            f"{time.monotonic() - began:.0f} s; there is room again, the same study is run"
        )
        self.resumed = self._drivers.start(self._study)

    def checks(self, expected: dict[str, dict[int, float]]) -> list[Check]:
        """What must hold once the second driver has ended; `expected` are undisturbed losses."""
        stopped = (self._code or 0) > 0
        same = losses(self._study) == expected
        return [
            Check(stopped, f"on a full disk the driver ends by itself (exit code {self._code})"),
            Check(not self._left, f"it leaves no temporary file {' '.join(self._left)}".rstrip()),
            Check(
                self.resumed.exitcode == 0, "with room again the same command finishes the study"
            ),
            Check(same, "its losses equal the undisturbed study's, too"),
        ]


def fill_up(descriptor: int) -> None:
    """Write until the disk takes nothing more.

    Raises:
        OSError: for another reason than a full disk.
    """
    for size in (CHUNK_BYTES, 1):
        try:
            while os.write(descriptor, b"0" * size):
                pass
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
