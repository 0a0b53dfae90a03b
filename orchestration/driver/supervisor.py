"""A study's driver on a joined cluster, in a process of its own that is started again.

Ray ends a process whose node or head is lost, so whoever is to outlive that must not be connected.
The driver's ledger makes a new start cheap: what is finished stays finished, the rest goes on from
its checkpoints.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import FrameType

from cola.errors import ClusterError, ColaError
from cola.logs import set_up_logging
from cola.study import StudySpec
from orchestration.cluster.session import NoClusterError
from orchestration.driver.progress import StudyView
from orchestration.driver.signals import Handler, handled
from orchestration.driver.study_runner import StudyResult, run_study
from orchestration.state.event_log import EventLog
from orchestration.state.paths import study_folder

PAUSE_SECONDS = 2.0
# None: the driver died before it had one.
Answer = StudyResult | ColaError | KeyboardInterrupt | None


def run_supervised(study: StudySpec, address: str, view: StudyView) -> StudyResult:
    """`run_study` on the cluster at `address`, started again when its process is lost.

    After `resources.max_failures` losses, or where the cluster does not come back within
    `resources.wait_seconds`, it gives up; the same command goes on from there.

    Raises:
        ColaError: what `run_study` raises.
        ClusterError: when it gives up.
    """
    losses, lost_since = 0, 0.0
    while True:
        answer, code = _carry_out(study, address)
        if isinstance(answer, StudyResult):
            return answer
        if isinstance(answer, NoClusterError) and losses:
            if time.monotonic() - lost_since > study.resources.wait_seconds:
                raise answer
            threading.Event().wait(PAUSE_SECONDS)
            continue
        if isinstance(answer, ColaError | KeyboardInterrupt):
            raise answer
        losses, lost_since = losses + 1, time.monotonic()
        reason = f"the driver's process ended with {code}: its cluster or its machine's memory"
        EventLog(study_folder(study)).write("driver lost", None, reason, loss=losses)
        if losses > study.resources.max_failures:
            raise ClusterError(f"--address {address}: {reason}, {losses} times; see Ray's logs")
        view.note(f"{reason}; starting it again ({losses} of {study.resources.max_failures})")


def _carry_out(study: StudySpec, address: str) -> tuple[Answer, int | None]:
    """One driver process: its answer, and its exit code."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_drive, args=(there, study.model_dump(mode="json"), address))
    process.start()
    there.close()
    with handled(_passing_signals_to(process)):
        answer: Answer = None
        with suppress(EOFError):
            answer = here.recv()
        process.join()
    here.close()
    return answer, process.exitcode


def _drive(connection: Connection, study: dict[str, object], address: str) -> None:
    """The driver's process: the study, and its result (or what was wrong) to the supervisor."""
    # Signals of a terminal reach the supervisor alone, which passes each on once.
    os.setsid()
    set_up_logging()
    threading.Thread(target=_leave_with_supervisor, args=(connection,), daemon=True).start()
    try:
        connection.send(run_study(StudySpec.parse(study), address, StudyView()))
    except (ColaError, KeyboardInterrupt) as error:
        connection.send(error)


def _leave_with_supervisor(connection: Connection) -> None:
    """The supervisor writes nothing: its end of the pipe closes when it is gone."""
    try:
        connection.recv()
    except (EOFError, OSError):
        os.kill(os.getpid(), signal.SIGKILL)


def _passing_signals_to(process: BaseProcess) -> Handler:
    def pass_on(signum: int, frame: FrameType | None) -> None:
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, signum)

    return pass_on
