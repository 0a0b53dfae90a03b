"""What the page of a sweep shows, in every state that its files can be in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from cola.errors import SpecError
from orchestration.state.event_log import Event, EventLog
from orchestration.watch.picture import Picture
from orchestration.watch.study import StudyWatch
from sweeps.cli import Services
from sweeps.search.trial_log import SweepLog
from sweeps.space.catalog import shipped_sweeps, sweep_folder
from sweeps.space.points import PointPlanner
from sweeps.space.spec import SweepSpec
from sweeps.views.watch import SweepWatch
from sweeps.watch_cli import watch_of
from tests.unit.orchestration.watch.states import beat, begun, evaluated, steps
from tests.unit.sweeps.trials_of import asked, ended

BLOCK = "families.cola.block_size"


@pytest.fixture
def planner(tiny_sweep: dict[str, Any]) -> PointPlanner:
    tiny_sweep["space"] = {BLOCK: [2, 4, 8, 16]}
    return PointPlanner(SweepSpec.parse(tiny_sweep), [])


def cells(picture: Picture, trial: int) -> dict[str, Any]:
    heads = (head.name for head in picture.columns)
    return dict(zip(heads, picture.rows[trial - 1].cells, strict=True))


def test_a_sweep_that_has_not_begun_shows_its_budget_and_writes_nothing(
    planner: PointPlanner,
) -> None:
    picture = SweepWatch(planner).picture()
    assert (picture.state, list(picture.rows)) == ("not begun", [])
    assert picture.headline == "0 of at most 4 trials ended"
    assert dict(picture.facts)["budget"].startswith("0 trials, 0 FLOPs")
    assert not sweep_folder(planner.base).exists()
    json.dumps(picture.as_json(), allow_nan=False)


def test_trials_show_their_states_and_their_runs(planner: PointPlanner) -> None:
    folder, watch = sweep_folder(planner.base), SweepWatch(planner)
    log = SweepLog(folder)
    for block, nll in ((2, 5.0), (4, 4.0)):
        asked(log, planner, {BLOCK: block})
        ended(log, len(log.requests), nll=nll)
    asked(log, planner, {BLOCK: 8})
    ended(log, 3, "stopped", reason="stopped early by asha at 50% of its budget", nll=6.0)
    _, planned = asked(log, planner, {BLOCK: 16})
    (run,) = planned.runs
    before = watch.picture()
    states = [row.state for row in before.rows]
    assert states == ["finished", "finished, best", "stopped early", "open"]
    assert before.state == "not running"
    assert before.rows[2].why == "stopped early by asha at 50% of its budget"
    best = f"best trial: 2, {planner.sweep.metrics[0].name} 4.0000; not scored on a test split, "
    assert ("so far", f"{best}so that this number is a selected one") in before.facts
    EventLog(folder).write(Event.WAITING, f"trial004-{run.name}", "waits for 8 CPUs: 1 is free")
    assert watch.picture().rows[3].why == "waits for 8 CPUs: 1 is free"

    files = begun(planned.study, run)
    beat(files, 3)
    steps(files, range(1, 4))
    evaluated(files, 3, 4.5)
    picture = watch.picture()
    assert (picture.state, picture.rows[3].state) == ("running", "training")
    shown = cells(picture, 4)
    assert (shown["progress"], shown["point"]) == (3 / run.spec.steps, "block_size=16")
    assert shown["validation NLL"] == "4.5000 (estimate) so far"
    assert (
        picture.headline == "3 of at most 4 trials ended, 2 finished, 1 stopped early, 1 training"
    )
    (curve,) = picture.curves
    assert (curve.id, [point[2] for point in curve.evaluations]) == ("4", [4.5])
    assert picture.ends is not None


def test_a_sweep_whose_driver_was_killed_says_so(planner: PointPlanner) -> None:
    log = SweepLog(sweep_folder(planner.base))
    _, planned = asked(log, planner, {BLOCK: 8})
    begun(planned.study, planned.runs[0], driver="gone")
    picture = SweepWatch(planner).picture()
    assert (picture.tone, picture.state) == ("trouble", "its driver has ended without a word")
    assert picture.rows[0].state == "left by its driver"
    assert picture.ends is None


def test_a_name_or_file_is_watched_as_what_it_is(
    tiny_sweep: dict[str, Any], tiny_study: dict[str, Any], tmp_path: Path
) -> None:
    nothing: Any = None
    services = Services(nothing, nothing, nothing, nothing, shipped_sweeps, nothing, nothing)
    sweep, study = tmp_path / "sweep.yaml", tmp_path / "study.yaml"
    sweep.write_text(yaml.safe_dump(tiny_sweep))
    study.write_text(yaml.safe_dump({"name": "tiny", **tiny_sweep["study"]}))

    def watched(thing: object, **given: Any) -> object:
        options = {"scale": None, "sweep_settings": None, **given}
        output = f"output={tmp_path / 'outputs'}"
        return watch_of(services, str(thing), [output], **options)

    assert isinstance(watched(study), StudyWatch)
    assert isinstance(watched(sweep), SweepWatch)
    with pytest.raises(SpecError, match=r"--scale node: is for sweeps, and .*study.yaml is a"):
        watched(study, scale="node")
    with pytest.raises(SpecError, match="neither a file nor a shipped study"):
        watched("unknown")
    folder = tmp_path / "outputs" / "sweeps" / "known"
    folder.mkdir(parents=True)
    saved = {"sweep": {k: v for k, v in tiny_sweep.items() if k != "study"} | {"name": "known"},
             "study": {"name": "known", **tiny_sweep["study"]}}  # fmt: skip
    (folder / "sweep.yaml").write_text(yaml.safe_dump(saved))
    assert isinstance(watched("known"), SweepWatch)
