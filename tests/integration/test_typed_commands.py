"""Commands as users type them: in a fresh folder, with relative and default paths.

Processes that the commands start have other working directories (Ray's workers and trials), so a
path that is not absolute by then leads elsewhere, and what was trained is lost.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from sweeps.cli import main
from tests.paths import COLA, ROOT
from tests.waiting import until

pytestmark = [pytest.mark.slow(seconds=220), pytest.mark.ray, pytest.mark.deepspeed]

RATE = "training.optimizer.learning_rate"


class Place:
    """A folder with a corpus, a study and a sweep that name no absolute path and no output."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.runs = folder / "outputs" / "runs"

    def start(self, *arguments: str, within: str = ".") -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COLA, *arguments],
            cwd=self.folder / within,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "COLUMNS": "300", "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )

    def cola(self, *arguments: str, within: str = ".", code: int = 0) -> str:
        """What the command prints, errors and all; it has its own process if it starts others."""
        if arguments[0] in ("run", "sweep", "doctor"):
            process = self.start(*arguments, within=within)
            shown, _ = process.communicate(timeout=300)
            ended = process.returncode
        else:
            shown, ended = self._called_here(arguments, self.folder / within)
        assert ended == code, shown
        assert "Traceback" not in shown
        return shown

    def trains_nothing(self, *arguments: str) -> None:
        """Run the study again, for which no process is started."""
        shown, code = self._called_here(("run", "study.yaml", *arguments), self.folder)
        assert code == 0, shown
        assert "nothing to train" in shown

    def _called_here(self, arguments: Sequence[str], folder: Path) -> tuple[str, int]:
        """Output and exit code of the command in this process, with this working directory."""
        shown, code = io.StringIO(), 0
        with (
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(shown),
            contextlib.redirect_stderr(shown),
        ):
            patch.chdir(folder)
            patch.setattr(sys, "argv", ["cola", *arguments])
            patch.setenv("COLUMNS", "300")
            try:
                main()
            except SystemExit as ended:
                code = int(ended.code or 0)
        return shown.getvalue(), code

    def keys(self, *arguments: str, within: str = ".") -> list[str]:
        """Keys of a study's runs."""
        plan = json.loads(self.cola("plan", *arguments, "--json", within=within))
        return [run["run_key"] for run in plan["runs"]]

    def states(self, *arguments: str, within: str = ".") -> list[str]:
        """States of a study's runs."""
        status = json.loads(self.cola("status", *arguments, "--json", within=within))
        return [run["state"] for run in status["runs"]]

    def journals(self) -> dict[str, bytes]:
        """What has been trained so far, by run."""
        return {p.parent.name: p.read_bytes() for p in self.runs.glob("*/journal.jsonl")}

    def files(self) -> list[str]:
        """Everything in the folder itself."""
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture
def place(tmp_path: Path, corpus_file: Path) -> Place:
    """The folder, in which the study has been run."""
    folder = tmp_path / "typed"
    folder.mkdir()
    (folder / "texts").mkdir()
    (folder / "elsewhere").mkdir()
    (folder / "texts" / "corpus.txt").write_bytes(corpus_file.read_bytes())
    write(folder / "study.yaml", study())
    write(folder / "rates.yaml", {
        "name": "rates",
        "study": "study.yaml",
        "space": {RATE: ["1e-3", "2e-3"]},
        "algorithm": {"kind": "grid"},
    })  # fmt: skip
    place = Place(folder)
    place.cola("run", "study.yaml")
    return place


def write(path: Path, values: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(values, sort_keys=False))


def study() -> dict[str, Any]:
    """An AR model that trains in a second."""
    evaluation = {
        "validation_sequences": 8, "points": 1, "samples": 0, "prompt_tokens": 8,
        "diagnostic_sequences": 0, "generation": {"max_new_tokens": 8, "steps": 2},
    }  # fmt: skip
    return {
        "name": "books",
        "families": {"ar": {}},
        "ladder": [{"budget": 2.0e9, "core_parameters": 60_000}],
        "data": {
            "corpus": {"source": "files", "paths": ["texts/"]},
            "tokenizer": {"kind": "bpe", "vocab_size": 320},
            "sequence_length": 32,
            "validation_fraction": 0.1,
        },
        "training": {
            "batch_sequences": 8, "precision": "float32", "optimizer": {"learning_rate": 1.0e-3},
        },
        "evaluation": evaluation,
        "max_epochs": 100,
    }  # fmt: skip


