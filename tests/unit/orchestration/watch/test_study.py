"""What the page of a study shows, in every state that its files can be in."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from cola.data import PreparedData
from cola.errors import SpecError
from orchestration.planning.plan import plan_study
from orchestration.state.event_log import Event, EventLog
from orchestration.state.ledger import Ledger
from orchestration.state.paths import output_root, study_folder
from orchestration.watch.picture import Picture, Row
from orchestration.watch.study import StudyWatch
from tests.finished import finished_study, small_study
from tests.unit.orchestration.watch.states import (
    beat,
    begun,
    evaluated,
    recorded,
    steps,
    study_of,
)


def cells(picture: Picture, row: Row) -> dict[str, Any]:
    return dict(zip((head.name for head in picture.columns), row.cells, strict=True))


def test_a_study_that_has_not_begun_shows_its_plan_and_writes_nothing(
    tiny_study: dict[str, Any],
) -> None:
    study = study_of(tiny_study)
    picture = StudyWatch(study).picture()
    assert (picture.state, picture.ends, len(picture.rows)) == ("not begun", None, 4)
    command = f"cola run tiny --output {output_root(study)}"
    assert {row.why for row in picture.rows} == {f"no run trains now; `{command}` trains it"}
    assert [label for label, _ in picture.facts] == ["compute", "budget", "planned"]
    assert not output_root(study).exists()
    json.dumps(picture.as_json(), allow_nan=False)


def test_runs_that_train_wait_and_were_left_are_told_apart(tiny_study: dict[str, Any]) -> None:
    study = study_of(tiny_study, resources={"max_accelerator_hours": 5, "price_per_hour": 2.0})
    runs = recorded(study)
    left, trains, starts, _ = runs
    steps(begun(study, left, driver="gone"), range(1, 4))
    folder = begun(study, trains)
    beat(folder, 5)
    steps(folder, range(1, 6))
    evaluated(folder, 5, 3.25)
    begun(study, starts)
    now, watch = time.time(), StudyWatch(study)
    picture = watch.picture()
    assert (picture.tone, picture.state) == ("active", "running")
    assert [row.state for row in picture.rows] == [
        "left by its driver", "training", "starting", "not begun",
    ]  # fmt: skip
    shown = cells(picture, picture.rows[1])
    assert shown["progress"] == 5 / trains.spec.steps
    assert shown["step"] == f"5 of {trains.spec.steps}"
    assert (shown["train loss"], shown["validation NLL"]) == ("4.0000", "3.2500 (exact)")
    for row in (picture.rows[0], picture.rows[3]):
        assert row.why == f"waits for room: {trains.name}, {starts.name} train"
    # All that is left, at 1,000 tokens a second of the run that trains.
    tokens = [run.tokens for run in runs]
    done = [3, 5, 0, 0]
    per_step = trains.spec.tokens_per_step
    seconds = sum(t - d * per_step for t, d in zip(tokens, done, strict=True)) / 1000
    assert picture.ends == pytest.approx(now + seconds, abs=2.0)
    facts = dict(picture.facts)
    assert " of 5 core hours, " in facts["budget"]
    assert facts["driver"] == Ledger(output_root(study)).owner.rpartition(":")[0]

    steps(folder, range(6, trains.spec.steps + 1), loss=3.0)
    later = watch.picture()
    assert (later.rows[1].state, cells(later, later.rows[1])["time left"]) == ("finishing", "–")
    (stage,) = later.curves[1].losses
    assert stage[-1] == (
        trains.spec.steps, pytest.approx(trains.train_flops("executed"), rel=1e-5), 3.0
    )  # fmt: skip


def test_a_killed_driver_is_not_charged_until_now(tiny_study: dict[str, Any]) -> None:
    study = study_of(tiny_study)
    run = recorded(study)[0]
    folder = begun(study, run, driver="gone")
    entry = json.loads(folder.ledger.read_text())
    entry["attempts"][0]["started"] = entry["lease"]["refreshed"] - 3600
    folder.ledger.write_text(json.dumps(entry))
    watch = StudyWatch(study)
    picture = watch.picture()
    assert (picture.tone, picture.state) == ("trouble", "its driver has ended without a word")
    assert dict(picture.facts)["budget"] == "1 core hours"
    command = f"cola run tiny --output {output_root(study)}"
    assert picture.rows[0].why == f"no run trains now; `{command}` resumes it"


def test_what_a_run_waits_for_is_what_its_driver_wrote_last(tiny_study: dict[str, Any]) -> None:
    study = study_of(tiny_study)
    runs = recorded(study)
    events, watch = EventLog(study_folder(study)), StudyWatch(study)
    events.write(Event.WAITING, runs[0].name, "waits for 4 GPUs: 1 are free")
    events.write(Event.NOT_STARTED, runs[1].name, "resources.max_accelerator_hours=1 are spent")
    first = watch.picture()
    assert first.rows[0].why == "waits for 4 GPUs: 1 are free"
    assert first.rows[1].why == "not started: resources.max_accelerator_hours=1 are spent"
    assert [each.event for each in first.events] == ["not started", "waiting"]
    events.write(Event.LAUNCHED, runs[0].name, "attempt 1")
    begun(study, runs[0])
    second = watch.picture()
    assert (second.rows[0].state, second.rows[0].why) == ("starting", None)
    assert second.events[0].event == "launched"


def test_a_study_that_stops_expects_no_end_and_starts_nothing(tiny_study: dict[str, Any]) -> None:
    study = study_of(tiny_study)
    runs = recorded(study)
    folder, events = begun(study, runs[0]), EventLog(study_folder(study))
    beat(folder, 2)
    steps(folder, range(1, 3))
    events.write(Event.LAUNCHED, runs[0].name)
    watch = StudyWatch(study)
    assert watch.picture().rows[1].why == f"waits for room: {runs[0].name} trains"
    events.write(Event.STOP_REQUESTED)
    picture = watch.picture()
    assert (picture.state, picture.ends) == ("stopping", None)
    assert str(picture.rows[1].why).startswith("the study stops and starts nothing more; ")
    events.write(Event.LAUNCHED, runs[1].name)
    assert watch.picture().state == "running"


def test_damaged_files_cost_their_run_alone(tiny_study: dict[str, Any]) -> None:
    study = study_of(tiny_study)
    runs = recorded(study)
    folder = begun(study, runs[0])
    folder.ledger.write_text("{")
    other = begun(study, runs[1])
    beat(other, 1)
    other.journal.write_text('{"kind": "train"\nnothing\n')
    steps(other, range(1, 3))
    picture = StudyWatch(study).picture()
    assert [row.state for row in picture.rows[:2]] == ["unreadable", "training"]
    assert "is not a ledger entry" in str(picture.rows[0].why)
    assert f"{runs[1].name}: 2 lines of its journal are unreadable and left out" in picture.notes


def test_a_finished_study_has_its_curves_and_no_end_to_expect(
    tiny_study: dict[str, Any], data: PreparedData, tmp_path: Path
) -> None:
    study = small_study(tiny_study, tmp_path / "outputs")
    (run,) = finished_study(study, data)
    picture = StudyWatch(study).picture()
    assert (picture.tone, picture.state, picture.ends) == ("done", "finished", None)
    assert picture.headline == "1 of 1 runs finished"
    (row,), (curve,) = picture.rows, picture.curves
    assert (row.tone, row.why, cells(picture, row)["progress"]) == ("done", None, 1.0)
    half = run.spec.train_flops_at(run.spec.steps // 2, "executed")
    assert [point[1] for point in curve.evaluations] == pytest.approx(
        [half, run.train_flops("executed")], rel=1e-5
    )
    assert dict(picture.facts)["compute"].startswith(f"{run.train_flops('executed'):.3g} of ")


def test_a_study_without_its_corpus_is_shown_by_its_last_plan(
    tiny_study: dict[str, Any], tmp_path: Path
) -> None:
    study = study_of(tiny_study)
    runs = recorded(study)
    folder = begun(study, runs[0])
    corpus = {"corpus": {"source": "files", "paths": [str(tmp_path / "gone.txt")]}}
    elsewhere = study.model_copy(
        update={"data": study.data.model_copy(update={
            "corpus": study.data.corpus.model_copy(update={"paths": corpus["corpus"]["paths"]}),
        })}
    )  # fmt: skip
    watch = StudyWatch(elsewhere)
    beat(folder, 1)
    picture = watch.picture()
    assert [row.name for row in picture.rows] == [run.name for run in runs]
    assert [row.state for row in picture.rows] == ["training", *["not begun"] * 3]
    assert "3 runs have not begun: of them only names are known" in picture.notes[0]
    with pytest.raises(SpecError, match=r"gone\.txt"):
        StudyWatch(elsewhere.model_copy(update={"name": "unknown"}))


def test_a_retry_at_a_lower_rate_takes_the_place_of_the_run_that_diverged(
    tiny_study: dict[str, Any],
) -> None:
    study = study_of(tiny_study, retry_diverged={"factor": 0.5, "times": 1})
    run = plan_study(study)[0]
    begun(study, run)
    ledger = Ledger(output_root(study))
    watch = StudyWatch(study)
    assert watch.picture().rows[0].name == run.name
    entry = ledger.entry(run.key).model_copy(update={"state": "diverged", "lease": None})
    (ledger.run_folder(run.key) / "ledger.json").write_text(entry.model_dump_json())
    assert watch.picture().rows[0].name == f"{run.name}-retry1"
