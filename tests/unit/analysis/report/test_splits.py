"""Reports are of the test split where every finished run was scored on it, and say so."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from analysis.report.reference import lines_of
from analysis.report.report import write_report
from analysis.report.runs import read_study
from analysis.report.splits import on_one_split
from cola.records import Tag
from tests.unit.analysis.store import Store


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("tested"))
    for rung in range(3):
        store.run("tested", "ar", rung, lines={"uniform": 7.6, "unigram": 6.2}, test=0.5)
        store.run("mixed", "ar", rung, test=0.5 if rung else None)
    store.run("tested", "llada", 0, **{Tag.STATUS: "failed"})
    return store


def test_scores_and_lines_are_of_the_test_split(tested: Store) -> None:
    frames = read_study("tested", tested.uri)
    assert frames.split == "test"
    runs = frames.runs[frames.runs["status"] == "finished"]
    assert (runs["nll"] - runs["validation_nll"]).tolist() == pytest.approx([0.5] * 3)
    assert runs["nll_standard_error"].tolist() == [0.03] * 3
    assert (runs["bits_per_byte"] * 2.3 - runs["nll"]).tolist() == pytest.approx([0] * 3)
    assert lines_of(runs) == {"uniform": 8.6, "unigram": 7.2}
    final = frames.points[frames.points["is_final"]]
    assert final["nll"].tolist() == runs["nll"].tolist()
    assert final["split"].tolist() == ["test"] * 3
    before = frames.points[~frames.points["is_final"]]
    assert set(before["split"]) == {"validation"}
    (failed,) = frames.runs[frames.runs["status"] == "failed"].to_dict("records")
    assert (failed["split"], failed["nll"]) == ("validation", failed["validation_nll"])


def test_the_page_says_what_its_numbers_are_of(tested: Store, tmp_path: Path) -> None:
    result = write_report("tested", tested.uri, tmp_path, spec={})
    text = (tmp_path / "report.md").read_text()
    assert "Scores are of the test split (32 sequences of 9 documents)" in text
    assert "Test loss against training compute" in text
    assert "4.5020 ± 0.0300 | 4.0020 |" in text
    assert result.fits["ar"].fit is not None
    assert result.fits["ar"].fit.points.loss[0] == pytest.approx(4.5020, abs=1e-3)


def test_runs_without_a_test_keep_a_study_on_validation_and_it_says_so(tested: Store) -> None:
    frames = read_study("mixed", tested.uri)
    assert frames.split == "validation"
    assert frames.runs["nll"].tolist() == frames.runs["validation_nll"].tolist()
    (note,) = (note for note in frames.notes if "validation split" in note)
    assert "not all runs have one of the test split; without: ar-1e+12-seed66" in note


def test_no_finished_run_and_no_evaluation_are_no_error() -> None:
    runs = pd.DataFrame({"run_id": ["a"], "nll": [None], "test_nll": [None], "status": ["failed"]})
    _, points, split, notes = on_one_split(runs, pd.DataFrame())
    assert (len(points), split, notes) == (0, "validation", [])
