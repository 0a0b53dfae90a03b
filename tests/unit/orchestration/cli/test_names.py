"""Studies and runs by name, what an output folder holds, and what a study's end names."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from cola.errors import SpecError
from cola.records import STUDY_IMPORT
from cola.study import StudySpec
from orchestration.cli.options import with_output
from orchestration.cli.results import result_as_json, show_next, written_report
from orchestration.cli.tables import print_runs
from orchestration.driver.progress import StudyView
from orchestration.driver.status import run_status
from orchestration.driver.study_runner import StudyResult, record_study
from orchestration.planning.catalog import find_run, load_study
from orchestration.planning.plan import PlannedRun, plan_study
from orchestration.state.ledger import Ledger
from orchestration.state.paths import RunFolder
from sweeps.cli import app
from tests.factories import exported_model
from tests.paths import COLA, ROOT


@pytest.fixture
def study(tiny_study: dict[str, Any]) -> StudySpec:
    return StudySpec.parse(tiny_study)


@pytest.fixture
def runs(study: StudySpec) -> list[PlannedRun]:
    """A study in its output folder: a finished run, one whose driver is gone, one to come."""
    plan = plan_study(study)
    record_study(study, plan)
    ledger = Ledger(Path(study.output))
    for run in plan[:2]:
        ledger.acquire(run.key)
    ledger.close(plan[0].key, "finished")
    RunFolder(ledger.run_folder(plan[0].key)).spec.write_text(plan[0].spec.model_dump_json())
    exported_model(ledger.run_folder(plan[0].key))
    return plan


def cola(*arguments: str) -> Any:
    """What the command gives, in this process."""
    return CliRunner().invoke(app, list(arguments))


def refusal(*arguments: str) -> str:
    error = cola(*arguments).exception
    assert isinstance(error, SpecError), error
    return str(error)


def test_a_study_that_was_run_is_known_by_name_wherever_its_folder_lies(
    study: StudySpec, runs: list[PlannedRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_study("tiny", []) == load_study("tiny", ["output=outputs"]) == study
    Path(study.output).rename(tmp_path / "moved")
    for given in ("output=moved", f"output='{tmp_path / 'moved'}'"):
        found = load_study("tiny", [given])
        assert found == study.model_copy(update={"output": str(tmp_path / "moved")})
        assert [run.key for run in plan_study(found)] == [run.key for run in runs]
    with pytest.raises(SpecError, match=rf"shipped: demo.*; in {tmp_path / 'outputs'}: none"):
        load_study("tiny", [])
    with pytest.raises(SpecError, match=r"did you mean tiny\?.*in .*moved: tiny"):
        load_study("tinny", ["output=moved"])


def test_names_that_are_no_studys_are_explained(
    runs: list[PlannedRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "books").mkdir()
    sweep = tmp_path / "outputs" / "sweeps" / "rates"
    sweep.mkdir(parents=True)
    (sweep / "study.yaml").write_text("{}")
    assert "books: is a folder; name a YAML file (`cola init books`" in refusal("plan", "books")
    assert "the name is empty" in refusal("plan", " ")
    assert "rates: is a sweep of" in refusal("status", "rates")
    (tmp_path / "outputs" / "studies" / "theirs").mkdir()
    (tmp_path / "outputs" / "studies" / "theirs" / STUDY_IMPORT).write_text("{}")
    assert "theirs: is an imported study; `cola report theirs`" in refusal("ls", "theirs")
    assert "ls shows" not in refusal("ls", "tinny")
    assert "did you mean tiny?; it has: tiny, rates, theirs" in refusal("ls", "tinny")
    assert "is a file" in refusal("ls", "--output", str(sweep / "study.yaml"))


def test_the_nearest_run_is_named_with_the_folder_that_was_looked_at(
    runs: list[PlannedRun], tmp_path: Path
) -> None:
    root, name = tmp_path / "outputs", runs[0].name
    assert find_run(f"tiny/{name}", root).name == runs[0].key
    with pytest.raises(SpecError) as refused:
        find_run(f"tiny/{name.replace('+', '')}", root)
    assert f"no such run; did you mean tiny/{name}" in str(refused.value)
    assert str(refused.value).endswith(f"(in {root})")


def test_ls_has_studies_sweeps_and_runs_with_their_states(
    study: StudySpec, runs: list[PlannedRun], tmp_path: Path
) -> None:
    output = ("--output", study.output)
    (found,) = json.loads(cola("ls", *output, "--json").stdout)["found"]
    assert (found["kind"], found["name"]) == ("study", "tiny")
    assert found["runs"] == {"finished": 1, "new": 1, "running": 1}
    assert (found["report"], found["trials"], found["problem"]) == (None, None, None)
    listed = json.loads(cola("ls", "tiny", *output, "--json").stdout)["runs"]
    assert [row["name"] for row in listed] == [f"tiny/{run.name}" for run in runs]
    assert all(f"tiny/{run.name}" in cola("ls", "tiny", *output).stdout for run in runs)
    Path(study.output, "studies", "tiny", "plan.json").write_text("{")
    damaged = cola("ls", *output)
    assert damaged.exit_code == 0
    assert "study tiny: " in damaged.stdout
    assert "plan.json: is no JSON object" in damaged.stdout
    log = Path(study.output, "sweeps", "rates", "trials.jsonl")
    log.parent.mkdir(parents=True)
    (log.parent / "study.yaml").write_text("name: rates")
    asked = '{"event": "asked", "run_keys": ["k"]}\n{"event": "ended"}\n'
    log.write_text(asked + 'null\n{"event": {}, "run_keys": 3}\n')
    *_, swept = json.loads(cola("ls", *output, "--json").stdout)["found"]
    assert (swept["name"], swept["runs"]) == ("rates", {"new": 1})
    assert swept["trials"] == {"proposed": 1, "ended": 1}
    assert swept["problem"] == f"{log}: 1 line cannot be read"
    empty = cola("ls", "--output", str(tmp_path / "other"))
    assert empty.stdout == f"{tmp_path / 'other'} holds no studies or sweeps; another folder: " \
        "--output FOLDER\n"  # fmt: skip


def test_a_status_says_where_it_looked_when_nothing_has_begun(
    study: StudySpec, runs: list[PlannedRun], tmp_path: Path
) -> None:
    file = str(Path(study.output, "studies", "tiny", "study.yaml"))
    assert "no run of tiny has begun" not in cola("status", file).stdout
    other = str(tmp_path / "other")
    assert (
        f"no run of tiny has begun in {other}; " in cola("status", file, "--output", other).stdout
    )
    assert "one of the two" in refusal("status", file, "--output", other, "--set", "output=x")
    assert "an empty path" in refusal("plan", file, "--output", " ")
    assert with_output(["a=1"], None) == ["a=1"]


def test_a_terminal_without_unicode_gets_what_it_can_show(
    study: StudySpec, runs: list[PlannedRun]
) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    shown = subprocess.run(
        [*COLA, "ls", "--output", study.output], env=environment, capture_output=True, text=True
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "tiny" in shown.stdout
    assert "\\u2013" in shown.stdout


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_run_names_are_whole_in_a_status_of_any_width(
    width: int, runs: list[PlannedRun], study: StudySpec, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("FORCE_COLOR", "1")  # as a terminal
    rows = [run_status(run, Ledger(Path(study.output)), None) for run in runs]
    print_runs("tiny", rows, workers=False, wide=False)
    shown = capsys.readouterr().out
    assert all(run.name in shown for run in runs)
    assert "…" not in shown


def test_sweeps_and_studies_that_are_taken_for_each_other_name_the_command(
    tmp_path: Path,
) -> None:
    file = tmp_path / "my rates.yaml"
    file.write_text("name: rates\nstudy: demo\nspace: {training.batch_sequences: [4, 8]}\n")
    for verb in ("plan", "run", "status"):
        assert "`cola sweep tune-families --plan` plans it" in refusal(verb, "tune-families")
        assert f"`cola sweep '{file}' --plan` plans it" in refusal(verb, str(file))
    assert "is a study, not a sweep; `cola plan demo`" in refusal("sweep", "demo", "--plan")
    assert "the name is empty" in refusal("sweep", "")
    file.write_text("name: books\nfamilies: {ar: {}}\nbudget: 1.0e+13\n")  # a slip, not a sweep
    for call in (("plan",), ("recipe", "--kind", "slurm")):
        assert refusal(*call, str(file)).startswith("budget: unknown key; valid keys: checkpoint")


def test_a_complete_study_names_what_it_made_and_commands_that_exist(
    study: StudySpec, runs: list[PlannedRun]
) -> None:
    states: dict[str, Any] = {run.name: "finished" for run in runs}
    result = StudyResult(states, trained=3, stopped=False, unmirrored=[])
    console = Console(width=400, record=True, quiet=False)
    with console.capture() as captured:
        show_next(study, result, StudyView(console))
    shown = captured.get()
    assert f"made: 3 finished runs, {Path(study.output, 'studies', 'tiny')}" in shown
    found = result_as_json(study, result)
    assert found["complete"]
    assert found["runs"] == states
    for command in found["next"]:
        assert command in shown
        program, name, *_ = shlex.split(command)
        assert program == "cola"
        assert cola(name, "--help").exit_code == 0
    began = time.time()
    assert written_report(study, began) is None
    page = Path(study.output, "studies", "tiny", "report", "report.html")
    page.parent.mkdir()
    page.write_text("")
    os.utime(page, (began - 60, began - 60))  # of an earlier run
    assert written_report(study, began) is None
    os.utime(page, (began + 1, began + 1))
    assert written_report(study, began) == page
    one = StudyResult({"a": "finished"}, trained=1, stopped=False, unmirrored=[])
    with console.capture() as captured:
        show_next(study, one, StudyView(console), report=page)
    assert "made: 1 finished run, " in captured.get()
    assert f", with its report {page}" in captured.get()
    assert "cola report" not in captured.get()
    assert result_as_json(study, one, report=page)["report"] == str(page)
    left = StudyResult({"a": "failed"}, trained=1, stopped=False, unmirrored=[])
    assert result_as_json(study, left)["next"] == []


@pytest.mark.parametrize(
    ("call", "key", "name"),
    [
        (["studies"], "studies", "demo"),
        (["sweep", "list"], "sweeps", "tune-families"),
        (["cluster", "list"], "clusters", "mine"),
    ],
)
def test_lists_are_json_for_scripts(
    call: list[str], key: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clusters.yaml").write_text("clusters: {mine: {kind: slurm, shared: /shared}}")
    rows = json.loads(cola(*call, "--json").stdout)[key]
    assert name in [row["name"] for row in rows]
    assert name in cola(*call).stdout


def test_a_slip_in_the_name_of_a_file_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("texts.yaml").touch()
    with pytest.raises(SpecError, match=r"study txts\.yaml: neither .*did you mean texts\.yaml\?"):
        load_study("txts.yaml", [])
