"""The micro-batch of a run's workers: as planned, as free memory allows, as a shortage left it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import torch

from orchestration.state.event_log import Event
from orchestration.state.fence import AttemptFence
from orchestration.state.journal import JournalWriter
from orchestration.state.paths import RunFolder
from orchestration.step.micro_batch import (
    MicroBatchRecord,
    Shortage,
    recorded_size,
    size_that_fits,
    smallest,
)
from orchestration.training.distributed import WorkerRank, gather_objects
from orchestration.worker.assignment import Assignment

log = logging.getLogger(__name__)


def device_name() -> str:
    """What a record of this machine's memory holds for."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def starting_micro_batch(assignment: Assignment, worker: WorkerRank) -> int | None:
    """Most sequences of a pass, the same on every worker (collective); None: the whole share.

    The smallest of: the planned size; what a shortage of memory left on such a device; on a GPU,
    where the study gives no size, what fits the memory that is free on the fullest one.
    """
    resources = assignment.resources
    recorded = recorded_size(
        RunFolder(Path(assignment.run_folder)).micro_batch,
        workers=worker.world_size,
        zero_stage=resources.zero_stage,
        device=device_name(),
    )
    fitting = None
    if assignment.fit_micro_batch and torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        fitting = size_that_fits(assignment.run, resources, free, total=total)
    mine = smallest(resources.micro_batch_sequences, recorded, fitting)
    chosen = smallest(*gather_objects(mine, worker))
    if chosen is not None:
        log.info("%s: micro-batches of %d sequences", assignment.name, chosen)
    return chosen


def shortage_recorder(
    assignment: Assignment,
    worker: WorkerRank,
    journal: JournalWriter | None,
    *,
    fence: AttemptFence,
) -> Callable[[Shortage], None]:
    """What writes a shortage down: for workers that start again, and in the journal.

    Of several workers the one that is short of memory may have no journal: their controller writes
    the event (`orchestration.trainers.ray_trainer`).
    """
    path = RunFolder(Path(assignment.run_folder)).micro_batch

    def record(shortage: Shortage) -> None:
        if fence.superseded(recheck=True):
            return
        left = MicroBatchRecord(
            micro_batch_sequences=shortage.smaller,
            workers=worker.world_size,
            zero_stage=assignment.resources.zero_stage,
            device=device_name(),
        )
        try:
            left.write(path)
        except OSError as error:  # without it workers that start again meet the shortage again
            log.warning("%s: is not written: %s", path, error)
        if journal is not None and worker.world_size == 1:
            values = {
                "event": Event.OUT_OF_MEMORY,
                "attempt": assignment.attempt,
                "reason": str(shortage),
                "micro_batch_sequences": shortage.smaller,
            }
            journal.write("event", shortage.step, time.time(), values=values)

    return record
