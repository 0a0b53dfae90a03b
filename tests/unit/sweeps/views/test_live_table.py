"""What a person sees of a sweep that runs, stops and is done."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cola.records import Metric
from orchestration.driver.live_screen import LiveScreen
from orchestration.state.journal import JournalWriter
from orchestration.state.ledger import Ledger
from orchestration.state.paths import RunFolder, output_root
from sweeps.search.trial_log import SweepLog
from sweeps.space.points import PlannedPoint, PointPlanner, trial_request
from sweeps.space.spec import SweepSpec
from sweeps.views.live_table import SweepView
from tests.unit.sweeps.trials_of import asked, ended

BLOCK = "families.cola.block_size"


class World:
    """A sweep of four blocks with its log, and a terminal of this size."""

    def __init__(self, values: dict[str, Any], folder: Path, width: int, height: int = 40) -> None:
        values["space"] = {BLOCK: [2, 4, 8, 16]}
        self.planner = PointPlanner(SweepSpec.parse(values), [])
        self.log, self.file = SweepLog(folder), io.StringIO()
        console = Console(
            file=self.file, width=width, height=height, force_terminal=True, color_system=None
        )
        self.view = SweepView(LiveScreen(console), self.planner.sweep, self.log)

    def shown(self) -> str:
        """The live table as it is now, with spaces alone between its words."""
        before = len(self.file.getvalue())
        with self.view.live():
            self.view.refresh()
        return " ".join(self.file.getvalue()[before:].split())


def validated(planned: PlannedPoint, step: int, nll: float) -> None:
    (run,) = planned.runs
    folder = RunFolder(Ledger(output_root(planned.study)).run_folder(run.key))
    folder.path.mkdir(parents=True)
    journal = JournalWriter(folder.journal)
    journal.write("train", step, 1.0, values={Metric.TRAIN_LOSS: 5.0})
    journal.write("evaluation", step, 1.0, values={Metric.NLL: nll})
    journal.close()


@pytest.mark.parametrize("width", [80, 100, 140])
def test_the_live_table_shows_what_runs_is_best_and_was_stopped(
    tiny_sweep: dict[str, Any], tmp_path: Path, width: int
) -> None:
    world = World(tiny_sweep, tmp_path, width)
    for block, nll in ((2, 5.0), (4, 4.0)):
        asked(world.log, world.planner, {BLOCK: block})
        ended(world.log, len(world.log.requests), nll=nll)
    asked(world.log, world.planner, {BLOCK: 8})
    ended(world.log, 3, "stopped", reason="stopped early by asha at 50% of its budget", nll=6.0)
    request, planned = asked(world.log, world.planner, {BLOCK: 16})
    world.view.started(request, planned)
    assert "starting 0 s" in world.shown()
    steps = planned.runs[0].spec.steps
    validated(planned, steps // 2, 4.5)
    shown = world.shown()
    assert "3 of at most 4 trials ended (2 finished, 1 stopped early), 1 running" in shown
    assert "ETA about 10 s" in shown
    training = f"training {steps // 2 / steps:.0%}"
    for text in ("finished, best", "stopped early", training, "4.5000 (estimate)", "block_size=8"):
        assert text in shown
    assert "…" not in shown
    world.view.left(4)
    ended(world.log, 4, "stopped", nll=4.25)  # the log has no runs of it
    assert "4.2500 (estimate)" in world.shown()
    rows = [line for line in world.file.getvalue().splitlines() if line.startswith("│")]
    assert max(map(len, rows)) <= width


def test_a_stop_names_the_trials_that_it_waits_for(
    tiny_sweep: dict[str, Any], tmp_path: Path
) -> None:
    world = World(tiny_sweep, tmp_path, 200)
    request, planned = asked(world.log, world.planner, {BLOCK: 8})
    world.view.started(request, planned)
    world.view.stopping()
    line = "stopping: running trainings save a checkpoint and leave; waits for trial 1 (starting"
    assert line in world.file.getvalue()
    assert "stopping for 0 s; waits for trial 1" in world.shown()
    world.view.left(1)
    assert "waits for" not in world.shown()


def test_of_more_trials_than_lines_those_that_run_and_the_best_are_shown(
    tiny_sweep: dict[str, Any], tmp_path: Path
) -> None:
    world = World(tiny_sweep, tmp_path, 120, height=12)
    for block, nll in ((2, 4.0), (4, 5.0), (8, 6.0)):
        asked(world.log, world.planner, {BLOCK: block})
        ended(world.log, len(world.log.requests), nll=nll)
    request, planned = asked(world.log, world.planner, {BLOCK: 16})
    world.view.started(request, planned)
    shown = world.shown()
    assert "| 2 more trials" in shown
    assert "block_size=2" in shown
    assert "block_size=16" in shown
    assert "block_size=4" not in shown  # neither best nor as late as those that are shown


def test_arms_of_long_points_fit_eighty_columns(tiny_sweep: dict[str, Any], tmp_path: Path) -> None:
    tiny_sweep["arms"] = {"llada": {}, "cola": {}}
    world = World(tiny_sweep, tmp_path, 80)
    planned = world.planner.plan("llada", {BLOCK: 2})
    point = {"training.optimizer.learning_rate": 7.699e-4, "training.batch_sequences": 16}
    request = trial_request(planned, 1, None).model_copy(update={"point": point})
    world.log.write(request)
    ended(world.log, 1, nll=4.0)
    world.shown()
    rows = [line for line in world.file.getvalue().splitlines() if line.startswith("│")]
    assert {len(row) for row in rows} == {len(rows[0])}
    assert len(rows[0]) <= 80
    assert rows[0].rstrip().endswith("│")
    assert "llada" in rows[0]
