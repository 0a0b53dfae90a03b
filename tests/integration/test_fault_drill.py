"""The drill that users run: nothing is lost or repeated, and no loss differs by a bit."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestration.fault_drill import FAULTS, drill

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.deepspeed]


@pytest.mark.timeout(1200)
def test_the_drill_finds_nothing_lost(tmp_path: Path) -> None:
    said: list[str] = []
    injections, checks = drill(tmp_path, said.append)
    assert [injection.fault for injection in injections] == [*FAULTS, "driver killed"]
    assert len(checks) == 5
    assert [check.claim for check in checks if not check.holds] == []
