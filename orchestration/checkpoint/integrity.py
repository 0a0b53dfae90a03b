"""Which checkpoint a run can resume from, found without reading all of it.

A plan looks at every run of a study, so it cannot fetch and hash what may be terabytes. It checks
that all files are there, that the tensor files are as long as they themselves say, and, where the
store is a folder and the checkpoint small, every checksum. Workers check all checksums before they
load (`orchestration.checkpoint.manifest.verify`).
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass

from orchestration.checkpoint.manifest import Cursor, Manifest, manifest_name, verify
from orchestration.checkpoint.store import CheckpointStore, StoredCheckpoint

log = logging.getLogger(__name__)

# Chosen value: SHA-256 of it takes about a second (0.8 GB/s on one core, hashlib).
CHECKSUM_BYTES = 1e9
TENSORS = ".safetensors"
MOST_HEADER_BYTES = 100_000_000  # the format's own limit


@dataclass(frozen=True)
class NewestCheckpoint:
    """The newest checkpoint that is whole, and the steps of damaged ones that are newer."""

    cursor: Cursor | None
    damaged: tuple[int, ...] = ()


def newest_checkpoint(store: CheckpointStore, *, checksums: bool = True) -> NewestCheckpoint:
    """The checkpoint that workers will resume from, as far as cheap checks can tell.

    What a crash left unfinished (a worker's manifest is missing) is passed over and not reported as
    damaged. Without `checksums` no file is read in full.

    Raises:
        OSError: where the store cannot be read.
    """
    damaged: list[int] = []
    by_age = sorted(store.stored(), key=lambda stored: (stored.step, stored.attempt), reverse=True)
    for stored in by_age:
        manifests = store.manifests(stored)
        if not manifests:
            if manifest_name(0) in stored.files and store.manifest(stored) is None:
                log.info("checkpoint %s of %s has a damaged manifest", stored.name, store.shown)
                damaged.append(stored.step)
            continue
        problem = _problem(store, stored, manifests, checksums=checksums)
        if problem is None:
            return NewestCheckpoint(manifests[0].cursor, tuple(damaged))
        log.info("checkpoint %s of %s is damaged: %s", stored.name, store.shown, problem)
        damaged.append(stored.step)
    return NewestCheckpoint(None, tuple(damaged))


def _problem(
    store: CheckpointStore, stored: StoredCheckpoint, manifests: list[Manifest], *, checksums: bool
) -> str | None:
    """What is wrong with a checkpoint, or None where nothing is found."""
    names = [name for manifest in manifests for name in manifest.files]
    missing = [name for name in names if name not in stored.files]
    if missing:
        return f"{missing[0]} is missing"
    for name in names:
        if name.endswith(TENSORS) and not _is_whole(store, stored, name):
            return f"{name} is cut short"
    small = sum(stored.files[name] for name in names) <= CHECKSUM_BYTES
    if checksums and store.local and small and verify(store.folder(stored.name)) is None:
        return "a checksum does not match"
    return None


def _is_whole(store: CheckpointStore, stored: StoredCheckpoint, name: str) -> bool:
    """Whether a safetensors file has the length that its header gives: 8 bytes with the header's
    length, the header, the tensors."""
    with store.filesystem.open_input_file(f"{store.path(stored.name)}/{name}") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(MOST_HEADER_BYTES, stored.files[name]):
            return False
        try:
            header = json.loads(file.read(length))
            ends = [part["data_offsets"][1] for key, part in header.items() if key[:2] != "__"]
            return bool(stored.files[name] == 8 + length + max(ends, default=0))
        except (ValueError, KeyError, TypeError, AttributeError):
            return False
