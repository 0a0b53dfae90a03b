"""Trackers beside MLflow have every number of a journal once, and hold nothing up."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis.imports.tensorboard import _scalars, event_files
from cola.errors import SpecError
from cola.records import Metric
from cola.study import RunSpec, StudySpec
from orchestration.cleanup.contents import Thing
from orchestration.output_mirror.files import own_names
from orchestration.planning.plan import plan_study
from orchestration.state.journal import JournalWriter, Line
from orchestration.state.paths import OutputFolder, StudyFolder
from orchestration.tracking import chosen_trackers
from orchestration.tracking.chosen_trackers import trackers_of
from orchestration.tracking.tensorboard_files import TensorBoardFiles
from orchestration.tracking.trackers import RunCopy, TrackedRun, Trackers
from tests.waiting import until


@pytest.fixture
def run(tiny_study: dict[str, Any], tmp_path: Path) -> TrackedRun:
    spec: RunSpec = plan_study(StudySpec.parse(tiny_study | {"families": ["ar"]}))[0].spec
    (tmp_path / "run").mkdir()
    return TrackedRun(spec, "ar-2e+10-seed66", tmp_path / "run", {"variant": "ar"})


def write(run: TrackedRun, steps: range, state: str = "interrupted") -> None:
    """Journal lines of these steps, between the events of a start and an end."""
    journal = JournalWriter(run.folder / "journal.jsonl")
    journal.write("event", steps[0] - 1, 1000.0, values={"event": "start"})
    for step in steps:
        values = {Metric.TRAIN_LOSS: 1 / step, "odd": float("nan")}
        journal.write("train", step, 1000.0 + step, values=values)
    journal.write("evaluation", steps[-1], 2000.0, values={Metric.NLL: 2.0})
    journal.write("event", steps[-1], 2000.0, values={"event": state})
    journal.close()


def copied(run: TrackedRun, folder: Path, state: str, *also: Any) -> None:
    """One driver: take the run, copy it, close it."""
    trackers = Trackers([TensorBoardFiles(folder / "tensorboard"), *also], folder)
    trackers.start()
    trackers.follow(run)
    trackers.close_run(run.spec.run_key, state)
    trackers.finish(60)


def points(folder: Path) -> Iterator[tuple[str | None, int, float]]:
    for file in event_files(folder / "tensorboard"):
        yield from (point for point in _scalars(file) if point[0] is not None)


def test_tensorboard_has_every_number_once_over_several_drivers(
    run: TrackedRun, tmp_path: Path
) -> None:
    write(run, range(1, 11))
    copied(run, tmp_path, "interrupted")
    write(run, range(8, 21), "finished")  # the next attempt repeats some steps
    copied(run, tmp_path, "finished")
    files = len(event_files(tmp_path / "tensorboard"))
    copied(run, tmp_path, "finished")  # nothing is new
    assert len(event_files(tmp_path / "tensorboard")) == files == 2
    found = Counter(points(tmp_path))
    assert set(found.values()) == {1}
    losses = {step: value for tag, step, value in found if tag == Metric.TRAIN_LOSS}
    assert losses == pytest.approx({step: 1 / step for step in range(1, 21)})
    assert [step for tag, step, _ in sorted(found) if tag == Metric.NLL] == [10, 20]
    assert {tag for tag, _, _ in found} == {Metric.TRAIN_LOSS, Metric.NLL}
    assert (tmp_path / "tensorboard" / run.name).is_dir()


class Broken:
    """A tracker that is not reached."""

    name = "broken"

    def open(self, run: TrackedRun) -> Any:
        raise ConnectionError(f"no way\nto {run.name}")


def test_a_tracker_that_fails_costs_a_line_and_the_others_go_on(
    run: TrackedRun, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(run, range(1, 11))
    with caplog.at_level(logging.WARNING, "orchestration"):
        copied(run, tmp_path, "finished", Broken())
    (line,) = caplog.messages
    assert line.startswith(f"broken: {run.name} is not copied on (no way to {run.name}); ")
    assert len(list(points(tmp_path))) == 11
    assert RunCopy.of(run, Broken(), tmp_path).steps == {}  # the next driver sends all of it


def test_a_damaged_mark_sends_all_again(run: TrackedRun, tmp_path: Path) -> None:
    write(run, range(1, 4))
    copied(run, tmp_path, "finished")
    (mark,) = (tmp_path / "sent").iterdir()
    assert json.loads(mark.read_text()) == {
        "steps": {"train": 3, "evaluation": 3}, "state": "finished"
    }  # fmt: skip
    for text in ("{", "[]", '{"steps": {"train": "x"}, "state": null}'):
        mark.write_text(text)
        found = RunCopy.of(run, TensorBoardFiles(tmp_path / "tensorboard"), tmp_path)
        assert (found.steps, found.state) == ({}, None)


def test_a_run_that_another_driver_took_is_left(run: TrackedRun, tmp_path: Path) -> None:
    write(run, range(1, 4))
    trackers = Trackers([TensorBoardFiles(tmp_path / "tensorboard")], tmp_path)
    trackers.follow(run)
    trackers.leave_run(run.spec.run_key)
    trackers.start()
    trackers.finish(60)
    assert not (tmp_path / "tensorboard").exists()


def test_trackers_of_a_study_lie_in_its_folder_and_are_no_results(
    tiny_study: dict[str, Any], run: TrackedRun
) -> None:
    study = StudySpec.parse(tiny_study | {"tracking": {"also": ["tensorboard"]}})
    root = Path(study.output)
    folder = OutputFolder(root).studies / "tiny"
    write(run, range(1, 4))
    trackers = trackers_of(study, "tiny", folder)
    trackers.start()
    trackers.follow(run)
    trackers.close_run(run.spec.run_key, "finished")
    trackers.finish(60)
    assert event_files(StudyFolder(folder).trackers / "tensorboard")
    assert list(own_names(root, Thing("study", "tiny"))) == []


@pytest.mark.parametrize("asked", ["tensorboard", "wandb"])
def test_a_package_that_is_missing_is_one_line(
    tiny_study: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    monkeypatch.setitem(chosen_trackers.PACKAGES, asked, "no_such_package")
    study = StudySpec.parse(tiny_study | {"tracking": {"also": [asked]}})
    with pytest.raises(SpecError, match=f"tracking.also={asked}: needs .* `pip install "):
        trackers_of(study, "tiny", tmp_path)


def test_a_study_without_trackers_is_written_as_before_there_were_any(
    tiny_study: dict[str, Any],
) -> None:
    assert "also" not in StudySpec.parse(tiny_study).to_yaml()
    both = StudySpec.parse(tiny_study | {"tracking": {"also": ["wandb", "tensorboard"]}})
    assert both.tracking.also == ("wandb", "tensorboard")
    assert StudySpec.parse(both.model_dump(mode="json")) == both
    assert both.content_hash() != StudySpec.parse(tiny_study).content_hash()
    with pytest.raises(SpecError, match=r"tracking\.also"):
        StudySpec.parse(tiny_study | {"tracking": {"also": ["wandb", "wandb"]}})


def test_wandb_has_every_number_without_a_network(
    run: TrackedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", exc_type=ImportError)
    from analysis.imports.wandb_offline import read_offline
    from orchestration.tracking.wandb_runs import WandbRuns

    monkeypatch.setenv("WANDB_MODE", "offline")
    sink = WandbRuns("tiny", tmp_path).open(run)
    sink.write([Line(1, "train", 10, 0.0, {Metric.TRAIN_LOSS: 3.0})])
    sink.write([Line(2, "evaluation", 10, 0.0, {Metric.NLL: 2.5})])
    sink.close("finished")
    # Its own process writes the file to the end.
    until(lambda: len(read_offline(tmp_path, [Metric.NLL]).rows) == 1, "the run's file")
    (row,) = read_offline(tmp_path, [Metric.NLL]).rows
    assert float(row.cells[Metric.NLL]) == 2.5
    assert float(row.cells[Metric.TRAIN_LOSS]) == 3.0
    assert row.cells["id"] == run.spec.run_key[:32]
    assert row.cells["group"] == "ar"
