"""Where a run's checkpoints are stored: in a folder or an object store.

All access goes through `pyarrow.fs`, as in Ray Train. A run's checkpoints are the folders
`attempt-N/step-NNNNNNNNN` below the run's folder. Names that come from a listing or a manifest are
untrusted: none that leads outside is used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from cola.errors import SpecError, StorageError, one_line
from cola.files import write_atomically
from cola.spec.resources import CheckpointSpec
from orchestration.checkpoint.address import STORAGE_KEY, joined, redacted, resolved
from orchestration.checkpoint.manifest import (
    CheckpointNote,
    Manifest,
    is_safe,
    manifest_name,
    parse_manifest,
    safe_name,
)
from orchestration.checkpoint.retention import CheckpointSummary
from orchestration.state.paths import RunFolder

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

FOLDER = re.compile(r"attempt-(\d+)/step-(\d+)")
CHUNK_BYTES = 64 * 1024 * 1024  # chosen value: of a copy, few requests and little memory
PROBE_SECONDS = 60.0  # chosen value: a store that takes longer is taken for absent


@dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint in a store, whole or not; `files` gives the bytes of each file by its name."""

    attempt: int
    step: int
    files: Mapping[str, int]

    @property
    def name(self) -> str:
        """Its folder, relative to the run's."""
        return checkpoint_name(self.attempt, self.step)


def checkpoint_name(attempt: int, step: int) -> str:
    """The folder of a checkpoint, relative to its run's."""
    return f"attempt-{attempt}/step-{step:09d}"


class CheckpointStore:
    """The checkpoints of one run. All methods raise OSError where the store cannot be reached."""

    def __init__(self, address: str) -> None:
        """Open the store at `address` (a folder's absolute path or a URI); nothing is written.

        Raises:
            SpecError, StorageError: see `open_filesystem`.
        """
        self.address = address
        self.filesystem, self.root = open_filesystem(address)
        self.local = self.filesystem.type_name == "local"

    @property
    def shown(self) -> str:
        """The address for messages, without secrets."""
        return redacted(self.address)

    def path(self, name: str) -> str:
        """A checkpoint's path within the file system."""
        return f"{self.root}/{name}"

    def folder(self, name: str) -> Path:
        """A checkpoint's folder in a local store."""
        return Path(self.path(name))

    def stored(self) -> list[StoredCheckpoint]:
        """The checkpoints of all attempts, whole or not, sorted by attempt and step."""
        files: dict[tuple[int, int], dict[str, int]] = {}
        for name, size in self._listing():
            match = FOLDER.match(name)
            inner = name[match.end() + 1 :] if match else ""
            if match and inner and name.startswith(f"{match[0]}/"):
                attempt_and_step = int(match[1]), int(match[2])
                if checkpoint_name(*attempt_and_step) == match[0]:
                    files.setdefault(attempt_and_step, {})[inner] = size
        return [StoredCheckpoint(*key, files[key]) for key in sorted(files)]

    def manifest(self, stored: StoredCheckpoint, rank: int = 0) -> Manifest | None:
        """A worker's manifest, or None where there is no whole one; files are not checked."""
        if manifest_name(rank) not in stored.files:
            return None
        path = f"{self.path(stored.name)}/{manifest_name(rank)}"
        try:
            with self.filesystem.open_input_stream(path) as file:
                return parse_manifest(file.read())
        except FileNotFoundError:  # pruned since it was listed
            return None

    def manifests(self, stored: StoredCheckpoint) -> list[Manifest]:
        """The manifests of all workers by rank, or none where one of them is missing.

        Parts of another save with the same name, left over from a crash, make it none, too.
        """
        first = self.manifest(stored)
        if first is None:
            return []
        others = [self.manifest(stored, rank) for rank in range(1, first.cursor.world_size)]
        manifests = [first, *(manifest for manifest in others if manifest is not None)]
        same = all(manifest.cursor.is_same_save(first.cursor) for manifest in manifests)
        return manifests if same and len(manifests) == first.cursor.world_size else []

    def complete(self, stored: StoredCheckpoint) -> Manifest | None:
        """Rank 0's manifest where the listing has those of all workers, else None.

        Manifests are written last, so all files were there at that time; no file is read.
        """
        first = self.manifest(stored)
        if first is None:
            return None
        ranks = range(first.cursor.world_size)
        return first if all(manifest_name(rank) in stored.files for rank in ranks) else None

    def summary(self, stored: StoredCheckpoint) -> CheckpointSummary:
        """What retention compares of a checkpoint."""
        manifest = self.complete(stored)
        note = manifest.note if manifest is not None else CheckpointNote()
        return CheckpointSummary(
            name=stored.name,
            attempt=stored.attempt,
            step=stored.step,
            whole=manifest is not None,
            validation_nll=note.validation_nll,
            evaluation_point=note.evaluation_point,
        )

    def upload(self, part: Path, name: str) -> None:
        """Copy a worker's sealed part into the checkpoint `name`, its manifest last."""
        names = [p.relative_to(part).as_posix() for p in sorted(part.rglob("*")) if p.is_file()]
        target = self.path(name)
        for folder in sorted({f"{target}/{file}".rpartition("/")[0] for file in names}):
            self.filesystem.create_dir(folder, recursive=True)
        for file in sorted(names, key=is_manifest):
            if self.local and is_manifest(file):
                write_atomically(self.folder(name) / file, (part / file).read_text())
            else:
                copy_file(self.filesystem, str(part / file), f"{target}/{file}", outward=True)

    def mirror_manifests(self, target: Path) -> list[Path]:
        """Copy the manifests of each checkpoint into `target/attempt-N/step-...`; returns those
        folders."""
        folders = []
        for stored in self.stored():
            names = [name for name in stored.files if is_manifest(name)]
            self._bring(stored.name, names, target / stored.name)
            if names:
                folders.append(target / stored.name)
        return folders

    def fetch(self, name: str, target: Path) -> None:
        """Copy a checkpoint's files into `target`, unchecked.

        Raises:
            FileNotFoundError: where the store has no such checkpoint.
        """
        stored = next((item for item in self.stored() if item.name == name), None)
        if stored is None:
            raise FileNotFoundError(f"{redacted(self.address)}: holds no {name}")
        self._bring(name, stored.files, target)

    def delete(self, stored: StoredCheckpoint) -> None:
        """Remove a checkpoint, its manifests first: half removed it is not whole."""
        path = self.path(stored.name)
        for file in sorted(filter(is_manifest, stored.files)):
            self.filesystem.delete_file(f"{path}/{file}")
        self.filesystem.delete_dir(path)

    def _listing(self) -> Iterator[tuple[str, int]]:
        """Path and bytes of each regular file below the root, without those behind links."""
        from pyarrow.fs import FileSelector, FileType

        selector = FileSelector(self.root, recursive=True, allow_not_found=True)
        start = self.root.strip("/") + "/"
        real_root = Path(self.root).resolve() if self.local else None
        for info in self.filesystem.get_file_info(selector):
            path = info.path.lstrip("/")
            if info.type != FileType.File or not path.startswith(start):
                continue
            name = path[len(start) :]
            if not is_safe(name):
                continue
            if real_root is None or (real_root / name).resolve() == real_root / name:
                yield name, int(info.size or 0)

    def _bring(self, name: str, files: Iterable[str], target: Path) -> None:
        for file in sorted(files):
            path = target / PurePosixPath(safe_name(file))
            path.parent.mkdir(parents=True, exist_ok=True)
            copy_file(self.filesystem, f"{self.path(name)}/{file}", str(path), outward=False)


