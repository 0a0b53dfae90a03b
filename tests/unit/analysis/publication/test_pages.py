"""A report as a folder for a repository."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.publication.pages import publish
from cola.errors import SpecError


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """A study's folder with a report of one figure, a page of metrics and two tables."""
    report = tmp_path / "study" / "report"
    report.mkdir(parents=True)
    (report / "report.md").write_text("# demo\n\n![losses fall](loss_compute.png)\n")
    (report / "metrics.md").write_text("# metrics\n\n![scores rise](metrics.png)\n")
    for name in ("loss_compute.svg", "loss_compute.png", "metrics.svg", "unused.svg"):
        (report / name).write_text(name)
    (report / "results.csv").write_text("name,nll\n")
    (report / "training_curves.csv").write_text("step\n")
    (report.parent / "study.yaml").write_text("name: demo\n")
    (report.parent / "forecasts.jsonl").write_text("{}\n")
    return report.parent


def test_pages_show_the_vector_figures_beside_them(study: Path, tmp_path: Path) -> None:
    to = tmp_path / "docs" / "demo"
    written = publish(study / "report", study, to)
    assert sorted(path.name for path in written) == sorted(path.name for path in to.iterdir())
    assert sorted(path.name for path in to.iterdir()) == [
        "README.md", "forecasts.jsonl", "loss_compute.svg", "metrics.md", "metrics.svg",
        "results.csv", "study.yaml",
    ]  # fmt: skip
    assert "![losses fall](loss_compute.svg)" in (to / "README.md").read_text()


def test_what_a_later_report_lacks_goes_and_notes_stay(study: Path, tmp_path: Path) -> None:
    to = tmp_path / "demo"
    publish(study / "report", study, to)
    (to / "predictions.md").write_text("registered")
    for name in ("metrics.md", "results.csv"):
        (study / "report" / name).unlink()
    publish(study / "report", study, to)
    left = {path.name for path in to.iterdir()}
    assert not left & {"metrics.md", "results.csv"}
    assert "predictions.md" in left


def test_a_place_that_cannot_be_is_refused(study: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpecError, match="is a file; give a folder"):
        publish(study / "report", study, tmp_path / "file")
    with pytest.raises(SpecError, match="give another folder"):
        publish(study / "report", study, study / "report")
