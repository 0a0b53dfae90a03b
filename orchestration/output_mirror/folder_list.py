"""`results.json` of one folder in a mirror: what the folder holds, written after its files."""

from __future__ import annotations

import json
import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from cola.errors import StorageError, validation_problem
from orchestration.checkpoint.manifest import is_safe
from orchestration.output_mirror.files import FORMAT, ResultFile
from orchestration.state.ledger import State

DIGITS = 16  # of a file's SHA-256 in its object's name; chosen: no two files of a folder share them


class DamagedError(StorageError):
    """What lies in a mirror is not what was written there."""


class UnusableError(DamagedError):
    """What lies in a mirror cannot be used by this release, or not now; it may be whole."""


class FolderList(BaseModel):
    """The files of a run's, study's or sweep's folder, by their names within it.

    A reader who has the list has all of them as they were at one time: each lies under a name that
    holds its own digest, and a changed file under another one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = FORMAT
    folder: str  # within the output folder
    state: State | None = None  # of a run
    attempts: NonNegativeInt = 0  # of a run
    runs: list[str] = []  # keys of a study's or sweep's runs
    files: dict[str, ResultFile]
    # Objects that earlier lists named, and since when (Unix seconds) none does: they are removed
    # later, as another writer of the folder may be about to name them again.
    former: dict[str, float] = {}

    def objects(self) -> dict[str, int]:
        """Bytes of each object by its name below the folder."""
        return {object_name(name, file.sha256): file.bytes for name, file in self.files.items()}


def object_name(name: str, sha256: str) -> str:
    """Under which name the file of this name and content lies."""
    return f"{name}.{sha256[:DIGITS]}"


def is_object(name: str) -> bool:
    """Whether a name is of the form that `object_name` gives."""
    return re.fullmatch(rf".+\.[0-9a-f]{{{DIGITS}}}", name) is not None


def written_by_newer(text: bytes) -> bool:
    """Whether a list is one of a later format than this release knows."""
    try:
        found = json.loads(text)
    except ValueError:
        return False
    number = found.get("format") if isinstance(found, dict) else None
    return isinstance(number, int) and number > FORMAT


def parse_folder_list(text: bytes, folder: str, where: str) -> FolderList:
    """The list of a folder from its JSON.

    Raises:
        UnusableError: a newer release wrote it.
        DamagedError: it is damaged, of another folder, or names files elsewhere.
    """
    try:
        found = FolderList.model_validate_json(text)
    except ValidationError as error:
        if written_by_newer(text):
            raise UnusableError(
                f"{where} was written by a newer release; use that one here, too"
            ) from None
        problem = validation_problem(error)
    else:
        names = (*found.files, *found.former)
        strange = next((name for name in names if not is_safe(name)), None)
        keys = [key for key in found.runs if not is_safe(key) or "/" in key]
        if found.folder != folder:
            problem = f"is that of {found.folder}"
        elif strange is not None or keys:
            problem = f"names {strange or keys[0]}, which leads elsewhere"
        else:
            return found
    raise DamagedError(f"{where} is no list of the files of {folder} ({problem})")
