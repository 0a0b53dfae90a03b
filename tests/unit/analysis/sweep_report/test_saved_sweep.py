"""A sweep's files, damaged: one line with the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from analysis.sweep_report.data import read_sweep
from cola.errors import StorageError
from cola.records import SweepFile


@pytest.mark.parametrize("content", [b"\xff\xfe", b"", b"[1]", b"{}", b"sweep: {}"])
def test_a_damaged_sweep_is_one_line_with_the_remedy(tmp_path: Path, content: bytes) -> None:
    (tmp_path / SweepFile.SPEC).write_bytes(content)
    (tmp_path / SweepFile.TRIALS).touch()
    with pytest.raises(StorageError, match=r"sweep\.yaml: is damaged \(.*writes it anew$"):
        read_sweep(tmp_path)


def test_a_foreign_record_is_one_line(tmp_path: Path) -> None:
    (tmp_path / SweepFile.SPEC).write_text("sweep: {metrics: []}\n")
    (tmp_path / SweepFile.TRIALS).write_text('{}\n{"event": "asked"}\n')
    with pytest.raises(StorageError, match="holds a line that is no record of a sweep"):
        read_sweep(tmp_path)
