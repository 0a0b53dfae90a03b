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
from orchestration.driver.leases import (
    GIVE_UP_SECONDS,
    LOOK_SECONDS,
    RETRY_SECONDS,
    LeaseKeeper,
    OtherDrivers,
    watch_unseen_drivers,
)
from orchestration.driver.monitor import RunMonitor
from orchestration.driver.progress import StudyView
from orchestration.driver.study_runner import StudyResult, mirror_rest
from orchestration.planning.plan import PlannedRun, plan_study
from orchestration.state.event_log import read_events
from orchestration.state.ledger import LEASE_REFRESH_SECONDS, LEASE_STALE_SECONDS, Ledger
from orchestration.state.paths import OutputFolder, RunFolder, output_root, study_folder
from orchestration.state.process import ProcessIdentity
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
        self.launcher._leases = LeaseKeeper(self.ledger, clock=lambda: self.now)
        self.launcher._running[Future()] = self.run
        self.launcher._monitors[self.run.key] = RunMonitor(self.folder, 1)

    def is_taken_over(self) -> None:
        self.now += LEASE_STALE_SECONDS + 1
        self.taken = self.other.acquire(self.run.key)

    def events(self) -> list[str]:
        return [line["event"] for line in read_events(study_folder(self.study))]


@pytest.fixture
def frozen(tiny_study: dict[str, Any]) -> Frozen:
    return Frozen(tiny_study)


def test_a_lost_lease_is_reported_once_and_the_run_left_to_its_successor(frozen: Frozen) -> None:
    frozen.is_taken_over()
    for _ in range(2):
        frozen.launcher._refresh_leases()
        frozen.now += LEASE_REFRESH_SECONDS
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


def test_a_disk_that_takes_no_refresh_for_a_minute_stops_the_runs(frozen: Frozen) -> None:
    ledger = RunFolder(frozen.folder).ledger
    whole, launcher = ledger.read_text(), frozen.launcher
    launcher._leases.confirmed(frozen.run.key)
    frozen.now += LEASE_REFRESH_SECONDS
    ledger.write_text("{")  # unreadable: refused as a full disk is
    launcher._refresh_leases()
    assert frozen.events() == ["lease not refreshed"]
    assert frozen.shown.getvalue().count("is not refreshed") == 1
    ledger.write_text(whole)
    frozen.now += RETRY_SECONDS
    launcher._refresh_leases()
    lease = frozen.ledger.entry(frozen.run.key).lease
    assert lease is not None
    assert lease.refreshed == frozen.now
    assert not launcher.stopping.is_set()
    ledger.write_text("{")
    frozen.now += LEASE_REFRESH_SECONDS
    launcher._refresh_leases()
    assert launcher.storage_failure is None
    frozen.now += GIVE_UP_SECONDS - LEASE_REFRESH_SECONDS
    launcher._refresh_leases()
    assert launcher.stopping.is_set()
    assert launcher.storage_failure is not None
    assert launcher.storage_failure.startswith("no lease was refreshed for 60 s")
    launcher._ended(frozen.run, RuntimeError("no room for its outcome"))
    assert "its end is not recorded" in frozen.shown.getvalue()


def test_drivers_that_cannot_be_seen_are_watched_until_it_is_known(frozen: Frozen) -> None:
    """Of two other machines: one driver lives, and refreshes; the other is gone."""
    there = ProcessIdentity(clock="there", namespace="there", pid=1, started=1)
    far = Ledger(frozen.ledger.runs.parent, process=there)
    frozen.ledger.close(frozen.run.key, "interrupted")
    far.acquire(frozen.run.key)
    for alive, waited in ((True, 30.0), (False, LEASE_STALE_SECONDS)):
        mine = Ledger(frozen.ledger.runs.parent, clock=lambda: frozen.now)
        began, lines = frozen.now, []

        def sleep(seconds: float, alive: bool = alive, began: float = began) -> None:
            frozen.now += seconds
            if alive and frozen.now - began >= 30.0:
                far.refresh(frozen.run.key)

        watch_unseen_drivers(
            mine, [frozen.run], lines.append, clock=lambda: frozen.now, sleep=sleep
        )
        assert waited <= frozen.now - began <= waited + 2
        assert (len(lines), far.owner in lines[0]) == (1, True)
        assert mine.hold(mine.entry(frozen.run.key)) == ("held" if alive else "free")


