"""Training checkpoints: a manifest of checksums per worker, checked before a restart trusts them.

A training checkpoint (engine, step, RNG-free data cursor) is not an exported model: the latter is
a Hugging Face folder written once, when a run is finished.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict

CHECKPOINTS = "ray"  # folder of a run that Ray Train keeps its attempts and checkpoints in
FORMAT = 2  # of a checkpoint's files: fragments of parameters, which any sharding loads


class Cursor(BaseModel):
    """Where a training checkpoint stands: `step` optimiser steps done, over all stages.

    Draws and data order are functions of the step, so no generator state is needed. The state was
    sharded over `world_size` workers in the way of `zero_stage`, and loads into any other.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: int
    step: int
    world_size: int
    zero_stage: int
    elapsed_seconds: float


def seal(folder: Path, cursor: Cursor, rank: int) -> Path:
    """Write this worker's manifest over the files it wrote into `folder`."""
    sums = {
        str(path.relative_to(folder)): _sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    manifest = {"format": FORMAT, "cursor": cursor.model_dump(), "files": sums}
    path = folder / f"manifest-{rank:05d}.json"
    path.write_text(json.dumps(manifest, indent=1))
    return path


def verify(folder: Path) -> Cursor | None:
    """The checkpoint's cursor, or None where a file is missing, short or changed."""
    first = folder / "manifest-00000.json"
    if not first.exists():
        return None
    cursor = _read_manifest(first)
    if cursor is None:
        return None
    position = cursor[0]
    for rank in range(position.world_size):
        manifest = _read_manifest(folder / f"manifest-{rank:05d}.json")
        if manifest is None or _sharding(manifest[0]) != _sharding(position):
            return None
        if any(
            not (folder / name).is_file() or _sha256(folder / name) != digest
            for name, digest in manifest[1].items()
        ):
            return None
    return position


def newest_valid(folders: Iterable[Path]) -> tuple[Path, Cursor] | None:
    """The checkpoint with the most steps that is whole, however it is sharded."""
    newest_first = sorted(folders, key=_claimed_step, reverse=True)
    found = ((folder, verify(folder)) for folder in newest_first)
    return next(((folder, cursor) for folder, cursor in found if cursor is not None), None)


def claimed(folder: Path) -> Cursor | None:
    """Where a checkpoint says that it stands, without checking its files."""
    manifest = _read_manifest(folder / "manifest-00000.json")
    return None if manifest is None else manifest[0]


def _claimed_step(folder: Path) -> int:
    cursor = claimed(folder)
    return -1 if cursor is None else cursor.step


def _sharding(cursor: Cursor) -> tuple[int, int, int]:
    """What all parts of one checkpoint agree in: parts of another start may be left in a folder."""
    return cursor.step, cursor.world_size, cursor.zero_stage


def _read_manifest(path: Path) -> tuple[Cursor, dict[str, str]] | None:
    try:
        values = json.loads(path.read_text())
        if values["format"] != FORMAT:
            return None
        return Cursor.model_validate(values["cursor"]), dict(values["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
