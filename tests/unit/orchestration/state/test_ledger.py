"""The ledger: states, leases, and what a reader sees."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestration.state.ledger import LeaseHeldError, Ledger, lease_is_fresh


def test_a_run_goes_through_its_states(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    assert ledger.entry("k").state == "new"
    assert ledger.acquire("k").state == "running"
    closed = ledger.close("k", "finished")
    assert (closed.state, closed.lease, len(closed.attempts)) == ("finished", None, 1)
    assert Ledger(tmp_path).entry("k") == closed


def test_two_drivers_never_run_the_same_run(tmp_path: Path) -> None:
    first, second = Ledger(tmp_path), Ledger(tmp_path)
    first.acquire("k")
    with pytest.raises(LeaseHeldError):
        second.acquire("k")
    first.close("k", "interrupted", "stopped on request")
    assert len(second.acquire("k").attempts) == 2


@pytest.mark.parametrize("age", [91.0, 1e6])
def test_a_stale_lease_is_taken_over(tmp_path: Path, age: float) -> None:
    first, second = Ledger(tmp_path), Ledger(tmp_path)
    first.acquire("k")
    path = tmp_path / "runs" / "k" / "ledger.json"
    values = json.loads(path.read_text())
    values["lease"]["refreshed"] = time.time() - age
    path.write_text(json.dumps(values))
    assert second.acquire("k").state == "running"


def test_a_lease_of_a_dead_driver_on_this_host_is_not_fresh(tmp_path: Path) -> None:
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"],
        capture_output=True,
        text=True,
        check=True,
    )
    ledger = Ledger(tmp_path)
    entry = ledger.acquire("k")
    assert lease_is_fresh(entry)
    assert entry.lease is not None
    assert entry.lease.owner.startswith(f"{socket.gethostname()}:{os.getpid()}:")
    dead = entry.lease.model_copy(
        update={"owner": f"{socket.gethostname()}:{gone.stdout.strip()}:0"}
    )
    assert not lease_is_fresh(entry.model_copy(update={"lease": dead}))


def test_refreshing_keeps_the_lease_and_the_attempts(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    before = ledger.acquire("k")
    ledger.refresh("k")
    after = ledger.entry("k")
    assert before.lease is not None
    assert after.lease is not None
    assert after.lease.refreshed >= before.lease.refreshed
    assert after.attempts == before.attempts