def test_runs_of_other_drivers_are_left_alone_until_those_leave_or_are_lost(
    tiny_study: dict[str, Any],
) -> None:
    """One run ends, one is given back, one's driver is lost, one is still being trained."""
    study = StudySpec.parse(tiny_study | {"families": {"ar": {}}, "seeds": [0, 1, 2, 3]})
    ended, given_back, lost, held = plan = plan_study(study)
    now = 1_000_000.0
    there = [ProcessIdentity(clock="there", namespace="there", pid=n, started=1) for n in (1, 2)]
    root = output_root(study)
    far, gone = (Ledger(root, process=process, clock=lambda: now) for process in there)
    mine = Ledger(root, clock=lambda: now)
    others = OtherDrivers(mine, clock=lambda: now)
    for run in plan:
        (gone if run is lost else far).acquire(run.key)
    assert others.taken(plan) == plan
    assert "cannot be seen from here: watching for up to 90 s" in others.reason(held)
    for run in plan:
        others.add(run)
    assert others.undecided, "none of the drivers can be seen"
    assert others.released() == []
    far.close(ended.key, "finished")
    far.close(given_back.key, "interrupted")
    released = []
    for _ in range(21):
        now += LOOK_SECONDS
        if now % LEASE_REFRESH_SECONDS == 0:
            far.refresh(held.key)
        released += others.released()
    assert released == [given_back, lost]
    assert not others.undecided
    assert [run.key in others for run in plan] == [False, False, False, True]
    assert others.taken([given_back, held]) == [held]
    assert others.reason(held) == f"{far.owner} trains it"
    assert others.reason(ended) == "another driver has had it (finished)"


def test_a_driver_leaves_a_run_that_another_one_has_taken(frozen: Frozen) -> None:
    """It neither waits for it nor fails for it."""
    launcher, run = frozen.launcher, frozen.run
    frozen.is_taken_over()
    launcher._running.clear()
    launcher._waiting = [run]
    launcher._launch_admitted(Everything(), None)  # type: ignore[arg-type]
    assert launcher._waiting == []
    assert frozen.events() == ["skipped"]
    launcher._others.released()
    assert not launcher._has_more()
    assert frozen.ledger.entry(run.key) == frozen.taken
    result = StudyResult({run.name: "running"}, 0, False, [], others=[run.name])
    assert result.left_to_others
    assert not StudyResult({run.name: "running", "b": "failed"}, 0, False, [], None, [run.name]
                           ).left_to_others  # fmt: skip


def test_the_last_driver_completes_what_another_one_has_not_sent(frozen: Frozen) -> None:
    """Not before all runs are finished; and a retry takes the diverged run's place."""
    launcher, run = frozen.launcher, frozen.run
    launcher.mirror.leave_run(run.key)
    launcher.current_keys[:] = ["diverged"]
    assert mirror_rest(launcher, [run]) == 0
    assert launcher.current_keys == [run.key]
    assert not launcher.mirror.follows(run.key)
    frozen.ledger.close(run.key, "finished")
    assert mirror_rest(launcher, [run]) == 1
    assert launcher.mirror._runs[run.key].closing == "finished"


class Everything:
    """A queue that has room for every run."""

    def admitted(self, ready: list[PlannedRun], running: object) -> dict[str, int]:
        return {run.key: 1 for run in ready}

    def kept(self, waiting: list[PlannedRun]) -> list[PlannedRun]:
        return waiting
