"""Which checkpoint a plan counts on: damaged ones are passed over and named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from orchestration.checkpoint import integrity
from orchestration.checkpoint.integrity import NewestCheckpoint, newest_checkpoint
from orchestration.checkpoint.manifest import Cursor, manifest_name, seal
from orchestration.checkpoint.store import CheckpointStore, checkpoint_name

TENSORS = "fragments-00000.safetensors"


def cursor(step: int, workers: int = 1) -> Cursor:
    return Cursor(stage=0, step=step, world_size=workers, zero_stage=1, elapsed_seconds=1.0)


@pytest.fixture(params=["local", "fsspec"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> CheckpointStore:
    """Whole checkpoints of steps 4 and 8."""
    root = tmp_path / "store" / "run"
    found = CheckpointStore(str(root) if request.param == "local" else f"fsspec+file://{root}")
    for step in (4, 8):
        part = tmp_path / f"part-{step}"
        part.mkdir()
        save_file({"weight/a@0": np.full(100, step, np.float32)}, part / TENSORS)
        seal(part, cursor(step), 0)
        found.upload(part, checkpoint_name(1, step))
    return found


def newest_files(store: CheckpointStore) -> Path:
    return Path(store.root) / checkpoint_name(1, 8)


def test_the_newest_one_is_taken(store: CheckpointStore, tmp_path: Path) -> None:
    assert newest_checkpoint(store) == NewestCheckpoint(cursor(8))
    assert newest_checkpoint(CheckpointStore(str(tmp_path / "none"))) == NewestCheckpoint(None)


@pytest.mark.parametrize("damage", ["cut", "emptied", "lengthened", "missing"])
def test_a_torn_one_gives_way_to_the_one_before(store: CheckpointStore, damage: str) -> None:
    file = newest_files(store) / TENSORS
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-1])
    elif damage == "emptied":
        file.write_bytes(b"")
    elif damage == "lengthened":
        file.write_bytes(file.read_bytes() + b"x")
    else:
        file.unlink()
    for checksums in (True, False):
        assert newest_checkpoint(store, checksums=checksums) == NewestCheckpoint(cursor(4), (8,))


def test_a_flipped_bit_is_seen_in_a_folder_that_is_small(
    store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = newest_files(store) / TENSORS
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    seen = NewestCheckpoint(cursor(4), (8,)) if store.local else NewestCheckpoint(cursor(8))
    assert newest_checkpoint(store) == seen
    assert newest_checkpoint(store, checksums=False) == NewestCheckpoint(cursor(8))
    monkeypatch.setattr(integrity, "CHECKSUM_BYTES", 100)
    assert newest_checkpoint(store) == NewestCheckpoint(cursor(8))


def test_one_that_a_crash_left_unfinished_is_not_called_damaged(store: CheckpointStore) -> None:
    (newest_files(store) / manifest_name(0)).unlink()
    assert newest_checkpoint(store) == NewestCheckpoint(cursor(4))


def test_parts_of_two_saves_are_none(store: CheckpointStore, tmp_path: Path) -> None:
    for rank, workers in ((0, 3), (1, 2), (2, 3)):
        part = tmp_path / f"rank-{rank}"
        part.mkdir()
        seal(part, cursor(12, workers), rank)
        store.upload(part, checkpoint_name(1, 12))
    assert newest_checkpoint(store) == NewestCheckpoint(cursor(8))


def test_all_may_be_damaged(store: CheckpointStore) -> None:
    for step in (4, 8):
        (Path(store.root) / checkpoint_name(1, step) / TENSORS).write_bytes(b"")
    assert newest_checkpoint(store) == NewestCheckpoint(None, (8, 4))
