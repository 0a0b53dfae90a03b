"""Ways to a study's or sweep's results on a cluster: a shared folder, its output's mirror, its
object store, MLflow.

A further way is one more opener in `OPENERS`: a function from where the results are to a source, or
to the reason why it is none.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cola.checksums import recorded_checksums
from cola.errors import ColaError, SpecError, StorageError, first_of
from cola.files import sha256_of
from cola.records import Artifact, SweepFile
from cola.spec import load_yaml
from cola.spec.address import resolve_address
from cola.study import StudySpec
from orchestration.checkpoint.address import is_folder, redacted
from orchestration.cleanup.contents import Thing
from orchestration.output_mirror.bring import THREADS
from orchestration.output_mirror.files import (
    ResultFile,
    ResultList,
    copy_growing,
    is_of_model,
    parse_list,
    reading,
    result_names,
)
from orchestration.output_mirror.folder_list import FolderList, object_name
from orchestration.output_mirror.mirror import KEY as MIRROR_KEY
from orchestration.output_mirror.mirror import known_list
from orchestration.output_mirror.stored import StoredFiles
from orchestration.state.paths import OutputFolder, RunFolder
from orchestration.tracking.artifacts import StudyArtifacts


@dataclass(frozen=True)
class Origin:
    """Where the results of a study or sweep are, as its cluster knows it."""

    thing: Thing
    cluster: str  # for messages, as "--cluster NAME"
    output: str  # its output folder on the cluster
    digest: str | None  # `StudySpec.content_hash` of a study as it was submitted
    tracking: str | None  # `tracking.uri`
    storage: str | None  # `checkpoint.storage`
    mirror: str | None = None  # `output_mirror`


class Source(Protocol):
    """A way to results. All methods raise ColaError."""

    @property
    def shown(self) -> str:
        """What it is, for messages."""

    def sizes(self, models: bool) -> Mapping[str, int]:
        """Bytes of each result file by its name.

        Raises:
            SpecError: models are asked for, and it has none.
        """

    def digest(self, name: str) -> str:
        """SHA-256 (hex) of a file as it is there."""

    def bring(self, name: str, folder: Path) -> tuple[Path, str]:
        """The file in an empty folder, and the SHA-256 (hex) that it must have."""


@dataclass(frozen=True)
class SharedFolder:
    """The output folder itself, which this machine sees."""

    root: Path
    thing: Thing
    _checksums: dict[str, dict[str, str]] = field(default_factory=dict)  # of models, by run key

    @property
    def shown(self) -> str:
        """See `Source`."""
        return str(self.root)

    def sizes(self, models: bool) -> dict[str, int]:
        """See `Source`."""
        found = {}
        for name in result_names(self.root, self.thing, models=models):
            with reading(self.root / name):
                found[name] = (self.root / name).stat().st_size
        return found

    def digest(self, name: str) -> str:
        """See `Source`; of a model's file it is the one that was recorded when it was written."""
        recorded = self._recorded(name)
        if recorded is not None:
            return recorded
        with reading(self.root / name):
            return sha256_of(self.root / name)

    def bring(self, name: str, folder: Path) -> tuple[Path, str]:
        """See `Source`: a file that grows meanwhile has the sum of what was read of it."""
        target = folder / Path(name).name
        digest = copy_growing(self.root / name, target)
        return target, self._recorded(name) or digest

    def _recorded(self, name: str) -> str | None:
        if not is_of_model(name):
            return None
        _, key, _, file = name.split("/", 3)
        if key not in self._checksums:
            model = RunFolder(OutputFolder(self.root).runs / key).model
            self._checksums[key] = recorded_checksums(model)
        return self._checksums[key].get(file)


@dataclass(frozen=True)
class Published:
    """Results that the driver published, with their list."""

    shown: str
    shelf: StudyArtifacts | StoredFiles
    listed: ResultList
    thing: Thing

    def sizes(self, models: bool) -> dict[str, int]:
        """See `Source`."""
        if models and not self.listed.models:
            raise SpecError(
                f"--models: {self.shown} holds no models of {self.thing.name}; leave it out, or "
                "fetch them where the output folder is seen (checkpoint.storage in an object "
                "store gets models too)"
            )
        files = self.listed.files.items()
        return {name: file.bytes for name, file in files if models or not is_of_model(name)}

    def digest(self, name: str) -> str:
        """See `Source`."""
        return self.listed.files[name].sha256

    def bring(self, name: str, folder: Path) -> tuple[Path, str]:
        """See `Source`."""
        path = self.shelf.read(self.thing.published(name), folder)
        if path is None:
            raise SpecError(
                f"{self.shown}: lacks {name}, which its list of results names; remove "
                f"{Artifact.RESULTS} there and resume {self.thing.name} on the cluster: its driver "
                "then publishes everything again"
            )
        return path, self.digest(name)


