"""Runs of a study in the states that a page shows, as drivers and workers leave their files."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from cola.records import Metric
from cola.study import StudySpec
from orchestration.driver.study_runner import record_study
from orchestration.planning.plan import PlannedRun, plan_study
from orchestration.state.heartbeat import Beat
from orchestration.state.journal import JournalWriter
from orchestration.state.ledger import Ledger
from orchestration.state.paths import RunFolder, output_root, study_folder
from orchestration.state.process import this_process


def study_of(tiny_study: dict[str, Any], **changes: Any) -> StudySpec:
    """The tiny study with one family and four budgets."""
    budgets = [1e10, 2e10, 3e10, 4e10]
    ladder = [{"budget": budget, "core_parameters": 60_000} for budget in budgets]
    return StudySpec.parse(tiny_study | {"families": {"ar": {}}, "ladder": ladder} | changes)


def recorded(study: StudySpec) -> list[PlannedRun]:
    """The study's runs, once its driver has written what it does first."""
    runs = plan_study(study)
    record_study(study, runs)
    return runs


def begun(study: StudySpec, run: PlannedRun, *, driver: str = "alive") -> RunFolder:
    """Begin an attempt; of a driver that is gone, nobody keeps the run."""
    process = this_process()
    if driver == "gone":
        process = process.model_copy(update={"started": process.started - 1})
    Ledger(output_root(study), process=process).acquire(run.key)
    folder = RunFolder(Ledger(output_root(study)).run_folder(run.key))
    folder.spec.write_text(run.spec.model_dump_json())
    return folder


def beat(folder: RunFolder, step: int) -> None:
    """The heartbeat of a run's only worker, in its first attempt."""
    found = Beat(
        attempt=1, rank=0, pid=1, host="here", node_id="n", step=step, time=time.time(),
        seconds_per_step=None, data_wait_fraction=None, memory_gb=1.0,
    )  # fmt: skip
    folder.heartbeats.mkdir(exist_ok=True)
    (folder.heartbeats / "rank-00000.json").write_text(found.model_dump_json())


def steps(folder: RunFolder, numbers: range, *, loss: float = 4.0, speed: float = 1000.0) -> None:
    """Lines of a journal for these steps."""
    journal = JournalWriter(folder.journal)
    for step in numbers:
        values = {Metric.TRAIN_LOSS: loss, Metric.TOKENS_PER_SECOND: speed}
        journal.write("train", step, 1000.0 + step, values=values)
    journal.close()


def evaluated(folder: RunFolder, step: int, nll: float) -> None:
    """A validation's line in the journal."""
    journal = JournalWriter(folder.journal)
    journal.write("evaluation", step, 1000.0 + step, values={Metric.NLL: nll})
    journal.close()


def events_file(study: StudySpec) -> Path:
    """Where the study's events are."""
    return study_folder(study) / "events.jsonl"
