"""Paths of specifications become absolute once, and nothing relative is sent to a process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cola.errors import SpecError
from cola.spec.locations import file_paths, located, relative_paths
from cola.spec.resources import CheckpointSpec, TrackingSpec
from cola.study import StudySpec
from orchestration.planning.catalog import load_study, read_study
from orchestration.planning.plan import plan_study
from orchestration.planning.shared_prefixes import prefix_key
from sweeps.trials.trial_spec import TrialSpec
from tests.conftest import write_study

BASE = Path("/base")


def study_with(tiny_study: dict[str, Any], **changes: Any) -> StudySpec:
    return StudySpec.parse({**tiny_study, **changes})


def test_every_path_of_a_study_becomes_absolute(tiny_study: dict[str, Any]) -> None:
    tiny_study["data"] |= {
        "corpus": {"source": "files", "paths": ["a.txt", "../b", "/c"]},
        "tokenizer": {"kind": "file", "path": "words/tokenizer.json"},
    }
    tiny_study["evaluation"]["task_folder"] = "tasks"
    study = study_with(
        tiny_study,
        output="outputs",
        checkpoint={"storage": "kept"},
        tracking={"uri": "sqlite:///track.db"},
    )
    assert set(relative_paths(study)) == {
        "data.corpus.paths.0", "data.corpus.paths.1", "data.tokenizer.path",
        "evaluation.task_folder", "checkpoint.storage", "tracking.uri", "output",
    }  # fmt: skip
    absolute = located(study, BASE)
    assert file_paths(absolute) == {
        "data.corpus.paths.0": "/base/a.txt",
        "data.corpus.paths.1": "/base/../b",
        "data.corpus.paths.2": "/c",
        "data.tokenizer.path": "/base/words/tokenizer.json",
        "evaluation.task_folder": "/base/tasks",
        "checkpoint.storage": "/base/kept",
        "output": "/base/outputs",
    }
    assert absolute.tracking.uri == "sqlite:////base/track.db"
    assert relative_paths(absolute) == {}
    assert located(absolute, Path("/elsewhere")) == absolute


@pytest.mark.parametrize(
    ("given", "absolute"),
    [
        ("sqlite:///a/b.db", "sqlite:////base/a/b.db"),
        ("sqlite:///b.db?timeout=5", "sqlite:////base/b.db?timeout=5"),
        ("sqlite+pysqlite:///b.db", "sqlite+pysqlite:////base/b.db"),
        ("file:address.txt", "file:/base/address.txt"),
        *[
            (address, address)
            for address in (
                "sqlite:////b.db", "sqlite:///:memory:", "file:/run/secret", "env:STORE",
                "http://127.0.0.1:5000", "postgresql://host/store",
            )
        ],
    ],
)  # fmt: skip
def test_tracking_stores(given: str, absolute: str) -> None:
    assert located(TrackingSpec(uri=given), BASE).uri == absolute


@pytest.mark.parametrize(
    ("given", "absolute"),
    [
        ("kept", "/base/kept"), ("file:kept", "/base/kept"), ("file:/kept", "/kept"),
        ("file:///kept", "file:///kept"), ("s3://bucket/kept", "s3://bucket/kept"),
    ],
)  # fmt: skip
def test_storages(given: str, absolute: str) -> None:
    assert located(CheckpointSpec(storage=given), BASE).storage == absolute


def test_a_name_is_a_path_where_there_is_such_a_folder(
    tiny_study: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "own").mkdir()
    names = {"own": str(tmp_path / "own"), "org/data": "org/data"}
    for given, name in names.items():
        tiny_study["data"]["corpus"] = {"source": "huggingface", "name": given}
        corpus = located(StudySpec.parse(tiny_study), tmp_path).data.corpus
        assert corpus.model_dump()["name"] == name


def test_home_folders(tiny_study: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert located(study_with(tiny_study, output="~/out")).output == "/home/me/out"
    with pytest.raises(SpecError, match=r"output=~no-such-user/out: names the home folder"):
        located(study_with(tiny_study, output="~no-such-user/out"))


def test_a_run_is_the_same_wherever_its_corpus_lies(
    tiny_study: dict[str, Any], corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "copy").mkdir()
    copy = tmp_path / "copy" / corpus_file.name
    copy.write_bytes(corpus_file.read_bytes())
    monkeypatch.chdir(tmp_path / "copy")
    keys, prefixes = set(), set()
    for path in (str(corpus_file), str(copy), copy.name, f"../copy/{copy.name}"):
        tiny_study["data"]["corpus"]["paths"] = [path]
        runs = plan_study(load_study(str(write_study(tiny_study, tmp_path)), []))
        keys.add(tuple(run.key for run in runs))
        prefixes.add(prefix_key(runs[-1].spec, 5))
    assert len(keys) == len(prefixes) == 1
    copy.write_text("Other text. " * 2000)
    (run, *_) = plan_study(load_study(str(write_study(tiny_study, tmp_path)), []))
    assert run.key not in next(iter(keys))


def test_a_study_is_read_as_written_for_other_machines(
    tiny_study: dict[str, Any], tmp_path: Path
) -> None:
    path = str(write_study(tiny_study | {"output": "outputs"}, tmp_path))
    assert read_study(path, []).output == "outputs"
    assert load_study(path, []).output == str(Path.cwd() / "outputs")


def test_a_trial_is_sent_no_relative_path(tiny_study: dict[str, Any]) -> None:
    def trial(study: StudySpec, folder: str = "/sweep") -> TrialSpec:
        return TrialSpec(
            trial=1, study=study, fingerprint="f", data_folder="/data", folder=folder,
            evaluation=None, likelihood=False, preemptible=False, in_process=True, driver="d",
        )  # fmt: skip

    sent = trial(located(study_with(tiny_study, output="outputs")))
    assert TrialSpec.model_validate_json(sent.model_dump_json()) == sent
    with pytest.raises(ValidationError, match="output=outputs must be absolute"):
        trial(study_with(tiny_study, output="outputs"))
    with pytest.raises(ValidationError, match="must be an absolute path"):
        trial(study_with(tiny_study), folder="sweep")
