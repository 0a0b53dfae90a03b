"""Designs whose sizes come from a fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cola.errors import SpecError
from cola.spec import load_yaml
from cola.study import StudySpec
from tests.unit.analysis.fit_command import written
from tests.unit.analysis.imports.sources import ran

POINTS = [
    {"budget": 4e11, "parameters": 200_000, "extrapolation": 4.0},
    {"budget": 1e11, "parameters": 100_000, "extrapolation": 1.0},
]


def study_of(tiny_study: dict[str, Any], **design: Any) -> StudySpec:
    values = {key: value for key, value in tiny_study.items() if key != "ladder"}
    fitted = {"kind": "from_fit", "fit": "a table", "counts": "core", "points": POINTS}
    return StudySpec.parse(values | {"design": fitted | design})


def test_sizes_lie_on_the_line_through_the_points(tiny_study: dict[str, Any]) -> None:
    study = study_of(tiny_study, budgets=[4e11, 2e11, 1e11])
    sizes = [rung.core_parameters for rung in study.rungs_of("ar")]
    assert sizes == [100_000, 140_000, 200_000]  # 1e5 sqrt(C / 1e11), to two digits
    several = study_of(tiny_study, budgets=[1e11], sizes=3, spread=4)
    assert [rung.core_parameters for rung in several.rungs_of("ar")] == [50_000, 100_000, 200_000]


def test_beyond_the_data_is_said_and_beyond_the_points_refused(tiny_study: dict[str, Any]) -> None:
    assert study_of(tiny_study, budgets=[1e11]).design.cautions() == []  # type: ignore[union-attr]
    rounded = [
        POINTS[0] | {"budget": 3e11, "extrapolation": 0.6667},
        POINTS[0] | {"budget": 4.5e11},
    ]
    inside = study_of(tiny_study, budgets=[4.5e11], points=rounded).design
    assert inside is not None
    assert inside.cautions() == []  # type: ignore[union-attr]
    (caution,) = study_of(tiny_study, budgets=[4e11]).design.cautions()  # type: ignore[union-attr]
    assert "its largest budget is 4 times the largest compute of the fit's runs" in caution
    with pytest.raises(SpecError, match=r"5e\+11 FLOPs is beyond the fit's points \(1e\+11 to 4e"):
        study_of(tiny_study, budgets=[5e11])
    with pytest.raises(SpecError, match="design: a budget of 8e"):
        study_of({**tiny_study, "families": {"ar": {"budget_factor": 8}}}, budgets=[1e11])
    with pytest.raises(SpecError, match=r"design\.counts=total: matching\.parameters=core"):
        study_of(tiny_study, budgets=[1e11], counts="total")


def test_a_fit_writes_the_design_of_a_study(tmp_path: Path, tiny_study: dict[str, Any]) -> None:
    """N* = 0.1 C^0.5 of a law with equal exponents and A = B (Chinchilla's form)."""
    n, d = (
        grid.ravel() for grid in np.meshgrid(np.geomspace(1e5, 1e7, 6), np.geomspace(1e7, 1e9, 6))
    )
    table = pd.DataFrame({"core_parameters": n, "d": d, "loss": 1 + 20 * n**-0.3 + 20 * d**-0.3})
    path, design = written(tmp_path / "runs.csv", table), tmp_path / "design.yaml"
    options = ["--n", "core_parameters", "--d", "d", "--bootstrap", "0"]
    places = ["--predict", "c=6e12", "--predict", "c=6e16"]
    assert f"--set @{design}" in ran("fit", path, *options, *places, "--design", str(design))
    values = {key: value for key, value in tiny_study.items() if key != "ladder"}
    rungs = StudySpec.parse(values | load_yaml(design)).rungs_of("ar")
    assert [rung.core_parameters for rung in rungs] == [1_000_000, 100_000_000]
    fitted = load_yaml(design)["design"]
    assert [point["extrapolation"] for point in fitted["points"]] == [1e-4, 1.0]
    for wrong, problem in (
        ([], "needs its budgets"),
        (["--predict", "n=1e6,d=1e8"], "needs its budgets"),
        ([*places, "--law", "compute"], "law compute predicts no sizes"),
        ([*places, "--predict", "c=6.0e12"], r"--predict c=6e\+12: asked for twice"),
    ):
        with pytest.raises(SpecError, match=problem):
            ran("fit", path, *options, *wrong, "--design", str(design))
    table = table.rename(columns={"core_parameters": "n"})
    path = written(tmp_path / "other.csv", table)
    with pytest.raises(SpecError, match="what does n count"):
        ran("fit", path, "--n", "n", "--d", "d", *places, "--design", str(design))
    with pytest.raises(SpecError, match="--counts: has no effect without --design"):
        ran("fit", path, "--n", "n", "--d", "d", "--counts", "core")
