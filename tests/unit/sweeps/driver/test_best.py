"""The best point of a sweep as settings of a study, and what may change between two calls."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from cola.errors import SpecError
from cola.records import TrialFinished, TrialRequested
from cola.spec import apply_overrides
from cola.study import StudySpec
from orchestration.planning.plan import plan_study
from orchestration.state.ledger import LeaseHeldError
from sweeps.driver.best import write_best
from sweeps.driver.folder import exclusive_driver, save_spec
from sweeps.search.trial_log import SweepLog
from sweeps.space.points import PointPlanner
from sweeps.space.spec import SweepSpec

BLOCK = "families.cola.block_size"
NLL = "val/nll_nats_per_token"


def logged(folder: Path, planner: PointPlanner, values: dict[int, float]) -> SweepLog:
    log = SweepLog(folder)
    for trial, (block, nll) in enumerate(values.items(), start=1):
        planned = planner.plan("", {BLOCK: block})
        log.write(TrialRequested(
            trial=trial, arm="", point={BLOCK: block}, identity=planned.identity,
            run_keys=[run.spec.run_key for run in planned.runs], time=time.time(),
        ))  # fmt: skip
        log.write(TrialFinished(
            trial=trial, state="finished", reason=None, metrics={NLL: nll}, runs=[],
            wall_seconds=1, working_seconds=1, training_seconds=1, flops=1, accelerator_hours=0,
            time=time.time(),
        ))  # fmt: skip
    return log


def test_the_best_point_is_a_study_that_reuses_its_run(
    tiny_sweep: dict[str, Any], tmp_path: Path
) -> None:
    tiny_sweep["space"] = {BLOCK: [8, 16]}
    planner = PointPlanner(SweepSpec.parse(tiny_sweep), [])
    log = logged(tmp_path, planner, {8: 5.0, 16: 4.0})
    settings, study = write_best(planner, log, tmp_path)
    assert yaml.safe_load(settings.read_text()) == {BLOCK: 16}
    wanted = log.requests[2].run_keys
    whole = StudySpec.parse(yaml.safe_load(study.read_text()))
    assert [run.spec.run_key for run in plan_study(whole)] == wanted
    values = {"name": "x", **tiny_sweep["study"]}
    changed = StudySpec.parse(apply_overrides(values, [f"@{settings}"]))
    assert [run.spec.run_key for run in plan_study(changed)] == wanted


def test_another_sweep_of_the_same_name_is_refused(
    tiny_sweep: dict[str, Any], tmp_path: Path
) -> None:
    tiny_sweep["space"] = {BLOCK: [8, 16]}
    planner = PointPlanner(SweepSpec.parse(tiny_sweep), [])
    save_spec(planner.sweep, planner.base, tmp_path)
    logged(tmp_path, planner, {8: 5.0})
    more = planner.sweep.model_copy(update={"description": "longer"})
    save_spec(more, planner.base, tmp_path)
    tiny_sweep["space"] = {BLOCK: [8]}
    other = PointPlanner(SweepSpec.parse(tiny_sweep), ["max_epochs=50"])
    with pytest.raises(SpecError, match=r"other: space, study"):
        save_spec(other.sweep, other.base, tmp_path)


def test_two_drivers_do_not_work_on_one_sweep(tmp_path: Path) -> None:
    refused = pytest.raises(LeaseHeldError, match=f"by another process, which holds {tmp_path}")
    with exclusive_driver(tmp_path, "s"), refused, exclusive_driver(tmp_path, "s"):
        raise AssertionError
