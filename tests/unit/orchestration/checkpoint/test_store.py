"""The store of a run's checkpoints, on real files, local and through fsspec."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cola.errors import ColaError, SpecError, StorageError
from orchestration.checkpoint.address import joined, redacted, resolved
from orchestration.checkpoint.manifest import Cursor, manifest_name, newest_valid, seal, verify
from orchestration.checkpoint.store import CheckpointStore, check_storage, store_address
from orchestration.training.checkpoint_fetch import CheckpointFetcher
from orchestration.training.distributed import WorkerRank


def part(folder: Path, step: int, rank: int = 0, workers: int = 1) -> Path:
    (folder / "engine").mkdir(parents=True)
    (folder / "engine" / f"shard-{rank}.bin").write_bytes(bytes([step, rank]) * 100)
    cursor = Cursor(stage=0, step=step, world_size=workers, zero_stage=1, elapsed_seconds=1.0)
    seal(folder, cursor, rank)
    return folder


@pytest.fixture(params=["local", "fsspec"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> CheckpointStore:
    root = tmp_path / "store" / "run"
    return CheckpointStore(str(root) if request.param == "local" else f"fsspec+file://{root}")


def test_what_is_uploaded_comes_back(store: CheckpointStore, tmp_path: Path) -> None:
    assert store.stored() == []
    for step in (3, 12):
        store.upload(part(tmp_path / f"part-{step}", step), f"attempt-2/step-{step:09d}")
    first, second = store.stored()
    assert (first.attempt, first.step, second.step) == (2, 3, 12)
    manifest = store.complete(second)
    assert manifest is not None
    assert manifest.cursor.step == 12
    store.fetch(second.name, tmp_path / "copy")
    assert verify(tmp_path / "copy") == manifest.cursor
    store.delete(first)
    assert [item.name for item in store.stored()] == [second.name]
    with pytest.raises(FileNotFoundError):
        store.fetch(first.name, tmp_path / "none")


def test_half_of_the_workers_are_not_a_checkpoint(store: CheckpointStore, tmp_path: Path) -> None:
    name = "attempt-1/step-000000005"
    store.upload(part(tmp_path / "one", 5, 1, workers=2), name)
    (found,) = store.stored()
    assert store.complete(found) is None
    store.upload(part(tmp_path / "zero", 5, 0, workers=2), name)
    (found,) = store.stored()
    assert store.complete(found) is not None


def test_a_torn_checkpoint_gives_way_to_the_one_before(
    store: CheckpointStore, tmp_path: Path
) -> None:
    for step in (4, 8):
        store.upload(part(tmp_path / f"part-{step}", step), f"attempt-1/step-{step:09d}")
    torn = Path(store.root) / "attempt-1/step-000000008/engine/shard-0.bin"
    torn.write_bytes(torn.read_bytes()[:57])
    fetcher = CheckpointFetcher(store, WorkerRank())
    chosen = fetcher.share(newest_valid(fetcher.folders(), fetcher.fetch))
    assert chosen is not None
    folder, cursor = chosen
    assert (cursor.step, fetcher.name_of(folder)) == (4, "attempt-1/step-000000004")
    assert (folder / "engine" / "shard-0.bin").is_file()
    assert store.local == folder.is_relative_to(store.root)
    fetcher.remove_copies()
    assert folder.exists() == store.local


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret", "", "a\\b", "./a"])
def test_a_manifest_that_leads_outside_is_none(name: str, tmp_path: Path) -> None:
    folder = part(tmp_path / "c", 1)
    (tmp_path / "secret").write_text("x")
    path = folder / manifest_name(0)
    values = json.loads(path.read_text())
    values["files"][name] = "0" * 64
    path.write_text(json.dumps(values))
    assert verify(folder) is None
    assert newest_valid([folder]) is None


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    outside = part(tmp_path / "outside" / "attempt-1" / "step-000000001", 1)
    root = tmp_path / "root"
    root.mkdir()
    (root / "attempt-1").symlink_to(outside.parent)
    (root / "attempt-2").mkdir()
    (root / "attempt-2" / "step-000000002").symlink_to(outside)
    assert CheckpointStore(str(root)).stored() == []
    inside = part(root / "attempt-3" / "step-000000001", 1)
    shard = inside / "engine" / "shard-0.bin"
    shard.unlink()
    shard.symlink_to(outside / "engine" / "shard-0.bin")
    assert verify(inside) is None  # the same bytes, but somebody else's


def test_what_is_not_a_checkpoint_is_not_listed(store: CheckpointStore) -> None:
    root = Path(store.root)
    for name in (
        "attempt-1/other/a",
        "attempt-x/step-1/a",
        "step-000000001/a",
        "attempt-1/step-1/a",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")
    (root / "attempt-1" / "checkpoint_manager_snapshot.json").write_text("{}")
    assert store.stored() == []


def test_addresses_keep_their_query_and_name_the_run(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "key"
    assert store_address(None, run) == str(run / "ray")
    assert store_address(str(tmp_path / "c"), run) == str(tmp_path / "c" / "key")
    assert joined("s3://b/p/?scheme=http", "key") == "s3://b/p/key?scheme=http"
    assert joined("s3://b", "key") == "s3://b/key"
    assert joined("local:///tmp/c", "key") == "local:///tmp/c/key"


@pytest.mark.parametrize(
    "address",
    [
        "s3://user:hunter2@bucket/prefix",
        "s3://bucket/prefix?access_key=hunter2",
        "s3://bucket/prefix?scheme=http&secret_key=hunter2",
        "s3://bucket/prefix?session_token=hunter2",
    ],
)
def test_credentials_in_an_address_are_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(SpecError, match=r"checkpoint\.storage.*environment") as caught:
        check_storage(address)
    assert "hunter2" not in str(caught.value) + redacted(address)


@pytest.mark.parametrize(
    ("address", "kind", "remedy"),
    [
        ("nonsense://a/b", SpecError, "cannot be opened"),
        ("s3://", SpecError, "names no bucket"),
        ("s3://bucket/../other", SpecError, "without it"),
        ("file:///proc/cola/checkpoints", StorageError, "cannot be written"),
        ("/proc/cola/checkpoints", StorageError, "cannot be written"),
    ],
)
def test_a_storage_that_cannot_work_is_refused(
    address: str, kind: type[ColaError], remedy: str
) -> None:
    with pytest.raises(ColaError, match=remedy) as caught:
        check_storage(address)
    assert type(caught.value) is kind
    assert caught.value.exit_code == {SpecError: 2, StorageError: 3}[kind]
    assert f"checkpoint.storage={address}" in str(caught.value)


def test_a_storage_that_works_is_left_clean(tmp_path: Path) -> None:
    check_storage(None)
    check_storage(str(tmp_path / "new"))
    assert not any((tmp_path / "new").iterdir())
    assert resolved("relative").startswith("/")
