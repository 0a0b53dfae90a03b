"""Optima on edges, and the trials beyond them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from cola.records import TrialFinished, TrialRequested
from sweeps.search.arm_search import ArmSearch
from sweeps.search.edges import Edge, beyond, edges_of
from sweeps.search.known_trials import leave_out_trials
from sweeps.search.trial_log import SweepLog
from sweeps.space.domains import Choice, Integer, LogUniform, Space, Uniform
from sweeps.space.points import PointPlanner
from sweeps.space.spec import SweepSpec

RATE = "training.optimizer.learning_rate"
NLL = "val/nll_nats_per_token"
SPACE: Space = {
    "rate": LogUniform(low=1e-3, high=1e-1),
    "batch": Choice(values=[4, 8, 16]),
    "decay": Choice(values=[None, 0.9]),
    "loc": Uniform(low=0, high=4),
    "depth": Integer(low=1, high=9),
}
MIDDLE = {"rate": 1e-2, "batch": 8, "decay": 0.9, "loc": 2.0, "depth": 5}


@pytest.mark.parametrize(
    ("best", "tried", "edge", "further"),
    [
        ({}, [], None, None),
        ({"rate": 9e-2}, [], Edge("rate", "high", 9e-2), 0.18),
        ({"rate": 9e-2}, [{"rate": 9.5e-2}], None, None),  # bracketed by a worse one
        ({"rate": 2e-1}, [], Edge("rate", "high", 2e-1), 0.4),  # beyond the range itself
        ({"rate": 1.1e-3}, [], Edge("rate", "low", 1.1e-3), 5.5e-4),
        ({"batch": 16}, [], Edge("batch", "high", 16), 32),
        ({"batch": 16}, [{"batch": 32}], None, None),
        ({"batch": 4}, [], Edge("batch", "low", 4), 2),
        ({"loc": 4.0}, [], Edge("loc", "high", 4.0), 5.0),
        ({"depth": 1}, [], Edge("depth", "low", 1), -1),
    ],
)
def test_an_edge_is_where_nothing_further_out_was_tried(
    best: dict[str, Any], tried: list[dict[str, Any]], edge: Edge | None, further: float | None
) -> None:
    point = MIDDLE | best
    found = edges_of(SPACE, point, [point, *(MIDDLE | values for values in tried)])
    assert found == ([] if edge is None else [edge])
    if edge is not None:
        moved = beyond(SPACE, point, edge, 2.0)
        assert moved[edge.key] == pytest.approx(further)
        assert {**moved, edge.key: None} == {**point, edge.key: None}


def ended(request: TrialRequested) -> TrialFinished:
    """The best rate is 0.1."""
    nll = math.log(request.point[RATE] / 0.1) ** 2
    return TrialFinished(
        trial=request.trial, state="finished", reason=None, metrics={NLL: nll}, runs=[],
        wall_seconds=1.0, working_seconds=1.0, training_seconds=1.0, flops=1.0,
        accelerator_hours=0.1, time=1.0,
    )  # fmt: skip


def searching(sweep: dict[str, Any], folder: Path) -> tuple[ArmSearch, SweepLog]:
    planner, log = PointPlanner(SweepSpec.parse(sweep), []), SweepLog(folder)
    leave_out_trials(planner, log)
    return ArmSearch("", planner, log), log


@pytest.mark.parametrize("kind", ["grid", "tpe"])
def test_a_search_goes_on_beyond_an_edge_while_it_gets_better(
    tiny_sweep: dict[str, Any], tmp_path: Path, kind: str
) -> None:
    """From 0.02 in steps of 2 past the optimum at 0.1, over three drivers: to 0.16, which is worse
    than 0.08."""
    tiny_sweep |= {
        "space": {RATE: [0.01, 0.02]},
        "algorithm": {"kind": kind},
        "budget": {"trials": 2},
        "widening": {"trials": 5},
    }
    points = []
    for _ in range(3):
        search, log = searching(tiny_sweep, tmp_path)
        assert not log.left_out
        for _ in range(2):
            found = search.next()
            if found is None:
                break
            assert (search.next() is None) == (len(points) != 0)  # beyond, one at a time
            for request in log.open_trials(""):
                outcome = ended(request)
                log.write(outcome)
                search.ended(outcome)
                points.append(request.point[RATE])
    assert points[2:] == [0.04, 0.08, 0.16]
    search, log = searching(tiny_sweep, tmp_path)
    assert search.next() is None
    assert [request.beyond for request in log.requests.values()] == [False] * 2 + [True] * 3


@pytest.mark.parametrize(("trials", "count"), [(0, 2), (1, 3)])
def test_trials_beyond_edges_are_bounded(
    tiny_sweep: dict[str, Any], tmp_path: Path, trials: int, count: int
) -> None:
    tiny_sweep |= {"space": {RATE: [0.01, 0.02]}, "widening": {"trials": trials}}
    search, log = searching(tiny_sweep, tmp_path)
    while (found := search.next()) is not None:
        log.write(outcome := ended(found[0]))
        search.ended(outcome)
    assert len(log.outcomes) == count
    assert search.why_over == "every point is done"


def test_what_no_study_can_have_is_not_beyond(tiny_sweep: dict[str, Any], tmp_path: Path) -> None:
    """A batch of more than one sequence always has half of it as the next one; of one, nothing."""
    tiny_sweep |= {"space": {RATE: [0.1], "training.batch_sequences": [1, 2]},
                   "widening": {"trials": 4}}  # fmt: skip
    search, log = searching(tiny_sweep, tmp_path)
    while (found := search.next()) is not None:
        outcome = ended(found[0])
        nll = float(found[0].point["training.batch_sequences"])
        log.write(outcome := outcome.model_copy(update={"metrics": {NLL: nll}}))
        search.ended(outcome)
    assert len(log.outcomes) == 2
