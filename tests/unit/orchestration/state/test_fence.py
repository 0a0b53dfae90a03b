"""The fence between attempts: an older attempt's workers stop writing once there is a newer one."""

from __future__ import annotations

from pathlib import Path

from orchestration.state.fence import CHECK_SECONDS, AttemptFence
from orchestration.state.journal import JournalReader, JournalWriter
from orchestration.state.ledger import LEASE_STALE_SECONDS, Ledger
from orchestration.state.paths import RunFolder


class Clock:
    """Unix time that a test sets."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def test_an_attempt_is_superseded_by_a_newer_one_alone(tmp_path: Path) -> None:
    clock = Clock()
    first, second = Ledger(tmp_path, clock=clock), Ledger(tmp_path, clock=clock)
    first.acquire("k")
    folder = first.run_folder("k")
    fence = AttemptFence(folder, 1, clock=clock)
    assert not fence.superseded(recheck=True)
    clock.now += LEASE_STALE_SECONDS + 1
    assert not fence.superseded(recheck=True), "a stale lease that nobody took is no reason to stop"
    second.acquire("k")
    assert fence.superseded(recheck=True)
    assert not AttemptFence(folder, 2, clock=clock).superseded(recheck=True)


def test_a_run_without_a_ledger_is_not_fenced(tmp_path: Path) -> None:
    assert not AttemptFence(tmp_path, 1).superseded(recheck=True)


def test_an_unreadable_ledger_changes_nothing(tmp_path: Path) -> None:
    fence = AttemptFence(tmp_path, 1)
    RunFolder(tmp_path).ledger.write_text("{")
    assert not fence.superseded(recheck=True)
    RunFolder(tmp_path).ledger.write_text('{"attempts": [{}, {}]}')
    assert fence.superseded(recheck=True)
    RunFolder(tmp_path).ledger.unlink()
    assert fence.superseded(recheck=True), "what was superseded once stays so"


def test_the_ledger_is_read_every_few_seconds_at_most(tmp_path: Path) -> None:
    clock = Clock()
    fence = AttemptFence(tmp_path, 1, clock=clock)
    assert not fence.superseded()
    RunFolder(tmp_path).ledger.write_text('{"attempts": [{}, {}]}')
    clock.now += 0.9 * CHECK_SECONDS
    assert not fence.superseded()
    clock.now += 0.1 * CHECK_SECONDS
    assert fence.superseded()


def test_a_clock_that_is_set_back_does_not_stop_the_checks(tmp_path: Path) -> None:
    clock = Clock()
    fence = AttemptFence(tmp_path, 1, clock=clock)
    assert not fence.superseded()
    RunFolder(tmp_path).ledger.write_text('{"attempts": [{}, {}]}')
    clock.now -= 3600
    assert fence.superseded()


def test_a_stale_journal_writer_writes_nothing(tmp_path: Path) -> None:
    """Its driver was frozen, another took over: the journal holds the successor's lines alone."""
    clock = Clock()
    first, second = Ledger(tmp_path, clock=clock), Ledger(tmp_path, clock=clock)
    path = RunFolder(first.run_folder("k")).journal

    def writer(attempt: int) -> JournalWriter:
        return JournalWriter(path, AttemptFence(first.run_folder("k"), attempt, clock=clock))

    first.acquire("k")
    stale = writer(1)
    stale.write("train", 1, clock.now, values={"loss": 3.0})
    clock.now += LEASE_STALE_SECONDS + 1
    second.acquire("k")
    fresh = writer(2)
    stale.write("train", 2, clock.now, values={"loss": 2.5})
    fresh.write("train", 2, clock.now, values={"loss": 2.0})
    stale.write("event", 2, clock.now, values={"event": "interrupted", "attempt": 1})
    stale.close()
    fresh.close()
    lines = [(line.step, line.values["loss"]) for line in JournalReader(path).new_lines()]
    assert lines == [(1, 3.0), (2, 2.0)]
