"""Training checkpoints: a manifest of checksums per worker, checked before a restart trusts them.

A training checkpoint (engine, step, RNG-free data cursor) is not an exported model: the latter is
a Hugging Face folder written once, when a run is finished. A checkpoint counts only when the
manifest of every worker is there and every checksum holds, so manifests are written last.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict


def safe_name(name: str) -> str:
    """`name`, where it is a relative path that stays within the folder it is joined to.

    Raises:
        ValueError: where it is not.
    """
    parts = name.split("/")
    if not name or "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{name!r} is not a plain relative path")
    return name


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

    def is_same_save(self, other: Cursor) -> bool:
        """Whether two workers' parts are of one save: another start may have left parts behind."""
        mine = (self.step, self.world_size, self.zero_stage)
        return mine == (other.step, other.world_size, other.zero_stage)


class CheckpointNote(BaseModel):
    """What is known of a checkpoint beside its state, for those who choose which to keep.

    `validation_nll` is in nats per token, None where the step was not evaluated.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    validation_nll: float | None = None
    evaluation_point: bool = False


class Manifest(BaseModel):
    """One worker's part of a checkpoint: SHA-256 (hex) of each file by its name in the folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[2]  # fragments of parameters, which any sharding loads
    cursor: Cursor
    files: dict[Annotated[str, AfterValidator(safe_name)], str]
    note: CheckpointNote = CheckpointNote()


def manifest_name(rank: int) -> str:
    """The file of a worker's manifest."""
    return f"manifest-{rank:05d}.json"


def seal(folder: Path, cursor: Cursor, rank: int, note: CheckpointNote | None = None) -> Path:
    """Write this worker's manifest over the files it wrote into `folder`."""
    sums = {
        path.relative_to(folder).as_posix(): _sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    path = folder / manifest_name(rank)
    path.write_text(
        Manifest(
            format=2, cursor=cursor, files=sums, note=note or CheckpointNote()
        ).model_dump_json(indent=1)
    )
    return path


def verify(folder: Path) -> Cursor | None:
    """The checkpoint's cursor, or None where a file is missing, short, changed or elsewhere."""
    first = read_manifest(folder / manifest_name(0))
    if first is None:
        return None
    for rank in range(first.cursor.world_size):
        manifest = read_manifest(folder / manifest_name(rank))
        if manifest is None or not manifest.cursor.is_same_save(first.cursor):
            return None
        if not all(_holds(folder, name, digest) for name, digest in manifest.files.items()):
            return None
    return first.cursor


def newest_valid(
    folders: Iterable[Path], fetch: Callable[[Path], None] = lambda folder: None
) -> tuple[Path, Cursor] | None:
    """The checkpoint with the most steps that is whole, however it is sharded.

    Of each folder only the manifests need to be there at first: `fetch` brings the rest of one.
    """
    found = [(folder, read_manifest(folder / manifest_name(0))) for folder in folders]
    claimed = [(manifest.cursor.step, folder) for folder, manifest in found if manifest is not None]
    for _, folder in sorted(claimed, reverse=True):
        fetch(folder)
        cursor = verify(folder)
        if cursor is not None:
            return folder, cursor
    return None


def read_manifest(path: Path) -> Manifest | None:
    """The manifest, or None where there is none or where it is not a whole one."""
    try:
        return parse_manifest(path.read_bytes())
    except OSError:
        return None


def parse_manifest(text: bytes) -> Manifest | None:
    """A manifest's content, or None for anything else (a part of one, names that lead outside)."""
    try:
        return Manifest.model_validate_json(text)
    except ValueError:
        return None


def _holds(folder: Path, name: str, digest: str) -> bool:
    """Whether the file is within the folder (also behind links) and has this checksum."""
    path = folder / PurePosixPath(name)
    within = path.resolve().is_relative_to(folder.resolve())
    return within and path.is_file() and _sha256(path) == digest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
