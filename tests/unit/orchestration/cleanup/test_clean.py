"""Which training checkpoints of finished runs go, and which stay."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from cola.data import PreparedData
from cola.errors import SpecError, StorageError
from cola.records import Metric
from cola.spec.resources import CheckpointSpec
from cola.study import StudySpec
from orchestration.checkpoint.finished import remove_surplus
from orchestration.checkpoint.manifest import CheckpointNote
from orchestration.cleanup.contents import choices_by_key
from orchestration.cleanup.leftovers import leftovers_of
from orchestration.cli.things import name_and_output
from orchestration.driver.study_runner import record_study
from orchestration.planning.plan import plan_study
from orchestration.state.journal import JournalWriter
from orchestration.state.ledger import Ledger
from orchestration.state.paths import RunFolder
from sweeps.cli import app
from tests.finished import checkpoint, finished_study, small_study


@pytest.fixture
def study(tiny_study: dict[str, Any], tmp_path: Path) -> StudySpec:
    return small_study(tiny_study, tmp_path / "outputs")


@pytest.fixture
def run_folder(study: StudySpec, data: PreparedData) -> Path:
    """The folder of a finished run with checkpoints of an evaluation point, a better one that is
    none, the last one, and one that a crash cut off."""
    (run,) = finished_study(study, data)
    folder = Ledger(Path(study.output)).run_folder(run.key)
    checkpoint(folder, 10, CheckpointNote(validation_nll=3.0, evaluation_point=True))
    checkpoint(folder, 20, CheckpointNote(validation_nll=2.0))
    checkpoint(folder, 30, CheckpointNote())
    checkpoint(folder, 40, None)
    return folder


def steps(run_folder: Path) -> list[int]:
    """Steps of the checkpoints that are there."""
    return [int(path.name.removeprefix("step-")) for path in run_folder.glob("ray/*/step-*")]


@pytest.mark.parametrize(
    ("choice", "left"),
    [
        ({}, []),
        ({"keep": 4}, []),
        ({"keep_points": True}, [10]),
        ({"keep_best": True}, [20]),
        ({"keep_best": True, "keep_points": True}, [10, 20]),
        ({"keep_finished": True}, [10, 20, 30, 40]),
    ],
)
def test_what_was_asked_for_stays(
    run_folder: Path, choice: dict[str, bool], left: list[int]
) -> None:
    remove_surplus(run_folder, CheckpointSpec.parse(choice))
    assert sorted(steps(run_folder)) == left
    assert (run_folder / "model" / "config.json").exists()


def compared(difference: float) -> Callable[[Path], None]:
    """The journal says that the exported model's NLL differs by this."""

    def write(folder: Path) -> None:
        journal = JournalWriter(RunFolder(folder).journal)
        values = {Metric.EXPORTED_NLL_DIFFERENCE: difference}
        journal.write("diagnostic", 10**6, 3000.0, values=values)
        journal.close()

    return write


def never_compared(folder: Path) -> None:
    path = RunFolder(folder).journal
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(x for x in lines if Metric.EXPORTED_NLL_DIFFERENCE not in x))


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (compared(0.3), "its exported model's NLL differs from the validated one by +0.3000"),
        (compared(float("nan")), "its exported model's NLL differs from the validated one by +nan"),
        (never_compared, "its exported model was not compared with the validated one"),
        (lambda folder: shutil.rmtree(folder / "model"), "its exported model is missing"),
    ],
)
def test_they_stay_while_the_model_may_need_them(
    run_folder: Path, harm: Callable[[Path], None], why: str
) -> None:
    harm(run_folder)
    assert remove_surplus(run_folder, CheckpointSpec()).why_kept == why
    assert len(steps(run_folder)) == 4


def test_clean_lists_by_size_and_removes(
    study: StudySpec, run_folder: Path, tmp_path: Path
) -> None:
    never_compared(run_folder)  # as by a release that compared nothing

    def clean(*options: str) -> dict[str, object]:
        arguments = ["clean", "tiny", "--output", study.output, "--json", *options]
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return dict(json.loads(result.stdout))

    size = sum(path.stat().st_size for path in run_folder.glob("ray/*/step-*/*"))
    planned = clean("--plan")
    assert (planned["bytes"], planned["removed"], planned["unfinished_runs"]) == (size, False, 0)
    assert len(steps(run_folder)) == 4
    assert clean()["bytes"] == size
    assert steps(run_folder) == []
    assert clean() == {
        "name": "tiny",
        "removed": True,
        "bytes": 0,
        "unfinished_runs": 0,
        "runs": [],
    }


def test_another_study_keeps_what_it_asked_for(study: StudySpec, run_folder: Path) -> None:
    root = Path(study.output)
    kept = {"checkpoint": study.checkpoint.model_copy(update={"keep_points": True})}
    record_study(study.model_copy(update={"name": "other", **kept}), plan_study(study))
    (found,) = leftovers_of(root, "tiny").found
    assert sorted(each.step for each in found.surplus.checkpoints) == [20, 30, 40]
    (root / "studies" / "other" / "study.yaml").write_text("name: [")
    with pytest.raises(StorageError, match="does not say what other keeps"):
        leftovers_of(root, "tiny")


def test_runs_that_are_not_finished_are_left_alone(study: StudySpec, run_folder: Path) -> None:
    ledger = RunFolder(run_folder).ledger
    ledger.write_text(ledger.read_text().replace('"state": "finished"', '"state": "interrupted"'))
    found = leftovers_of(Path(study.output), "tiny")
    assert (found.found, found.unfinished) == ((), 1)
    with pytest.raises(SpecError, match=r"no study or sweep of this name \(it has: tiny\)"):
        leftovers_of(Path(study.output), "tiyn")


def test_a_choice_to_keep_all_is_named_where_there_is_something_to_keep(
    study: StudySpec, run_folder: Path, tmp_path: Path
) -> None:
    """Two spellings of one place count once."""
    root = Path(study.output)
    for name, storage in (("other", str(tmp_path / "kept")), ("third", f"{tmp_path}/kept/")):
        choice = CheckpointSpec(keep_finished=True, storage=storage)
        record_study(
            study.model_copy(update={"name": name, "checkpoint": choice}), plan_study(study)
        )
    shutil.copytree(run_folder / "ray", tmp_path / "kept" / run_folder.name)
    found = leftovers_of(root, "tiny").found
    assert len(found) == 2
    assert {each.surplus.kept for each in found} == {4}
    assert {each.surplus.why_kept for each in found} == {"checkpoint.keep_finished"}


def test_a_run_that_ends_keeps_what_another_study_asked_for(
    study: StudySpec, run_folder: Path
) -> None:
    kept = {"checkpoint": study.checkpoint.model_copy(update={"keep_points": True})}
    record_study(study.model_copy(update={"name": "other", **kept}), plan_study(study))
    others = choices_by_key(Path(study.output))[run_folder.name]
    remove_surplus(run_folder, study.checkpoint, others)
    assert steps(run_folder) == [10]


def test_a_file_gives_the_name_and_the_output(study: StudySpec, tmp_path: Path) -> None:
    """A sweep's output is that of its study."""
    inner = {"output": "there", "families": {"ar": {}}}
    path = tmp_path / "given.yaml"
    path.write_text(yaml.safe_dump({"name": "rates", "study": inner, "space": {}}))
    assert name_and_output(str(path)) == ("rates", "there")
    path.write_text(study.to_yaml())
    assert name_and_output(str(path)) == ("tiny", study.output)
    path.write_text("families: {}\n")
    with pytest.raises(SpecError, match=r"given\.yaml: has no `name`"):
        name_and_output(str(path))
