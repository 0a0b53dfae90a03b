"""A first study fits the minutes, the machine and the texts, and plans."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cola.errors import SpecError
from orchestration.first_study.draft import Draft, Machine, Writer, drafted, study_name
from orchestration.planning.catalog import load_study
from orchestration.planning.plan import plan_study
from orchestration.planning.plan_summary import FEW_STEPS
from sweeps.cli import app


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two megabytes."""
    folder = tmp_path_factory.mktemp("texts") / "My Büch: # 1"
    folder.mkdir()
    (folder / "a.txt").write_text("The river finds the lamp, and the lamp the river.\n" * 40_000)
    return folder


def draft(texts: Path, minutes: float, machine: Machine) -> Draft:
    return drafted(texts, minutes, machine, file="a.yaml", name="a")


def largest(found: Draft) -> float:
    return max(run.spec.budget for run in found.runs)


def test_the_file_holds_what_was_planned(texts: Path, tmp_path: Path) -> None:
    found = draft(texts, 8, Machine(1, 0))
    (tmp_path / "a.yaml").write_text(found.text, encoding="utf-8")
    study = load_study(str(tmp_path / "a.yaml"), [])
    assert [run.name for run in plan_study(study)] == [run.name for run in found.runs]
    assert len({run.spec.budget for run in found.runs}) == 4  # a curve needs three
    assert min(stage.steps for run in found.runs for stage in run.spec.stages) >= FEW_STEPS
    assert 0.9 * 8 * 60 <= found.seconds <= 8 * 60
    assert found.notes == []
    more = draft(texts, 600, Machine(4, 0))  # as far as the texts allow
    assert largest(found) < largest(more)
    assert max(run.tokens for run in more.runs) <= 2_000_000 / 3.5 * study.max_epochs
    (note,) = more.notes
    assert f"the texts are enough for about {more.seconds / 60:.0f} of the 600 minutes" in note


def test_gpus_take_one_run_each(texts: Path) -> None:
    study = Writer(texts, 20, Machine(16, 2), file="a.yaml", name="a").without_sizes()
    assert (study.resources.gpus_per_worker, study.resources.cpus_per_worker) == (1, 8)
    assert study.training.precision == "bfloat16"


def test_what_cannot_be_is_refused_with_its_remedy(texts: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("few words")
    for folder, minutes, said in (
        (tmp_path, 20, r"9 bytes are about .* give more text, about 1\.[0-9] MB"),
        (texts, 0.5, r"--minutes 0\.5: .* takes about \d+ minutes on 1 CPU core"),
        (texts, float("nan"), "--minutes nan: must be a positive number"),
        (tmp_path / "absent", 20, "there is no such folder"),
    ):
        with pytest.raises(SpecError, match=said):
            draft(folder, minutes, Machine(1, 0))


def test_names_of_studies_come_from_folders_of_any_name(texts: Path, tmp_path: Path) -> None:
    assert study_name(texts) == "my-b-ch-1"
    assert study_name(texts / "a.txt") == "a"
    assert study_name(tmp_path / "demo") == "demo-texts"  # a shipped study has the other name
    assert study_name(tmp_path / "日本") == "texts"
    assert len(study_name(tmp_path / ("a" * 200))) == 64


def test_warnings_on_the_texts_and_commands_that_a_shell_takes_are_shown(
    texts: Path, tmp_path: Path
) -> None:
    twins = tmp_path / "twins"
    twins.mkdir()
    text = (texts / "a.txt").read_text()
    for name in ("a.txt", "b.txt"):
        (twins / name).write_text(text)
    file = tmp_path / "a study.yaml"
    done = CliRunner().invoke(
        app, ["init", str(twins), "--minutes", "12", "--cores", "1", "--to", str(file)]
    )
    assert "Warning: a.txt and b.txt look like the same text twice" in " ".join(done.output.split())
    lines = file.read_text().splitlines()
    assert f"#   cola plan '{file}'  what it trains, and what that takes" in lines
    width = len(f"cola plan '{file}'")
    assert f"#   {'cola report twins':{width}}  its scaling curves" in lines


def test_an_existing_file_is_kept(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-b-ch-1.yaml").write_text("mine")
    result = CliRunner().invoke(app, ["init", str(texts)])
    assert "exists already" in str(result.exception)
    assert (tmp_path / "my-b-ch-1.yaml").read_text() == "mine"
