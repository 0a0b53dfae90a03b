"""Curves of bounded size that neither move nor lose what was logged."""

from __future__ import annotations

from typing import Any

import pytest

from cola.records import Metric
from cola.study import StudySpec
from orchestration.planning.plan import plan_study
from orchestration.state.journal import Line
from orchestration.watch.curves import Point, RunCurves, ThinnedCurve, limit_for


def test_a_thinned_curve_keeps_the_mean_of_what_was_added() -> None:
    curve = ThinnedCurve(4)
    values = [float((7 * i) % 11) for i in range(101)]
    for step, value in enumerate(values, start=1):
        curve.add(Point(step, 10.0 * step, value))
    points = curve.points()
    assert curve.stride == 16
    assert len(points) == 101 // 16 + 1
    for place, point in enumerate(points):
        part = range(16 * place, min(16 * place + 16, 101))
        assert point.value == pytest.approx(sum(values[i] for i in part) / len(part))
        assert point.step == pytest.approx(sum(i + 1 for i in part) / len(part))
        assert point.flops == pytest.approx(10 * point.step)


def test_losses_of_stages_are_curves_of_their_own(tiny_study: dict[str, Any]) -> None:
    families = {"cola": tiny_study["families"]["cola"]}
    (run,) = plan_study(StudySpec.parse(tiny_study | {"families": families}))
    first, second = (stage.steps for stage in run.spec.stages)
    curves = RunCurves(run.spec, Metric.NLL, limit=1000)
    for number, step in enumerate((1, first, first + 1, first + second), start=1):
        curves.add(Line(number, "train", step, 0.0, {Metric.TRAIN_LOSS: float(step)}))
    curves.add(Line(5, "train", first + 2, 0.0, {Metric.TRAIN_LOSS: "nan"}))
    curves.add(Line(6, "evaluation", first, 0.0, {Metric.NLL: 5.0}))
    assert [[p.step for p in each.points()] for each in curves.losses] == [
        [1, first], [first + 1, first + second],
    ]  # fmt: skip
    assert curves.not_finite == 1
    (point,) = curves.evaluations
    assert point == Point(first, run.spec.train_flops_at(first, "executed"), 5.0)


def test_a_page_of_many_runs_stays_small() -> None:
    assert limit_for(1) == limit_for(20) == 240
    assert 2 * 300 * limit_for(300) <= 24_000
    assert limit_for(10_000) == 16
