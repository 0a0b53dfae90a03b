"""A trial that is requested ahead is the next one, once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sweeps.search.ahead import SearchAhead
from sweeps.search.arm_search import ArmSearch
from sweeps.search.trial_log import SweepLog
from sweeps.space.points import PointPlanner
from sweeps.space.spec import SweepSpec
from tests.unit.sweeps.search.test_arm_search import ended


def test_a_search_gives_the_trials_that_it_gives_without(
    tiny_sweep: dict[str, Any], tmp_path: Path
) -> None:
    planner, log = PointPlanner(SweepSpec.parse(tiny_sweep), []), SweepLog(tmp_path)
    search = SearchAhead(ArmSearch("", planner, log))
    numbers = []
    while search.has_next():
        assert search.has_next()
        assert search.why_over is None
        found = search.next()
        assert found is not None
        record = ended(found[0], nll=1.0)
        log.write(record)
        search.ended(record)
        numbers.append(found[0].trial)
    assert numbers == [1, 2, 3, 4]
    assert search.next() is None
    assert search.why_over == "every point is done"


def test_a_finished_sweep_has_no_next_trial(tiny_sweep: dict[str, Any], tmp_path: Path) -> None:
    planner, log = PointPlanner(SweepSpec.parse(tiny_sweep), []), SweepLog(tmp_path)
    first = ArmSearch("", planner, log)
    while (found := first.next()) is not None:
        log.write(ended(found[0], nll=1.0))
    again = SweepLog(tmp_path)
    assert not SearchAhead(ArmSearch("", planner, again)).has_next()
    assert again.requests.keys() == again.outcomes.keys() == {1, 2, 3, 4}
