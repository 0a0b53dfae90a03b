"""What a run's workers do once its training has ended."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from cola.data import PreparedData
from cola.files import write_atomically
from orchestration.state.journal import JournalWriter
from orchestration.state.paths import RunFolder
from orchestration.training.final_tasks import task_metrics
from orchestration.training.hooks import order_digests
from orchestration.training.train_loop import whole_model
from orchestration.training.validation import diagnostics, text_samples
from orchestration.worker.assignment import Assignment, RunOutcome
from orchestration.worker.heartbeat import Heartbeat


def finish(
    assignment: Assignment,
    state: Any,
    data: PreparedData,
    journal: JournalWriter | None,
    heart: Heartbeat,
) -> None:
    """Export the finished model and what is measured of it, then say how the run ended."""
    folder = Path(assignment.run_folder)
    finished = state.stop == "finished"
    with state.averaged():
        weights = state.engine.full_state_dict() if finished else None
    if journal is None:
        return
    if weights is not None:
        model = whole_model(state.family, state.run, state, weights)
        state.family.save(model, RunFolder(folder).model)
        record_measurements(state, model, data, folder, journal, heart)
    journal.write(
        "event", state.step, time.time(), {"event": state.stop, "attempt": assignment.attempt}
    )
    journal.close()
    outcome = RunOutcome(
        attempt=assignment.attempt,
        state=state.stop,
        reason=state.stop_reason,
        stop_code=state.stop_code,
        step=state.step,
        order_digests=order_digests(state.run, state.step, len(data.train)),
    )
    write_atomically(RunFolder(folder).outcome, outcome.model_dump_json(indent=1))


def record_measurements(
    state: Any,
    model: Any,
    data: PreparedData,
    folder: Path,
    journal: JournalWriter,
    heart: Heartbeat,
) -> None:
    """Diagnostics, text samples and tasks of the finished model."""
    measured = diagnostics(state.family, model, state.run, data)
    if measured:
        journal.write("diagnostic", state.step, time.time(), measured)
    samples = text_samples(state.family, model, state.run, data, state.step)
    lines = "".join(sample.model_dump_json() + "\n" for sample in samples)
    write_atomically(RunFolder(folder).samples, lines)
    answered = task_metrics(
        state.family, model, state.run, data, folder, state.engine.device, heart.alive
    )
    if answered:
        journal.write("tasks", state.step, time.time(), answered)
