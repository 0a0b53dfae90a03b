"""A sweep through real Ray Tune, Ray Train and DeepSpeed: killed, run again, reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestration.ledger import Ledger
from sweeps.log import SweepLog
from tests.integration.test_study import cola, here, start, until

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.deepspeed]


def test_a_killed_sweep_goes_on_without_repeating(
    tiny_study: dict[str, Any], tmp_path: Path
) -> None:
    """Four rates in four trials; the driver is killed after the first, and called again."""
    outputs = Path(tiny_study["output"])
    del tiny_study["name"]
    tiny_study["families"] = {"ar": {}}
    sweep = {
        "name": "rates",
        "study": tiny_study,
        "space": {
            "training.optimizer.learning_rate": [1e-3, 2e-3, 4e-3],
            "training.batch_sequences": [8, 100_000],
        },
        "algorithm": {"kind": "grid"},
        "concurrent_trials": 1,
    }
    path = tmp_path / "rates.yaml"
    path.write_text(yaml.safe_dump(sweep))
    folder = outputs / "sweeps" / "rates"
    process = start("sweep", str(path))
    until(lambda: bool(SweepLog(folder).ended), process)
    process.kill()
    process.communicate(timeout=60)
    before = SweepLog(folder)
    assert 1 <= len(before.ended) < 3

    said = cola("sweep", str(path))
    assert "3 finished" in said
    log, ledger = SweepLog(folder), Ledger(outputs)
    assert sorted(log.ended) == [1, 2, 3]
    keys = [key for asked in log.asked.values() for key in asked.run_keys]
    assert len(set(keys)) == len(keys) == 3
    finished_before = [key for n in before.ended for key in before.asked[n].run_keys]
    assert [len(ledger.entry(key).attempts) for key in finished_before] == [1] * len(before.ended)
    assert {ledger.entry(key).state for key in keys} == {"finished"}
    assert sum(log.exclusions("").values()) == 3  # no budget pays for one step of that batch

    # A study of the best point finds its run done.
    assert "nothing to train" in here("run", str(folder / "best-study.yaml"))
    status = json.loads(here("sweep", "status", str(path), "--json"))
    assert [trial["state"] for trial in status["trials"]] == ["finished"] * 3
    assert "Best by val" in (folder / "report" / "report.html").read_text()
