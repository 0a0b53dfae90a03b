"""What a worker leaves behind: an attempt that was superseded leaves nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cola.data import PreparedData, prepare
from cola.records import Metric
from cola.study import StudySpec
from orchestration.driver.attempt import assignment_of, read_outcome
from orchestration.planning.plan import plan_study
from orchestration.planning.shared_prefixes import PrefixPlan
from orchestration.state.fence import AttemptFence
from orchestration.state.journal import JournalReader, JournalWriter
from orchestration.state.ledger import LEASE_STALE_SECONDS, Ledger
from orchestration.state.paths import OutputFolder, RunFolder, output_root
from orchestration.training.distributed import WorkerRank
from orchestration.training.hooks import Evaluate
from orchestration.training.torch_engine import TorchEngine
from orchestration.training.train_loop import LoopSettings, TrainState, train
from orchestration.training.validation import likelihood_rows
from orchestration.worker.assignment import Assignment, RunOutcome
from orchestration.worker.finish import finish
from orchestration.worker.heartbeat import Heartbeat, WorkerIdentity
from tests.sizes import FAMILIES


@dataclass
class Finished:
    """A run that was trained in this process, and what `finish` needs to end it."""

    assignment: Assignment
    state: TrainState
    data: PreparedData
    folder: Path

    def finish(self, attempt: int) -> None:
        fence = AttemptFence(self.folder, attempt)
        finish(
            self.assignment,
            self.state,
            self.data,
            journal=JournalWriter(RunFolder(self.folder).journal, fence),
            heartbeat=Heartbeat(self.folder, WorkerIdentity(attempt, 0, "node"), 0),
            fence=fence,
        )


EVALUATIONS = "evaluations.jsonl"  # beside the runs' folder, which is `finish`'s alone here


def trained_run(study: StudySpec, attempt: int) -> Finished:
    (run,) = plan_study(study)
    root = output_root(study)
    data = prepare(study.data, OutputFolder(root).cache)
    journal = JournalWriter(root / EVALUATIONS)
    state = train(
        run.spec,
        data.train,
        TorchEngine,
        settings=LoopSettings(0),
        worker=WorkerRank(),
        hooks=[Evaluate(run.spec, data, journal)],
    )
    journal.close()
    assignment = assignment_of(
        run,
        study,
        root,
        data_folder=data.folder,
        attempt=attempt,
        prefixes=PrefixPlan(),
        preemptible=False,
    )
    return Finished(assignment, state, data, Path(assignment.run_folder))


@pytest.mark.parametrize("attempt", [1, 2])
def test_only_the_newest_attempt_exports_and_writes_its_outcome(
    tiny_study: dict[str, Any], attempt: int
) -> None:
    ladder = [{"budget": 1.0e9, "core_parameters": 60_000}]
    study = StudySpec.parse(tiny_study | {"ladder": ladder, "families": {"ar": {}}})
    (run,) = plan_study(study)
    root = output_root(study)
    first = Ledger(root, clock=lambda: 1e6)
    second = Ledger(root, clock=lambda: 1e6 + LEASE_STALE_SECONDS + 1)
    first.acquire(run.key)
    second.acquire(run.key)
    folder = first.run_folder(run.key)
    trained_run(study, attempt).finish(attempt)
    lines = list(JournalReader(RunFolder(folder).journal).new_lines())
    found = read_outcome(folder)
    if attempt == 1:
        assert (found, lines, RunFolder(folder).model.exists()) == (None, [], False)
        assert not RunFolder(folder).samples.exists()
    else:
        assert found is not None
        assert (found.attempt, found.state) == (2, "finished")
        assert lines[-1].values == {"event": "finished", "attempt": 2}
        assert (RunFolder(folder).model / "model.safetensors").exists()


def test_a_closed_ledger_does_not_fence_its_last_attempt(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.acquire("k")
    ledger.close("k", "interrupted")
    assert not AttemptFence(ledger.run_folder("k"), 1).superseded(recheck=True)


def ended(
    study: dict[str, Any], changed: Callable[[TrainState], None]
) -> tuple[float, RunOutcome, Finished]:
    """How far the exported model's NLL is from the recorded one, the outcome, the run."""
    parsed = StudySpec.parse(study)
    (run,) = plan_study(parsed)
    Ledger(output_root(parsed)).acquire(run.key)
    found = trained_run(parsed, 1)
    changed(found.state)
    found.finish(1)
    lines = list(JournalReader(RunFolder(found.folder).journal).new_lines())
    (difference,) = [
        line.values[Metric.EXPORTED_NLL_DIFFERENCE]
        for line in lines
        if Metric.EXPORTED_NLL_DIFFERENCE in line.values
    ]
    outcome = read_outcome(found.folder)
    assert outcome is not None
    return float(difference), outcome, found


def recorded_test(folder: Path) -> dict[str, float]:
    """The run's only test, which is of its last step."""
    lines = list(JournalReader(folder.parents[1] / EVALUATIONS).new_lines())
    (line,) = [line for line in lines if Metric.TEST_NLL in line.values]
    assert line.step == max(other.step for other in lines)
    return line.values


@torch.no_grad()
def nll_of_export_on_test(run: Finished) -> float:
    """The mean NLL of the exported model on the first 8 test sequences, with validation's noise."""
    family, settings = run.state.family, run.state.run.evaluation.likelihood
    model = family.load(RunFolder(run.folder).model).eval()
    rows = likelihood_rows(
        family,
        model,
        settings,
        data=run.data,
        ids=np.arange(8),
        device=torch.device("cpu"),
        split="test",
    )
    return float(np.mean([row["nll"] for row in rows.values()]))


def with_average(study: dict[str, Any], family: str) -> dict[str, Any]:
    """A run of the family that averages its weights far enough to differ from the last ones."""
    ladder = [{"budget": 1.0e9, "core_parameters": 60_000}]
    training = study["training"] | {"ema_decay": 0.9}
    return study | {"ladder": ladder, "families": {family: {}}, "training": training}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_exported_model_is_the_validated_average(
    tiny_study: dict[str, Any], family: str
) -> None:
    difference, outcome, run = ended(with_average(tiny_study, family), lambda state: None)
    assert abs(difference) < 1e-6
    assert outcome.state == "finished"
    # Cola DLM learns nothing in so few steps, and that is reported of it alone.
    assert ("not below that of a uniform guess" in (outcome.reason or "")) == (family == "cola")
    assert "differs by" not in (outcome.reason or "")
    found = recorded_test(run.folder)
    assert found[Metric.TEST_NLL] == pytest.approx(nll_of_export_on_test(run), abs=1e-6)
    assert found[Metric.TEST_SEQUENCES] == 8
    assert found[Metric.TEST_NLL_STANDARD_ERROR] > 0


def test_an_export_that_is_not_the_validated_model_is_reported(tiny_study: dict[str, Any]) -> None:
    def forget(state: TrainState) -> None:
        state.average = None

    difference, outcome, _ = ended(with_average(tiny_study, "ar"), forget)
    assert abs(difference) > 1e-3
    assert outcome.state == "finished"
    assert outcome.reason is not None
    assert f"differs by {difference:+.4f} nats a token" in outcome.reason
