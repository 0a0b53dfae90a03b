"""A tuning sweep's one file: rules by entry that a study of all entries takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cola.errors import SpecError
from cola.records import RunResult, TrialFinished, TrialRequested
from cola.spec import apply_overrides
from cola.study import StudySpec
from orchestration.planning.plan import plan_study
from orchestration.planning.plan_summary import tuning_of
from sweeps.driver.tuned import is_tuning_sweep, write_tuned
from sweeps.search.trial_log import SweepLog
from sweeps.space.points import PointPlanner
from sweeps.space.spec import SweepSpec

RATE = "training.optimizer.learning_rate"
BATCH = "training.batch_sequences"
EMA = "training.ema_decay"
VAE, JOINT = (f"training.stages.{stage}.learning_rate" for stage in ("vae", "joint"))
NLL = "val/nll_nats_per_token"
LADDER = [{"budget": budget, "core_parameters": 60_000} for budget in (2.0e10, 8.0e10)]


@pytest.fixture
def sweep(tiny_study: dict[str, Any]) -> dict[str, Any]:
    """AR and Cola DLM of the tiny study at two budgets; AR has a rate, a rule and a ladder of its
    own."""
    rule = {"kind": "power_law", "coefficient": 0.5}
    tiny_study["families"] = {
        "ar": {
            "training": {"optimizer": {"learning_rate": 0.5}},
            "rules": {"learning_rate": rule},
            "ladder": LADDER,
        },
        "cola": tiny_study["families"]["cola"],
    }
    tiny_study["ladder"] = LADDER
    rates = {"kind": "loguniform", "low": 1e-3, "high": 1e-1}
    return {
        "name": "tune",
        "study": tiny_study,
        "arms": {
            "ar": {"entry": "ar", "space": {RATE: rates}},
            "cola": {"entry": "cola", "space": {VAE: rates, JOINT: rates, EMA: [None, 0.9]}},
        },
        "space": {BATCH: [4, 8]},
        "rungs": [0, 1],
        "budget": {"trials": 2},
    }


def logged(
    planner: PointPlanner, folder: Path, points: dict[str, list[dict[str, Any]]]
) -> SweepLog:
    """Trials of each arm, the first one the best."""
    log, number = SweepLog(folder), 0
    for arm, mine in points.items():
        for place, point in enumerate(mine):
            number += 1
            planned = planner.plan(arm, point)
            log.write(TrialRequested(
                trial=number, arm=arm, point=point, identity=planned.identity,
                run_keys=[run.key for run in planned.runs], time=0.0, beyond=place == BEYOND,
            ))  # fmt: skip
            log.write(TrialFinished(
                trial=number, state="finished", reason=None, metrics={NLL: 5.0 + place},
                runs=[RunResult(name="r", run_key=planned.runs[0].key, family="x", seed=66,
                                state="finished", reason=None, reused=arm == "ar-rung0",
                                metrics={})],
                wall_seconds=1, working_seconds=1, training_seconds=1,
                flops=0 if arm == "ar-rung0" else planned.flops,
                accelerator_hours=0, time=1.0,
            ))  # fmt: skip
    return log


BEYOND = 2  # a search's trials from this one on lie beyond an edge
COLA_LOW = {VAE: 1e-2, JOINT: 2e-2, EMA: None, BATCH: 8}
COLA_HIGH = {VAE: 5e-3, JOINT: 9e-2, EMA: 0.9, BATCH: 8}
POINTS: dict[str, list[dict[str, Any]]] = {
    "ar-rung0": [{RATE: 8e-3, BATCH: 4}, {RATE: 5e-2, BATCH: 8}],
    "ar-rung1": [{RATE: 2e-3, BATCH: 8}, {RATE: 1e-3, BATCH: 4}],
    "cola-rung0": [COLA_LOW],
    "cola-rung1": [COLA_HIGH],
}


def test_the_file_makes_each_run_of_the_study_the_best_trial_s(
    sweep: dict[str, Any], tmp_path: Path
) -> None:
    """One study of two entries: at every tuned budget, its runs have the best trials' keys."""
    planner = PointPlanner(SweepSpec.parse(sweep), [])
    assert is_tuning_sweep(planner)
    log = logged(planner, tmp_path, POINTS)
    path = write_tuned(planner, log, tmp_path)
    assert path == tmp_path / "tuned.yaml"
    study = StudySpec.parse(apply_overrides(sweep["study"], [f"@{path}"]))
    best = {arm: planner.plan(arm, mine[0]).runs[0].key for arm, mine in POINTS.items()}
    found = {f"{run.variant}-rung{run.rung}": run for run in plan_study(study)}
    assert {arm: run.key for arm, run in found.items() if arm != "cola-rung0"} == {
        arm: key for arm, key in best.items() if arm != "cola-rung0"
    }
    # A moving average has no rule: that of the largest budget is taken, and said to be.
    assert found["cola-rung0"].spec.training.ema_decay == 0.9
    shown = tuning_of(study)
    assert shown["status"] == "unequal"
    assert (shown["families"]["ar"]["trials"], shown["families"]["cola"]["trials"]) == (4, 2)
    text = "\n".join(shown["sentences"])
    assert "training.ema_decay was best at None at 2e+10, 0.9 at 8e+10" in text
    assert "rate of joint 0.02, 0.09" in text
    # Runs that were finished before the sweep are no effort of it, and are named.
    low, high = shown["families"]["ar"]["budgets"]
    assert (low["flops"], high["shared_flops"]) == (0, 0)
    assert 3e10 < low["shared_flops"] < 4e10
    assert " taken from other runs; searched batch_sequences" in text
    assert "learning_rate of joint at 8e+10" in text
    assert "tuned with other settings" not in text
    study = StudySpec.parse(
        apply_overrides(sweep["study"], [f"@{path}", "families.cola.latent_dim=8"])
    )
    other = "tuned with other settings: latent_dim 4 (the study has 8)"
    assert other in "\n".join(tuning_of(study)["sentences"])


