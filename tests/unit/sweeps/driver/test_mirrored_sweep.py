"""A sweep whose output has a mirror resumes from it where the folder is empty."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cola.errors import SpecError, StorageError
from orchestration.cleanup.contents import Thing
from orchestration.driver.live_screen import LiveScreen
from orchestration.output_mirror.mirror import mirror_of
from orchestration.output_mirror.run_mirror import RunMirror
from orchestration.planning.plan import plan_study
from orchestration.state.event_log import EventLog
from orchestration.state.ledger import LeaseHeldError, Ledger
from orchestration.state.paths import RunFolder
from sweeps.driver import runner
from sweeps.driver.folder import exclusive_driver
from sweeps.driver.runner import bring_sweep, sweep_mirror
from sweeps.search.trial_log import SweepLog
from sweeps.space.catalog import sweep_folder
from sweeps.space.points import PointPlanner
from sweeps.space.spec import SweepSpec
from tests.unit.sweeps.driver.test_best import BLOCK, logged, save

SWEEP = Thing("sweep", "tiny-sweep")


@pytest.fixture
def planner(tiny_sweep: dict[str, Any], tmp_path: Path) -> PointPlanner:
    tiny_sweep["space"] = {BLOCK: [8, 16]}
    tiny_sweep["study"]["output_mirror"] = str(tmp_path / "mirror")
    return PointPlanner(SweepSpec.parse(tiny_sweep), [])


def copies_of(planner: PointPlanner, notes: list[str]) -> RunMirror:
    folder = sweep_folder(planner.base)
    return RunMirror(mirror_of(planner.base), SWEEP, EventLog(folder), notify=notes.append)


def test_trials_and_their_runs_come_from_the_mirror(planner: PointPlanner) -> None:
    folder, notes = sweep_folder(planner.base), list[str]()
    save(planner, folder)
    log = logged(folder, planner, {8: 5.0, 16: 4.0})
    ledger = Ledger(folder.parents[1])
    for request in log.requests.values():
        (run,) = plan_study(planner.plan("", request.point).study)
        ledger.acquire(run.key)
        RunFolder(ledger.run_folder(run.key)).spec.write_text(run.spec.model_dump_json())
        ledger.close(run.key, "diverged", "loss not finite")
    keys = [key for request in log.requests.values() for key in request.run_keys]
    copies = copies_of(planner, notes)
    for key in keys:
        copies.ended(key[:12], key)
    assert copies.finish((key[:12], key) for key in keys) == []
    shutil.rmtree(folder.parents[1])
    mirror = sweep_mirror(planner)
    assert mirror is not None
    bring_sweep(mirror, SWEEP, copies_of(planner, notes))
    found = SweepLog(folder)
    assert (found.requests, found.outcomes) == (log.requests, log.outcomes)
    assert [Ledger(folder.parents[1]).entry(key).state for key in keys] == ["diverged"] * 2
    assert sorted(notes) == sorted(f"{key[:12]}: diverged, from the mirror" for key in keys)
    save(planner, folder)  # its own sweep, by the specification that came with the trials
    # Without its log the sweep's trials cannot be known, and must not be overwritten.
    (path,) = (Path(mirror.files.root) / SWEEP.folder).glob("trials.jsonl.*")
    path.write_bytes(path.read_bytes()[:-1])
    shutil.rmtree(folder.parents[1])
    with pytest.raises(StorageError, match=r"trials\.jsonl\.\w+ is not what its checksum says; "):
        bring_sweep(mirror, SWEEP, copies_of(planner, notes))
    assert not (folder / "trials.jsonl").exists()


def test_a_population_is_refused(planner: PointPlanner) -> None:
    scheduler = planner.sweep.scheduler.model_copy(update={"kind": "pbt"})
    sweep = planner.sweep.model_copy(update={"scheduler": scheduler})
    with pytest.raises(SpecError, match=r"^output_mirror=.*: members of a population resume"):
        sweep_mirror(PointPlanner(sweep, []))


def test_a_sweep_that_fails_makes_its_last_copies_within_its_lock(
    planner: PointPlanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, ended = sweep_folder(planner.base), list[str]()
    finish = RunMirror.finish

    def fail(*_: object, copies: RunMirror, **__: object) -> None:
        copies.launched("0" * 64)
        raise StorageError("no room")

    def locked_finish(copies: RunMirror, runs: Iterable[tuple[str, str]]) -> list[str]:
        with pytest.raises(LeaseHeldError), exclusive_driver(folder, "tiny-sweep"):
            pass
        ended.append("copied")
        return finish(copies, runs)

    monkeypatch.setattr(runner, "open_context", fail)
    monkeypatch.setattr(RunMirror, "finish", locked_finish)
    with pytest.raises(StorageError, match="no room"):
        runner.run_sweep(planner, None, LiveScreen(Console(file=io.StringIO())))
    assert ended == ["copied"]
