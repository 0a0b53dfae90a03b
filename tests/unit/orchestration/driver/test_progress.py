"""What a person sees of a study that starts, stops and is done."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cola.study import StudySpec
from orchestration.driver.progress import StudyView
from orchestration.planning.plan import PlannedRun, plan_study


@pytest.fixture
def runs(tiny_study: dict[str, Any]) -> list[PlannedRun]:
    return plan_study(StudySpec.parse(tiny_study))


def view_of(width: int, height: int = 40) -> tuple[StudyView, io.StringIO]:
    shown = io.StringIO()
    console = Console(
        file=shown, width=width, height=height, force_terminal=True, color_system=None
    )
    return StudyView(console), shown


def added(view: StudyView, runs: list[PlannedRun], folder: Path) -> None:
    for run in runs:
        view.add(run, folder / run.key, "start")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_live_table_names_runs_and_counts_the_seconds_of_a_start(
    runs: list[PlannedRun], tmp_path: Path, width: int
) -> None:
    view, shown = view_of(width)
    added(view, runs, tmp_path)
    view.started(runs[0])
    with view.live():
        view.refresh(None)
    assert all(run.name in shown.getvalue() for run in runs)
    assert "starting 0 s" in shown.getvalue()
    assert "1 running, 2 queued" in shown.getvalue()
    assert "…" not in shown.getvalue()


def test_lines_on_the_data_are_few_and_of_all_of_its_preparation() -> None:
    view, shown = view_of(80)
    for percent in range(7, 40):
        view.data_progress("training the tokenizer", percent / 100)
    view.data_progress("data ready", 1.0)
    lines = [line.partition("] ")[2] for line in shown.getvalue().splitlines()]
    assert lines == [
        "data 7%: training the tokenizer",
        "data 27%: training the tokenizer",
        "data 100%: data ready",
    ]


def test_a_stop_names_the_runs_that_it_waits_for(runs: list[PlannedRun], tmp_path: Path) -> None:
    view, shown = view_of(200)
    added(view, runs, tmp_path)
    view.started(runs[1])
    view.stopping("")
    line = "stopping: running trainings save a checkpoint and leave; waits for "
    assert (
        f"{line}{runs[1].name} (starting); Ctrl-C again leaves without them\n" in shown.getvalue()
    )
    with view.live():
        view.refresh(None)
    title = " ".join(shown.getvalue().split())
    assert f"| stopping for 0 s; waits for {runs[1].name} (starting)" in title


def test_a_study_that_is_done_has_no_time_left_to_estimate(
    runs: list[PlannedRun], tmp_path: Path
) -> None:
    view, shown = view_of(120)
    added(view, runs, tmp_path)
    for run in runs:
        view.started(run)
        view.ended(run, "finished", None)
    with view.live():
        view.refresh(None)
    assert "3 done, 0 running, 0 queued, 0 s" in " ".join(shown.getvalue().split())
    assert "ETA" not in shown.getvalue()


def test_of_more_runs_than_lines_those_that_train_are_shown(
    runs: list[PlannedRun], tmp_path: Path
) -> None:
    view, shown = view_of(120, height=11)
    added(view, runs, tmp_path)
    view.started(runs[2])
    with view.live():
        view.refresh(None)
    assert "| 2 more runs" in shown.getvalue()
    table = shown.getvalue().split("more runs")[-1]
    assert runs[2].name in table
    assert runs[0].name not in table
