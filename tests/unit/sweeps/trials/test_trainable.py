"""A trial's process: what it reports of runs whose workers write journal and outcome."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from cola.records import Metric, StopCode, TrialFinished
from cola.study import StudySpec
from orchestration.state.journal import JournalWriter
from orchestration.state.paths import RunFolder
from orchestration.worker.assignment import Assignment, RunOutcome
from sweeps.trials import trial
from sweeps.trials.trainable import OUTCOME, SPENT, STATE, TRIAL_SPEC, SweepTrial
from sweeps.trials.trial_spec import TrialSpec

EVALUATIONS = 4


@pytest.fixture
def spec(tiny_study: dict[str, Any], tmp_path: Path) -> TrialSpec:
    """A trial of one AR run with four evaluations."""
    tiny_study["evaluation"] |= {"points": EVALUATIONS}
    return TrialSpec(
        trial=1, study=StudySpec.parse(tiny_study | {"families": {"ar": {}}}), driver="d",
        fingerprint="x" * 64, data_folder=str(tmp_path), folder=str(tmp_path), evaluation=None,
        likelihood=False, preemptible=False, in_process=True,
    )  # fmt: skip


def workers(*, state: str, stop_code: StopCode | None = None, error: str | None = None) -> Any:
    """Workers that write all of their journal at once, then their outcome."""

    def fit_run(assignment: Assignment) -> None:
        if error is not None:
            raise RuntimeError(error)
        folder, run = RunFolder(Path(assignment.run_folder)), assignment.run
        journal = JournalWriter(folder.journal)
        for point in range(1, EVALUATIONS + 1):
            step = round(run.steps * point / EVALUATIONS)
            journal.write("evaluation", step, time.time(), values={Metric.NLL: 5.0 - point})
        journal.close()
        outcome = RunOutcome(
            attempt=assignment.attempt, state=state, reason=None if state == "finished" else "why",
            stop_code=stop_code, step=run.steps, order_digests={},
        )  # fmt: skip
        folder.outcome.write_text(outcome.model_dump_json())

    return fit_run


def reports(spec: TrialSpec) -> list[dict[str, Any]]:
    """All results that Ray Tune would get of a trial."""
    process = SweepTrial.__new__(SweepTrial)  # Tune's own set-up looks for a cluster
    process.setup({TRIAL_SPEC: spec.model_dump_json()})
    results = [process.step()]
    while not results[-1].get("done"):
        results.append(process.step())
    return results


def test_every_evaluation_is_reported_once_in_order_though_all_come_at_once(
    spec: TrialSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "fit_run", workers(state="finished"))
    results = reports(spec)
    assert [result.get(Metric.NLL) for result in results] == [4.0, 3.0, 2.0, 1.0]
    assert [result[STATE] for result in results] == ["running"] * 3 + ["finished"]
    spent = [result[SPENT] for result in results]
    assert spent == sorted(set(spent))
    assert spent[-1] == 1.0


def test_a_trial_that_takes_finished_runs_reports_the_same_evaluations(
    spec: TrialSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "fit_run", workers(state="finished"))
    first = reports(spec)
    again = reports(spec.model_copy(update={"trial": 2}))
    assert [r.get(Metric.NLL) for r in again] == [r.get(Metric.NLL) for r in first]
    (run,) = TrialFinished.model_validate_json(again[-1][OUTCOME]).runs
    assert run.reused


def test_evaluations_that_an_earlier_process_reported_are_left_out(
    spec: TrialSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "fit_run", workers(state="finished"))
    results = reports(spec.model_copy(update={"reported_up_to": 0.6}))
    assert [result.get(Metric.NLL) for result in results] == [2.0, 1.0]


@pytest.mark.parametrize("code", ["collapsed", "diverged"])
def test_a_trials_outcome_has_the_stop_code_of_its_run(
    spec: TrialSpec, monkeypatch: pytest.MonkeyPatch, code: StopCode
) -> None:
    monkeypatch.setattr(trial, "fit_run", workers(state="diverged", stop_code=code))
    outcome = TrialFinished.model_validate_json(reports(spec)[-1][OUTCOME])
    assert (outcome.state, outcome.reason, outcome.stop_code) == ("diverged", "why", code)
    assert [run.stop_code for run in outcome.runs] == [code]


def test_a_failure_has_no_stop_code_and_its_error_on_one_line(
    spec: TrialSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "fit_run", workers(state="", error="first line\nsecond line"))
    outcome = TrialFinished.model_validate_json(reports(spec)[-1][OUTCOME])
    assert (outcome.state, outcome.stop_code) == ("failed", None)
    traceback = Path(spec.folder) / "errors" / "trial-001.txt"
    assert outcome.reason == f"RuntimeError: first line second line; traceback: {traceback}"
    assert "first line\nsecond line" in traceback.read_text()
