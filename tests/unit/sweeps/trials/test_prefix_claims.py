"""A first stage that several trials need is trained by one of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from orchestration.checkpoint.manifest import Cursor, seal
from orchestration.state.ledger import Ledger
from sweeps.space.points import PointPlanner
from sweeps.space.spec import SweepSpec
from sweeps.trials.prefix_claims import PrefixClaims, remove_prefixes, stage_prefixes

LOC = "families.cola.objective.stage2.timestep.timestep_loc"
BLOCK = "families.cola.block_size"
PAST = 1_000_000_000


def other_driver(root: Path) -> Ledger:
    ledger = Ledger(root)
    ledger.owner = f"elsewhere:{os.getpid()}:other"  # of another machine: only time ends its leases
    return ledger


def test_one_trains_it_and_the_others_take_it(tiny_sweep: dict[str, Any], tmp_path: Path) -> None:
    planner = PointPlanner(SweepSpec.parse(tiny_sweep), [])
    (one,), (two,) = (planner.plan("", {BLOCK: 8, LOC: loc}).runs for loc in (0.0, 1.0))
    stage, same = next(stage_prefixes(one.spec)), next(stage_prefixes(two.spec))
    assert stage == same
    first = PrefixClaims(tmp_path, Ledger(tmp_path))
    second = PrefixClaims(tmp_path, other_driver(tmp_path))
    mine = first.prefix_plan_of(one)
    assert mine is not None
    assert mine.publishes == (stage,)
    assert second.prefix_plan_of(two) is None  # claimed a moment ago

    claim = stage.folder(tmp_path).with_suffix(".claim")
    os.utime(claim, (PAST, PAST))
    ledger = other_driver(tmp_path)
    ledger.acquire(one.spec.run_key)
    assert second.prefix_plan_of(two) is None  # its run is under way
    ledger.close(one.spec.run_key, "diverged")
    taken_over = second.prefix_plan_of(two)
    assert taken_over is not None
    assert taken_over.publishes == (stage,)

    folder = stage.folder(tmp_path)
    folder.mkdir(parents=True)
    (folder / "state").write_text("weights")
    cursor = Cursor(stage=0, step=stage.step, world_size=1, zero_stage=1, elapsed_seconds=1.0)
    seal(folder, cursor, 0)
    done = second.prefix_plan_of(two)
    assert done is not None
    assert done.publishes == ()
    assert done.first_step == stage.step
    remove_prefixes([*stage_prefixes(one.spec), *stage_prefixes(two.spec)], tmp_path)
    assert not list((tmp_path / "prefixes").iterdir())


def test_runs_that_go_through_another_first_stage_share_nothing(
    tiny_sweep: dict[str, Any],
) -> None:
    tiny_sweep["space"] = {"families.cola.objective.stage1.lambda_mask": [0.0, 0.3]}
    planner = PointPlanner(SweepSpec.parse(tiny_sweep), [])
    found = [planner.plan("", {key: value}) for key in tiny_sweep["space"] for value in (0.0, 0.3)]
    stages = {next(stage_prefixes(c.runs[0].spec)).key for c in found}
    assert len(stages) == 2
