"""A finished study as its driver leaves it, without training: models are untrained, losses made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cola.data import PreparedData
from cola.families.registry import family_of
from cola.records import Metric
from cola.study import StudySpec
from orchestration.checkpoint.manifest import CheckpointNote, Cursor, seal
from orchestration.driver.study_runner import record_study
from orchestration.planning.plan import PlannedRun, plan_study
from orchestration.state.event_log import Event, EventLog
from orchestration.state.journal import JournalWriter
from orchestration.state.ledger import Ledger
from orchestration.state.paths import RunFolder, output_root, study_folder
from orchestration.training.train_loop import initial_model
from orchestration.worker.assignment import RunOutcome
from orchestration.worker.finish import save_model


def small_study(tiny_study: dict[str, Any], output: Path) -> StudySpec:
    """The tiny study of one family."""
    return StudySpec.parse(tiny_study | {"output": str(output), "families": {"ar": {}}})


def finished_study(study: StudySpec, data: PreparedData) -> list[PlannedRun]:
    """Write the study's folder and its finished runs into its output folder."""
    runs, ledger = plan_study(study), Ledger(output_root(study))
    record_study(study, runs)
    events = EventLog(study_folder(study))
    for run in runs:
        ledger.acquire(run.key)
        finish(run, RunFolder(ledger.run_folder(run.key)), data)
        ledger.close(run.key, "finished")
        events.write(Event.LAUNCHED, run.name, "attempt 1")
    return runs


def finish(run: PlannedRun, folder: RunFolder, data: PreparedData) -> None:
    """Write what a run's workers leave."""
    folder.spec.write_text(run.spec.model_dump_json())
    folder.write_data(data.folder)
    family = family_of(run.spec.family)
    save_model(family, initial_model(family, run.spec), data.tokenizer, folder=folder.model)
    journal = JournalWriter(folder.journal)
    for step in (run.spec.steps // 2, run.spec.steps):
        flops = run.spec.train_flops_at(step, "executed")
        spent = {
            Metric.TOKENS: step * run.spec.tokens_per_step,
            Metric.TRAIN_FLOPS_EXECUTED: flops,
            Metric.TRAIN_FLOPS_NOMINAL: run.spec.train_flops_at(step, "nominal"),
            Metric.ELAPSED_SECONDS: float(step),
        }
        loss = 2 + 20 * flops**-0.1
        journal.write("train", step, 1000.0 + step, values={Metric.TRAIN_LOSS: loss, **spent})
        nll = {Metric.NLL: loss, Metric.NLL_STANDARD_ERROR: 0.01, Metric.BITS_PER_BYTE: loss / 2}
        journal.write("evaluation", step, 1000.0 + step, values={**nll, **spent})
    checked = {Metric.EXPORTED_NLL_DIFFERENCE: 0.0}
    journal.write("diagnostic", run.spec.steps, 2000.0, values=checked)
    journal.close()
    folder.environment.write_text(json.dumps({"torch": "2"}))
    outcome = RunOutcome(
        attempt=1, state="finished", reason=None, step=run.spec.steps, order_digests={}
    )
    folder.outcome.write_text(outcome.model_dump_json())


def checkpoint(run_folder: Path, step: int, note: CheckpointNote | None) -> Path:
    """The folder of a training checkpoint; without a note one that a crash has cut off."""
    folder = RunFolder(run_folder).ray / "attempt-1" / f"step-{step:09d}"
    folder.mkdir(parents=True)
    (folder / "fragments-00000.safetensors").write_bytes(b"x" * 1000)
    if note is not None:
        cursor = Cursor(stage=0, step=step, world_size=1, zero_stage=0, elapsed_seconds=1.0)
        seal(folder, cursor, 0, note=note)
    return folder