def test_only_values_beyond_an_edge_are_named_as_such(
    sweep: dict[str, Any], tmp_path: Path
) -> None:
    """A trial beyond the edge of one key has the best value of every other."""
    planner = PointPlanner(SweepSpec.parse(sweep), [])
    further = {RATE: 0.2, BATCH: 4}
    log = logged(planner, tmp_path, POINTS | {"ar-rung0": [*POINTS["ar-rung0"], further]})
    path = write_tuned(planner, log, tmp_path)
    assert isinstance(path, Path)
    found = yaml.safe_load(path.read_text())["tuning"]["families"]["ar"]["searched"]
    assert found == {RATE: "0.001 to 0.1, and beyond an edge 0.2 at 2e+10", BATCH: "4, 8"}


def test_an_arm_without_a_finished_trial_is_named(sweep: dict[str, Any], tmp_path: Path) -> None:
    planner = PointPlanner(SweepSpec.parse(sweep), [])
    log = logged(planner, tmp_path, {arm: POINTS[arm] for arm in ("ar-rung0", "cola-rung0")})
    reason = f"arm ar-rung1 has no finished trial with {NLL}"
    assert write_tuned(planner, log, tmp_path) == reason
    assert not (tmp_path / "tuned.yaml").exists()


def test_what_an_arm_sets_of_training_is_its_entry_s(sweep: dict[str, Any]) -> None:
    """The entry's own rate of 0.5 does not win over the arm's."""
    sweep["arms"]["ar"] = {"entry": "ar", "set": {RATE: 7e-3}}
    sweep["study"]["families"]["ar"].pop("rules")
    planner = PointPlanner(SweepSpec.parse(sweep), [])
    run = planner.plan("ar-rung1", {BATCH: 4}).runs[0]
    assert run.spec.learning_rates() == {"train": 7e-3}
    assert run.spec.budget == 8e10
    assert planner.settings("ar-rung1", {BATCH: 4}) == {
        f"families.ar.{RATE}": 7e-3,
        f"families.ar.{BATCH}": 4,
    }


def test_sweeps_over_other_keys_are_no_tuning(sweep: dict[str, Any]) -> None:
    sweep["space"]["families.cola.block_size"] = [8, 16]
    assert not is_tuning_sweep(PointPlanner(SweepSpec.parse(sweep), []))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"arms": {"a": {"entry": "other"}}, "space": {RATE: [1e-3]}},
         r"arms.a-rung0.entry='other': the base study has no such entry; families has ar, cola"),
        ({"rungs": [0, 5]}, r"arms.ar-rung5.rung=5: the base study has rungs 0 to 1"),
        ({"rungs": [1, 1]}, r"rungs: lists 1 more than once|lists 1 more than once"),
        ({"arms": {"a": {"entry": "ar", "rung": 0, "space": {RATE: [1e-3]}}}},
         r"arms.a.rung=0: rungs gives every arm's"),
        ({"widening": {"trials": 1}, "metrics": [{"name": NLL}, {"name": "val/bits_per_byte"}]},
         r"widening.trials=1: goes with one metric"),
    ],
)  # fmt: skip
def test_what_a_tuning_cannot_be_is_one_line(
    sweep: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError, match=message):
        PointPlanner(SweepSpec.parse(sweep | change), [])


def test_a_tuned_study_is_no_base(sweep: dict[str, Any], tmp_path: Path) -> None:
    planner = PointPlanner(SweepSpec.parse(sweep), [])
    path = write_tuned(planner, logged(planner, tmp_path, POINTS), tmp_path)
    assert isinstance(path, Path)
    sweep["study"] |= yaml.safe_load(path.read_text())
    with pytest.raises(SpecError, match="tuning: a sweep's points are of one entry at one budget"):
        PointPlanner(SweepSpec.parse(sweep), [])
