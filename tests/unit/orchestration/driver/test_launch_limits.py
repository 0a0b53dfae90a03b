"""What keeps a run from starting (again): spent accelerator hours, used-up retries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cola.spec.resources import DivergenceRetry
from cola.study import StudySpec
from orchestration.driver.retry_policy import RetryPolicy
from orchestration.driver.run_budget import RunBudget
from orchestration.planning.plan import PlannedRun, plan_study
from orchestration.state.ledger import Attempt, Entry, Ledger


@pytest.fixture
def runs(tiny_study: dict[str, Any]) -> list[PlannedRun]:
    tiny_study["families"] = {"ar": {}, "llada": {}}
    tiny_study["resources"] = {"workers": 2, "cpus_per_worker": 3, "max_failures": 2}
    return plan_study(StudySpec.parse(tiny_study))


class Hours(Ledger):
    """A ledger in which every run has one attempt of half an hour."""

    def entry(self, run_key: str) -> Entry:
        attempt = Attempt(started=1000.0, ended=2800.0)
        return Entry(run_key=run_key, state="finished", attempts=[attempt])


def test_all_attempts_count_with_all_devices_of_their_workers(
    runs: list[PlannedRun], tmp_path: Path
) -> None:
    """Two runs of half an hour on 2 x 3 cores: six hours."""
    assert not RunBudget(6.01, runs, Hours(tmp_path)).is_spent()
    budget = RunBudget(6.0, runs, Hours(tmp_path))
    assert budget.is_spent()
    assert budget.reason == "resources.max_accelerator_hours=6 are spent"
    assert not RunBudget(None, runs, Hours(tmp_path)).is_spent()


def test_a_new_try_counts_too(runs: list[PlannedRun], tmp_path: Path) -> None:
    budget = RunBudget(6.0, runs[:1], Hours(tmp_path))
    assert not budget.is_spent()
    budget.add(runs[1])
    assert budget.is_spent()


def test_a_lost_controller_is_retried_max_failures_times(runs: list[PlannedRun]) -> None:
    policy = RetryPolicy(None)
    assert not policy.has_lost_controllers
    first, second = runs
    assert [policy.after_fault(first) for _ in range(3)] == [1, 2, None]
    assert policy.after_fault(second) == 1
    assert policy.has_lost_controllers


def test_a_diverged_run_is_retried_at_a_lower_rate_while_the_study_allows(
    runs: list[PlannedRun],
) -> None:
    run = runs[0]
    assert RetryPolicy(None).at_lower_rate(run) is None
    policy = RetryPolicy(DivergenceRetry(times=1, factor=0.5))
    following = policy.at_lower_rate(run)
    assert following is not None
    rates = [item.spec.training.optimizer.learning_rate for item in (run, following)]
    assert rates[1] == 0.5 * rates[0]
    assert following.key != run.key
    assert policy.at_lower_rate(replace(run, retry=1)) is None
