"""Who ran what on which data is with every run in MLflow."""

from __future__ import annotations

import getpass
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cola.records import Tag
from cola.spec.data import DataSpec
from cola.study import StudySpec
from orchestration.planning.plan import plan_study
from orchestration.tracking.pages import runs_page
from orchestration.tracking.provenance import (
    USER,
    commit_of,
    corpus_name,
    data_set,
    source_tags,
)


def test_a_run_names_its_user_and_the_products_version() -> None:
    tags = source_tags()
    assert tags[USER] == getpass.getuser()
    assert tags[Tag.SOURCE].startswith("cola-scaling ")


def test_a_user_without_a_name_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert USER not in source_tags.__wrapped__()


def test_the_commit_of_a_checkout_says_whether_files_were_changed(tmp_path: Path) -> None:
    assert commit_of(tmp_path) is None

    def git(*arguments: str) -> str:
        about = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *about, *arguments],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        return done.stdout.strip()

    git("init", "--quiet")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "--quiet", "--message", "one")
    commit = git("rev-parse", "HEAD")
    assert commit_of(tmp_path) == commit
    (tmp_path / "file").write_text("2")
    assert commit_of(tmp_path) == f"{commit}-dirty"


@pytest.mark.parametrize(
    ("corpus", "name"),
    [
        ({"source": "python-stdlib"}, "python-stdlib"),
        ({"source": "files", "paths": ["/data/books/"]}, "books"),
        ({"source": "files", "paths": ["a.txt", "b.txt", "c.txt"]}, "a.txt and 2 more"),
        ({"source": "huggingface", "name": "owner/text"}, "owner/text"),
    ],
)
def test_a_data_set_has_a_short_name(corpus: dict[str, Any], name: str) -> None:
    assert corpus_name(DataSpec.parse({"corpus": corpus})) == name


def test_a_runs_data_set_is_known_by_its_content(tiny_study: dict[str, Any]) -> None:
    run = plan_study(StudySpec.parse(tiny_study | {"families": ["ar"]}))[0].spec
    found = data_set(run)
    assert found["digest"] == run.data_fingerprint[:36]
    assert json.loads(found["source"])["uri"] == tiny_study["data"]["corpus"]["paths"][0]
    assert json.loads(found["profile"])["training_tokens"] == run.steps * run.tokens_per_step


def test_the_page_of_runs_is_that_of_training_runs() -> None:
    page = runs_page("7")
    assert page.startswith("#/experiments/7/runs?workflowType=machine_learning&")
    assert "searchFilter=tags.kind%20%3D%20%27run%27" in page
    assert "orderByKey=metrics.%60val%2Fnll_nats_per_token%60" in page