def copy_file(filesystem: FileSystem, source: str, target: str, *, outward: bool) -> None:
    """Copy a file of this machine to a file system (`outward`), or one from there to here."""
    from pyarrow.fs import LocalFileSystem, copy_files

    here = LocalFileSystem()
    copy_files(
        source,
        target,
        source_filesystem=here if outward else filesystem,
        destination_filesystem=filesystem if outward else here,
        chunk_size=CHUNK_BYTES,
        use_threads=False,  # several threads within one upload to S3 are not safe in Arrow
    )


def is_manifest(name: str) -> bool:
    """Whether a file of a checkpoint is a worker's manifest."""
    return re.fullmatch(r"manifest-\d{5,}\.json", name) is not None


def store_address(storage: str | None, run_folder: Path) -> str:
    """Address of the checkpoints of the run in `run_folder`: in that folder, or in `storage`."""
    if storage is None:
        return str(RunFolder(run_folder).ray)
    return joined(resolved(storage), run_folder.name)


def with_absolute_storage(spec: CheckpointSpec) -> CheckpointSpec:
    """The specification with an absolute storage folder: workers change their directory."""
    if spec.storage is None:
        return spec
    return spec.model_copy(update={"storage": resolved(spec.storage)})


def open_store(storage: str | None, run_folder: Path) -> CheckpointStore:
    """The store of a run's checkpoints.

    Raises:
        SpecError, StorageError: see `open_filesystem`.
    """
    return CheckpointStore(store_address(storage, run_folder))


def open_filesystem(address: str, key: str = STORAGE_KEY) -> tuple[FileSystem, str]:
    """File system and path of an address, by pyarrow or by an fsspec implementation.

    `key` is what messages name.

    Raises:
        SpecError: where neither knows such an address.
        StorageError: where its store does not answer.
    """
    from pyarrow import ArrowException
    from pyarrow.fs import FileSystem

    try:
        filesystem, path = FileSystem.from_uri(address)
    except OSError as error:
        raise StorageError(
            f"{key}={redacted(address)}: cannot be opened ({one_line(error, 200)}); "
            "check the address and the network"
        ) from None
    except (ArrowException, ValueError, ImportError) as error:
        raise SpecError(
            f"{key}={redacted(address)}: cannot be opened ({one_line(error, 200)}); "
            "give an absolute folder or an address as s3://bucket/prefix, gs://bucket/prefix or "
            "fsspec+SCHEME://... of an installed fsspec implementation"
        ) from None
    return filesystem, path.rstrip("/")


def check_storage(storage: str | None, key: str = STORAGE_KEY) -> None:
    """Check that a file can be written to the storage of this key, read back and deleted.

    Raises:
        SpecError: for an address that cannot be one.
        StorageError: where one of these fails, or the store does not answer.
    """
    if storage is None:
        return
    address = resolved(storage, key)
    pool = ThreadPoolExecutor(1, thread_name_prefix="cola-probe")
    try:
        pool.submit(_probe, address, key).result(PROBE_SECONDS)
    except TimeoutError:
        raise StorageError(
            f"{key}={redacted(storage)}: gave no answer for {PROBE_SECONDS:g} s; "
            "check the address and the network"
        ) from None
    except OSError as error:
        raise StorageError(
            f"{key}={redacted(storage)}: cannot be written ({one_line(error, 300)}); "
            "check that the folder or bucket exists and that this user may write there (an object "
            "store takes credentials from the environment, as AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY)"
        ) from None
    finally:
        pool.shutdown(wait=False)


def _probe(address: str, key: str) -> None:
    filesystem, root = open_filesystem(address, key)
    path = f"{root}/.cola-writable"
    filesystem.create_dir(root, recursive=True)
    with filesystem.open_output_stream(path) as file:
        file.write(b"cola")
    with filesystem.open_input_stream(path) as file:
        if file.read() != b"cola":
            raise OSError("what was written does not come back")
    filesystem.delete_file(path)
