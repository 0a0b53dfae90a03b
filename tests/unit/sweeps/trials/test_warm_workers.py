"""Which trials train in a process that stays for the next one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestration.cluster.session import ClusterResources
from orchestration.driver.live_screen import LiveScreen
from orchestration.state.event_log import EventLog
from sweeps.driver.context import SweepContext
from sweeps.driver.sweep_driver import SweepDriver
from sweeps.search.trial_log import SweepLog
from sweeps.space.points import PointPlanner
from sweeps.space.spec import SweepSpec
from sweeps.views.live_table import SweepView


@pytest.mark.parametrize(
    ("warm", "workers", "stays"), [(True, 1, True), (False, 1, False), (True, 2, False)]
)
def test_a_trial_holds_its_worker_itself_only_with_warm_workers_and_one_worker(
    warm: bool, workers: int, stays: bool, tiny_sweep: dict[str, Any], tmp_path: Path
) -> None:
    tiny_sweep["study"]["resources"] = {"workers": workers}
    sweep = SweepSpec.parse(tiny_sweep | {"warm_workers": warm})
    log = SweepLog(tmp_path)
    context = SweepContext(
        sweep=sweep,
        base=PointPlanner(sweep, []).base,
        folder=tmp_path,
        trial_log=log,
        events=EventLog(tmp_path),
        progress=None,  # type: ignore[arg-type]
        corpora=None,  # type: ignore[arg-type]
        cluster=ClusterResources(cpus=4, gpus=0),
        queue=None,
        view=SweepView(LiveScreen(), sweep, log),
    )
    # Tune is request for the worker's cores, or only for the memory of one that follows workers.
    assert ("cpu" in SweepDriver(context).trial_resources()) == stays