def test_commands_typed_in_a_fresh_folder(place: Place) -> None:
    """One test, for the study is trained once for all of it."""
    found_again_from_wherever_it_is_typed(place)
    models_are_used_from_relative_folders(place)
    reports_and_fits_are_written_here(place)
    what_goes_to_a_cluster_has_no_relative_path(place)
    environment_and_store_are_looked_at_here(place)
    stores_beside_the_output_are_kept(place)
    assert list(place.journals()) == place.keys("study.yaml"), "nothing else was trained here"
    a_sweep_keeps_what_it_trains(place)
    models_of_a_shipped_sweep_are_shared(place)
    assert len(place.journals()) == 4, "two rates, one of them the study's, and two shared models"


def found_again_from_wherever_it_is_typed(place: Place) -> None:
    (run_key,) = place.keys("study.yaml")
    assert list(place.journals()) == [run_key]
    assert place.files() == ["elsewhere", "outputs", "rates.yaml", "study.yaml", "texts"]
    place.trains_nothing()
    assert place.states("study.yaml") == ["finished"]
    # Its corpus and output are relative to the folder in which the command is typed.
    refused = place.cola("plan", "../study.yaml", within="elsewhere", code=2)
    assert f"data.corpus.paths={place.folder}/elsewhere/texts" in refused
    for root in ("..", str(place.folder)):
        paths = {"data.corpus.paths": f"[{root}/texts]", "output": f"{root}/outputs"}
        moved = ["../study.yaml"]
        moved += [part for key, path in paths.items() for part in ("--set", f"{key}={path}")]
        assert place.keys(*moved, within="elsewhere") == [run_key]
        assert place.states(*moved, within="elsewhere") == ["finished"]
    assert not list((place.folder / "elsewhere").iterdir())


def a_sweep_keeps_what_it_trains(place: Place) -> None:
    """The study's rate is one of the sweep's: that run is taken."""
    before = place.journals()
    assert "1 of them finished already" in place.cola("sweep", "rates.yaml", "--plan")
    assert "2 finished" in place.cola("sweep", "rates.yaml")
    after = place.journals()
    assert len(after) == 2
    assert before.items() <= after.items()
    page = place.folder / "outputs" / "sweeps" / "rates" / "report" / "report.html"
    assert "Best by val" in page.read_text()
    place.cola("sweep", "rates.yaml", "--resume")
    place.cola("sweep", "report", "rates.yaml")
    trials = json.loads(place.cola("sweep", "status", "rates.yaml", "--json"))["trials"]
    assert [trial["state"] for trial in trials] == ["finished", "finished"]
    assert place.journals() == after
    best = "@outputs/sweeps/rates/best.yaml"
    place.trains_nothing("--set", best)
    # With an arm that names its entry, the same points are a tuning: it trains nothing either.
    arm = "arms={ar: {entry: ar}}"
    tuning = ["rates.yaml", "--sweep-set", "name=tuning", "--sweep-set", arm]
    tuned = "outputs/sweeps/tuning/tuned.yaml"
    assert f"{tuned} (cola run STUDY --set @" in place.cola("sweep", *tuning)
    place.trains_nothing("--set", f"@{tuned}")
    plan = json.loads(place.cola("plan", "study.yaml", "--set", f"@{tuned}", "--json"))
    assert plan["tuning"]["status"] == "equal_trials"
    assert plan["tuning"]["families"]["ar"]["trials"] == 2
    report = place.cola("report", "books", "--output", "outputs")
    page = (place.folder / "outputs" / "studies" / "books" / "report" / "report.md").read_text()
    assert "report.html" in report
    assert "Tuning: equal trials (AR 2)" in page
    place.cola(
        "plan", "study.yaml", "--set", f"@{tuned}", "--set", "data.sequence_length=16", code=2
    )
    assert place.journals() == after


def models_of_a_shipped_sweep_are_shared(place: Place) -> None:
    """16 trials measure the same two models; typed again, the sweep trains nothing."""
    small = {
        "ladder": "[{budget: 1.0e+10, core_parameters: 60_000}]",
        "data.corpus": "{source: files, paths: [texts]}",
        "data.tokenizer.vocab_size": "320",
        "evaluation.validation_sequences": "2",
        "evaluation.generation.steps": "2",
        "evaluation.likelihood.ode_steps": "1",
        "evaluation.diagnostic_sequences": "0",
        "max_epochs": "100",
    }
    settings = [part for key, value in small.items() for part in ("--set", f"{key}={value}")]
    command = ["sweep", "first-block", "--scale", "laptop", *settings]
    before = place.journals()
    assert "16 finished" in place.cola(*command)
    after = place.journals()
    assert len(after) == len(before) + 2
    assert "16 finished" in place.cola(*command)
    assert place.journals() == after
    assert (place.folder / "outputs" / "sweeps" / "first-block" / "best.yaml").exists()


