"""Checksums of a folder's files, kept beside them: what is read is what was written."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Any

from cola.errors import StorageError, one_line
from cola.files import sha256_of, write_atomically

log = logging.getLogger(__name__)

CHECKSUMS_FILE = "checksums.json"
FORMAT = 1


def write_checksums(folder: Path, leave_out: Collection[str] = ()) -> None:
    """Write size and SHA-256 of every file below `folder` into its `checksums.json`.

    Files of the names in `leave_out` may change later.

    Raises:
        OSError: a file cannot be read, or the sums not be written.
    """
    sums = {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": sha256_of(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in {CHECKSUMS_FILE, *leave_out}
    }
    text = json.dumps({"format": FORMAT, "files": sums}, indent=1)
    write_atomically(folder / CHECKSUMS_FILE, text + "\n")


def damage_in(folder: Path, *, contents: bool = True) -> str | None:
    """What of the folder is not as it was written, as a clause; None where all of it is.

    A folder without `checksums.json` is not checked: nothing says how it was written. Without
    `contents` only names and sizes are compared.
    """
    path = folder / CHECKSUMS_FILE
    try:
        files = _files_of(json.loads(path.read_bytes()))
    except FileNotFoundError:
        log.info("%s: has no %s, so its files are not checked", folder, CHECKSUMS_FILE)
        return None
    except OSError as error:
        return f"{CHECKSUMS_FILE} cannot be read ({one_line(error)})"
    except (ValueError, LookupError, TypeError, AttributeError):
        return f"{CHECKSUMS_FILE} is damaged"
    found = (
        _damage_of(folder, name, size, sha256=sha256 if contents else None)
        for name, (size, sha256) in files.items()
    )
    return next((damage for damage in found if damage is not None), None)


def check_folder(folder: Path, remedy: str) -> None:
    """Refuse a folder that is not as it was written; `remedy` ends the message.

    Raises:
        StorageError: naming the first file that differs.
    """
    damage = damage_in(folder)
    if damage is not None:
        raise StorageError(f"{folder}: {damage}; {remedy}")


def recorded_checksums(folder: Path) -> dict[str, str]:
    """SHA-256 (hex) of each file by its name, as it was written; empty where nothing says it."""
    try:
        files = _files_of(json.loads((folder / CHECKSUMS_FILE).read_bytes()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}
    return {name: sha256 for name, (_, sha256) in files.items()}


def _files_of(content: Any) -> dict[str, tuple[int, str]]:
    """Size and SHA-256 by name; any other content raises one of the errors of `damage_in`."""
    if content["format"] != FORMAT:
        raise ValueError("another format")
    files = {name: (int(v["bytes"]), str(v["sha256"])) for name, v in content["files"].items()}
    if any(
        ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute() for name in files
    ):
        raise ValueError("names files of other folders")
    return files


def _damage_of(folder: Path, name: str, size: int, *, sha256: str | None) -> str | None:
    path = folder / name
    try:
        if not path.is_file():
            return f"{name} is missing"
        found = path.stat().st_size
        if found != size:
            return f"{name} has {found:,} bytes, {size:,} were written"
        if sha256 is not None and sha256_of(path) != sha256:
            return f"{name} was changed after it was written (its SHA-256 differs)"
    except OSError as error:
        return f"{name} cannot be read ({one_line(error)})"
    return None
