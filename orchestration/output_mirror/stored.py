"""Files below one address of an object store, or below a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cola.errors import StorageError, one_line
from cola.files import write_atomically
from orchestration.checkpoint.address import STORAGE_KEY, joined, redacted, resolved
from orchestration.checkpoint.store import copy_file, open_filesystem
from orchestration.cleanup.contents import Thing

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

RESULTS = "results"  # beside checkpoints: `<checkpoint.storage>/results/...`


@dataclass(frozen=True)
class StoredFiles:
    """Files below one address. All methods raise StorageError where the store fails."""

    address: str
    filesystem: FileSystem
    root: str
    key: str = STORAGE_KEY  # of the specification, for messages

    @classmethod
    def of(cls, storage: str, thing: Thing) -> StoredFiles:
        """The results of a thing in this `checkpoint.storage`; nothing is written.

        Raises:
            SpecError, StorageError: see `open_filesystem`.
        """
        address = joined(resolved(storage), f"{RESULTS}/{thing.folder}")
        return cls(address, *open_filesystem(address))

    @classmethod
    def at(cls, storage: str, key: str) -> StoredFiles:
        """All below the address that a specification has under this key; nothing is written.

        Raises:
            SpecError, StorageError: see `open_filesystem`.
        """
        address = resolved(storage, key)
        return cls(address, *open_filesystem(address, key), key)

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

    def text(self, name: str) -> bytes | None:
        """What a small file holds; None where there is none."""
        with self._errors():
            try:
                with self.filesystem.open_input_stream(f"{self.root}/{name}") as file:
                    return bytes(file.read())
            except FileNotFoundError:
                return None

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of each file below a folder, by its name within it; none where there is none."""
        from pyarrow.fs import FileSelector, FileType

        start = f"{self.root}/{folder}/".lstrip("/")
        selector = FileSelector(f"{self.root}/{folder}", recursive=True, allow_not_found=True)
        with self._errors():
            infos = self.filesystem.get_file_info(selector)
        return {
            info.path.lstrip("/").removeprefix(start): int(info.size or 0)
            for info in infos
            if info.type == FileType.File
        }

    def write(self, path: Path, name: str) -> None:
        """Store a file under this name."""
        target = f"{self.root}/{name}"
        with self._errors():
            self.filesystem.create_dir(target.rpartition("/")[0], recursive=True)
            copy_file(self.filesystem, str(path), target, outward=True)

    def write_text(self, text: str, name: str) -> None:
        """Store a small file whole: readers see what was there before, or this."""
        target = f"{self.root}/{name}"
        with self._errors():
            if self.filesystem.type_name == "local":
                write_atomically(Path(target), text)
                return
            self.filesystem.create_dir(target.rpartition("/")[0], recursive=True)
            with self.filesystem.open_output_stream(target) as file:
                file.write(text.encode())

    def delete(self, name: str) -> None:
        """Remove a file; one that is gone already is no error."""
        with self._errors():
            try:
                self.filesystem.delete_file(f"{self.root}/{name}")
            except FileNotFoundError:
                return

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"{self.key}={self.shown}: results cannot be read or written "
                f"({one_line(error, 200)}); check the address, the network, and the credentials in "
                "the environment (as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
            ) from None
