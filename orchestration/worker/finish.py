"""What a run's workers do after training: export, final measurements, outcome."""

from __future__ import annotations

import logging
import shutil
import time
from pathlib import Path

from torch import nn

from cola.checksums import write_checksums
from cola.data import PreparedData, TextTokenizer
from cola.families.interface.family import Family
from cola.files import sync_folder, write_atomically
from orchestration.state.fence import AttemptFence
from orchestration.state.journal import JournalWriter
from orchestration.state.paths import RunFolder
from orchestration.training.final_tasks import task_metrics
from orchestration.training.hooks import order_digests
from orchestration.training.train_loop import TrainState, whole_model
from orchestration.training.validation import diagnostics, text_samples
from orchestration.worker.assignment import Assignment, RunOutcome
from orchestration.worker.heartbeat import Heartbeat

log = logging.getLogger(__name__)


def finish(
    assignment: Assignment,
    state: TrainState,
    data: PreparedData,
    *,
    journal: JournalWriter | None,
    heartbeat: Heartbeat,
    fence: AttemptFence,
) -> None:
    """Export the model, record its final measurements, and write the run's outcome.

    Every worker takes part in gathering the weights; rank 0 alone, which has the journal, writes.
    A superseded attempt writes nothing.

    Raises:
        OSError: the run's folder cannot be written.
    """
    folder = RunFolder(Path(assignment.run_folder))
    with state.averaged():
        weights = state.engine.full_state_dict() if state.stop == "finished" else None
    if journal is None or fence.superseded(recheck=True):
        return
    if weights is not None:
        model = whole_model(state, weights)
        log.info("exporting the model to %s", folder.model)
        save_model(state.family, model, data.tokenizer, folder=folder.model)
        evaluate_finished(state, model, data, folder=folder, journal=journal, heartbeat=heartbeat)
    values = {"event": state.stop, "attempt": assignment.attempt}
    journal.write("event", state.step, time.time(), values=values)
    journal.close()
    if fence.superseded(recheck=True):  # the measurements can take long
        return
    outcome = RunOutcome(
        attempt=assignment.attempt,
        state=state.stop or "interrupted",
        reason=state.stop_reason,
        stop_code=state.stop_code,
        step=state.step,
        order_digests=order_digests(state.run, state.step, len(data.train)),
    )
    write_atomically(folder.outcome, outcome.model_dump_json(indent=1))


def save_model(family: Family, model: nn.Module, tokenizer: TextTokenizer, *, folder: Path) -> None:
    """Write a finished model with its tokenizer and checksums into `folder`: whole, or not at all.

    Raises:
        OSError: the folder cannot be written.
    """
    building = folder.with_name(f".{folder.name}")
    shutil.rmtree(building, ignore_errors=True)  # what a crash has left
    try:
        building.mkdir(parents=True)
        family.save(model, building)
        tokenizer.save(building)
        write_checksums(building)
        shutil.rmtree(folder, ignore_errors=True)
        building.rename(folder)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    sync_folder(folder.parent)


def evaluate_finished(
    state: TrainState,
    model: nn.Module,
    data: PreparedData,
    *,
    folder: RunFolder,
    journal: JournalWriter,
    heartbeat: Heartbeat,
) -> None:
    """Record diagnostics, text samples and task results of the finished model."""
    metrics = diagnostics(state.family, model, state.run, data=data)
    if metrics:
        journal.write("diagnostic", state.step, time.time(), values=metrics)
    samples = text_samples(state.family, model, state.run, data=data, step=state.step)
    lines = "".join(sample.model_dump_json() + "\n" for sample in samples)
    write_atomically(folder.samples, lines)
    metrics = task_metrics(
        state.family,
        model,
        state.run,
        data=data,
        run_folder=folder.path,
        device=state.engine.device,
        keep_alive=heartbeat.keep_alive,
    )
    if metrics:
        journal.write("tasks", state.step, time.time(), values=metrics)
