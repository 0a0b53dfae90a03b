"""Ways to a study's or sweep's results on a cluster: a shared folder, its object store, MLflow.

A further way is one more opener in `OPENERS`: a function from where the results are to a source, or
to the reason why it is none.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cola.checksums import recorded_checksums
from cola.errors import ColaError, SpecError, first_of
from cola.files import sha256_of, storage_errors
from cola.records import Artifact, SweepFile
from cola.spec import load_yaml
from cola.spec.address import resolve_address
from cola.study import StudySpec
from orchestration.checkpoint.address import is_folder, redacted
from orchestration.cleanup.contents import Thing
from orchestration.results.files import (
    ResultList,
    is_of_model,
    parse_list,
    result_names,
)
from orchestration.results.stored import StoredFiles
from orchestration.state.paths import OutputFolder, RunFolder
from orchestration.tracking.artifacts import StudyArtifacts

CHUNK_BYTES = 2**22  # chosen value: of a copy


@dataclass(frozen=True)
class Origin:
    """Where the results of a study or sweep are, as its cluster knows it."""

    thing: Thing
    cluster: str  # for messages, as "--cluster NAME"
    output: str  # its output folder on the cluster
    digest: str | None  # `StudySpec.content_hash` of a study as it was submitted
    tracking: str | None  # `tracking.uri`
    storage: str | None  # `checkpoint.storage`


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


def _reading(path: Path) -> AbstractContextManager[None]:
    return storage_errors(path, remedy="check its permissions and its disk", done="read")


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
            with _reading(self.root / name):
                found[name] = (self.root / name).stat().st_size
        return found

    def digest(self, name: str) -> str:
        """See `Source`; of a model's file it is the one that was recorded when it was written."""
        recorded = self._recorded(name)
        if recorded is not None:
            return recorded
        with _reading(self.root / name):
            return sha256_of(self.root / name)

    def bring(self, name: str, folder: Path) -> tuple[Path, str]:
        """See `Source`: a file that grows meanwhile has the sum of what was read of it."""
        path, target, digest = self.root / name, folder / Path(name).name, hashlib.sha256()
        with _reading(path):
            file = path.open("rb")
        with file, target.open("wb") as copy:  # what this disk does not take is the caller's
            while True:
                with _reading(path):
                    chunk = file.read(CHUNK_BYTES)
                if not chunk:
                    break
                digest.update(chunk)
                copy.write(chunk)
            copy.flush()
            os.fsync(copy.fileno())
        return target, self._recorded(name) or digest.hexdigest()

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


OPENERS: tuple[Opener, ...] = (shared_folder, object_store, mlflow_artifacts)
