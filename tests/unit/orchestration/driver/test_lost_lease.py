"""A driver that was frozen finds its run taken over: it reports that and leaves the run alone."""

from __future__ import annotations

import io
from concurrent.futures import Future
from typing import Any

import pytest
from rich.console import Console

from cola.data import prepare
from cola.study import StudySpec
from orchestration.driver.attempt import open_attempt, opening_tags
from orchestration.driver.launcher import Launcher
from orchestration.driver.monitor import RunMonitor
from orchestration.driver.progress import StudyView
from orchestration.planning.plan import plan_study
from orchestration.state.event_log import read_events
from orchestration.state.ledger import LEASE_STALE_SECONDS, Ledger
from orchestration.state.paths import OutputFolder, RunFolder, output_root, study_folder
from orchestration.tracking.mirror import Mirror


class Frozen:
    """A driver with one run under way that another driver takes over."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.now = 1_000_000.0
        study = StudySpec.parse(values | {"families": {"ar": {}}})
        root = output_root(study)
        self.study, self.shown = study, io.StringIO()
        (self.run,) = plan = plan_study(study)
        self.ledger = Ledger(root, clock=lambda: self.now)
        self.other = Ledger(root, clock=lambda: self.now)
        data = prepare(study.data, OutputFolder(root).cache)
        mirror: Any = Mirror(None)  # type: ignore[arg-type]  # never started: sends nothing
        view = StudyView(Console(file=self.shown, width=400))
        self.launcher = Launcher(
            study, plan, data, ledger=self.ledger, mirror=mirror, view=view, joined=False
        )
        self.folder = self.ledger.run_folder(self.run.key)
        view.add(self.run, self.folder, "start")
        open_attempt(self.run, self.ledger, data.folder)
        mirror.follow(
            self.run.name, self.run.spec, self.folder, tags=opening_tags("tiny", self.run)
        )
        self.launcher._running[Future()] = self.run
        self.launcher._monitors[self.run.key] = RunMonitor(self.folder, 1)

    def is_taken_over(self) -> None:
        self.now += LEASE_STALE_SECONDS + 1
        self.taken = self.other.acquire(self.run.key)
        self.launcher._refreshed = 0.0

    def events(self) -> list[str]:
        return [line["event"] for line in read_events(study_folder(self.study))]


@pytest.fixture
def frozen(tiny_study: dict[str, Any]) -> Frozen:
    return Frozen(tiny_study)


def test_a_lost_lease_is_reported_once_and_the_run_left_to_its_successor(frozen: Frozen) -> None:
    frozen.is_taken_over()
    for _ in range(2):
        frozen.launcher._refreshed = 0.0
        frozen.launcher._refresh_leases()
    frozen.launcher._ended(frozen.run, None)
    assert frozen.ledger.entry(frozen.run.key) == frozen.taken
    assert frozen.events() == ["lease lost"]
    (line,) = frozen.shown.getvalue().splitlines()
    assert frozen.run.name in line
    assert f"lost: run {frozen.run.key[:12]}: was taken over" in line
    assert frozen.other.owner in line
    assert frozen.launcher.mirror._runs == {}, "its successor's mirror sends the rest"


def test_a_run_that_ends_before_the_next_refresh_is_left_alone_too(frozen: Frozen) -> None:
    frozen.is_taken_over()
    frozen.launcher._ended(frozen.run, RuntimeError("its workers stopped"))
    assert frozen.ledger.entry(frozen.run.key) == frozen.taken
    assert frozen.events() == ["lease lost"]


def test_stopping_does_not_stop_the_successors_workers(frozen: Frozen) -> None:
    stop = RunFolder(frozen.folder).stop
    frozen.launcher.request_stop()
    assert stop.exists()
    stop.unlink()
    frozen.is_taken_over()
    frozen.launcher.request_stop()
    assert not stop.exists()


def test_a_disk_that_takes_no_refresh_does_not_end_the_driver(
    frozen: Frozen, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = RunFolder(frozen.folder).ledger
    whole = ledger.read_text()
    ledger.write_text("{")  # unreadable: refused as a full disk is
    frozen.launcher._refreshed = 0.0
    frozen.launcher._refresh_leases()
    assert "its lease is not refreshed" in caplog.text
    ledger.write_text(whole)
    frozen.launcher._refreshed = 0.0
    frozen.now += 30
    frozen.launcher._refresh_leases()
    lease = frozen.ledger.entry(frozen.run.key).lease
    assert lease is not None
    assert lease.refreshed == frozen.now
