"""Files that are whole or absent: atomic writes, JSON documents, locks between processes."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from cola.errors import StorageError, one_line, validation_problem

Record = TypeVar("Record", bound=BaseModel)


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader, or a crash, sees the old text or the new, never a part.

    Both the file and its folder's entry are on the device when this returns.

    Raises:
        OSError: the old text is then still there, and nothing else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:6]}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def is_temporary(path: Path) -> bool:
    """Whether the name is one of those under which `write_atomically` writes."""
    return re.fullmatch(r"\..+\.\d+\.[0-9a-f]{6}", path.name) is not None


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of a file's content.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Force a folder's entries to the device: a new file's name can be lost in a crash otherwise.

    Network file systems that cannot do it for a folder order it themselves.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: Path, *, remedy: str = "remove it, and it is written anew") -> dict[str, Any]:
    """Read a JSON object; an absent file is an empty one.

    Raises:
        StorageError: it cannot be read, or holds something else; the message ends with `remedy`.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError(f"a {type(values).__name__} in place of an object")
    except FileNotFoundError:
        return {}
    except RecursionError:
        raise StorageError(f"{path}: is no JSON object (nested too deep); {remedy}") from None
    except ValueError as error:
        raise StorageError(f"{path}: is no JSON object ({one_line(error)}); {remedy}") from None
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be read ({error.strerror or one_line(error)}); {remedy}"
        ) from None
    return values


def read_record(path: Path, kind: type[Record], *, what: str, remedy: str) -> Record | None:
    """The record in a JSON file; None where there is no file.

    Raises:
        StorageError: it cannot be read, or is not `what` it should be; the message ends with a
            remedy, of a damaged file the one that is given.
    """
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        problem = validation_problem(error)
    except (UnicodeDecodeError, IsADirectoryError) as error:
        problem = one_line(error)
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be read ({error.strerror or one_line(error)}); check its permissions "
            "and the disk"
        ) from None
    raise StorageError(
        f"{path}: is not {what} that this version reads ({one_line(problem)}); {remedy}"
    )


@contextlib.contextmanager
def storage_errors(where: Path | str, *, remedy: str, done: str = "written") -> Iterator[None]:
    """Turn an OSError of the block into one line that names `where` and ends with `remedy`.

    Raises:
        StorageError: in place of an OSError; it says that `where` cannot be `done`.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise StorageError(f"{where}: cannot be {done} ({reason}); {remedy}") from None


@contextlib.contextmanager
def file_lock(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock of this file. The file is left in place.

    Raises:
        BlockingIOError: when another process holds it and `wait` is off.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
