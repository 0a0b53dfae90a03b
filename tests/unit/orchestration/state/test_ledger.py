"""The ledger: states, leases and their loss, and what a reader sees."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cola.checksums import write_checksums
from cola.errors import RunError, StorageError
from cola.files import file_lock
from orchestration.state.ledger import (
    LEASE_REFRESH_SECONDS,
    LEASE_STALE_SECONDS,
    Entry,
    Lease,
    LeaseHeldError,
    LeaseLostError,
    Ledger,
    RunFinishedError,
)
from orchestration.state.paths import RunFolder
from orchestration.state.process import ProcessIdentity, this_process
from orchestration.state.run_model import damage_of_model
from tests.factories import exported_model


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


def a_process(pid: int, machine: str = "here", container: str = "host") -> ProcessIdentity:
    return ProcessIdentity(clock=machine, namespace=container, pid=pid, started=1)


def gone() -> ProcessIdentity:
    """This process with the id of one that has ended."""
    code = "import os; print(os.getpid())"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    return this_process().model_copy(update={"pid": int(shown.stdout)})


def test_a_dead_driver_of_this_machine_keeps_nothing(tmp_path: Path) -> None:
    dead, second = Ledger(tmp_path, process=gone()), Ledger(tmp_path)
    dead.acquire("k")
    assert second.hold(second.entry("k")) == "free"
    assert len(second.acquire("k").attempts) == 2


def test_a_process_with_the_id_of_the_dead_driver_is_not_it(tmp_path: Path) -> None:
    """Process ids are reused: the start of the process distinguishes them."""
    me = this_process()
    earlier = Ledger(tmp_path, process=me.model_copy(update={"started": me.started - 1}))
    earlier.acquire("k")
    assert Ledger(tmp_path).hold(earlier.entry("k")) == "free"


def test_a_process_that_has_ended_but_is_not_reaped_keeps_nothing() -> None:
    """As in a container without an init process."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    try:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        started = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19]
        me = this_process()
        zombie = me.model_copy(update={"pid": child.pid, "started": int(started)})
        assert me.is_alive(me) is True
        assert zombie.is_alive(me) is False
    finally:
        child.wait()


def test_a_driver_of_another_container_of_this_host_keeps_its_run(
    tmp_path: Path, clock: Clock
) -> None:
    """Both have one host name, neither sees the other's process; they share the kernel's clock."""
    first = Ledger(tmp_path, clock=clock, process=a_process(7, container="a"))
    second = Ledger(tmp_path, clock=clock, process=a_process(7, container="b"))
    first.acquire("k")
    for _ in range(4):
        clock.now += LEASE_REFRESH_SECONDS
        first.refresh("k")
        with pytest.raises(LeaseHeldError):
            second.acquire("k")
    clock.now += LEASE_STALE_SECONDS + 1
    assert len(second.acquire("k").attempts) == 2


@pytest.mark.parametrize("ahead", [-3600.0, -95.0, 0.0, 95.0, 3600.0])
@pytest.mark.parametrize("since_boot", [-1e6, 0.0, 1e6])
def test_a_driver_of_another_machine_is_judged_by_what_it_refreshes(
    tmp_path: Path, ahead: float, since_boot: float
) -> None:
    """Neither Unix time nor monotonic time of the other machine says anything here."""
    near, far = Clock(), Clock()
    first = Ledger(
        tmp_path,
        clock=lambda: far.now + ahead,
        elapsed=lambda: far.now + since_boot,
        process=a_process(7, "there"),
    )
    second = Ledger(tmp_path, clock=near, process=a_process(7))

    def pass_time(seconds: float) -> None:
        near.now += seconds
        far.now += seconds

    first.acquire("k")
    assert second.hold(second.entry("k")) == "unknown"
    for _ in range(6):
        pass_time(LEASE_REFRESH_SECONDS)
        first.refresh("k")
        with pytest.raises(LeaseHeldError):
            second.acquire("k")
        assert second.hold(second.entry("k")) in ("held", "unknown")
    pass_time(LEASE_STALE_SECONDS)
    assert second.is_held(second.entry("k"))
    pass_time(1)
    assert second.hold(second.entry("k")) == "free"
    assert len(second.acquire("k").attempts) == 2


def test_a_lease_that_changes_is_held(tmp_path: Path, clock: Clock) -> None:
    first = Ledger(tmp_path, clock=clock, process=a_process(7, "there"))
    second = Ledger(tmp_path, clock=clock, process=a_process(7))
    first.acquire("k")
    assert second.hold(second.entry("k")) == "unknown"
    clock.now += LEASE_REFRESH_SECONDS
    first.refresh("k")
    assert second.hold(second.entry("k")) == "held"


