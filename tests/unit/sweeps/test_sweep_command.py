"""How `cola sweep` ends where nothing was learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cola.errors import RunError, SpecError
from cola.records import PointExcluded, TrialFinished, TrialRequested, TrialState
from sweeps.search.trial_log import SweepLog
from sweeps.sweep_cli import check_has_trials, trial_row


def request(trial: int) -> TrialRequested:
    return TrialRequested(
        trial=trial, arm="", point={"a.b": trial}, identity=str(trial), run_keys=[], time=0.0
    )


def outcome(trial: int, state: TrialState, reason: str | None = None) -> TrialFinished:
    nothing: dict[str, Any] = dict.fromkeys(
        ("wall_seconds", "working_seconds", "training_seconds", "flops", "accelerator_hours"), 0.0
    )
    return TrialFinished(
        trial=trial, state=state, reason=reason, metrics={}, runs=[], time=0.0, **nothing
    )


def test_a_space_without_a_possible_point_is_an_error(tmp_path: Path) -> None:
    log = SweepLog(tmp_path)
    for point in range(3):
        reason = "too small" if point else "too large"
        log.write(PointExcluded(arm="", point={"a.b": point}, reason=reason, time=0.0))
    with pytest.raises(SpecError, match="2 of 3 are excluded because: too small"):
        check_has_trials("rates", log)


def test_a_sweep_of_failures_is_one(tmp_path: Path) -> None:
    log = SweepLog(tmp_path)
    for trial in (1, 2):
        log.write(request(trial))
        log.write(outcome(trial, "failed", f"KeyError: {trial}; traceback: /somewhere"))
    with pytest.raises(RunError, match="all of its 2 trials failed, the last because: KeyError: 2"):
        check_has_trials("rates", log)
    log.write(request(3))
    log.write(outcome(3, "finished"))
    check_has_trials("rates", log)


def test_a_trial_that_is_left_out_is_marked(tmp_path: Path) -> None:
    log = SweepLog(tmp_path)
    log.write(request(1))
    log.left_out[1] = "a.b=1 is not one of 2"
    row = trial_row(log, 1, "val/nll_nats_per_token")
    assert row["left_out"] == "a.b=1 is not one of 2"
    assert log.open_count == 0
