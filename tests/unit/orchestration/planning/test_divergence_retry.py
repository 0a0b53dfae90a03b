"""Retries of diverged runs: which run replaces a diverged one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cola.spec.resources import DivergenceRetry
from cola.study import StudySpec
from orchestration.planning.divergence_retry import next_retry, with_retries
from orchestration.planning.plan import plan_study
from orchestration.state.ledger import Ledger


def test_a_diverged_run_is_replaced_by_its_retries(
    tiny_study: dict[str, Any], tmp_path: Path
) -> None:
    plan = plan_study(StudySpec.parse(tiny_study))
    ledger, retry = Ledger(tmp_path), DivergenceRetry(factor=0.1, times=2)
    assert with_retries(plan, retry, ledger) == plan
    ledger.acquire(plan[0].key)
    ledger.close(plan[0].key, "diverged", "loss is nan")
    assert with_retries(plan, None, ledger) == plan
    first = with_retries(plan, retry, ledger)[0]
    assert first == next_retry(plan[0], retry)
    assert (first.name, first.retry) == (f"{plan[0].name}-retry1", 1)
    assert first.key != plan[0].key
    rate = plan[0].spec.training.optimizer.learning_rate
    assert first.spec.training.optimizer.learning_rate == pytest.approx(0.1 * rate)
    ledger.acquire(first.key)
    ledger.close(first.key, "diverged", "loss is nan")
    second = with_retries(plan, retry, ledger)[0]
    assert (second.name, second.retry) == (f"{plan[0].name}-retry2", 2)
    assert second.spec.training.optimizer.learning_rate == pytest.approx(0.01 * rate)
    ledger.acquire(second.key)
    ledger.close(second.key, "diverged", "loss is nan")
    assert with_retries(plan, retry, ledger)[0] == second  # it has no retry left
    assert with_retries(plan, retry, ledger)[1:] == plan[1:]
