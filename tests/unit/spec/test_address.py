"""Addresses by reference: resolved where they are used, hidden wherever they are shown."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st
from sqlalchemy import make_url

from cola.errors import SpecError
from cola.spec.address import (
    redacted,
    remove_quoted_folder,
    resolve_address,
    sqlite_file,
    sqlite_uri,
)
from cola.spec.resources import TrackingSpec

SECRET = "postgresql://me:s3cret@db.example:5433/runs"


def test_a_reference_is_resolved_and_shown_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "uri").write_text(f"{SECRET}\nnot this line\n")
    monkeypatch.setenv("COLA_TRACKING", SECRET)
    for given in ("env:COLA_TRACKING", f"file:{tmp_path / 'uri'}", f"file://{tmp_path / 'uri'}"):
        assert TrackingSpec(uri=given).uri == given
        address = resolve_address(given)
        assert (address.uri, address.shown) == (SECRET, given)
        said = address.clean(f"no {SECRET}: s3cret of me\nat db.example, port 5433, not mesh")
        assert said == "no ***: *** of *** at ***, port 5433, not mesh"


def test_a_plain_address_is_taken_as_it_is() -> None:
    assert resolve_address("http://127.0.0.1:5000").uri == "http://127.0.0.1:5000"
    assert redacted("https://me:secret@host:5000/x") == "https://***@host:5000/x"
    assert redacted("sqlite:////tmp/mlflow.db") == "sqlite:////tmp/mlflow.db"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("env:COLA_NOT_SET", "environment variable COLA_NOT_SET is not set"),
        ("file:/no/such/file", "cannot be read"),
        ("file:/tmp", "cannot be read"),
        ("file:/dev/null", "is empty"),
    ],
)
def test_a_reference_to_nothing_is_refused(given: str, expected: str) -> None:
    with pytest.raises(SpecError, match=expected):
        resolve_address(given)


@pytest.mark.parametrize(
    "uri",
    [
        "https://me:s3cret@host",
        "https://:s3cret@host",
        "postgresql+psycopg2://me:s3c/ret@host/db",
        "postgresql://host/db?user=me&password=s3cret",
    ],
)
def test_a_password_in_a_specification_is_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(SpecError, match=r"uri holds a password.*write uri: env:NAME") as refusal:
        TrackingSpec.parse({"uri": uri})
    assert "s3c" not in str(refusal.value)


def test_no_password_is_seen_where_there_is_none() -> None:
    for uri in ("http://host:5000", "sqlite:////tmp/a:b@c/mlflow.db", "https://me@host/x?y=1"):
        assert TrackingSpec.parse({"uri": uri}).uri == uri


PARTS = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1)


@hypothesis.given(
    st.lists(PARTS.filter(lambda part: part not in (".", "..")), min_size=1, max_size=3)
)
@hypothesis.example(["a%20b", "q?x=1#h", "it's; p ünï\nnl%"])
@hypothesis.example([":memory:"])
def test_a_store_in_any_path_is_the_file_that_sqlalchemy_opens(parts: list[str]) -> None:
    path = Path("/", *parts)
    uri = sqlite_uri(path)
    assert make_url(uri).database == str(path)
    assert sqlite_file(uri) == path
    assert len(uri.splitlines()) == 1


def test_the_folder_with_a_quoted_name_goes_if_it_is_empty(tmp_path: Path) -> None:
    uri = sqlite_uri(tmp_path / "a%20b" / "c?" / "mlflow.db")
    (tmp_path / "a%20b" / "c?").mkdir(parents=True)
    quoted = tmp_path / "a%2520b" / "c%3F"
    quoted.mkdir(parents=True)
    (quoted / "mine").touch()
    remove_quoted_folder(uri)
    assert (quoted / "mine").exists()
    (quoted / "mine").unlink()
    remove_quoted_folder(uri)
    remove_quoted_folder(uri)
    assert [path.name for path in tmp_path.iterdir()] == ["a%20b"]
    remove_quoted_folder(sqlite_uri(tmp_path / "plain" / "mlflow.db"))
    remove_quoted_folder("http://host/a%20b/c")
    assert (tmp_path / "a%20b" / "c?").is_dir()


@pytest.mark.parametrize("uri", ["http://host", "postgresql://host/db", "sqlite://", "sqlite:///"])
def test_what_is_no_file_of_sqlite(uri: str) -> None:
    assert sqlite_file(uri) is None
    assert sqlite_file("sqlite:///:memory:") is None


def test_a_relative_store_is_of_the_working_directory() -> None:
    assert sqlite_file("sqlite:///runs.db?timeout=5") == Path.cwd() / "runs.db"
