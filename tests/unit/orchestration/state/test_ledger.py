"""The ledger: states, leases and their loss, and what a reader sees."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cola.errors import RunError, StorageError
from orchestration.state.ledger import (
    LEASE_STALE_SECONDS,
    LeaseHeldError,
    LeaseLostError,
    Ledger,
    lease_is_fresh,
)


class Clock:
    """Unix time that a test sets."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


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
    with pytest.raises(LeaseHeldError) as caught:
        second.acquire("k")
    assert isinstance(caught.value, RunError)
    assert caught.value.exit_code == 6
    assert first.owner in str(caught.value)
    first.close("k", "interrupted", "stopped on request")
    assert len(second.acquire("k").attempts) == 2


def test_a_lease_is_stale_90_seconds_after_its_last_refresh(tmp_path: Path, clock: Clock) -> None:
    first, second = Ledger(tmp_path, clock=clock), Ledger(tmp_path, clock=clock)
    first.acquire("k")
    clock.now += LEASE_STALE_SECONDS
    first.refresh("k")
    clock.now += LEASE_STALE_SECONDS
    with pytest.raises(LeaseHeldError):
        second.acquire("k")
    clock.now += 1
    assert second.acquire("k").state == "running"


def test_a_stale_lease_is_taken_over(tmp_path: Path, clock: Clock) -> None:
    """The first owner was frozen: when it wakes up, the run is no longer its own."""
    first, second = Ledger(tmp_path, clock=clock), Ledger(tmp_path, clock=clock)
    first.acquire("k")
    assert first.holds("k")
    clock.now += LEASE_STALE_SECONDS + 1
    taken = second.acquire("k")
    assert (taken.state, len(taken.attempts)) == ("running", 2)
    assert (first.holds("k"), second.holds("k")) == (False, True)
    with pytest.raises(LeaseLostError, match=second.owner):
        first.refresh("k")
    with pytest.raises(LeaseLostError, match=second.owner):
        first.close("k", "interrupted", "stopped on request")
    assert second.entry("k") == taken
    second.refresh("k")
    assert second.close("k", "finished").state == "finished"


def test_a_finished_run_stays_finished(tmp_path: Path, clock: Clock) -> None:
    """The first owner wakes up after its successor has ended the run."""
    first, second = Ledger(tmp_path, clock=clock), Ledger(tmp_path, clock=clock)
    first.acquire("k")
    clock.now += LEASE_STALE_SECONDS + 1
    second.acquire("k")
    finished = second.close("k", "finished")
    for late in (lambda: first.refresh("k"), lambda: first.close("k", "interrupted")):
        with pytest.raises(LeaseLostError, match="nobody"):
            late()
    assert first.entry("k") == finished


def test_the_attempt_of_a_lost_driver_ends_with_its_last_refresh(
    tmp_path: Path, clock: Clock
) -> None:
    first, second = Ledger(tmp_path, clock=clock), Ledger(tmp_path, clock=clock)
    began = first.acquire("k").attempts[0].started
    clock.now += 30
    first.refresh("k")
    clock.now += LEASE_STALE_SECONDS + 1
    lost, now = second.acquire("k").attempts
    assert lost.started == began
    assert lost.ended == began + 30
    assert lost.reason == "its driver was lost"
    assert now.ended is None


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


def test_refreshing_keeps_the_lease_and_the_attempts(tmp_path: Path, clock: Clock) -> None:
    ledger = Ledger(tmp_path, clock=clock)
    before = ledger.acquire("k")
    clock.now += 30
    ledger.refresh("k")
    after = ledger.entry("k")
    assert after.lease is not None
    assert (after.lease.owner, after.lease.refreshed) == (ledger.owner, clock.now)
    assert after.attempts == before.attempts


@pytest.mark.parametrize("text", ["", '{"run_key": "k", "sta', '{"run_key": "k", "later": 1}'])
def test_a_damaged_ledger_is_named_with_its_remedy(tmp_path: Path, text: str) -> None:
    path = tmp_path / "runs" / "k" / "ledger.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(StorageError, match="remove") as caught:
        Ledger(tmp_path).entry("k")
    assert str(caught.value).startswith(f"{path}: ")
    assert caught.value.exit_code == 3
