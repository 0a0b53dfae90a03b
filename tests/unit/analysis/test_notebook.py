"""The documented way to read a study: the page's own code, and what it gives."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from analysis.notebook import Study, list_studies, open_study
from cola.errors import FitError, SpecError
from tests.paths import ROOT
from tests.unit.analysis.store import BUDGETS, KINDS, Store

PAGE = ROOT / "docs" / "notebook.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with the study `demo` in its output folder."""
    here = tmp_path_factory.mktemp("notebook")
    place = here / "outputs" / "studies" / "demo"
    place.mkdir(parents=True)
    values = {"name": "demo", "tracking": {"uri": None}, "data": {"sequence_length": 128}}
    (place / "study.yaml").write_text(yaml.safe_dump(values))
    store = Store(here / "outputs")
    for family in KINDS:
        for rung in range(len(BUDGETS)):
            store.run("demo", family, rung)
    store.run("young", "ar", 0, status="running")
    return here


@pytest.fixture(scope="module")
def page(folder: Path) -> dict[str, Any]:
    """The names that the page's code has defined, run there in its order."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) > 4
    names: dict[str, Any] = {}
    with contextlib.chdir(folder):
        for block in blocks:
            exec(compile(block, str(PAGE), "exec"), names)
    return names


@pytest.fixture(scope="module")
def study(page: dict[str, Any]) -> Study:
    """The page's, whose curves are fitted already."""
    found: Study = page["study"]
    return found


def test_the_code_of_the_page_does_what_it_says(folder: Path, page: dict[str, Any]) -> None:
    assert (folder / "loss.pdf").read_bytes().startswith(b"%PDF")
    assert page["ahead"].extrapolation > 10
    assert repr(page["study"]) == "<study demo: 12 finished>"
    assert repr(page["curve"]).startswith("<AR (exact): L = ")


def test_frames_have_the_columns_that_the_page_names(study: Study) -> None:
    rows = re.findall(r"^\| `study\.(\w+)` \|[^|]*\|(.*)\|$", PAGE.read_text(), re.MULTILINE)
    assert len(rows) > 5
    for name, columns in rows:
        frame = getattr(study, name)
        assert not frame.empty, name
        named = set(re.findall(r"`(\w+)`", columns))
        assert named <= set(frame.columns), name


def test_what_was_read_is_what_was_recorded(study: Study) -> None:
    assert study.specification["data"] == {"sequence_length": 128}
    assert study.metrics.loc["ar-1e+12-seed66", "train/loss"] == pytest.approx(4.1, abs=0.05)
    assert len(study.metrics) == len(study.runs) == 12
    assert study.validations.groupby("name").size().eq(2).all()
    assert study.fits["ar"].parameters["gamma"] == pytest.approx(0.05, rel=0.01)
    low, high = study.fits["ar"].intervals["gamma"]
    assert low <= study.fits["ar"].parameters["gamma"] <= high
    inside = study.fits["ar"].predict(2e12)
    assert inside.loss.value == pytest.approx(4.0 * 1.98**-0.05, rel=0.01)
    assert (study.comparisons["multiplier"] > 0).any() or study.comparisons["bound"].notna().any()


def test_figures_show_themselves_without_a_window(study: Study) -> None:
    shown = study.figures["loss_compute"]._repr_svg_()
    assert shown.startswith("<?xml")
    assert "FLOPs" in shown
    assert study.figures.keys() >= {"loss_compute", "training_curves", "tasks"}


def test_a_study_without_a_finished_run_opens_and_says_why_it_has_no_fit(folder: Path) -> None:
    uri = f"sqlite:///{folder / 'outputs' / 'mlflow.db'}"
    young = open_study("young", tracking_uri=uri)
    assert young.runs["status"].tolist() == ["running"]
    with pytest.raises(SpecError, match="no run is finished yet"):
        _ = young.fits
    with pytest.raises(SpecError, match="holds no such study"):
        open_study("nothing", folder / "outputs")
    assert list_studies(folder / "outputs") == ["demo"]


def test_a_curve_that_could_not_be_fitted_says_why(folder: Path) -> None:
    store = Store(folder / "outputs")
    store.run("small", "ar", 0)
    curve = open_study("small", tracking_uri=store.uri).fits["ar"]
    assert (curve.law, curve.parameters, dict(curve.intervals)) == (None, {}, {})
    assert curve.band.empty
    with pytest.raises(FitError, match=r"AR: no curve: .*3"):
        curve.predict(1e13)


def test_opening_a_study_loads_neither_torch_nor_ray() -> None:
    code = (
        "import sys, analysis.notebook\n"
        "print(sorted({'torch', 'ray', 'deepspeed', 'mlflow', 'transformers'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
