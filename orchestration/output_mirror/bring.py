"""Brings runs and a thing's own files from a mirror into the output folder, checked and whole."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from cola.checksums import damage_in
from cola.errors import ColaError, one_line
from cola.files import read_record, sha256_of, storage_errors, write_atomically
from cola.records import Artifact
from orchestration.cleanup.contents import Thing
from orchestration.output_mirror.files import LEFT_OUT, run_entries
from orchestration.output_mirror.folder_list import (
    DamagedError,
    FolderList,
    UnusableError,
    object_name,
)
from orchestration.output_mirror.mirror import TAKEN, OutputMirror
from orchestration.planning.catalog import load_run_spec
from orchestration.state.ledger import Entry, LeaseHeldError, Ledger
from orchestration.state.paths import RunFolder, StudyFolder
from orchestration.state.run_model import damage_of_model

log = logging.getLogger(__name__)

THREADS = 8  # chosen: an answer of an object store takes tens of milliseconds
TRIES = 4  # chosen: a list is replaced every 20 s at most, by whoever trains the run
ABANDONED_SECONDS = 3600.0  # chosen: of a folder that a killed driver left
MAKE_ROOM = "make room, or check its permissions; the same command brings the rest"


@dataclass(frozen=True)
class Brought:
    """A run that was taken from the mirror in this state, or why it was not: its damage there.

    What is damaged is that of the list `listed`; None: the list itself. It is `usable` elsewhere
    where only this release, or only now, it cannot be read.
    """

    key: str
    state: str
    damage: str | None = None
    listed: FolderList | None = None
    usable: bool = False


def bring_runs(mirror: OutputMirror, keys: Sequence[str]) -> list[Brought]:
    """Take the runs in which the mirror is ahead of the output folder; those alone are returned.

    Raises:
        StorageError: the mirror does not answer, or the folder cannot be written.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda key: bring_run(mirror, key), keys)
        return [each for each in found if each is not None]


def bring_run(mirror: OutputMirror, key: str, *, model_lost: bool = False) -> Brought | None:
    """Take a run if the mirror is ahead in it; None where it is not. `model_lost`: what is here of
    a finished run's model is known to be damaged.

    Raises:
        StorageError: see `bring_runs`.
    """
    ledger, folder = Ledger(mirror.root), f"runs/{key}"
    seen = ledger.known_entry(key)
    if seen.state == "unreadable" or RunFolder(mirror.root / folder).problem() is not None:
        return None
    found: Brought | None = None
    for _ in range(TRIES):
        listed = None
        try:
            listed = mirror.known(folder)
            if listed is None:
                return None
            if found is not None and found.listed == listed:  # it was not replaced meanwhile
                return found
            if not is_ahead(listed, seen, mirror.root / folder, model_lost=model_lost):
                return None
            bring_listed(mirror, listed, partial(check_and_adopt, ledger, seen, listed))
            return Brought(key, str(listed.state))
        except LeaseHeldError as held:
            log.info("%s", held)
            return None
        except DamagedError as damage:
            state = "unknown" if listed is None else str(listed.state)
            is_usable = isinstance(damage, UnusableError)
            if found is not None and found.listed == listed:
                return found
            found = Brought(key, state, damage=str(damage), listed=listed, usable=is_usable)
    return found and replace(found, usable=True)  # somebody writes it all the time


def is_ahead(
    listed: FolderList, entry: Entry, run_folder: Path, *, model_lost: bool = False
) -> bool:
    """Whether a run has come further in the mirror than in its folder here."""
    if entry.state == "finished":
        lost = model_lost or damage_of_model(run_folder, contents=False) is not None
        has_model = any(name.startswith("model/") for name in listed.files)
        return listed.state == "finished" and lost and has_model
    return listed.state == "finished" or listed.attempts > len(entry.attempts)


