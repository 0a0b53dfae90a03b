"""Results in an object store, beside the checkpoints: `<checkpoint.storage>/results/...`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cola.errors import StorageError, one_line
from orchestration.checkpoint.address import joined, redacted, resolved
from orchestration.checkpoint.store import copy_file, open_filesystem
from orchestration.cleanup.contents import Thing

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

RESULTS = "results"


@dataclass(frozen=True)
class StoredFiles:
    """Files below one address. All methods raise StorageError where the store fails."""

    address: str
    filesystem: FileSystem
    root: str

    @classmethod
    def of(cls, storage: str, thing: Thing) -> StoredFiles:
        """Those of a thing in this `checkpoint.storage`; nothing is written.

        Raises:
            SpecError, StorageError: see `open_filesystem`.
        """
        address = joined(resolved(storage), f"{RESULTS}/{thing.folder}")
        return cls(address, *open_filesystem(address))

    @property
    def shown(self) -> str:
        """The address for messages, without secrets."""
        return redacted(self.address)

    def read(self, name: str, folder: Path) -> Path | None:
        """The file of this name, brought into an empty folder; None where there is none."""
        from pyarrow.fs import FileType

        target = folder / name.rpartition("/")[2]
        with self._errors():
            (info,) = self.filesystem.get_file_info([f"{self.root}/{name}"])
            if info.type != FileType.File:
                return None
            copy_file(self.filesystem, f"{self.root}/{name}", str(target), outward=False)
        return target

    def write(self, path: Path, name: str) -> None:
        """Store a file under this name."""
        target = f"{self.root}/{name}"
        with self._errors():
            self.filesystem.create_dir(target.rpartition("/")[0], recursive=True)
            copy_file(self.filesystem, str(path), target, outward=True)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"checkpoint.storage={self.shown}: results cannot be read or written "
                f"({one_line(error, 200)}); check the address, the network, and the credentials in "
                "the environment (as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
            ) from None
