"""What a report is asked to read and is no MLflow store: one line, and nothing is written."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from analysis.report.runs import read_study
from cola.errors import ColaError, SpecError, TrackingError


def problem(uri: str) -> ColaError:
    with pytest.raises(ColaError) as caught:
        read_study("books", uri)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_database_of_something_else_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "o?%20#.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE mine (a)")
    before = file.read_bytes()
    quoted = str(file).replace("%", "%25").replace("?", "%3F")
    found = problem(f"sqlite:///{quoted}")
    assert isinstance(found, SpecError)
    assert "the database is of something else (it has the table mine)" in str(found)
    assert file.read_bytes() == before


def test_an_empty_file_is_left_empty(tmp_path: Path) -> None:
    file = tmp_path / "e.db"
    file.touch()
    assert "the database is empty" in str(problem(f"sqlite:///{file}"))
    assert not file.read_bytes()


def test_garbage_is_no_database(tmp_path: Path) -> None:
    file = tmp_path / "g.db"
    file.write_bytes(b"garbage" * 500)
    found = problem(f"sqlite:///{file}")
    assert isinstance(found, TrackingError)
    assert "file is not a database" in str(found)


@pytest.mark.parametrize("uri", ["nonsense", "sqlite:///", "/some/folder"])
def test_what_is_no_address_of_a_store_is_refused(uri: str) -> None:
    assert "is not a tracking store; give sqlite:///FILE.db" in str(problem(uri))


def test_a_driver_that_is_not_installed_is_named() -> None:
    found = problem("mssql+nodriver://127.0.0.1:1/x")
    assert str(found).startswith("tracking.uri=mssql+nodriver://127.0.0.1:1/x: ")