def check_and_adopt(ledger: Ledger, seen: Entry, listed: FolderList, part: Path) -> None:
    """Check the files of a run that were brought into a folder, and make them the run's.

    Raises:
        UnusableError: this release does not know its records.
        DamagedError: they are not those of this run, or of a finished one lack its model.
        LeaseHeldError: another driver has it.
    """
    run, key = RunFolder(part), seen.run_key
    try:
        entry = read_record(run.ledger, Entry, what="a ledger entry", remedy="")
        spec_key = load_run_spec(part).run_key
    except ColaError as error:
        raise UnusableError(f"its records cannot be used ({one_line(error)})") from None
    if entry is None or entry.run_key != key or spec_key != key:
        raise DamagedError("its records are those of another run")
    model = run.model
    if entry.state == "finished":
        damage = "is missing" if not model.is_dir() else damage_in(model)
        if damage is not None:
            raise DamagedError(f"its model: {damage}")
    write_atomically(part / TAKEN, listed.model_dump_json())
    ledger.adopt(seen, entry, lambda: place(part, ledger.run_folder(key)))


def place(part: Path, target: Path) -> None:
    """Move what lies in a folder to another one, in place of what has the same names there."""
    with storage_errors(target, remedy=MAKE_ROOM):
        for path in part.iterdir():
            there = target / path.name
            if there.name == RunFolder(target).ledger.name:
                continue  # the ledger writes it, last
            if path.is_dir():
                shutil.rmtree(there, ignore_errors=True)
            path.replace(there)


def bring_listed(mirror: OutputMirror, listed: FolderList, use: Callable[[Path], None]) -> None:
    """Read the files of a list into a folder beside their place, and hand them to `use`.

    Raises:
        DamagedError: one is missing or is not what its checksum says.
        StorageError: the mirror does not answer, or the disk takes nothing.
    """
    target = mirror.root / listed.folder
    with storage_errors(target, remedy=MAKE_ROOM):
        target.mkdir(parents=True, exist_ok=True)
        remove_abandoned(target)
        with tempfile.TemporaryDirectory(prefix=".mirror-", dir=target) as scratch:
            part = Path(scratch, "files")
            part.mkdir()
            for name in wanted(listed):
                read_checked(mirror, listed, name, part)
            use(part)


def read_checked(mirror: OutputMirror, listed: FolderList, name: str, part: Path) -> None:
    """Read one file of a list into a folder, under its own name.

    Raises:
        DamagedError: see `bring_listed`.
    """
    file, place = listed.files[name], part / name
    place.parent.mkdir(parents=True, exist_ok=True)
    at = object_name(name, file.sha256)
    with tempfile.TemporaryDirectory(prefix=".read-", dir=part.parent) as folder:
        found = mirror.files.read(f"{listed.folder}/{at}", Path(folder))
        if found is None:
            raise DamagedError(f"{listed.folder}/{at} is missing")
        if found.stat().st_size != file.bytes or sha256_of(found) != file.sha256:
            raise DamagedError(f"{listed.folder}/{at} is not what its checksum says")
        found.replace(place)


def wanted(listed: FolderList) -> Iterable[str]:
    """The files of a list that a driver needs, and that may be written: a run's results, or of a
    study's or sweep's folder all but its report."""
    if listed.folder.startswith("runs/"):
        return [name for name in listed.files if name.split("/")[0] in run_entries()]
    left_out = (*LEFT_OUT, StudyFolder(Path()).report.name)
    return [
        name
        for name in listed.files
        if (top := name.split("/")[0]) not in left_out
        and not top.startswith(".")
        and not top.endswith(".lock")
    ]


def bring_thing(mirror: OutputMirror, thing: Thing) -> bool:
    """Take a study's or sweep's own files where the output folder has none; whether it did.

    Raises:
        DamagedError: they are damaged there.
        StorageError: the mirror does not answer, or the folder cannot be written.
    """
    folder = mirror.root / thing.folder
    if any((folder / name).exists() for name in (Artifact.STUDY, StudyFolder(folder).events.name)):
        return False
    listed = mirror.known(thing.folder)
    if listed is None:
        return False
    bring_listed(mirror, listed, lambda part: place(part, folder))
    return True


def remove_abandoned(folder: Path) -> None:
    """Remove what drivers that were killed left of earlier reads."""
    for path in folder.glob(".mirror-*"):
        if path.is_dir() and time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
            shutil.rmtree(path, ignore_errors=True)
