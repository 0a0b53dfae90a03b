"""What is refused before a cluster is spoken to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cola.spec import SpecError, StudySpec
from orchestration.jobs import check_address, check_paths, is_loopback


@pytest.fixture
def no_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_a_remote_address_needs_a_token(no_token: None, monkeypatch: pytest.MonkeyPatch) -> None:
    check_address("http://127.0.0.1:8265")
    with pytest.raises(SpecError, match=r"only spoken to with a token; set RAY_AUTH_TOKEN"):
        check_address("https://cluster.example:8265")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    check_address("https://cluster.example:8265")
    for wrong in ("cluster:8265", "ray://cluster:10001", "http://"):
        with pytest.raises(SpecError, match=r"write it as http\(s\)://HOST:PORT"):
            check_address(wrong)


def test_loopback_is_told_from_the_rest() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.9.0.1", "::1")))
    assert not any(map(is_loopback, ("10.0.0.1", "localhost.example", "example.org", "0.0.0.0")))


def test_a_submitted_study_has_absolute_paths(tiny_study: dict[str, Any]) -> None:
    check_paths(StudySpec.parse(tiny_study))
    with pytest.raises(SpecError, match=r"output=outputs: a submitted study needs an absolute"):
        check_paths(StudySpec.parse(tiny_study | {"output": "outputs"}))
    corpus = {"source": "files", "paths": ["books.txt"]}
    study = StudySpec.parse(tiny_study | {"data": tiny_study["data"] | {"corpus": corpus}})
    with pytest.raises(SpecError, match=r"data\.corpus\.paths\.0=books\.txt"):
        check_paths(study)
