"""Errors of the real command: one clear line, the branch's exit code, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cola.errors import (
    ClusterError,
    ColaError,
    FitError,
    RunError,
    SpecError,
    StorageError,
    TrackingError,
)
from sweeps.cli import main
from tests.conftest import write_study
from tests.paths import COLA


def cola(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COLA, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "400", **variables},
    )


def refusal(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 2, result.stdout + result.stderr
    return only_line(result.stderr)


def only_line(shown: str) -> str:
    assert "Traceback" not in shown
    lines = [line for line in shown.splitlines() if line.strip()]
    assert len(lines) == 1, shown
    return lines[0]


class Here:
    """The command in this process, which is quicker: an error that is not caught fails the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.setenv("COLUMNS", "400")
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def refusal(self, *arguments: str, code: int = 2) -> str:
        """The one line on standard error."""
        return only_line(self.errors(*arguments, code=code))

    def errors(self, *arguments: str, code: int = 2) -> str:
        """What is on standard error, progress and all."""
        self._monkeypatch.setattr(sys, "argv", ["cola", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == code
        return self._capsys.readouterr().err


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    return Here(monkeypatch, capsys)


CASES: list[tuple[list[str], str]] = [
    (["--set", "traning.precision=float32"], "did you mean training?"),
    (["--set", "families.gpt={}"], "families.gpt: unknown family 'gpt'; valid: ar, llada, cola"),
    (["--set", "ladder.0.budget=-1"], "ladder.0.budget: Input should be greater than 0"),
    (["--set", "ladder.0.budget=1000"], "ladder.0.budget=1e+03 is below one step"),
    (["--set", "data.corpus.paths=[/no/such/place]"], "data.corpus.paths=/no/such/place"),
    (["--set", "ladder.0.core_parameters=1000"], "ladder.0.core_parameters"),
    (["--set", "tracking.uri=http://me:secret@host"], "tracking: uri holds a password"),
    (["--set", "nonsense"], "--set nonsense: write it as path.to.key=value"),
]


@pytest.mark.parametrize(("settings", "expected"), CASES, ids=[case[1] for case in CASES])
def test_plan_refuses(
    settings: list[str], expected: str, tiny_study: dict[str, Any], tmp_path: Path, here: Here
) -> None:
    study = write_study(tiny_study, tmp_path)
    assert expected in here.refusal("plan", str(study), *settings)
    assert not Path(tiny_study["output"]).exists()


def test_a_storage_without_a_drill_is_refused(here: Here) -> None:
    assert "--storage /x: is for the study of --faults" in here.refusal("doctor", "--storage", "/x")


def test_unknown_study_lists_the_shipped_ones() -> None:
    assert "shipped: " in refusal(cola("plan", "no-such-study"))


@pytest.mark.slow
def test_empty_corpus(tiny_study: dict[str, Any], tmp_path: Path, here: Here) -> None:
    (tmp_path / "empty.txt").write_text("")
    tiny_study["data"]["corpus"]["paths"] = [str(tmp_path / "empty.txt")]
    assert "data.corpus" in here.refusal("run", str(write_study(tiny_study, tmp_path)))


@pytest.mark.slow
def test_corpus_smaller_than_a_batch(
    tiny_study: dict[str, Any], tmp_path: Path, here: Here
) -> None:
    tiny_study["training"]["batch_sequences"] = 8192
    tiny_study["ladder"][0]["budget"] = 1e14
    errors = here.errors("run", str(write_study(tiny_study, tmp_path)))
    assert "fewer than one batch of 8192" in errors
    assert not list((tmp_path / "outputs").glob("runs/*"))


@pytest.mark.slow
def test_more_workers_than_the_cluster_has(tiny_study: dict[str, Any], tmp_path: Path) -> None:
    tiny_study["resources"] = {"workers": 8, "cpus_per_worker": 64}
    result = cola("run", str(write_study(tiny_study, tmp_path)))
    assert result.returncode == 4, result.stderr
    assert "resources.workers=8: a run needs 512 CPUs, the cluster has" in result.stderr


@pytest.mark.slow
def test_unreachable_mlflow(tiny_study: dict[str, Any], tmp_path: Path, here: Here) -> None:
    (tmp_path / "address").write_text("http://user:secret@127.0.0.1:9\n")
    tiny_study["tracking"]["uri"] = f"file:{tmp_path / 'address'}"
    message = here.refusal("run", str(write_study(tiny_study, tmp_path)), code=5)
    assert f"tracking.uri=file:{tmp_path / 'address'}: MLflow cannot be reached" in message
    assert "secret" not in message
    assert "127.0.0.1" not in message


@pytest.mark.slow
def test_unwritable_output(tiny_study: dict[str, Any], tmp_path: Path, here: Here) -> None:
    (tmp_path / "file").write_text("")
    tiny_study["output"] = str(tmp_path / "file" / "outputs")
    study = write_study(tiny_study, tmp_path)
    message = here.refusal("run", str(study), code=StorageError.exit_code)
    assert "cannot be written" in message


def branches(error: type[ColaError] = ColaError) -> list[type[ColaError]]:
    """The error and all classes below it."""
    return [error, *(below for child in error.__subclasses__() for below in branches(child))]


EXIT_CODES = {
    SpecError: 2, FitError: 2, StorageError: 3, ClusterError: 4, TrackingError: 5, RunError: 6,
}  # fmt: skip


@pytest.mark.parametrize("error", branches()[1:], ids=lambda error: error.__name__)
def test_each_branch_of_the_error_tree_ends_with_its_exit_code(
    error: type[ColaError], here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The codes are those that scripts rely on, so they are written out here."""

    def command() -> None:
        raise error("output=/x: [bold] cannot be [/bold] done; try another")

    monkeypatch.setattr("sweeps.cli.app", command)
    (code,) = {code for branch, code in EXIT_CODES.items() if issubclass(error, branch)}
    assert here.refusal(code=code) == "error: output=/x: [bold] cannot be [/bold] done; try another"


def test_causes_of_different_branches_are_told_apart(
    tiny_study: dict[str, Any], tmp_path: Path, here: Here
) -> None:
    table = tmp_path / "runs.csv"
    table.write_text("c,loss\n1e10,3.0\n1e11,2.0\n")
    fit = here.refusal("fit", str(table), "--flops", "c", "--loss", "loss", code=2)
    assert fit.startswith(f"error: {table}: ")
    (tmp_path / "file").write_text("")
    tiny_study["output"] = str(tmp_path / "file" / "outputs")
    study = str(write_study(tiny_study, tmp_path))
    assert "output=" in here.refusal("run", study, code=3)
    assert "does not answer" in here.refusal("jobs", "x", "--address", "http://127.0.0.1:1", code=4)


@pytest.mark.slow
def test_logs_are_separate_from_results() -> None:
    """With all details, stdout is the one that it is without."""
    shown = [cola(*options, "plan", "demo", "--json") for options in ((), ("-vv",))]
    assert [result.returncode for result in shown] == [0, 0]
    assert shown[0].stdout == shown[1].stdout
    assert shown[0].stderr == ""
    assert "COLA_LOG=loud: write info or debug" in refusal(cola("studies", COLA_LOG="loud"))
