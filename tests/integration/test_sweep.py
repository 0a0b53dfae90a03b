"""A sweep through real Ray Tune, Ray Train and DeepSpeed: killed, run again, reported."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestration.catalog import load_run_spec
from orchestration.journal import JournalReader
from orchestration.ledger import Ledger
from sweeps.log import SweepLog
from tests.integration.test_study import cola, start, until

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.deepspeed]


def test_a_killed_population_goes_on_without_repeating(
    tiny_study: dict[str, Any], tmp_path: Path
) -> None:
    """Three members in two generations; the driver is killed after the first trial, and called
    again."""
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
        "scheduler": {"kind": "pbt", "population": {"members": 3, "generations": 2}},
        "concurrent_trials": 1,
    }
    path = tmp_path / "rates.yaml"
    path.write_text(yaml.safe_dump(sweep, sort_keys=False))
    folder = outputs / "sweeps" / "rates"
    process = start("sweep", str(path))
    until(lambda: bool(SweepLog(folder).ended), process)
    process.kill()
    process.communicate(timeout=60)
    before = SweepLog(folder)
    assert 1 <= len(before.ended) < 3

    said = cola("sweep", str(path))
    assert "3 paused, 3 finished" in said
    log, ledger = SweepLog(folder), Ledger(outputs)
    assert sorted(log.ended) == [1, 2, 3, 4, 5, 6]
    keys = [key for asked in log.asked.values() for key in asked.run_keys]
    runs = Counter(keys)
    assert sorted(runs.values()) == [1, 1, 2, 2]  # one member was given up, two trained on
    for number in before.ended:
        for key in before.asked[number].run_keys:
            assert len(ledger.entry(key).attempts) == runs[key]  # nothing done is done again
    (child,) = [a for a in log.asked.values() if a.leg and a.leg.parent not in (None, a.trial - 3)]
    (key,) = child.run_keys
    steps = [
        line.step for line in JournalReader(ledger.run_folder(key) / "journal.jsonl").new_lines()
    ]
    middle = load_run_spec(ledger.run_folder(key)).step_at(0.5)
    assert steps[0] == middle  # it begins where its parent was then
    assert min(steps[1:]) > middle
    assert {ledger.entry(key).state for key in runs if runs[key] == 2} == {"finished"}
    assert sum(log.exclusions("").values()) == 2  # no budget pays for one step of that batch
    assert not list((outputs / "prefixes").glob("*/manifest*"))

    # A study of the best point finds its run done.
    assert "nothing to train" in cola("run", str(folder / "best-study.yaml"))
    status = json.loads(cola("sweep", "status", str(path), "--json"))
    assert Counter(trial["state"] for trial in status["trials"]) == {"paused": 3, "finished": 3}
    assert "Best by val" in (folder / "report" / "report.html").read_text()
