"""A study's driver and its output's mirror: what it looks for, and leaves there, when it ends."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cola.data import PreparedData
from cola.errors import StorageError
from cola.study import StudySpec
from orchestration.cli.results import show_result
from orchestration.driver import study_runner
from orchestration.driver.launcher import Launcher
from orchestration.driver.progress import StudyView
from orchestration.driver.study_runner import StudyResult, run_study
from orchestration.output_mirror.mirror import mirror_of
from orchestration.planning.plan import plan_study
from orchestration.state.ledger import Ledger
from orchestration.state.paths import RunFolder
from tests.finished import finish, finished_study


@pytest.fixture
def study(tiny_study: dict[str, Any], tmp_path: Path) -> StudySpec:
    """A study of two rungs with a mirror."""
    ladder = [{"budget": b, "core_parameters": 60_000} for b in (2e10, 3e10)]
    own = {"families": {"ar": {}}, "ladder": ladder, "output": str(tmp_path / "here")}
    return StudySpec.parse(tiny_study | own | {"output_mirror": str(tmp_path / "mirror")})


def test_the_last_of_two_drivers_finds_what_the_other_one_finished(
    study: StudySpec, data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each trains a rung, and has an output folder of its own."""
    small, large = plan_study(study)
    there = study.model_copy(update={"output": str(tmp_path / "there")})

    def both_train(launcher: Launcher, *_: object, **__: object) -> None:
        finished_study(there, data)
        other = mirror_of(there)
        assert other is not None
        other.send_run(small.key)
        launcher.ledger.acquire(large.key)
        finish(large, RunFolder(launcher.ledger.run_folder(large.key)), data)
        launcher.ledger.close(large.key, "finished")

    monkeypatch.setattr(study_runner, "run_decided", both_train)
    monkeypatch.setattr(study_runner, "mirror_rest", lambda *_: 0)  # MLflow takes seconds
    result = run_study(study, None, StudyView(Console(file=io.StringIO())), rungs={1})
    assert result.states == {small.name: "finished", large.name: "finished"}
    assert (result.unsent, result.to_come) == ([], [])


def test_a_driver_that_fails_leaves_its_runs_in_the_mirror(
    study: StudySpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = plan_study(study)

    def fail(launcher: Launcher, *_: object, **__: object) -> None:
        launcher.ledger.acquire(run.key)
        launcher.copies.launched(run.key)
        launcher.ledger.close(run.key, "interrupted", "the driver fails")
        raise StorageError("no room")

    monkeypatch.setattr(study_runner, "run_decided", fail)
    with pytest.raises(StorageError, match="no room"):
        run_study(study, None, StudyView(Console(file=io.StringIO())))
    mirror = mirror_of(study)
    assert mirror is not None
    assert getattr(mirror.known(f"runs/{run.key}"), "state", None) == "interrupted"
    assert Ledger(Path(study.output)).entry(run.key).state == "interrupted"


def test_runs_of_other_rungs_that_nobody_has_are_no_other_drivers() -> None:
    states: dict[str, Any] = {"a": "running", "b": "new", "c": "failed", "d": "finished"}
    result = StudyResult(states, 1, False, [], others=["a"], of_other_rungs=["a", "b", "c"])
    console = Console(file=io.StringIO(), width=400)
    show_result(result, StudyView(console))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "left to other drivers: a; the last of them completes the study\n" in shown
    assert "of other rungs, not finished: b (new), c (failed); no driver has them here\n" in shown
