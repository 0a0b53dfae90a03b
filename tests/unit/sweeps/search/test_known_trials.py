"""A sweep whose space was edited after trials: what is no longer in it is left out, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sweeps.search.arm_search import ArmSearch
from sweeps.search.known_trials import describe_left_out, leave_out_trials
from sweeps.search.trial_log import SweepLog
from sweeps.space.points import PointPlanner
from sweeps.space.spec import SweepSpec
from tests.unit.sweeps.search.test_arm_search import ended

BATCH = "training.batch_sequences"
RATE = "training.optimizer.learning_rate"
DECAY = "training.optimizer.weight_decay"
BETAS = "training.optimizer.betas"
RANGE = {"kind": "loguniform", "low": 3e-4, "high": 1e-2}
BATCHES = {"kind": "choice", "values": [4, 8, 16]}


class Calls:
    """Calls of one sweep, one after the other, each with its own space."""

    def __init__(self, sweep: dict[str, Any], folder: Path) -> None:
        sweep["study"]["families"] = {"ar": {}}
        self._sweep, self._folder, self._trials = sweep, folder, 0

    def call(self, space: dict[str, Any], trials: int, end: bool = True) -> SweepLog:
        """Run so many more trials, which end or stay open; the log that the call left."""
        self._trials += trials
        values = self._sweep | {"space": space, "budget": {"trials": self._trials}}
        planner = PointPlanner(SweepSpec.parse(values), [])
        log = SweepLog(self._folder)
        leave_out_trials(planner, log)
        search = ArmSearch("", planner, log)
        while (found := search.next()) is not None:
            if end:
                record = ended(found[0], nll=float(found[0].trial))
                log.write(record)
                search.ended(record)
        assert search.why_over == f"budget.trials={self._trials}"
        return log


@pytest.fixture(params=["tpe", "random", "nsga2"])
def calls(request: pytest.FixtureRequest, tiny_sweep: dict[str, Any], tmp_path: Path) -> Calls:
    tiny_sweep["algorithm"] = {"kind": request.param, "startup_trials": 2}
    return Calls(tiny_sweep, tmp_path)


@pytest.mark.parametrize(
    ("edited", "outside"),
    [
        ({BATCH: [8, 16, 32], RATE: RANGE}, lambda p: p[BATCH] == 4),
        ({BATCH: ["16", 8, 4, 2], RATE: RANGE}, lambda p: False),
        ({BATCH: BATCHES, RATE: RANGE | {"high": 2e-3}}, lambda p: p[RATE] > 2e-3),
        ({BATCH: BATCHES, RATE: {**RANGE, "kind": "uniform"}}, lambda p: False),
        ({BATCH: {"kind": "integer", "low": 4, "high": 12}, RATE: RANGE}, lambda p: p[BATCH] == 16),
        ({RATE: RANGE}, lambda p: True),
        ({BATCH: BATCHES, RATE: RANGE, DECAY: [0.0, 0.1]}, lambda p: True),
        ({BATCH: BATCHES, DECAY: RANGE}, lambda p: True),
        ({BATCH: BATCHES, RATE: {**RANGE, "when": {"key": BATCH, "among": [8]}}},
         lambda p: p[BATCH] != 8),
    ],
    ids=["choice removed", "choices reordered", "range narrowed", "log to linear",
         "choice to range", "key removed", "key added", "key renamed", "condition added"],
)  # fmt: skip
def test_trials_outside_of_an_edited_space_are_left_out(
    calls: Calls, edited: dict[str, Any], outside: Any
) -> None:
    first = calls.call({BATCH: [4, 8, 16], RATE: RANGE}, 6)
    log = calls.call(edited, 3)
    expected = {n for n, request in first.requests.items() if outside(request.point)}
    assert log.left_out.keys() == expected
    assert len(log.outcomes) == 9
    new = [log.requests[number].point for number in (7, 8, 9)]
    assert all(BATCH not in edited or point[BATCH] in (2, *range(4, 33)) for point in new)
    sentence = describe_left_out(log)
    assert (sentence is None) == (not expected)
    if expected:
        assert sentence is not None
        assert f"{len(expected)} of 9 known trials are outside of the space" in sentence


def test_open_trials_outside_of_the_space_are_not_resumed(calls: Calls) -> None:
    calls.call({BATCH: [4], RATE: RANGE}, 2, end=False)
    log = calls.call({BATCH: [8], RATE: RANGE}, 0)
    assert log.left_out.keys() == {1, 2}
    assert log.open_count == 0
    assert {request.point[BATCH] for request in log.requests.values()} == {4, 8}
    # Back in the space, they are.
    again = calls.call({BATCH: [4, 8], RATE: RANGE}, 0)
    assert again.left_out == {}
    assert again.outcomes.keys() >= {1, 2}


def test_points_logged_as_text_are_known(calls: Calls, tmp_path: Path) -> None:
    """Logs of releases that took 1e-3 as text."""
    log = calls.call({RATE: [1e-3, 2e-3], BATCH: [4, 8, 16]}, 2)
    path = tmp_path / "trials.jsonl"
    path.write_text(path.read_text().replace(f'"{RATE}":0.001', f'"{RATE}":"1e-3"'))
    assert calls.call({RATE: [1e-3, 2e-3], BATCH: [4, 8, 16]}, 2).left_out == {}
    assert len(log.requests) == 2
