"""A rate sweep trains its largest budget last, once the forecast for it is registered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cola.records import TrialFinished, TrialRequested
from sweeps.search.rate_search import RateSearch
from sweeps.search.trial_log import SweepLog
from sweeps.space.points import PointPlanner
from sweeps.space.rate_question import budget_of
from sweeps.space.spec import SweepSpec

BUDGETS = (4e9, 1e9, 2e9)  # in no order


@pytest.fixture
def planner(tiny_sweep: dict[str, Any]) -> PointPlanner:
    ladder = [[{"budget": budget, "core_parameters": 60_000}] for budget in BUDGETS]
    space = {"ladder": ladder, "families.cola.latent_dim": [2, 4]}
    return PointPlanner(
        SweepSpec.parse(tiny_sweep | {"space": space, "answer": {"kind": "rate"}}), []
    )


def end(search: RateSearch, log: SweepLog, request: TrialRequested) -> None:
    record = TrialFinished(
        trial=request.trial, state="finished", reason=None,
        metrics={"val/nll_nats_per_token": 6.0}, runs=[], wall_seconds=1.0, working_seconds=1.0,
        training_seconds=1.0, flops=1.0, accelerator_hours=0.1, time=1.0,
    )  # fmt: skip
    log.write(record)
    search.ended(record)


def test_the_largest_budget_waits_for_the_others_and_its_forecast(
    planner: PointPlanner, tmp_path: Path
) -> None:
    registered: list[tuple[str, float, int]] = []
    log = SweepLog(tmp_path)
    search = RateSearch(
        "", planner, log, register=lambda arm, c: registered.append((arm, c, len(log.outcomes)))
    )
    first = [found[0] for _ in range(4) if (found := search.next()) is not None]
    assert {budget_of(request.point) for request in first} == {1e9, 2e9}
    assert search.next() is None
    assert search.why_over is None  # it waits
    for request in first[:3]:
        end(search, log, request)
    assert search.next() is None
    assert not registered
    end(search, log, first[3])
    last = search.next()
    assert last is not None
    assert budget_of(last[0].point) == 4e9
    assert registered == [("", 4e9, 4)]
    # The next driver resumes the open trial, and registers nothing after it.
    registered.clear()
    log = SweepLog(tmp_path)
    again = RateSearch("", planner, log, register=lambda arm, c: registered.append((arm, c, 0)))
    resumed = [found[0] for _ in range(3) if (found := again.next()) is not None]
    assert [request.trial for request in resumed] == [5, 6]
    assert again.why_over == "every point is done"
    assert not registered
