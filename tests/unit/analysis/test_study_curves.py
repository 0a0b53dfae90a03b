"""Curves of a study: rates of its specification, the losses that count, what is left out."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from analysis.curve_laws.predictions import Schedule
from analysis.report.runs import StudyFrames
from analysis.study_curves import curves_of, rates_by
from cola.errors import FitError
from cola.spec.training import ScheduleSpec
from cola.study.schedule import learning_rate_factor
from tests.benchmarks.annealing_law import losses

STEPS = 400


@dataclass(frozen=True)
class Made:
    """Finished runs of one variant."""

    variant: str
    kind: str
    stages: int = 1
    validations: int = 20
    sizes: tuple[int, ...] = (1_000_000,)


def recorded(schedule: ScheduleSpec, rate: float) -> dict[str, str]:
    """As a run's parameters have it in MLflow."""
    values = {f"training.schedule.{k}": str(v) for k, v in schedule.model_dump(mode="json").items()}
    return values | {"training.optimizer.learning_rate": str(rate)}


def frames(*made: Made) -> StudyFrames:
    """Studies whose losses follow the law; training losses lie 0.5 above."""
    runs, points, curves = [], [], []
    rates = Schedule("wsd", STEPS, 1e-3).rates()
    for each in made:
        for size in each.sizes:
            name = f"{each.variant}-{size}"
            about = {"run_id": name, "name": name, "variant": each.variant, "status": "finished"}
            runs.append(
                about
                | {"stages": each.stages, "stage": "train", "steps": STEPS, "nll_kind": each.kind,
                   "core_parameters": size, "validation_nll": np.nan,
                   "training": recorded(ScheduleSpec(kind="wsd"), 1e-3)}
            )  # fmt: skip
            loss = losses(rates)
            for step in np.linspace(STEPS / each.validations, STEPS, each.validations).astype(int):
                points.append({"run_id": name, "step": step, "nll": loss[step - 1]})
            for step in range(10, STEPS + 1, 10):
                curves.append({"run_id": name, "step": step, "train_loss": loss[step - 1] + 0.5})
    return StudyFrames(pd.DataFrame(runs), pd.DataFrame(points), pd.DataFrame(curves))


def test_rates_are_those_of_the_training_loop() -> None:
    schedule = ScheduleSpec.model_validate(
        {"kind": "cosine", "rate_changes": [{"at": 0.3, "factor": 2.0}, {"at": 0.6, "factor": 0.5}]}
    )
    rates = rates_by(recorded(schedule, 0.01), 100, "train")
    factors = [1.0] * 30 + [2.0] * 30 + [0.5] * 40
    expected = [
        0.01 * factor * learning_rate_factor(schedule, step, 100)
        for step, factor in enumerate(factors)
    ]
    assert rates == pytest.approx(expected)


def test_a_stage_has_the_rate_and_the_schedule_of_its_own() -> None:
    of_run, own = ScheduleSpec(kind="cosine"), ScheduleSpec(kind="wsd", warmup_steps=10)
    staged = {
        f"training.stages.train.{key.removeprefix('training.')}": value
        for key, value in recorded(own, 0.03).items()
        if key.startswith("training.schedule.")
    }
    settings = recorded(of_run, 0.01) | staged | {"training.stages.train.learning_rate": "0.03"}
    assert rates_by(settings, 100, "train") == pytest.approx(rates_by(recorded(own, 0.03), 100, ""))
    plain = rates_by(recorded(of_run, 0.01), 100, "")
    assert rates_by(settings, 100, "other") == pytest.approx(plain)
    unset = recorded(of_run, 0.01) | {
        "training.stages.train.learning_rate": "None", "training.stages.train.schedule": "None",
    }  # fmt: skip
    assert rates_by(unset, 100, "train") == pytest.approx(plain)


def test_validation_losses_count_where_there_are_enough() -> None:
    found = curves_of("s", frames(Made("ar", "exact"), Made("llada", "bound")))
    assert set(found.groups) == {"ar", "llada"}
    assert found.losses == "ar: validation losses; llada: validation losses"
    few = curves_of("s", frames(Made("ar", "exact", validations=2)))
    assert few.losses == "ar: training losses, each of one batch"
    (curve,) = few.groups["ar"]
    assert (len(curve.steps), curve.schedule, curve.parameters) == (40, "stable-decay", None)


def test_sizes_count_from_three_on() -> None:
    found = curves_of("s", frames(Made("ar", "exact", sizes=(1, 2, 4)))).groups["ar"]
    assert [curve.parameters for curve in found] == [1, 2, 4]
    two = curves_of("s", frames(Made("ar", "exact", sizes=(1, 2))))
    assert [curve.name for curve in two.groups["ar"]] == ["ar-2"]
    assert "curves of 1 smaller runs are left out" in two.notes[0]


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        (Made("cola", "bound", stages=2), "cola: left out: its runs have 2 stages"),
        (Made("llada", "bound", validations=2), "llada: .*no likelihood; raise evaluation.points"),
    ],
)
def test_curves_that_the_law_is_not_about_are_left_out(made: Made, problem: str) -> None:
    found = curves_of("s", frames(Made("ar", "exact"), made))
    assert set(found.groups) == {"ar"}
    assert any(re.search(problem, note) for note in found.notes)
    with pytest.raises(FitError, match=f"study s: no curve.*{problem}"):
        curves_of("s", frames(made))
