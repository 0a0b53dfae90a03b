"""What a run's workers do after training: export, final measurements, outcome."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from cola.checksums import write_checksums
from cola.data import PreparedData, TextTokenizer
from cola.evaluation.reference_lines import ReferenceLines, reference_lines
from cola.families.interface.family import Family
from cola.families.registry import definition_of
from cola.files import sync_folder, write_atomically
from cola.records import REFERENCE_LINES, Metric
from orchestration.state.fence import AttemptFence
from orchestration.state.journal import JournalWriter
from orchestration.state.paths import RunFolder
from orchestration.training.final_tasks import task_metrics
from orchestration.training.hooks import order_digests
from orchestration.training.train_loop import TrainState, Validation, whole_model
from orchestration.training.validation import diagnostics, text_samples
from orchestration.worker.assignment import Assignment, RunOutcome
from orchestration.worker.export_check import export_problem, exported_nll_difference
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
    A superseded attempt writes nothing. Of a run that was stopped, what a full disk does not take
    is left out: it resumes from its checkpoint.

    Raises:
        OSError: a finished run's folder cannot be written.
    """
    folder = RunFolder(Path(assignment.run_folder))
    with state.averaged():
        weights = state.engine.full_state_dict() if state.stop == "finished" else None
    if journal is None or fence.superseded(recheck=True):
        return
    remarks: list[str] = []
    if weights is not None:
        model = whole_model(state, weights)
        log.info("exporting the model to %s", folder.model)
        save_model(state.family, model, data.tokenizer, folder=folder.model)
        if fence.superseded(recheck=True):
            return
        remarks = evaluate_finished(
            state, model, data, folder=folder, journal=journal, heartbeat=heartbeat
        )
    values = {"event": state.stop, "attempt": assignment.attempt}
    journal.write("event", state.step, time.time(), values=values)
    with _tolerant(state.stop != "finished"):
        journal.close()
    if not fence.superseded(recheck=True):  # the measurements can take long
        write_outcome(assignment, state, data, remarks=remarks)


def write_outcome(
    assignment: Assignment, state: TrainState, data: PreparedData, *, remarks: Sequence[str]
) -> None:
    """Write how the training ended, with what a reader of its numbers must know.

    Raises:
        OSError: a finished run's folder cannot be written.
    """
    outcome = RunOutcome(
        attempt=assignment.attempt,
        state=state.stop or "interrupted",
        reason="; ".join(filter(None, [state.stop_reason, *remarks])) or None,
        stop_code=state.stop_code,
        step=state.step,
        order_digests=order_digests(state.run, state.step, len(data.train)),
    )
    path = RunFolder(Path(assignment.run_folder)).outcome
    with _tolerant(state.stop != "finished"):
        write_atomically(path, outcome.model_dump_json(indent=1))


@contextmanager
def _tolerant(tolerant: bool) -> Iterator[None]:
    """Report an OSError of the block and continue, where it is `tolerant`."""
    try:
        yield
    except OSError as error:
        if not tolerant:
            raise
        log.warning("is not written: %s", error)


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
) -> list[str]:
    """Record diagnostics, text samples and task results of the finished model.

    Returns what a reader of its numbers must know: that the exported model is not the one that was
    validated, that it is worse than a uniform guess, what its family finds wrong.
    """
    metrics = diagnostics(state.family, model, state.run, data=data)
    lines = reference_lines(data, state.run.evaluation.validation_sequences)
    metrics |= reference_metrics(lines)
    if len(data.test):
        of_test = reference_lines(data, state.run.evaluation.validation_sequences, "test")
        metrics |= {Metric.on_test(key): v for key, v in reference_metrics(of_test).items()}
    difference = exported_nll_difference(state, folder.model, data, keep_alive=heartbeat.keep_alive)
    if difference is not None:
        metrics[Metric.EXPORTED_NLL_DIFFERENCE] = difference
    if metrics:
        journal.write("diagnostic", state.step, time.time(), values=metrics)
    samples = text_samples(state.family, model, state.run, data=data, step=state.step)
    text = "".join(sample.model_dump_json() + "\n" for sample in samples)
    write_atomically(folder.samples, text)
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
    remarks = [
        export_problem(difference),
        guess_problem(state.validation, lines),
        family_problem(state.run.family, state.validation, lines),
    ]
    return [remark for remark in remarks if remark is not None]


def reference_metrics(lines: ReferenceLines) -> dict[str, float]:
    """Losses of guesses on the run's validation sequences, by their metrics."""
    values = {name: getattr(lines, name) for name in REFERENCE_LINES}
    found = {Metric.reference(name): v for name, v in values.items() if v is not None}
    return found | {Metric.REFERENCE_XZ: lines.xz_bits_per_byte}


def family_problem(family: str, validation: Validation | None, lines: ReferenceLines) -> str | None:
    """One sentence where the family finds its last validation's measurements wrong."""
    if validation is None:
        return None
    values = {name.removeprefix(Metric.val("")): v for name, v in validation.metrics.items()}
    problem = definition_of(family).problem(values, lines.unigram)
    if problem is not None:
        log.warning("%s", problem)
    return problem


def guess_problem(validation: Validation | None, lines: ReferenceLines) -> str | None:
    """One sentence where the model knows less than that its tokens are tokens."""
    if validation is None or validation.nll is None or validation.nll < lines.uniform:
        return None
    problem = (
        f"its validation NLL of {validation.nll:.3f} nats a token is not below that of a uniform "
        f"guess, {lines.uniform:.3f}"
    )
    log.warning("%s", problem)
    return problem
