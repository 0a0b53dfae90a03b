"""Files of a sweep that cannot be read or written: errors that name the file and a remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cola.errors import StorageError

FREE_SPACE = "make room or mend the disk, then the same command resumes the sweep"


@contextmanager
def storage_errors(path: Path, *, remedy: str = FREE_SPACE) -> Iterator[None]:
    """Turn an OSError of the block, which reads or writes `path`, into one with a remedy.

    Raises:
        StorageError: in place of an OSError.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(f"{path}: cannot be used ({reason}); {remedy}") from None
