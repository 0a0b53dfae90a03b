"""The driver of a study or sweep on a joined cluster, in a child process that is restarted when it
is lost.

Ray ends every process that is connected to a node or head that dies, so the supervisor is not
connected. The ledger makes a restart cheap: finished runs are reused, others resume from their
checkpoints.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Generic, TypeVar

from rich.console import Console

from cola.errors import ClusterError, ColaError
from cola.logs import set_up_logging
from cola.spec.locations import located
from cola.spec.resources import ResourcesSpec
from cola.study import StudySpec
from orchestration.cluster.session import NoClusterError
from orchestration.driver.progress import StudyView
from orchestration.driver.signals import forward_to, handle_signals
from orchestration.driver.study_runner import StudyResult, run_study
from orchestration.state.event_log import Event, EventLog
from orchestration.state.paths import study_folder

log = logging.getLogger(__name__)

PAUSE_SECONDS = 2.0  # between attempts to reach a cluster that was lost; a chosen value
Result = TypeVar("Result")


@dataclass(frozen=True)
class Returned(Generic[Result]):
    """What the driver returned."""

    value: Result


def run_supervised(
    study: StudySpec, address: str, view: StudyView, *, rungs: Collection[int] | None = None
) -> StudyResult:
    """`run_study` on the cluster at `address`, supervised.

    Raises:
        ColaError: what `run_study` raises.
        ClusterError: see `supervised`.
    """
    values = located(study).model_dump(mode="json")
    return supervised(
        partial(_run_study, values, address, rungs, stderr=view.console.stderr),
        address,
        study.resources,
        events=EventLog(study_folder(study)),
        notify=view.note,
    )


def _run_study(
    values: dict[str, object], address: str, rungs: Collection[int] | None, *, stderr: bool
) -> StudyResult:
    view = StudyView(Console(stderr=stderr))
    return run_study(StudySpec.parse(values), address, view, rungs=rungs)


def supervised(
    drive: Callable[[], Result],
    address: str,
    resources: ResourcesSpec,
    *,
    events: EventLog,
    notify: Callable[[str], None],
) -> Result:
    """What `drive` returns, in a process that is started again when it is lost.

    `drive` is pickled. It is given up after `resources.max_failures` losses, or when the cluster
    has not come back within `resources.wait_seconds`; the same command resumes the work.

    Raises:
        ColaError: what `drive` raises.
        ClusterError: it gives up.
    """
    limit = resources.max_failures
    losses, lost_since = 0, 0.0
    while True:
        result, code = _run_driver_process(drive)
        if isinstance(result, Returned):
            return result.value
        if isinstance(result, NoClusterError) and losses:
            if time.monotonic() - lost_since > resources.wait_seconds:
                raise result
            log.debug("the cluster has not come back: %s", result)
            threading.Event().wait(PAUSE_SECONDS)
            continue
        if isinstance(result, ColaError | KeyboardInterrupt):
            raise result
        losses, lost_since = losses + 1, time.monotonic()
        reason = f"the driver's process ended with {code}: its cluster or its machine's memory"
        events.write(Event.DRIVER_LOST, None, reason, loss=losses)
        log.warning("%s (loss %d of %d)", reason, losses, limit)
        if losses > limit:
            raise ClusterError(
                f"--address {address}: {reason}, {losses} times (resources.max_failures={limit}); "
                "look for a lost head node (ray status), and for a kill by memory in this "
                "machine's kernel log (dmesg); the same command resumes it"
            )
        notify(f"{reason}; restarting it ({losses} of {limit})")


def _run_driver_process(
    drive: Callable[[], Result],
) -> tuple[Returned[Result] | ColaError | KeyboardInterrupt | None, int | None]:
    """What one driver process sent (None: it died before), and its exit code."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_driver_main, args=(there, drive))
    process.start()
    there.close()
    asked = threading.Event()
    with handle_signals(forward_to(process, asked)):
        result: Returned[Result] | ColaError | KeyboardInterrupt | None = None
        with suppress(EOFError):
            result = here.recv()
        process.join()
    here.close()
    # A driver that is still being loaded is ended by the signal: it is not to be started again.
    if result is None and asked.is_set():
        result = KeyboardInterrupt()
    return result, process.exitcode


def _driver_main(connection: Connection, drive: Callable[[], object]) -> None:
    """Run the driver and send its result, or the error that stopped it."""
    # Signals of a terminal reach the supervisor alone, which forwards each of them once.
    os.setsid()
    set_up_logging()
    threading.Thread(target=_leave_with_supervisor, args=(connection,), daemon=True).start()
    try:
        connection.send(Returned(drive()))
    except (ColaError, KeyboardInterrupt) as error:
        connection.send(error)


def _leave_with_supervisor(connection: Connection) -> None:
    """Kill this process when the supervisor is gone: its end of the pipe closes then."""
    try:
        connection.recv()  # the supervisor sends nothing
    except (EOFError, OSError):
        os.kill(os.getpid(), signal.SIGKILL)
