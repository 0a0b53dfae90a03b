"""The mirror of an output folder (`output_mirror`): runs, studies and sweeps, folder by folder.

`runs/KEY`, `studies/NAME` and `sweeps/NAME` each have a list with checksums, `results.json`, that
is written last. A file lies under its name and the beginning of its digest, so that a reader of a
list finds what it names while newer files are written, and several writers disturb nobody.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path

from cola.checksums import recorded_checksums
from cola.errors import SpecError, StorageError
from cola.files import sha256_of
from cola.records import Artifact
from cola.study import StudySpec
from orchestration.checkpoint.address import is_folder, resolved
from orchestration.checkpoint.store import check_storage
from orchestration.cleanup.contents import Thing, run_keys
from orchestration.output_mirror.files import (
    ResultFile,
    copy_growing,
    is_of_model,
    own_names,
    reading,
    run_names,
)
from orchestration.output_mirror.folder_list import (
    DamagedError,
    FolderList,
    is_object,
    object_name,
    parse_folder_list,
)
from orchestration.output_mirror.stored import StoredFiles
from orchestration.state.ledger import Ledger
from orchestration.state.paths import RunFolder, output_root
from orchestration.state.run_model import EXPORT_AGAIN
from orchestration.state.scratch import scratch_folder

log = logging.getLogger(__name__)

KEY = "output_mirror"


class OutputMirror:
    """The mirror of the output folder `root`. All methods raise StorageError where it fails."""

    def __init__(self, address: str, root: Path) -> None:
        """Open the mirror at this address; nothing is written.

        Raises:
            SpecError: it cannot be one, or lies in the output folder, or that in it.
        """
        self.files, self.root = StoredFiles.at(address, KEY), root
        self._ledger = Ledger(root)
        if self.files.filesystem.type_name == "local":
            check_apart(Path(self.files.root), root)

    @property
    def shown(self) -> str:
        """The address for messages, without secrets."""
        return self.files.shown

    def known(self, folder: str) -> FolderList | None:
        """The list of a folder; None where there is none.

        Raises:
            DamagedError: it is damaged.
        """
        return known_list(self.files, folder)

    def send_run(self, key: str) -> int:
        """Copy what the mirror lacks of a run; returns how many files.

        Of a run that is not finished: what another driver resumes from, beside its checkpoints. A
        run that is finished there, or has had more attempts, stays as it is.
        """
        entry, folder = self._ledger.entry(key), f"runs/{key}"
        if entry.state == "new":
            return 0
        before = self._replaceable(folder)
        if (
            before is not None
            and entry.state != "finished"
            and (before.state == "finished" or before.attempts > len(entry.attempts))
        ):
            return 0
        names = list(run_names(self.root, key))
        if entry.state in ("running", "interrupted"):
            names = [name for name in names if name.count("/") == 2 and not is_answer(name)]
        files, sent = self._send_files(folder, names)
        if before is not None and not any(map(is_of_model, names)):  # it may be gone here
            models = {n: f for n, f in before.files.items() if n.startswith("model/")}
            files |= models if before.state == entry.state else {}
        after = self._ledger.entry(key)
        if (after.state, len(after.attempts)) != (entry.state, len(entry.attempts)):
            return sent + self.send_run(key)  # what was copied may be of either time
        listed = FolderList(
            folder=folder, state=entry.state, attempts=len(entry.attempts), files=files
        )
        self._replace(before, listed)
        return sent

    def send_thing(self, thing: Thing) -> int:
        """Copy what the mirror lacks of a study's or sweep's own folder; returns how many files."""
        keys = run_keys(self.root, thing)
        before = self._replaceable(thing.folder)
        files, sent = self._send_files(thing.folder, own_names(self.root, thing))
        self._replace(before, FolderList(folder=thing.folder, runs=keys, files=files))
        return sent

    def discard(self, folder: str) -> None:
        """Remove a folder from the mirror, its list first."""
        self.files.delete(f"{folder}/{Artifact.RESULTS}")
        for name in self.files.sizes(folder):
            if is_object(name):  # checkpoints may lie beside them
                self.files.delete(f"{folder}/{name}")

    def lacks(self, listed: FolderList) -> list[str]:
        """The objects of a list that are not there, or not with its bytes; none is read."""
        there = self.files.sizes(listed.folder)
        return [name for name, size in listed.objects().items() if there.get(name) != size]

    def _replaceable(self, folder: str) -> FolderList | None:
        """The list that is there; a damaged one passes for none, as it is about to be replaced."""
        try:
            return self.known(folder)
        except DamagedError as error:
            log.warning("%s; it is written anew", error)
            return None

    def _send_files(self, folder: str, names: Iterable[str]) -> tuple[dict[str, ResultFile], int]:
        """Store the files that are not there; returns all of them, and how many were sent."""
        there, sent = self.files.sizes(folder), 0
        files: dict[str, ResultFile] = {}
        recorded = recorded_checksums(RunFolder(self.root / folder).model)
        with scratch_folder("mirror") as scratch:
            for name in names:
                inner = name.removeprefix(f"{folder}/")
                known = recorded.get(inner.removeprefix("model/")) if is_of_model(name) else None
                path, file = self._as_it_is(name, scratch / "file", known)
                target = object_name(inner, file.sha256)
                files[inner] = file
                if there.get(target) != file.bytes:
                    self._store(path, f"{folder}/{target}", file)
                    sent += 1
        return files, sent

    def _as_it_is(self, name: str, copy: Path, recorded: str | None) -> tuple[Path, ResultFile]:
        """A file whose content stays, and its digest: a model's is its recorded one."""
        path = self.root / name
        if recorded is None:
            digest = copy_growing(path, copy)
            return copy, ResultFile(bytes=copy.stat().st_size, sha256=digest)
        with reading(path):
            return path, ResultFile(bytes=path.stat().st_size, sha256=recorded)

    def _store(self, path: Path, name: str, file: ResultFile) -> None:
        if path.is_relative_to(self.root):
            with reading(path):
                found = sha256_of(path)
            if found != file.sha256:
                raise StorageError(
                    f"{path}: is not what its checksum says, so that it is not copied to "
                    f"{KEY}={self.shown}; {EXPORT_AGAIN}"
                )
        self.files.write(path, name)

    def _replace(self, before: FolderList | None, listed: FolderList) -> None:
        """Write a list whose files are there, then remove those that only the one before names."""
        if listed == before:
            return
        text = listed.model_dump_json(indent=1)
        self.files.write_text(text, f"{listed.folder}/{Artifact.RESULTS}")
        kept = listed.objects()
        for name in before.objects() if before is not None else ():
            if name not in kept:
                self.files.delete(f"{listed.folder}/{name}")