@dataclass(frozen=True)
class Mirrored:
    """Results in the output's mirror, with the list of each folder that was there."""

    files: StoredFiles
    thing: Thing
    _lists: Mapping[str, FolderList]  # by folder

    @property
    def shown(self) -> str:
        """See `Source`."""
        return self.files.shown

    def sizes(self, models: bool) -> dict[str, int]:
        """See `Source`; runs come before what names them."""
        return {
            f"{folder}/{name}": file.bytes
            for folder, listed in self._lists.items()
            for name, file in listed.files.items()
            if models or not is_of_model(f"{folder}/{name}")
        }

    def digest(self, name: str) -> str:
        """See `Source`."""
        return self._found(name)[1].sha256

    def bring(self, name: str, folder: Path) -> tuple[Path, str]:
        """See `Source`."""
        where, file = self._found(name)
        inner = name.removeprefix(f"{where}/")
        path = self.files.read(f"{where}/{object_name(inner, file.sha256)}", folder)
        if path is None:
            raise StorageError(
                f"{self.shown}: lacks {name}, or has a newer one by now; fetch again, and if that "
                "does not help run the study again where its output is"
            )
        return path.rename(folder / Path(name).name), file.sha256

    def _found(self, name: str) -> tuple[str, ResultFile]:
        """The folder that a file is in, and its entry there."""
        folder = "/".join(name.split("/")[:2])
        return folder, self._lists[folder].files[name.removeprefix(f"{folder}/")]


Opener = Callable[[Origin], Source | str]


def open_source(origin: Origin) -> Source:
    """The first way to the results that is there.

    Raises:
        SpecError: there is none; the message says why each is none.
    """
    reasons = []
    for opener in OPENERS:
        try:
            found = opener(origin)
        except ColaError as error:
            found = str(error)
        if not isinstance(found, str):
            return found
        reasons.append(found)
    raise SpecError(
        f"{origin.cluster}: no way from here to the results of {origin.thing.name}: "
        f"{first_of(reasons, len(OPENERS), '; ')}. Fetch them where the folder is seen, or give "
        "the study a tracking server (tracking.uri), to which its driver publishes them"
    )


def shared_folder(origin: Origin) -> Source | str:
    """The output folder, where this machine sees it."""
    root, thing = Path(origin.output), origin.thing
    spec = Artifact.STUDY if thing.kind == "study" else SweepFile.SPEC
    path = root / thing.folder / spec
    if path.is_file():
        if origin.digest is not None:
            found = StudySpec.parse(load_yaml(path), origin=str(path)).content_hash()
            if found != origin.digest:
                return (
                    f"{root} on this machine holds another version of study {thing.name} than was "
                    "submitted (another folder of that name, or the job has not begun)"
                )
        return SharedFolder(root, thing)
    if root.is_dir():
        return f"{root} on this machine holds no {thing.kind} {thing.name}"
    return f"{root} is no folder that this machine sees"


def output_mirror(origin: Origin) -> Source | str:
    """What the driver copied to the output's mirror."""
    if origin.mirror is None:
        return "its output has no mirror"
    files, thing = StoredFiles.at(origin.mirror, MIRROR_KEY), origin.thing
    own = known_list(files, thing.folder)
    if own is None:
        return f"{files.shown} holds no {thing.kind} {thing.name}"
    with ThreadPoolExecutor(THREADS) as pool:
        lists = list(pool.map(lambda key: known_list(files, f"runs/{key}"), own.runs))
    runs = {found.folder: found for found in lists if found is not None}
    strange = next(
        (f"{folder}/{name}" for folder, found in [*runs.items(), (thing.folder, own)]
         for name in found.files if not thing.is_mine(f"{folder}/{name}")), None
    )  # fmt: skip
    if strange is not None:
        raise StorageError(f"{files.shown}: names {strange}, which is no result of {thing.name}")
    return Mirrored(files, thing, {**runs, thing.folder: own})


def object_store(origin: Origin) -> Source | str:
    """What was published beside the checkpoints."""
    storage = origin.storage
    if storage is None or is_folder(storage):
        return "its checkpoints are in no object store"
    return published(StoredFiles.of(storage, origin.thing), redacted(storage), origin.thing)


def mlflow_artifacts(origin: Origin) -> Source | str:
    """What was published to the study's run on a tracking server."""
    address = None if origin.tracking is None else resolve_address(origin.tracking)
    if address is None or not address.is_server:
        return "it has no tracking server"
    return published(
        StudyArtifacts(address, origin.thing.name), f"MLflow at {address.shown}", origin.thing
    )


def published(shelf: StudyArtifacts | StoredFiles, shown: str, thing: Thing) -> Source | str:
    """The results on a shelf, by their list."""
    with tempfile.TemporaryDirectory(prefix="cola-fetch-") as folder:
        path = shelf.read(Artifact.RESULTS, Path(folder))
        if path is None:
            return f"{shown} holds no results of it (they are published when its job ends)"
        listed = parse_list(path.read_bytes(), f"{shown}, {Artifact.RESULTS}", thing)
    return Published(shown, shelf, listed, thing)


OPENERS: tuple[Opener, ...] = (shared_folder, output_mirror, object_store, mlflow_artifacts)
