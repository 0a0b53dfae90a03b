"""Checkpoints in an object store: what is refused. That nothing is lost there: the drill."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cola.errors import StorageError
from orchestration.checkpoint.store import check_storage, open_store
from tests.servers import s3_bucket

pytestmark = pytest.mark.slow


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with s3_bucket(monkeypatch) as address:
        yield address


def test_a_bucket_that_is_not_there_is_refused_before_anything_starts(bucket: str) -> None:
    check_storage(bucket)
    assert open_store(bucket, Path("key")).stored() == []
    with pytest.raises(StorageError, match="cannot be written") as caught:
        check_storage(bucket.replace("s3://bucket", "s3://other"))
    assert "checkpoint.storage=s3://other/prefix: " in str(caught.value)
    assert "AWS_ACCESS_KEY_ID" in str(caught.value)


def test_a_key_that_leads_outside_is_not_fetched(bucket: str, tmp_path: Path) -> None:
    store = open_store(bucket, Path("key"))
    folder = store.path("attempt-1/step-000000001")
    for name in ("kept", "../../../../outside"):
        with store.filesystem.open_output_stream(f"{folder}/{name}") as file:
            file.write(b"x")
    store.fetch("attempt-1/step-000000001", tmp_path / "a" / "b" / "c" / "d")
    found = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert found == [tmp_path / "a" / "b" / "c" / "d" / "kept"]
