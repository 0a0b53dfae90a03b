"""Keys that an algorithm cannot model are named before anything is trained, or refused."""

from __future__ import annotations

from typing import Any

import pytest

from cola.errors import SpecError
from sweeps.driver.plan import describe_plan, plan_sweep
from sweeps.space.points import PointPlanner
from sweeps.space.spec import SweepSpec

RATE = "training.optimizer.learning_rate"
BATCH = "training.batch_sequences"
DECAY = "training.optimizer.weight_decay"
RANGE = {"kind": "loguniform", "low": 1e-4, "high": 1e-2}
PART = {"kind": "uniform", "low": 0, "high": 1, "when": {"key": BATCH, "among": [4]}}


def plan_text(tiny_sweep: dict[str, Any], kind: str, space: dict[str, Any], **more: Any) -> str:
    tiny_sweep["study"]["families"] = {"ar": {}}
    tiny_sweep |= {"space": space, "algorithm": {"kind": kind}, "budget": {"trials": 20}, **more}
    return "\n".join(describe_plan(plan_sweep(PointPlanner(SweepSpec.parse(tiny_sweep), []))))


@pytest.mark.parametrize(
    ("kind", "modelled", "drawn"),
    [
        ("cma-es", RATE, f"{BATCH} (a choice), {DECAY} (part of some points only)"),
        ("gp", f"{RATE}, {BATCH}", f"{DECAY} (part of some points only)"),
        ("nsga2", f"{RATE}, {BATCH}", f"{DECAY} (part of some points only)"),
    ],
)
def test_what_is_drawn_at_random_is_named(
    tiny_sweep: dict[str, Any], kind: str, modelled: str, drawn: str
) -> None:
    text = plan_text(tiny_sweep, kind, {RATE: RANGE, BATCH: [4, 8], DECAY: PART})
    assert f"note: {kind} models {modelled} alone; drawn at random: {drawn}." in text


@pytest.mark.parametrize("kind", ["tpe", "random"])
def test_tpe_models_every_key_and_random_none(tiny_sweep: dict[str, Any], kind: str) -> None:
    assert "note" not in plan_text(tiny_sweep, kind, {RATE: RANGE, BATCH: [4, 8], DECAY: PART})


def test_a_sampler_with_nothing_to_model_is_refused(tiny_sweep: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="models none of the space's keys"):
        plan_text(tiny_sweep, "cma-es", {BATCH: [4, 8]})
    assert "note" not in plan_text(tiny_sweep, "cma-es", {RATE: RANGE})


def test_too_few_trials_for_a_model_are_named(tiny_sweep: dict[str, Any]) -> None:
    text = plan_text(tiny_sweep, "tpe", {RATE: RANGE}, budget={"trials": 8})
    assert "note: All 8 trials are drawn at random" in text
    assert "note" not in plan_text(tiny_sweep, "random", {RATE: RANGE}, budget={"trials": 8})


def test_a_population_names_what_it_keeps(tiny_sweep: dict[str, Any]) -> None:
    del tiny_sweep["algorithm"]
    pbt = {
        "scheduler": {"kind": "pbt", "population": {"members": 2, "generations": 2}},
        "budget": {},
    }
    text = plan_text(tiny_sweep, "random", {BATCH: [4, 8]}, **pbt)
    assert f"a member keeps what it has of {BATCH}" in text
    assert f"the space has no {RATE}" in text
    with pytest.raises(SpecError, match="trains nothing"):
        plan_text(tiny_sweep, "random", {"evaluation.generation.steps": [2, 4]}, **pbt)
