"""Manifests: a checkpoint that is torn, changed or incomplete is never trusted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestration.checkpoint.manifest import Cursor, newest_valid, seal, verify


def write(folder: Path, step: int, workers: int = 2) -> Path:
    folder.mkdir()
    parts = []
    for rank in range(workers):
        part = folder.parent / f"{folder.name}-part-{rank}"
        part.mkdir()
        (part / f"shard-{rank}.bin").write_bytes(bytes([rank]) * 100)
        seal(
            part,
            Cursor(stage=0, step=step, world_size=workers, zero_stage=2, elapsed_seconds=1.0),
            rank,
        )
        parts.append(part)
    for part in parts:  # as Ray Train merges what the workers hand in
        for path in part.iterdir():
            path.rename(folder / path.name)
    return folder


def test_a_whole_checkpoint_is_valid(tmp_path: Path) -> None:
    cursor = verify(write(tmp_path / "c", 7))
    assert cursor is not None
    assert cursor.step == 7


@pytest.mark.parametrize("damage", ["torn", "flipped", "shard", "manifest", "empty manifest"])
def test_damage_is_detected(tmp_path: Path, damage: str) -> None:
    folder = write(tmp_path / "c", 7)
    shard, manifest = folder / "shard-1.bin", folder / "manifest-00001.json"
    if damage == "torn":
        shard.write_bytes(shard.read_bytes()[:50])
    elif damage == "flipped":
        shard.write_bytes(b"x" + shard.read_bytes()[1:])
    elif damage == "shard":
        shard.unlink()
    elif damage == "manifest":
        manifest.unlink()
    else:
        manifest.write_text("")
    assert verify(folder) is None


def test_the_newest_whole_one_of_any_sharding_is_chosen(tmp_path: Path) -> None:
    folders = [write(tmp_path / f"c{step}", step) for step in (1, 2, 3)]
    (folders[2] / "shard-0.bin").write_bytes(b"")
    chosen = newest_valid(folders)
    assert chosen is not None
    assert chosen[0] == folders[1]
    folders.append(write(tmp_path / "other-world", 9, workers=1))
    chosen = newest_valid(folders)
    assert chosen is not None
    assert (chosen[0], chosen[1].world_size) == (folders[3], 1)
    assert newest_valid([tmp_path / "nothing"]) is None


def test_parts_of_two_shardings_are_no_checkpoint(tmp_path: Path) -> None:
    """Three workers began a save that two of the next start's made anew, in part."""
    folder, other = write(tmp_path / "c", 7, workers=3), write(tmp_path / "other", 7, workers=2)
    for name in ("shard-0.bin", "manifest-00000.json"):
        (other / name).replace(folder / name)
    assert verify(folder) is None


def test_a_checkpoint_of_another_format_is_not_taken(tmp_path: Path) -> None:
    folder = write(tmp_path / "c", 7)
    manifest = folder / "manifest-00000.json"
    values = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({name: values[name] for name in ("cursor", "files")}))
    assert newest_valid([folder]) is None


def test_newer_checkpoints_that_are_damaged_are_named(tmp_path: Path) -> None:
    """What a crash left without the manifests of all workers is not called damaged."""
    folders = [write(tmp_path / f"c{step}", step) for step in (1, 2, 3, 4, 5)]
    (folders[2] / "shard-0.bin").write_bytes(b"")
    (folders[3] / "manifest-00000.json").write_text("{")
    (folders[4] / "manifest-00001.json").unlink()
    damaged: list[Path] = []
    chosen = newest_valid(folders, damaged=damaged.append)
    assert chosen is not None
    assert chosen[0] == folders[1]
    assert sorted(damaged) == folders[2:4]
