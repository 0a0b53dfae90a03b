"""What the drill leaves in a storage of the user's: nothing, unless a check does not hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from cola.errors import StorageError
from orchestration.doctor import fault_drill
from orchestration.doctor.fault_drill import Check, run_drill


@pytest.mark.parametrize("holds", [True, False])
def test_only_a_failed_drill_leaves_its_folder(
    holds: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drill(folder: Path, notify: object, storage: str) -> tuple[list[object], list[Check]]:
        (Path(storage) / "key").mkdir(parents=True)
        return [], [Check(holds, "a claim")]

    monkeypatch.setattr(fault_drill, "drill", drill)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    (tmp_path / "storage" / "another").mkdir(parents=True)
    lines: list[str] = []
    assert run_drill(lines.append, str(tmp_path / "storage")) == holds
    (folder,) = [*(tmp_path / "temporary").iterdir()] or [None]
    assert (folder is None) == holds
    left = {path.name for path in (tmp_path / "storage").iterdir()}
    assert left == ({"another"} if folder is None else {"another", folder.name})
    assert holds or f"kept in {folder} and {tmp_path / 'storage'}" in lines[-1]


def test_a_storage_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        run_drill(print, str(tmp_path / "file" / "folder"))
