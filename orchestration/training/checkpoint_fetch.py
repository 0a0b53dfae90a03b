"""Checkpoints of a store as folders to load from: fetched once a node where the store is remote."""

from __future__ import annotations

import logging
from pathlib import Path

import torch.distributed as dist

from orchestration.checkpoint.manifest import Cursor, verify
from orchestration.checkpoint.store import CheckpointStore
from orchestration.state.scratch import Scratch
from orchestration.training.distributed import WorkerRank, gather_objects

log = logging.getLogger(__name__)


class CheckpointFetcher:
    """Gives the folders of a local store as they are, and copies of a remote one's in a private
    folder.

    The first worker of every node (`node` is its number) fetches for all workers of the node. The
    copies last until `remove_copies` or the end of the process.
    """

    def __init__(self, store: CheckpointStore, worker: WorkerRank, node: int = 0) -> None:
        self._store, self._worker, self._node = store, worker, node
        self._temporary: Scratch | None = None

    def folders(self) -> list[Path]:
        """A folder for each checkpoint of the store, which holds its manifests at least.

        Raises:
            OSError: the store cannot be read.
        """
        if self._store.local:
            return [self._store.folder(stored.name) for stored in self._store.stored()]
        return self._store.mirror_manifests(self._root())

    def fetch(self, folder: Path) -> None:
        """Bring all files of one of `folders`; a folder that is not of the store is left alone.

        Raises:
            OSError: the store cannot be read.
        """
        name = self.name_of(folder)
        if name is not None and not self._store.local:
            log.info("fetching checkpoint %s", name)
            self._store.fetch(name, folder)

    def name_of(self, folder: Path) -> str | None:
        """The checkpoint's name in the store, or None for a folder that is not of the store."""
        root = Path(self._store.root) if self._store.local else self._root()
        return folder.relative_to(root).as_posix() if folder.is_relative_to(root) else None

    def share(self, chosen: tuple[Path, Cursor] | None) -> tuple[Path, Cursor] | None:
        """Rank 0's choice on all workers, each with a folder on its node (collective).

        Raises:
            OSError: a node's copy is damaged.
        """
        if self._worker.world_size == 1:
            return chosen
        name = self.name_of(chosen[0]) if chosen and self._worker.rank == 0 else None
        choice = [(chosen, name)]
        dist.broadcast_object_list(choice, src=0)
        chosen, name = choice[0]
        if chosen is None or name is None or self._store.local:
            return chosen
        folder, cursor = chosen
        first = gather_objects(self._node, self._worker).index(self._node)
        if self._worker.rank == first != 0:
            folder = self._root() / name
            log.info("fetching checkpoint %s for this node", name)
            self._store.fetch(name, folder)
            if verify(folder) != cursor:
                raise OSError(f"{name}: the copy on this node is damaged")
        return gather_objects(folder, self._worker)[first], cursor

    def remove_copies(self) -> None:
        """Remove the copies, once every worker of the node has loaded."""
        if self._temporary is not None:
            self._temporary.remove()
            self._temporary = None

    def _root(self) -> Path:
        if self._temporary is None:
            self._temporary = Scratch("resume")
        return self._temporary.path.resolve()
