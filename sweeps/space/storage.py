"""Files of a sweep that cannot be read or written: errors that name the file and a remedy."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from cola import files

FREE_SPACE = "make room or mend the disk, then the same command resumes the sweep"


def storage_errors(path: Path, *, remedy: str = FREE_SPACE) -> AbstractContextManager[None]:
    """As `cola.files.storage_errors`, for a block that reads or writes a file of a sweep."""
    return files.storage_errors(path, remedy=remedy, done="used")
