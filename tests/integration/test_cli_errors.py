"""Bad input to the real command: one clear line, exit code 2, nothing started, nothing written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sweeps.cli import main
from tests.conftest import write_study


def cola(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "from sweeps.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "COLUMNS": "400"},
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
        self._monkeypatch.setattr(sys, "argv", ["cola", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == code
        return only_line(self._capsys.readouterr().err)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    return Here(monkeypatch, capsys)


CASES: list[tuple[list[str], str]] = [
    (["--set", "traning.precision=float32"], "did you mean training?"),
    (["--set", "families.gpt={}"], "families.gpt: unknown key; valid keys: ar, cola, llada"),
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
    assert "--storage: is for the study of --faults" in here.refusal("doctor", "--storage", "/x")


def test_unknown_study_lists_the_shipped_ones() -> None:
    assert "shipped: " in refusal(cola("plan", "no-such-study"))


@pytest.mark.slow
def test_empty_corpus(tiny_study: dict[str, Any], tmp_path: Path, here: Here) -> None:
    (tmp_path / "empty.txt").write_text("")
    tiny_study["data"]["corpus"]["paths"] = [str(tmp_path / "empty.txt")]
    assert "data.corpus" in here.refusal("run", str(write_study(tiny_study, tmp_path)))


@pytest.mark.slow
def test_corpus_smaller_than_a_batch(tiny_study: dict[str, Any], tmp_path: Path) -> None:
    tiny_study["training"]["batch_sequences"] = 8192
    tiny_study["ladder"][0]["budget"] = 1e14
    result = cola("run", str(write_study(tiny_study, tmp_path)))
    assert result.returncode == 2, result.stderr
    assert "fewer than one batch of 8192" in result.stderr
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
    message = here.refusal("run", str(write_study(tiny_study, tmp_path)))
    assert "cannot be written" in message
