"""Conventions of parameters and compute side by side, shared parameters and their test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from analysis.cli import app
from analysis.fitting.constraints import shared_law
from analysis.fitting.laws import LAWS
from analysis.fitting.table import inputs
from analysis.profiles.analysis import isoflop
from analysis.table_fit.comparison import joined, own_fits
from analysis.table_fit.conventions import _next_optimum
from analysis.table_fit.request import Request
from tests.unit.analysis.fit_command import fitted, refused, text, written


def runs(noise: float = 0.001) -> pd.DataFrame:
    """Losses that follow all parameters; those without embeddings grow faster."""
    compute = np.repeat(np.geomspace(1e18, 3e20, 5), 5)
    total = 4e8 * (compute / 1e20) ** 0.5 * np.tile(np.geomspace(0.25, 4, 5), 5)
    d = compute / (6 * total)
    draw = np.random.default_rng(0).standard_normal(len(total))
    loss = (1.8 + 400 / total**0.34 + 2000 / d**0.37) * np.exp(noise * draw)
    core = total * (1 - 0.5 * (total / total.min()) ** -0.3)
    return pd.DataFrame(
        {"core": core, "total": total, "d": d, "loss": loss, "flops": compute,
         "nominal": 6 * core * d}
    )  # fmt: skip


def test_exponents_by_convention_are_judged_on_the_same_rows(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", runs())
    options = ["--n", "core", "--n", "total", "--d", "d", "--bootstrap", "0"]
    found = fitted(path, *options)
    core, total = found["conventions"]
    assert total["exponents"]["alpha"] == pytest.approx(0.34, rel=0.05)
    assert core["exponents"]["alpha"] < total["exponents"]["alpha"]
    assert core["held_out"]["points"] == total["held_out"]["points"]
    assert core["held_out"]["mean_absolute_error"] > total["held_out"]["mean_absolute_error"]
    assert found["spread"]["all"]["a"] == sorted([core["exponents"]["a"], total["exponents"]["a"]])
    alone = fitted(path, "--n", "total", "--d", "d", "--bootstrap", "0")
    assert total["parameters"] == alone["parameters"]


def test_what_a_law_does_not_tell_apart_is_said_and_fitted_once(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", runs())
    both = ["--flops", "flops", "--flops", "nominal", "--bootstrap", "0"]
    sized = fitted(path, "--n", "core", "--n", "total", "--d", "d", *both)
    assert len(sized["conventions"]) == 2
    assert any("reads N and D alone" in warning for warning in sized["warnings"])
    profiles = fitted(path, "--n", "core", "--n", "total", *both, "--law", "isoflop")
    fitted_ones = [row for row in profiles["conventions"] if "exponents" in row]
    assert len(profiles["conventions"]) == 4
    (a,) = (r["exponents"]["a"] for r in fitted_ones if (r["n"], r["flops"]) == ("total", "flops"))
    assert a == pytest.approx(0.37 / 0.71, abs=0.03)


def test_rows_without_a_convention_count_for_none(tmp_path: Path) -> None:
    rows = runs()
    rows.loc[3, "core"] = np.nan
    path = written(tmp_path / "t.csv", rows)
    shown = text(path, "--n", "core", "--n", "total", "--d", "d", "--bootstrap", "0")
    assert "line 5: left out" in shown
    assert "a is 0." in shown


def test_options_of_one_convention_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", runs())
    both = ["--n", "core", "--n", "total", "--d", "d"]
    assert "names a column twice" in refused(path, "--n", "core", "--n", "core", "--d", "d")
    assert "takes one convention" in refused(path, *both, "--predict", "c=1e21")
    assert "takes one convention" in refused(path, *both, "--law", "optima")
    assert "--law optima: takes one" in refused(
        path, *both, "--law", "optima", "--predict", "c=1e21"
    )


@pytest.mark.parametrize(("floors", "rejected"), [((1.8, 1.8), False), ((1.8, 1.5), True)])
def test_sharing_is_rejected_where_it_does_not_hold(
    tmp_path: Path, floors: tuple[float, float], *, rejected: bool
) -> None:
    first = runs().assign(family="x")
    second = runs().sample(frac=1, random_state=1).assign(family="y")
    draw = 1 + 0.001 * np.random.default_rng(5).standard_normal(len(second))
    second["loss"] = (floors[1] + 500 / second["total"] ** 0.34 + 2500 / second["d"] ** 0.37) * draw
    path = written(tmp_path / "t.csv", pd.concat([first, second]))
    options = ["--n", "total", "--d", "d", "--group", "family", "--bootstrap", "0"]
    found = fitted(path, *options, "--share", "E")
    test = found["shared"]["test"]
    assert test["degrees_of_freedom"] == [1, 40]
    assert test["rejected"] is rejected
    assert found["comparison_from"] == "shared"
    assert any("rely on the groups' own fits" in w for w in found["warnings"]) is rejected
    if not rejected:
        assert "having them in common is not" in text(path, *options, "--share", "E")
        pinned = fitted(path, *options, "--pin", "E=1.8", "--pin", "alpha=0.34")
        for group in pinned["groups"].values():
            assert group["pinned"] == pytest.approx({"E": 1.8, "alpha": 0.34})
            assert group["parameters"]["beta"] == pytest.approx(0.37, rel=0.05)
    assert "law chinchilla has E, alpha, beta" in refused(path, *options, "--share", "gamma")
    assert "has no effect without --group" in refused(path, *options[:4], "--share", "E")
    alone = written(tmp_path / "one.csv", first)
    assert "has one group, x" in refused(alone, *options, "--share", "E")


def test_a_profile_is_judged_by_smaller_budgets_alone() -> None:
    frame = runs(noise=0.0).rename(columns={"total": "parameters", "d": "tokens"})
    frame = frame.assign(compute=frame["flops"], budget=frame["flops"])
    rows = frame.drop(columns="core").reset_index(drop=True)
    # The largest budget has no minimum inside its sizes, so that the one before it is judged.
    largest = rows["budget"] == rows["budget"].max()
    step = np.arange(int(largest.sum()))
    rows.loc[largest, "loss"] = 2.4 - 0.01 * step + 0.0008 * step**2
    request = Request("isoflop", "huber", 0, 0, None, ())
    judged = isoflop(rows).good[-1]
    assert judged.compute < rows["budget"].max()
    below = isoflop(rows[rows["budget"] < judged.compute]).size
    assert below is not None
    expected = float(below.at(np.array([judged.compute]))[0]) / judged.parameters
    found = _next_optimum(rows, request)
    assert found is not None
    assert found["parameters_ratio"] == pytest.approx(expected, rel=1e-9)


def test_conventions_fit_a_narrow_terminal(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", runs())
    both = ["--n", "core", "--n", "total", "--flops", "flops", "--flops", "nominal"]
    arguments = ["fit", path, *both, "--law", "isoflop", "--bootstrap", "20"]
    said = CliRunner().invoke(app, arguments, env={"COLUMNS": "80"}).output
    for whole in ("error held out", "gamma_total", "N = total", "C = nominal"):
        assert whole in said


def test_rows_of_a_run_are_no_independent_rows_of_a_test(tmp_path: Path) -> None:
    draw = np.random.default_rng(2)
    rows = pd.concat([runs(0.0).assign(family=name) for name in ("x", "y")])
    rows["loss"] *= np.exp(0.001 * draw.standard_normal(len(rows)))
    options = ["--n", "total", "--d", "d", "--group", "family", "--bootstrap", "0"]
    rows["run"] = rows.groupby("total").ngroup() // 2
    path = written(tmp_path / "t.csv", rows)
    assert fitted(path, *options)["shared"]["test"] is not None
    named = fitted(path, *options, "--run", "run")
    assert named["shared"]["test"] is None
    assert any("not independent" in warning for warning in named["warnings"])
    assert "is not rejected" not in text(path, *options, "--run", "run")


def test_the_fit_in_common_begins_with_the_groups_own() -> None:
    frames = [runs(0.0), runs(0.0).assign(loss=lambda r: 1.05 * r["loss"])]
    points = inputs(
        pd.concat(frames).rename(columns={"total": "parameters", "d": "tokens", "flops": "compute"})
    )
    law = shared_law(
        LAWS["chinchilla"].make(points), points, group=np.repeat([0, 1], 25),
        families=("x", "y"), shared=("alpha", "beta"),
    )  # fmt: skip
    request = Request("chinchilla", "huber", 0, 0, None, ())
    start = joined(law, own_fits(request, law, points))
    residual = law.log_loss(start[None], points)[0][0] - np.log(points.loss)
    assert np.abs(residual).max() < 1e-6