def test_a_lease_of_an_older_release_is_watched(tmp_path: Path, clock: Clock) -> None:
    ledger = Ledger(tmp_path, clock=clock)
    entry = Entry(run_key="k", state="running", lease=Lease(owner="h:1:x", refreshed=9e9))
    assert ledger.hold(entry) == "unknown"
    clock.now += LEASE_STALE_SECONDS + 1
    assert ledger.hold(entry) == "free"


def test_a_finished_run_is_not_begun_again_while_its_model_is_there(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.acquire("k")
    finished = ledger.close("k", "finished")
    model = exported_model(ledger.run_folder("k"))
    with pytest.raises(RunFinishedError, match="finished already"):
        Ledger(tmp_path).acquire("k")
    assert ledger.entry("k") == finished
    model.unlink()
    assert Ledger(tmp_path).acquire("k").state == "running"


def test_a_finished_run_is_begun_again_where_its_model_is_damaged(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.acquire("k")
    ledger.close("k", "finished")
    model = exported_model(ledger.run_folder("k"))
    write_checksums(model.parent)
    with pytest.raises(RunFinishedError):
        Ledger(tmp_path).acquire("k")
    model.write_text("[]")
    assert Ledger(tmp_path).acquire("k").state == "running"


def test_a_run_that_another_driver_finishes_meanwhile_is_not_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Ledger(tmp_path), Ledger(tmp_path)
    first.acquire("k")
    first.close("k", "finished")

    def compared_slowly(run_folder: Path) -> str | None:
        """The model is seen missing; then another driver exports it and finishes."""
        monkeypatch.undo()
        damage = damage_of_model(run_folder)
        second.acquire("k")
        exported_model(run_folder)
        second.close("k", "finished")
        return damage

    monkeypatch.setattr("orchestration.state.ledger.damage_of_model", compared_slowly)
    with pytest.raises(RunFinishedError):
        first.acquire("k")


def test_only_the_owner_asks_workers_to_stop(tmp_path: Path, clock: Clock) -> None:
    first, second = Ledger(tmp_path, clock=clock), Ledger(tmp_path, clock=clock)
    first.acquire("k")
    stop = RunFolder(first.run_folder("k")).stop
    clock.now += LEASE_STALE_SECONDS + 1
    second.acquire("k")
    assert first.request_stop("k")
    assert not stop.exists()
    with file_lock(RunFolder(first.run_folder("k")).ledger_lock):
        assert not second.request_stop("k"), "a signal handler must not wait for its own process"
    assert second.request_stop("k")
    assert stop.exists()


def test_a_lock_whose_holder_is_frozen_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestration.state.ledger.LOCK_SECONDS", 0.1)
    ledger = Ledger(tmp_path)
    lock = RunFolder(ledger.run_folder("k")).ledger_lock
    with file_lock(lock), pytest.raises(StorageError, match="locked by another process"):
        ledger.acquire("k")
    assert ledger.acquire("k").state == "running"


def test_refreshing_keeps_the_lease_and_the_attempts(tmp_path: Path, clock: Clock) -> None:
    ledger = Ledger(tmp_path, clock=clock)
    before = ledger.acquire("k")
    clock.now += 30
    ledger.refresh("k")
    after = ledger.entry("k")
    assert after.lease is not None
    assert (after.lease.owner, after.lease.refreshed) == (ledger.owner, clock.now)
    assert after.attempts == before.attempts


DAMAGES = [
    b"",
    b'{"run_key": "k", "sta',
    b'{"run_key": "k", "later": 1}',
    b'{"run_key": "k", "state": "sleeping"}',
    b'{"run_key": "k", "attempts": 3}',
    b'{"run_key": "other"}',
    b"[]",
    b"null",
    b"\xff\xfe\x00garbage",
    b"[" * 100_000,
]


@pytest.mark.parametrize("content", DAMAGES, ids=range(len(DAMAGES)))
def test_a_damaged_ledger_is_named_with_its_remedy(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "runs" / "k" / "ledger.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(StorageError, match="remove") as caught:
        Ledger(tmp_path).entry("k")
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3
    known = Ledger(tmp_path).known_entry("k")
    assert (known.state, known.reason) == ("unreadable", str(caught.value))
    with pytest.raises(StorageError):
        Ledger(tmp_path).acquire("k")
    assert path.read_bytes() == content, "what cannot be read is not overwritten"


def test_a_folder_in_place_of_a_ledger_is_named(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "k" / "ledger.json"
    path.mkdir(parents=True)
    with pytest.raises(StorageError, match="remove") as caught:
        Ledger(tmp_path).entry("k")
    assert str(caught.value).startswith(f"{path}: ")
