"""The law with annealing: its areas, gradients and recovery, from tables and studies."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.curve_laws.areas import annealing_area, end_of_warmup, forward_area, shape_of
from analysis.curve_laws.curves import points_of, scale_of
from analysis.curve_laws.fit import correlation_of, fit_curves, refits_of
from analysis.curve_laws.law import annealing_law
from analysis.curve_laws.predictions import Schedule, parse_schedule, prediction
from analysis.fitting.constraints import Constraints
from cola.errors import SpecError
from tests.benchmarks.annealing_law import OF_SIZES, TRUTH, losses, made
from tests.unit.analysis.fit_command import fitted, refused, text, written

COSINE, WSD = Schedule("cosine", 1000, 1e-3), Schedule("wsd", 1000, 1e-3)


def table(*schedules: Schedule, noise: float = 1e-4, every: int = 10) -> pd.DataFrame:
    """Rows of curves, each run called by its kind."""
    generator = np.random.default_rng(0)
    parts = []
    for schedule in schedules:
        curve = made(schedule.kind, schedule, generator, noise=noise, every=every)
        parts.append(
            pd.DataFrame({"run": curve.name, "step": curve.steps,
                          "lr": curve.rates[curve.steps - 1], "loss": curve.loss})
        )  # fmt: skip
    return pd.concat(parts)


def test_areas_are_the_sums_of_their_definition() -> None:
    rates = np.array([0.5, 1.0, 1.0, 0.75, 0.25])
    assert end_of_warmup(rates) == 2
    assert forward_area(rates).tolist() == [0.5, 1.5, 2.5, 3.25, 3.5]
    # m: 0, 0, 0, 1/4, 1/8 + 1/2 with lambda 1/2; the warm-up's rise anneals nothing.
    assert annealing_area(rates, 2.0).tolist() == [0.0, 0.0, 0.0, 0.25, 0.875]


@pytest.mark.parametrize(
    ("rates", "shape", "warmup"),
    [
        ([0.0, 0.0, 0.5, 1.0, 1.0], "constant", 4),
        ([1.0, 1.0, 1.0, 0.5], "stable-decay", 1),
        ([0.5, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5], "decay", 2),
        ([1.0, 0.5, 1.0], "rewarmed", 1),
    ],
)
def test_schedules_are_told_by_their_rates(rates: list[float], shape: str, warmup: int) -> None:
    assert (shape_of(np.array(rates)), end_of_warmup(np.array(rates))) == (shape, warmup)


@pytest.mark.parametrize("sized", [False, True])
def test_gradients_agree_with_finite_differences(sized: bool) -> None:
    generator = np.random.default_rng(0)
    sizes = (1e6, 4e6, 2e7) if sized else (None,)
    curves = [made("a", COSINE, generator, every=200, size=size) for size in sizes]
    points = points_of(curves, scale_of(curves))
    law = annealing_law(points, 1e-3, sized=sized)
    theta = law.starts(points, 4, generator)
    value, gradient = law.log_loss(theta, points)
    for column in range(theta.shape[1]):
        step = np.zeros_like(theta)
        step[:, column] = 1e-6
        ahead, behind = (law.log_loss(theta + sign * step, points)[0] for sign in (1, -1))
        slope = (ahead - behind) / 2e-6
        assert gradient[..., column] == pytest.approx(slope, rel=1e-4, abs=1e-7)
    assert np.isfinite(value).all()


def test_the_law_and_what_it_predicts_are_recovered() -> None:
    generator = np.random.default_rng(0)
    curves = [made(s.kind, s, generator, noise=1e-5) for s in (COSINE, WSD)]
    found = fit_curves(curves, "huber", sized=False, starts=16)
    assert found.fit.parameters == pytest.approx(TRUTH, rel=0.02)
    target = Schedule("wsd", 3000, 1e-3, decay=0.1)
    result = prediction(found, refits_of(found, 20, 0), target, [])
    assert result["loss"] == pytest.approx(float(losses(target.rates())[-1]), rel=1e-3)
    low, high = result["confidence_interval"]
    assert low < result["loss"] < high


def test_the_law_over_sizes_is_recovered() -> None:
    generator = np.random.default_rng(0)
    curves = [
        made(f"{s.kind}{size}", s, generator, noise=1e-6, every=25, size=size)
        for s in (COSINE, WSD)
        for size in (1e6, 4e6, 2e7)
    ]
    found = fit_curves(curves, "least-squares", sized=True, starts=16)
    assert found.fit.parameters == pytest.approx(OF_SIZES, rel=0.05)


def test_a_pinned_momentum_leaves_the_rest_free() -> None:
    generator = np.random.default_rng(0)
    curves = [made(s.kind, s, generator, noise=1e-5) for s in (COSINE, WSD)]
    pins = Constraints({"lambda": 0.99})
    found = fit_curves(curves, "huber", sized=False, starts=8, constraints=pins)
    assert found.fit.parameters["lambda"] == pytest.approx(0.99)
    assert found.fit.parameters["C"] == pytest.approx(TRUTH["C"], rel=0.01)


def test_correlation_along_curves_is_found_and_drawn() -> None:
    generator = np.random.default_rng(0)
    curves = [made("a", COSINE, generator, every=1, correlation=0.6)]
    points = points_of(curves, scale_of(curves))
    noise = np.log(points.loss) - np.log(losses(COSINE.rates())[points.step - 1])
    assert correlation_of(noise, points) == pytest.approx(0.6, abs=0.06)


def test_a_table_of_curves_says_what_its_runs_predict_of_each_other(tmp_path: Path) -> None:
    rows = table(COSINE, WSD, every=4)
    path = written(tmp_path / "curves.csv", rows)
    arguments = [path, "--law", "annealing", "--step", "step", "--lr", "lr", "--run", "run"]
    figure = tmp_path / "curves.svg"
    found = fitted(
        *arguments, "--bootstrap", "50", "--predict", "kind=cosine,steps=2000,lr=1e-3",
        "--plot", str(figure),
    )  # fmt: skip
    assert found["losses"] == "column 'loss'"
    assert found["rows"]["used"] == len(rows)
    kinds = {each["run"]: each["schedule"] for each in found["curves"]}
    assert kinds == {"cosine": "decay", "wsd": "stable-decay"}
    errors = {each["run"]: each["end_error"] for each in found["held_out_runs"]}
    assert abs(errors["wsd"]) < 0.002, "cosine predicts WSD"
    (there,) = found["predictions"]
    true = float(losses(Schedule("cosine", 2000, 1e-3).rates())[-1])
    assert there["loss"] == pytest.approx(true, rel=1e-3)
    assert "optimiser step" in figure.read_text()
    shown = text(*arguments, "--bootstrap", "0")
    assert "wsd (stable-decay) predicted by the others: mean error" in shown
    # Rows without a loss give the rate alone; equal steps of one run are one row.
    more = pd.concat([rows, rows.assign(loss=np.nan, step=rows["step"] + 1)])
    path = written(tmp_path / "more.csv", more)
    again = fitted(path, *arguments[1:], "--bootstrap", "0")
    assert again["points"] == found["points"]
    assert any("give the learning rate alone" in note for note in again["warnings"])


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--step", "step"], "--lr: law annealing needs the column"),
        ([], "needs the table's columns of steps"),
        (["--step", "step", "--lr", "lr"], "step 10 has two l.*--run"),
        (["--step", "lr", "--lr", "step", "--run", "run"], "is no step; give whole numbers"),
        (["--step", "step", "--lr", "lr", "--run", "run", "--hold-out", "1"], "does not read it"),
        (["--step", "step", "--lr", "lr", "--run", "run", "--pin", "C=1"], "a coefficient depends"),
        (["--step", "step", "--lr", "lr", "--run", "run", "--pin", "lambda=1"], "takes 0.5 to"),
        (["--step", "step", "--lr", "lr", "--run", "run", "--n", "n"], "at least 3 different N"),
    ],
)
def test_tables_that_lack_something_are_refused(
    tmp_path: Path, arguments: list[str], problem: str
) -> None:
    path = written(tmp_path / "curves.csv", table(COSINE, WSD).assign(n=1e7))
    message = refused(path, "--law", "annealing", *arguments)
    assert re.search(problem, message), message


def test_curves_without_annealing_are_refused(tmp_path: Path) -> None:
    columns = ["--law", "annealing", "--step", "step", "--lr", "lr", "--run", "run"]
    flat = written(tmp_path / "flat.csv", table(Schedule("constant", 1000, 1e-3)))
    assert "nothing is annealed, so that C and lambda" in refused(flat, *columns)
    rising = table(COSINE).assign(loss=lambda rows: rows["loss"].to_numpy()[::-1])
    assert "does not fall" in refused(written(tmp_path / "rising.csv", rising), *columns)
    zero = written(tmp_path / "zero.csv", table(COSINE).assign(lr=0.0))
    assert "run cosine: its learning rates are all 0" in refused(zero, *columns)
    short = written(tmp_path / "short.csv", table(COSINE, every=300))
    assert "run cosine: fewer than 5 losses after the warm-up" in refused(short, *columns)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("c=1e21", "lacks kind, steps, lr"),
        ("kind=linear,steps=10,lr=1", "kind 'linear' is none of cosine, wsd, constant"),
        ("kind=wsd,steps=1.5,lr=1", "steps are whole"),
        ("kind=wsd,steps=10,lr=nan", "lr=nan is no positive number"),
        ("kind=wsd,steps=10,lr=1,warmup=2", "are shares; give 0 to 1"),
        ("kind=cosine,steps=10,lr=1,decay=0.1", "decay has no effect but on kind=wsd"),
        ("kind=constant,steps=10,lr=1,final=0.1", "final has no effect"),
        ("kind=wsd,steps=10,lr=1,q=1", "has no q"),
    ],
)
def test_schedules_to_predict_are_checked(given: str, problem: str) -> None:
    with pytest.raises(SpecError, match=problem):
        parse_schedule(given)
    assert parse_schedule("kind=wsd,steps=10,lr=1,decay=0.5").rates()[-1] == pytest.approx(0.1)