def models_are_used_from_relative_folders(place: Place) -> None:
    run = "books/ar-2e+09-seed66"
    (key,) = place.keys("study.yaml")
    by_path = f"outputs/runs/{key}"
    for named in (run, by_path):
        assert place.cola("generate", named, "--prompt", "The river", "--max-new-tokens", "4")
    from_below = ["--prompt", "The", "--max-new-tokens", "2", "--output", "../outputs"]
    place.cola("generate", run, *from_below, within="elsewhere")
    place.cola("export", by_path, "--to", "exported")
    assert (place.folder / "exported" / "tokenizer.json").exists()
    by_workers = ["--tasks", "cloze", "--items", "2", "--workers", "2", "--json"]
    assert "cloze" in place.cola("evaluate", by_path, *by_workers)
    held_out = ["--held-out", "texts/corpus.txt", "--tasks", "cloze", "--items", "2"]
    assert "cloze" in place.cola("evaluate", "exported", *held_out)
    (place.folder / "tasks").mkdir()
    item = {"id": 1, "prompt": "2 + 2 =", "answer": "4", "answers": ["4"], "choices": ["4", "5"]}
    (place.folder / "tasks" / "mmlu.jsonl").write_text(json.dumps(item) + "\n")
    (place.folder / "made.jsonl").write_text(json.dumps({"id": 1, "generation": "A"}) + "\n")
    made = ["--items", "tasks", "--generations", "made.jsonl"]
    assert "mmlu" in place.cola("score", "--task", "mmlu", *made)


def reports_and_fits_are_written_here(place: Place) -> None:
    place.cola("report", "study.yaml")
    place.cola("report", "books", "--output", "../outputs", within="elsewhere")
    page = place.folder / "outputs" / "studies" / "books" / "report" / "report.html"
    assert "books" in page.read_text()
    rows = [f"{n},{d},{1.8 + 450 / n**0.345 + 2000 / d**0.365}"
            for n in (1e6, 4e6, 1.6e7, 6.4e7) for d in (2e7, 8e7, 3.2e8, 1.28e9)]  # fmt: skip
    (place.folder / "runs.csv").write_text("\n".join(["params,tokens,loss", *rows]))
    columns = ["--n", "params", "--d", "tokens", "--loss", "loss", "--bootstrap", "0"]
    assert "alpha" in place.cola("fit", "runs.csv", *columns, "--json")


def what_goes_to_a_cluster_has_no_relative_path(place: Place) -> None:
    """Relative paths would be other ones there: the first is named, with the way to give it."""
    recipe = ["recipe", "study.yaml", "--kind", "slurm"]
    assert "data.corpus.paths.0=texts/: a submitted study needs an absolute path" in place.cola(
        *recipe, code=2
    )
    recipe += ["--set", "data.corpus.paths=[/shared/texts]"]
    assert "output=outputs: a submitted study needs an absolute path" in place.cola(*recipe, code=2)
    recipe += ["--set", "tracking.uri=sqlite:///mlflow.db", "--set", "output=/shared/outputs"]
    assert "tracking.uri=sqlite:///mlflow.db: a submitted" in place.cola(*recipe, code=2)


def environment_and_store_are_looked_at_here(place: Place) -> None:
    assert str(place.folder / "outputs") in place.cola("doctor", "study.yaml")
    server = place.start("mlflow", "--output", "outputs")
    lines = [""]
    try:
        until(
            lambda: "MLflow on http" in lines[-1],
            "the server",
            process=server,
            meanwhile=lambda: lines.append(server.stdout.readline() if server.stdout else ""),
        )
    finally:
        os.killpg(server.pid, signal.SIGINT)
        server.communicate(timeout=60)


def stores_beside_the_output_are_kept(place: Place) -> None:
    """Checkpoints and MLflow at relative addresses."""
    stores = ["--set", "checkpoint.storage=kept", "--set", "tracking.uri=sqlite:///track.db",
              "--set", "output=other", "--set", "checkpoint.every_seconds=0.01",
              "--set", "checkpoint.keep_finished=true"]  # fmt: skip
    place.cola("run", "study.yaml", *stores)
    assert list((place.folder / "kept").glob("*/*"))
    assert (place.folder / "track.db").exists()
    assert (place.folder / "other" / "runs").exists()
    place.trains_nothing(*stores)
