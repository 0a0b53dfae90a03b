"""Which files of an output folder are a study's or sweep's results, and their list with checksums.

Names are relative to the output folder. Where results are published, the files of the study's own
folder lie at the top (`report/report.html`), those of its runs below `runs`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from cola.errors import StorageError, validation_problem
from cola.files import is_temporary, storage_errors
from orchestration.cleanup.contents import Thing, ThingKind, run_keys
from orchestration.state.paths import FETCHED, TRACKERS, OutputFolder, RunFolder

FORMAT: Literal[1] = 1
# Of a study's or sweep's folder: what only its drivers on that machine use, beside locks.
LEFT_OUT = ("stop", FETCHED, "tune", TRACKERS)
CHUNK_BYTES = 2**22  # chosen value: of a copy


class ResultFile(BaseModel):
    """Size in bytes and SHA-256 (hex) of a file as it was published."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: NonNegativeInt
    sha256: str


class ResultList(BaseModel):
    """`results.json`: the published files of a study or sweep, written after them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = FORMAT
    kind: ThingKind
    name: str
    models: bool  # whether the runs' exported models are among them
    files: dict[str, ResultFile]


def parse_list(text: bytes | str, where: str, thing: Thing) -> ResultList:
    """The list of a thing's results from its JSON.

    Raises:
        StorageError: it is damaged, of another thing, or names files elsewhere.
    """
    try:
        found = ResultList.model_validate_json(text)
    except ValidationError as error:
        problem = validation_problem(error)
    else:
        strange = next((name for name in found.files if not thing.is_mine(name)), None)
        if (found.kind, found.name) != (thing.kind, thing.name):
            problem = f"is that of {found.kind} {found.name}"
        elif strange is not None:
            problem = f"names {strange}, which is no result of {thing.name}"
        else:
            return found
    raise StorageError(
        f"{where}: is no list of the results of {thing.kind} {thing.name} ({problem}); resume it "
        "on the cluster, and its driver writes the list anew"
    )


def result_names(root: Path, thing: Thing, *, models: bool) -> list[str]:
    """Names of the thing's result files in an output folder, its runs' first.

    Raises:
        StorageError: its plan, or its log of trials, cannot be read.
    """
    runs = [
        name
        for key in run_keys(root, thing)
        for name in run_names(root, key)
        if models or not is_of_model(name)
    ]
    return [*runs, *own_names(root, thing)]


def records_of(folder: RunFolder) -> tuple[Path, ...]:
    """The files of a run that are results, beside those in its folders."""
    return (
        folder.spec, folder.data, folder.ledger, folder.journal, folder.outcome,
        folder.environment, folder.samples, folder.evaluation,
    )  # fmt: skip


def run_entries() -> list[str]:
    """Names of the files and folders in a run's folder that are results."""
    folder = RunFolder(Path())
    return [path.name for path in (*records_of(folder), folder.answers, folder.model)]


def run_names(root: Path, key: str) -> Iterator[str]:
    """Names of a run's result files: its records, answers to tasks, and its exported model."""
    folder = RunFolder(OutputFolder(root).runs / key)
    for path in records_of(folder):
        if path.is_file():
            yield path.relative_to(root).as_posix()
    for part in (folder.answers, folder.model):
        yield from names_below(root, part)


def is_of_model(name: str) -> bool:
    """Whether a file is of a run's exported model."""
    return name.split("/")[2:3] == ["model"]


def own_names(root: Path, thing: Thing) -> Iterator[str]:
    """Names of the files in the thing's own folder: specification, plan, events, report."""
    for name in names_below(root, root / thing.folder):
        parts = name.removeprefix(f"{thing.folder}/").split("/")
        if parts[0] not in LEFT_OUT and not parts[0].endswith(".lock"):
            yield name


def names_below(root: Path, folder: Path) -> Iterator[str]:
    """Names of the files in a folder that are no link, hidden or temporary, in their order."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for file in sorted(files):
            path = Path(place, file)
            hidden = file.startswith(".") or is_temporary(path)
            if not hidden and not path.is_symlink() and path.is_file():
                yield path.relative_to(root).as_posix()


def reading(path: Path) -> AbstractContextManager[None]:
    """Inside the block, an OSError becomes one line about this file, which is read."""
    return storage_errors(path, remedy="check its permissions and its disk", done="read")


def copy_growing(path: Path, target: Path) -> str:
    """Copy a file that may grow meanwhile; the SHA-256 (hex) of what was read of it.

    Raises:
        StorageError: it cannot be read.
        OSError: the copy cannot be written.
    """
    digest = hashlib.sha256()
    with reading(path):
        file = path.open("rb")
    with file, target.open("wb") as copy:  # what this disk does not take is the caller's
        while True:
            with reading(path):
                chunk = file.read(CHUNK_BYTES)
            if not chunk:
                break
            digest.update(chunk)
            copy.write(chunk)
        copy.flush()
        os.fsync(copy.fileno())
    return digest.hexdigest()
