"""Checkpoints of a store as folders that a worker can load from, once on every node."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch.distributed as dist

from orchestration.checkpoint.manifest import Cursor, verify
from orchestration.checkpoint.store import CheckpointStore
from orchestration.training.distributed import Place


class LocalCopies:
    """The folders themselves where the store is local, else copies in a private folder.

    The first worker of every node fetches for all of the node; `node` tells nodes apart. The copies
    last until `forget` or the end of the process.
    """

    def __init__(self, store: CheckpointStore, place: Place, node: int = 0) -> None:
        self._store, self._place, self._node = store, place, node
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def folders(self) -> list[Path]:
        """A folder for each checkpoint of the store, with its manifests at least."""
        if self._store.local:
            return [self._store.folder(stored.name) for stored in self._store.stored()]
        return self._store.mirror_manifests(self._root())

    def fetch(self, folder: Path) -> None:
        """Bring all files of one of `folders`; other folders are left alone."""
        name = self.name_of(folder)
        if name is not None and not self._store.local:
            self._store.fetch(name, folder)

    def name_of(self, folder: Path) -> str | None:
        """The checkpoint's name in the store, or None for a folder that is not of it."""
        root = Path(self._store.root) if self._store.local else self._root()
        return folder.relative_to(root).as_posix() if folder.is_relative_to(root) else None

    def shared(self, chosen: tuple[Path, Cursor] | None) -> tuple[Path, Cursor] | None:
        """Rank 0's choice for all workers, each with a folder of its own node (collective).

        Raises:
            OSError: where a copy does not hold what rank 0 found in it.
        """
        if self._place.world_size == 1:
            return chosen
        told = [(chosen, self.name_of(chosen[0]) if chosen and self._place.rank == 0 else None)]
        dist.broadcast_object_list(told, src=0)
        chosen, name = told[0]
        if chosen is None or name is None or self._store.local:
            return chosen
        folder, cursor = chosen
        first = self._gathered(self._node).index(self._node)
        if self._place.rank == first != 0:
            folder = self._root() / name
            self._store.fetch(name, folder)
            if verify(folder) != cursor:
                raise OSError(f"{name}: the copy on this node is not whole")
        return self._gathered(folder)[first], cursor

    def forget(self) -> None:
        """Remove the copies: call it when every worker of the node has loaded."""
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None

    def _gathered(self, value: Any) -> list[Any]:
        found: list[Any] = [None] * self._place.world_size
        dist.all_gather_object(found, value)
        return found

    def _root(self) -> Path:
        if self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="cola-resume-")
        return Path(self._temporary.name).resolve()