def known_list(files: StoredFiles, folder: str) -> FolderList | None:
    """The list of a folder in a mirror; None where there is none.

    Raises:
        DamagedError: it is damaged.
        StorageError: the mirror does not answer.
    """
    name = f"{folder}/{Artifact.RESULTS}"
    text = files.text(name)
    return None if text is None else parse_folder_list(text, folder, name)


def is_answer(name: str) -> bool:
    """Whether a run's file is what only its finished model gives."""
    return name.rpartition("/")[2] in (Artifact.SAMPLES, Artifact.EVALUATION)


def mirror_of(study: StudySpec, *, check: bool = False) -> OutputMirror | None:
    """The mirror of a study's output; None where it has none.

    Raises:
        SpecError: `output_mirror` cannot be one.
        StorageError: with `check`, a file cannot be written to it and read back.
    """
    if study.output_mirror is None:
        return None
    mirror = OutputMirror(study.output_mirror, output_root(study))
    if check:
        check_storage(study.output_mirror, KEY)
    return mirror


def check_mirror_address(study: StudySpec) -> None:
    """Check the address alone, for a study that runs elsewhere.

    Raises:
        SpecError: it holds credentials, names no bucket, or is the output folder.
    """
    if study.output_mirror is None:
        return
    address = resolved(study.output_mirror, KEY)
    if is_folder(address):
        check_apart(Path(address), output_root(study))


def check_apart(mirror: Path, root: Path) -> None:
    """Refuse a mirror that is the output folder, or one of the two in the other, or whose path is
    a misspelt address.

    Raises:
        SpecError: it is.
    """
    scheme = next((part for part in mirror.parts if re.match(r"[a-z][a-z0-9+]*:", part)), None)
    if scheme is not None:
        raise SpecError(
            f"{KEY}={mirror}: would be a folder of this machine; write an address as "
            "s3://bucket/prefix, whose credentials come from the environment, or a plain path "
            f"without {scheme!r}"
        )
    real, output = (Path(os.path.realpath(path)) for path in (mirror, root))
    if real == output or real.is_relative_to(output) or output.is_relative_to(real):
        raise SpecError(
            f"{KEY}={mirror}: is the output folder ({root}), or one of them lies in the other; "
            "name an object store (s3://bucket/prefix) or another folder"
        )
