"""What a report reads of a study's `frontier.json`, and how it is drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from analysis.generation_frontier.content import cells, frontier_content
from analysis.generation_frontier.figures import frontier_figures, undominated
from analysis.generation_frontier.record import Frontier, read_frontier
from analysis.plotting.variants import styles_of
from cola.errors import StorageError
from cola.records import STUDY_FRONTIER
from tests.unit.analysis.frontier_record import SENTENCE, made_up_frontier


def read(folder: Path, values: dict[str, Any]) -> Frontier:
    (folder / STUDY_FRONTIER).write_text(json.dumps(values))
    found = read_frontier(folder)
    assert found is not None
    return found


@pytest.fixture
def frontier(tmp_path: Path) -> Frontier:
    return read(tmp_path, made_up_frontier())


def test_points_and_costs_are_rows(frontier: Frontier) -> None:
    assert frontier.variants == ["ar", "llada"]
    assert frontier.points["setting"].tolist()[:2] == [
        "drawn from the model as it is", "temperature 0.5",
    ]  # fmt: skip
    # BrierLM is not defined at these points, so that Brier-1 stands for it.
    assert [quality.name for quality in frontier.qualities] == [
        "reference_nats_per_token", "brier_1",
    ]  # fmt: skip
    assert frontier.speed["batch"].tolist() == [1, 4, 1, 4]


def test_a_setting_is_beaten_where_another_is_better_in_both(frontier: Frontier) -> None:
    ar = frontier.points[frontier.points["variant"] == "ar"]
    # 2.6 nats of entropy at 2.6, 2.0 at 2.0; 1.5 at 2.1 is worse than the second in both.
    assert undominated(ar, frontier.qualities[0]).tolist() == [True, True, False]


def labels(figure: Figure) -> list[list[str]]:
    return [axes.get_legend_handles_labels()[1] for axes in figure.axes]


def test_figures_have_a_panel_a_quality_and_the_text_itself(frontier: Frontier) -> None:
    diversity, cost = frontier_figures(frontier, styles_of({"ar": "ar", "llada": "llada"}))
    assert labels(diversity.figure) == [["AR", "LLaDA", "the text itself"], ["AR", "LLaDA"]]
    assert SENTENCE in diversity.alternative
    # A setting of another temperature costs the same, and is no point of the second figure.
    drawn = [len(each.get_offsets()) for each in cost.figure.axes[0].collections
             if each.get_label() in ("AR", "LLaDA")]  # fmt: skip
    assert drawn == [1, 2]
    assert frontier_figures(frontier, {}) == []


def test_tables_say_what_is_not_measured(frontier: Frontier) -> None:
    content = frontier_content(frontier, ["key of ar"])
    assert content is not None
    assert content["notes"][0].startswith("1 of the 2 runs that it was measured on are not")
    assert [column.title for column in content["speed"].columns][-1] == "whole texts, s"
    assert "Memory is not measured on a CPU" in content["speed_note"]
    assert content["points"].rows[0][0] == "the text itself"
    assert cells({"first_token_accuracy": 0.4, "entropy": 2.0, "entropy_standard_error": 0.1}) == {
        "first_token_accuracy": "40.0%", "entropy": "2 ± 0.1",
    }  # fmt: skip
    assert frontier_content(None, []) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [({"version": 2}, "is of version 2, not 1"), ({"curves": [{}]}, "is no record of a frontier")],
)
def test_another_record_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    assert read_frontier(tmp_path) is None
    with pytest.raises(StorageError, match=message):
        read(tmp_path, made_up_frontier() | change)
