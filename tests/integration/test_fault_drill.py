"""The drill that users run, on an object store: nothing is lost or repeated, bit by bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestration.checkpoint.store import open_store
from orchestration.doctor.fault_drill import FAULTS, drill
from orchestration.doctor.output_faults import FROZEN
from orchestration.state.journal import JournalReader
from tests.servers import s3_bucket

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.deepspeed]


@pytest.mark.drill
@pytest.mark.timeout(1200)
def test_the_drill_finds_nothing_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    with s3_bucket(monkeypatch) as storage:
        injections, checks = drill(tmp_path, shown.append, storage)
        folders = sorted((tmp_path / "disturbed" / "runs").iterdir())
        assert len(folders) == 2
        for folder in folders:
            store = open_store(storage, folder)
            assert store.stored() == []  # of a finished run none is kept, whole or not
            assert not list(folder.glob("ray/*"))  # all of it went to the bucket
    faults = [*FAULTS, FROZEN, "driver killed"]
    assert [injection.fault for injection in injections] == faults
    skipped = any("skipped: a full disk" in line for line in shown)
    assert len(checks) == (6 if skipped else 10)
    assert [check.claim for check in checks if not check.holds] == []
    assert "restarted from step" in (tmp_path / "drivers.log").read_text()
    starts = sorted(map(starts_of, folders), key=len)
    assert [len(steps) for steps in starts] == [1, 1 + len(injections)]
    assert all(step > 0 for step in starts[1][1:])


def starts_of(folder: Path) -> list[int]:
    """The steps at which the run's workers began."""
    return [
        line.step
        for line in JournalReader(folder / "journal.jsonl").new_lines()
        if line.kind == "event" and line.values["event"] == "start"
    ]
