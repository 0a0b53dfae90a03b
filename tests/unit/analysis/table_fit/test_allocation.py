"""The optimum at a budget: how flat it is, what serving makes of it, unique tokens."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import brentq, minimize_scalar

from analysis.fitting.laws import LAWS
from analysis.table_fit.text import held_out
from tests.unit.analysis.fit_command import fitted, refused, text, written
from tests.unit.analysis.fitting.test_sized_laws import TRUTHS, grid

SIZE = ["--n", "n", "--d", "d", "--bootstrap", "0"]


def loss(n: float, d: float) -> float:
    return float(1.7 + 400 / n**0.34 + 2000 / d**0.37)


@pytest.fixture
def plane(tmp_path: Path) -> str:
    n, d = (v.ravel() for v in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(1e9, 1e11, 6)))
    rows = pd.DataFrame({"n": n, "d": d, "loss": [loss(*p) for p in zip(n, d, strict=True)]})
    return written(tmp_path / "plane.csv", rows)


@pytest.mark.parametrize("law", ["chinchilla", "outer"])
def test_the_optimum_is_as_flat_as_it_is_said_to_be(plane: str, law: str) -> None:
    (found,) = fitted(plane, *SIZE, "--law", law, "--predict", "c=1e21")["predictions"]
    product = 1e21 / 6
    best = minimize_scalar(lambda x: loss(np.exp(x), product / np.exp(x)), bounds=(15, 27))
    assert found["parameters"] == pytest.approx(np.exp(best.x), rel=1e-2)
    low, high = found["near_optimal"]["parameters"]
    for end in (low, high):
        assert loss(end, product / end) == pytest.approx(1.005 * best.fun, rel=2e-4)
    assert low < found["parameters"] < high


def test_serving_moves_the_optimum_to_smaller_models(plane: str) -> None:
    options = [*SIZE, "--predict", "c=1e21", "--serve"]
    (found,) = fitted(plane, *options, "tokens=1e12,mfu=0.4,serving_mfu=0.2,peak=1e15,price=2")[
        "predictions"
    ]
    target, served = found["loss"], found["serving"]

    def tokens(n: float) -> float:
        return float(brentq(lambda d: loss(n, d) - target, 1e8, 1e16))

    def cost(x: float) -> float:
        n = np.exp(x)
        return float(6 * n * tokens(n) / 0.4 + 2 * n * 1e12 / 0.2)

    size = np.log(found["parameters"])
    best = minimize_scalar(cost, bounds=(size - 1.5, size), method="bounded")
    assert served["parameters"] == pytest.approx(np.exp(best.x), rel=1e-2)
    assert served["saving"] == pytest.approx(1 - best.fun / cost(size), rel=1e-2)
    hours = served["device_hours"]
    assert hours["training"] + hours["serving"] == pytest.approx(best.fun / 1e15 / 3600, rel=1e-3)
    assert served["cost"]["serving"] == pytest.approx(2 * hours["serving"])
    said = text(plane, *options, "tokens=1")
    assert f"N {found['parameters']:.4g}" in said
    assert "of the FLOPs of the compute-optimal model" in said
    assert f"which saves {served['saving']:.1%} of the device time" in text(
        plane, *options, "tokens=1e12,mfu=0.4,serving_mfu=0.2", "--bootstrap", "0"
    )


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("tokens=0", "each once and positive"),
        ("mfu=0.4", "lacks the tokens"),
        ("tokens=1e12,mfu=40", "at most 1"),
        ("tokens=1e12,price=2", "price needs peak"),
        ("tokens=1e12,mfu=0.4", "mfu has no effect alone"),
        ("tokens=1e12,tokens=1e13", "each once"),
        ("tokens=1e12,speed=3", "'speed=3'"),
    ],
)
def test_what_cannot_be_served_is_refused(plane: str, value: str, reason: str) -> None:
    assert reason in refused(plane, *SIZE, "--predict", "c=1e21", "--serve", value)


def test_serving_needs_a_budget_and_a_law_of_sizes(plane: str) -> None:
    served = ["--serve", "tokens=1e12"]
    assert "give --predict c=" in refused(plane, *SIZE, *served)
    assert "law compute does not read" in refused(
        plane, *SIZE, *served, "--law", "compute", "--predict", "c=1e21"
    )


def test_scarce_data_bend_the_optimum_to_smaller_models_and_more_epochs(tmp_path: Path) -> None:
    points = grid("repeated")
    columns = {"n": points.parameters, "d": points.tokens, "u": points.unique, "loss": points.loss}
    path = written(tmp_path / "t.csv", pd.DataFrame(columns))
    options = [*SIZE, "--law", "repeated", "--unique", "u"]
    places = ["c=1e21,u=1e13", "c=1e21,u=1e9", "n=1e9,d=1e10,u=1e9"]
    found = fitted(path, *options, *(a for place in places for a in ("--predict", place)))
    assert found["parameters"] == pytest.approx(TRUTHS["repeated"], rel=2e-3)
    assert found["derived"]["half_life"] == pytest.approx(15.4 * np.log(2), rel=2e-3)
    plenty, scarce, _ = found["predictions"]
    # Repeats of tokens lose their worth later than excess parameters (R_D > R_N).
    assert scarce["tokens"] > 1.5 * plenty["tokens"]
    assert plenty["loss"] < scarce["loss"]
    formula, x = LAWS["repeated"].formula, np.linspace(15, 27, 4001)[None]
    assert formula is not None
    row = np.array([list(TRUTHS["repeated"].values())])
    losses = formula(row, x, np.log(1e21 / 6) - x, np.full_like(x, np.log(1e9)))[0]
    assert scarce["parameters"] == pytest.approx(np.exp(x[0, losses.argmin()]), rel=0.02)
    assert scarce["loss"] == pytest.approx(losses.min(), rel=1e-3)
    assert "needs the unique tokens" in refused(path, *options, "--predict", "c=1e21")
    plain = [*SIZE, "--predict", "c=1e21,u=1e9"]
    assert "does not read u" in refused(path, *plain)
    assert "--unique: law chinchilla does not read it" in refused(path, *SIZE, "--unique", "u")


def test_rows_held_out_are_predicted_and_not_fitted(plane: str) -> None:
    rows = pd.read_csv(plane)
    later = 6 * rows["n"] * rows["d"] >= 1e20
    rows.loc[later, "loss"] *= 1.02
    rows.to_csv(plane, index=False)
    found = fitted(plane, *SIZE, "--hold-out", "1e20")
    assert found["points"] == int((~later).sum())
    assert found["held_out"]["points"] == int(later.sum())
    assert found["held_out"]["signed_error"] == pytest.approx(1 / 1.02 - 1, rel=1e-2)
    assert found["version"] == 1
    assert json.dumps(found)
    assert "give a value between" in refused(plane, *SIZE, "--hold-out", "1e30")


def test_intervals_that_hold_no_row_are_said_to_hold_none() -> None:
    errors = {"from": 1e20, "points": 4, "mean_absolute_error": 0.1, "signed_error": 0.1}
    assert "0% inside" in held_out(errors | {"share_inside_95%_interval": 0.0})
    assert "inside" not in held_out(errors)
