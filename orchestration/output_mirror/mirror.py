"""The mirror of an output folder (`output_mirror`): runs, studies and sweeps, folder by folder.

`runs/KEY`, `studies/NAME` and `sweeps/NAME` each have a list with checksums, `results.json`, that
is written last. A file lies under its name and the beginning of its digest, so that newer files
disturb no reader of a list. What only an older list of a run names is removed at once, as a run
has one writer: the driver that made its last attempt. A study's or sweep's folder may have several,
each of which writes a list of its own: there an object is removed once no list has named it for a
while.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

from cola.checksums import recorded_checksums
from cola.errors import SpecError, StorageError
from cola.files import sha256_of, write_atomically
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
    UnusableError,
    is_object,
    object_name,
    parse_folder_list,
)
from orchestration.output_mirror.stored import StoredFiles
from orchestration.state.ledger import Entry, Ledger
from orchestration.state.paths import RunFolder, output_root
from orchestration.state.run_model import EXPORT_AGAIN, damage_of_model
from orchestration.state.scratch import scratch_folder

log = logging.getLogger(__name__)

KEY = "output_mirror"
TAKEN = ".from-mirror.json"  # in a run's folder here: the list by which it was taken
# Of objects that no list of a study's folder names; chosen: longer than a writer needs from looking
# at what is there to its list, with clocks of hosts that differ by minutes.
FORMER_SECONDS = 900.0


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

    def has_finished(self, folder: str) -> bool:
        """Whether the run of a folder is finished here."""
        return self._ledger.known_entry(folder.rpartition("/")[2]).state == "finished"

    def send_run(self, key: str) -> int:
        """Copy what the mirror lacks of a run; returns how many files.

        Of a run that is not finished: what another driver resumes from, beside its checkpoints. A
        run that is finished there, has had more attempts, or was taken from there and has had none
        since, stays as it is. Of a finished run whose model is not whole here, the one there stays.
        """
        entry, folder = self._ledger.entry(key), f"runs/{key}"
        if entry.state == "new":
            return 0
        before = self._replaceable(folder)
        if self._stays(before, entry):
            return 0
        names = list(run_names(self.root, key))
        is_lost = damage_of_model(self.root / folder, contents=False) is not None
        if entry.state == "finished" and is_lost:
            names = [name for name in names if not is_of_model(name)]
        if entry.state in ("running", "interrupted"):
            names = [name for name in names if name.count("/") == 2 and not is_answer(name)]
        files, sent = self._send_files(folder, names)
        if before is not None and not any(map(is_of_model, names)):
            models = {n: f for n, f in before.files.items() if n.startswith("model/")}
            files |= models if before.state == entry.state else {}
        after = self._ledger.entry(key)
        if (after.state, len(after.attempts)) != (entry.state, len(entry.attempts)):
            return sent + self.send_run(key)  # what was copied may be of either time
        listed = FolderList(
            folder=folder, state=entry.state, attempts=len(entry.attempts), files=files
        )
        if self._stays(self._replaceable(folder), entry):
            return sent  # another driver was faster
        self._replace(listed, at_once=True)
        taken = self._taken(folder)
        if taken is not None and taken.attempts >= listed.attempts:
            write_atomically(self.root / folder / TAKEN, listed.model_dump_json())
        return sent

    def _stays(self, there: FolderList | None, entry: Entry) -> bool:
        """Whether what the mirror has of a run is not to be replaced by what is here."""
        if there is None:
            return False
        own, is_finished = len(entry.attempts), there.state == "finished"
        if entry.state != "finished" and (is_finished or there.attempts > own):
            return True
        taken = self._taken(there.folder)
        if taken is None or taken.attempts < own or there.attempts < own:
            return False  # the last attempt was made here
        # Of a finished run there may be later answers, on either side.
        return entry.state != "finished" or (is_finished and there != taken)

    def _taken(self, folder: str) -> FolderList | None:
        """The list by which a run was taken from the mirror; None where it was not."""
        path = self.root / folder / TAKEN
        if not path.is_file():
            return None
        with reading(path):
            return parse_folder_list(path.read_bytes(), folder, str(path))

    def send_thing(self, thing: Thing) -> int:
        """Copy what the mirror lacks of a study's or sweep's own folder; returns how many files."""
        keys = run_keys(self.root, thing)
        self._replaceable(thing.folder)  # a newer release's is left before anything is sent
        files, sent = self._send_files(thing.folder, own_names(self.root, thing))
        listed = FolderList(folder=thing.folder, runs=keys, files=files)
        self._replace(listed, at_once=False)
        return sent

    def discard(self, folder: str, damaged: FolderList | None) -> None:
        """Remove a folder from the mirror, its list first, unless another list than the `damaged`
        one is there by then; None: the list itself was damaged."""
        try:
            if self.known(folder) != damaged:
                return
        except DamagedError as error:
            if damaged is not None or isinstance(error, UnusableError):
                return
        self.files.delete(f"{folder}/{Artifact.RESULTS}")
        for name in self.files.sizes(folder):
            if is_object(name):  # checkpoints may lie beside them
                self.files.delete(f"{folder}/{name}")

    def lacks(self, listed: FolderList) -> list[str]:
        """The objects of a list that are not there, or not with its bytes; none is read."""
        there = self.files.sizes(listed.folder)
        return [name for name, size in listed.objects().items() if there.get(name) != size]

    def _replaceable(self, folder: str) -> FolderList | None:
        """The list that is there; a damaged one passes for none, as it is about to be replaced.

        Raises:
            UnusableError: a newer release wrote it.
        """
        try:
            return self.known(folder)
        except UnusableError:
            raise
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

    def _replace(self, listed: FolderList, *, at_once: bool) -> None:
        """Write a list whose files are there, then remove what only lists before it name: at once,
        or where none has named it for FORMER_SECONDS."""
        before, now = self._replaceable(listed.folder), time.time()  # others may have written it
        former = {} if before is None else before.former | dict.fromkeys(before.objects(), now)
        kept = listed.objects()
        former = {name: since for name, since in former.items() if name not in kept}
        old = [name for name, since in former.items() if at_once or now - since > FORMER_SECONDS]
        left = {name: since for name, since in former.items() if name not in old}
        listed = listed.model_copy(update={"former": left})
        if listed == before:
            return
        text = listed.model_dump_json(indent=1)
        self.files.write_text(text, f"{listed.folder}/{Artifact.RESULTS}")
        for name in old:
            if is_object(name):
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
