"""A sweep that was fetched from a cluster shows its trials, without its corpus."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from orchestration.cleanup.contents import Thing
from orchestration.results.fetch import fetch
from orchestration.results.sources import Origin, open_source
from orchestration.state.ledger import Ledger
from orchestration.state.paths import RunFolder
from sweeps.cli import app
from sweeps.search.trial_log import SweepLog
from sweeps.space.catalog import sweep_folder
from sweeps.space.points import PointPlanner
from sweeps.space.spec import SweepSpec
from tests.unit.sweeps.driver.test_best import BLOCK, logged, save


def test_a_fetched_sweep_shows_its_trials(
    tiny_sweep: dict[str, Any], corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_sweep["space"] = {BLOCK: [8, 16]}
    corpus = shutil.copy(corpus_file, tmp_path / "corpus.txt")
    tiny_sweep["study"]["data"]["corpus"]["paths"] = [str(corpus)]
    planner = PointPlanner(SweepSpec.parse(tiny_sweep), [])
    there = sweep_folder(planner.base)
    save(planner, there)
    logged(there, planner, {8: 5.0, 16: 4.0})
    ledger = Ledger(there.parents[1])
    keys = [key for request in SweepLog(there).requests.values() for key in request.run_keys]
    for key in keys:
        ledger.acquire(key)
        RunFolder(ledger.run_folder(key)).journal.touch()
        ledger.close(key, "finished")
    (there / "tune").mkdir()
    (there / "tune" / "state").touch()
    sweep, here = Thing("sweep", "tiny-sweep"), tmp_path / "here"
    origin = Origin(
        sweep, "--cluster ours", str(there.parents[1]), digest=None, tracking=None, storage=None
    )
    result = fetch(open_source(origin), here, origin, models=False)
    assert result.states == {"finished": 2}
    assert {name for name in result.copied if name.startswith("sweeps/")} == {
        f"sweeps/tiny-sweep/{name}" for name in ("study.yaml", "sweep.yaml", "trials.jsonl")
    }
    shutil.rmtree(there.parents[1])
    Path(corpus).unlink()
    monkeypatch.chdir(here)
    file = "sweeps/tiny-sweep/sweep.yaml"
    shown = CliRunner().invoke(app, ["sweep", "status", file, "--json"], catch_exceptions=False)
    rows = json.loads(shown.stdout)["trials"]
    assert [row["state"] for row in rows] == ["finished"] * 2
    CliRunner().invoke(app, ["sweep", "report", file], catch_exceptions=False)
    assert (here / "sweeps" / "tiny-sweep" / "report" / "report.html").exists()
