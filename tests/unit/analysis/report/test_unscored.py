"""Runs of models without a likelihood in a study's report."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.metric_report.measurements import measured
from analysis.metric_report.quantities import quantities
from analysis.report.report import write_report
from analysis.report.runs import read_study
from cola.records import NO_LIKELIHOOD, Tag
from tests.unit.analysis.store import BUDGETS, Store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("unscored"))
    for rung in range(len(BUDGETS)):
        store.run("priors", "ar", rung, test=0.1)
        changes = {Tag.VARIANT: "drifting", Tag.NLL_KIND: NO_LIKELIHOOD}
        store.run("priors", "cola", rung, **changes)
    return store


@pytest.mark.slow
def test_they_are_named_and_stand_in_no_curve_of_nll(store: Store, tmp_path: Path) -> None:
    frames = read_study("priors", store.uri)
    assert frames.split == "test"  # what has no score leaves the others theirs
    (note,) = (note for note in frames.notes if "without a likelihood" in note)
    assert "drifting" in note
    assert "--metric" in note
    assert set(frames.points["variant"]) == {"ar"}
    report = write_report("priors", store.uri, tmp_path / "report", spec=None)
    text = report.html.with_suffix(".md").read_text()
    assert note in text
    assert "nan" not in text.lower().split()


def test_their_tasks_are_compared(store: Store) -> None:
    frames = read_study("priors", store.uri)
    (task,), _ = quantities(["eval/task1/accuracy"], ["eval/task1/accuracy"])
    assert set(measured(frames, task).rows["variant"]) == {"ar", "drifting"}
