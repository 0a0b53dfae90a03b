"""The sweep's log on a disk that fails, and with lines that are none of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from cola.errors import StorageError
from cola.records import PointExcluded, SweepFile
from sweeps.search.trial_log import SweepLog

EXCLUDED = PointExcluded(arm="", point={}, reason="why", time=1.0)


def test_a_log_that_cannot_be_written_is_named_with_a_remedy(tmp_path: Path) -> None:
    log = SweepLog(tmp_path)
    (tmp_path / SweepFile.TRIALS).mkdir()
    with pytest.raises(StorageError, match=r"trials\.jsonl: .*same command resumes") as refused:
        log.write(EXCLUDED)
    assert refused.value.exit_code == 3
    assert not log.excluded
    with pytest.raises(StorageError, match=r"trials\.jsonl: cannot be used \(Is a directory\)"):
        SweepLog(tmp_path)


def test_a_record_that_this_version_does_not_read_is_refused(tmp_path: Path) -> None:
    log = SweepLog(tmp_path)
    log.write(EXCLUDED)
    path = tmp_path / SweepFile.TRIALS
    path.write_text(path.read_text() + '{"event": "ended", "trial": "one"}\n')
    with pytest.raises(StorageError, match=r"trials\.jsonl: holds a line that is no record"):
        SweepLog(tmp_path)


def test_events_of_other_kinds_are_left_out(tmp_path: Path) -> None:
    (tmp_path / SweepFile.TRIALS).write_text('{"event": "of a later version"}\n')
    log = SweepLog(tmp_path)
    assert (log.requests, log.outcomes, log.excluded) == ({}, {}, [])
