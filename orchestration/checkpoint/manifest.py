"""Training checkpoints: a manifest of checksums per worker, checked before a restart trusts them.

A training checkpoint (engine state, step) is not an exported model, which is a Hugging Face folder
written once, when a run is finished. A checkpoint is whole only when the manifest of every worker
is there and every checksum matches, so manifests are written last.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict

from cola.files import sha256_of

log = logging.getLogger(__name__)


def safe_name(name: str) -> str:
    """The name itself, a relative path that stays within the folder it is joined to.

    Raises:
        ValueError: for any other name.
    """
    parts = name.split("/")
    if not name or "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"{name!r} is not a plain relative path")
    return name


def is_safe(name: str) -> bool:
    """Whether a name from elsewhere stays within the folder it is joined to."""
    try:
        safe_name(name)
    except ValueError:
        return False
    return True


class Cursor(BaseModel):
    """Position of a training checkpoint: `step` optimiser steps are done, over all stages.

    Draws and data order are functions of the step, so no generator state is needed. The state was
    sharded over `world_size` workers at `zero_stage`, and loads into any other sharding.
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
    """What decides, beside its step, whether a checkpoint is kept.

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


def seal(folder: Path, cursor: Cursor, rank: int, *, note: CheckpointNote | None = None) -> Path:
    """Write this worker's manifest of the files in `folder`; returns its path.

    Raises:
        OSError: where a file cannot be read or the manifest not written.
    """
    sums = {
        path.relative_to(folder).as_posix(): sha256_of(path)
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
    """The checkpoint's cursor, or None where a file is missing, damaged or outside the folder."""
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
    folders: Iterable[Path],
    fetch: Callable[[Path], None] = lambda folder: None,
    *,
    damaged: Callable[[Path], None] = lambda folder: None,
) -> tuple[Path, Cursor] | None:
    """The whole checkpoint with the most steps, in any sharding, or None.

    At first only the manifests of each folder need to be there: `fetch` brings the rest of one.
    `damaged` is called with each newer one that is passed over for its content; what a crash left
    without the manifests of all workers is not.
    """
    manifests = [(folder, read_manifest(folder / manifest_name(0))) for folder in folders]
    for folder, manifest in manifests:
        if manifest is None and (folder / manifest_name(0)).exists():
            log.warning("checkpoint %s has a damaged manifest: it is passed over", folder)
            damaged(folder)
    by_step = [(manifest.cursor.step, folder) for folder, manifest in manifests if manifest]
    for _, folder in sorted(by_step, reverse=True):
        fetch(folder)
        cursor = verify(folder)
        if cursor is not None:
            return folder, cursor
        log.warning("checkpoint %s is not whole: an older one is tried", folder)
        if _is_sealed(folder):
            damaged(folder)
    return None


def _is_sealed(folder: Path) -> bool:
    """Whether the manifests of all workers are there, so that the checkpoint was once whole."""
    first = read_manifest(folder / manifest_name(0))
    return first is not None and all(
        (folder / manifest_name(rank)).exists() for rank in range(first.cursor.world_size)
    )


def read_manifest(path: Path) -> Manifest | None:
    """The manifest, or None where it is missing or damaged."""
    try:
        return parse_manifest(path.read_bytes())
    except OSError:
        return None


def parse_manifest(text: bytes) -> Manifest | None:
    """A manifest from its JSON, or None where it is cut off or names files outside its folder."""
    try:
        return Manifest.model_validate_json(text)
    except ValueError:
        return None


def _holds(folder: Path, name: str, digest: str) -> bool:
    """Whether the file has this checksum and is within the folder, links resolved."""
    path = folder / PurePosixPath(name)
    within = path.resolve().is_relative_to(folder.resolve())
    try:
        return within and path.is_file() and sha256_of(path) == digest
    except OSError as error:  # a bad block, or no permission
        log.warning("%s: cannot be read: %s", path, error)
        return False
