"""A sweep through real Ray Tune, Ray Train and DeepSpeed: killed, run again, reported; and on a
cluster that it shares with a study."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestration.planning.catalog import load_run_spec
from orchestration.state.event_log import read_events
from orchestration.state.journal import JournalReader
from orchestration.state.ledger import Ledger
from sweeps.search.trial_log import SweepLog
from tests.conftest import write_study
from tests.integration.test_study import here, output_of, start
from tests.ray_nodes import RayNodes
from tests.waiting import until

pytestmark = [pytest.mark.slow(seconds=210), pytest.mark.ray, pytest.mark.deepspeed]


def test_a_killed_population_resumes_without_repeating(
    tiny_study: dict[str, Any], tmp_path: Path
) -> None:
    """Two members in two generations; the driver is killed after the first trial, then called
    again."""
    outputs = Path(tiny_study["output"])
    del tiny_study["name"]
    tiny_study["families"] = {"ar": {}}
    sweep = {
        "name": "rates",
        "study": tiny_study,
        "space": {
            "training.optimizer.learning_rate": [1e-3, 4e-3],
            "training.batch_sequences": [8, 100_000],
        },
        "algorithm": {"kind": "grid"},
        "scheduler": {"kind": "pbt", "population": {"members": 2, "generations": 2}},
        "concurrent_trials": 1,
    }
    path = tmp_path / "rates.yaml"
    path.write_text(yaml.safe_dump(sweep, sort_keys=False))
    folder = outputs / "sweeps" / "rates"
    process = start("sweep", str(path))
    until(lambda: bool(SweepLog(folder).outcomes), "a trial to end", process=process)
    process.kill()
    process.communicate(timeout=60)
    before = SweepLog(folder)
    assert {run.nll_kind for each in before.outcomes.values() for run in each.runs} == {"exact"}
    assert len(before.outcomes) == 1

    sweep_output = output_of(start("sweep", str(path)))
    assert "2 paused, 2 finished" in sweep_output
    log, ledger = SweepLog(folder), Ledger(outputs)
    assert sorted(log.outcomes) == [1, 2, 3, 4]
    keys = [key for request in log.requests.values() for key in request.run_keys]
    runs = Counter(keys)
    assert sorted(runs.values()) == [1, 1, 2]  # one member was given up, the other trained on
    for number in before.outcomes:
        for key in before.requests[number].run_keys:
            assert len(ledger.entry(key).attempts) == runs[key]  # nothing done is done again
    (child,) = [
        a for a in log.requests.values() if a.leg and a.leg.parent not in (None, a.trial - 2)
    ]
    (key,) = child.run_keys
    steps = [
        line.step for line in JournalReader(ledger.run_folder(key) / "journal.jsonl").new_lines()
    ]
    middle = load_run_spec(ledger.run_folder(key)).step_at(0.5)
    assert steps[0] == middle  # it begins where its parent was then
    assert min(steps[1:]) > middle
    assert {ledger.entry(key).state for key in runs if runs[key] == 2} == {"finished"}
    assert sum(log.exclusions("").values()) == 1  # no budget pays for one step of that batch
    assert not list((outputs / "prefixes").glob("*/manifest*"))
    assert not (outputs / "studies").exists()

    # A study of the best point finds its run done.
    assert "nothing to train" in here("run", str(folder / "best-study.yaml"))
    status = json.loads(here("sweep", "status", str(path), "--json"))
    assert Counter(trial["state"] for trial in status["trials"]) == {"paused": 2, "finished": 2}
    assert "Best by validation" in (folder / "report" / "report.html").read_text()


def names(folder: Path) -> list[str]:
    """Events of a log that may not be there yet."""
    return [event["event"] for event in read_events(folder)]


def spans(folder: Path) -> Iterator[tuple[float, float, str]]:
    """When each run of an event log held its worker, from its (first) launch to its end."""
    began: dict[str, float] = {}
    for event in read_events(folder):
        if event["event"] == "launched":
            began.setdefault(event["run"], event["time"])
        elif event["event"] == "finished":
            yield began.pop(event["run"]), event["time"], event["run"]
    assert not began


@pytest.fixture
def head(tmp_path: Path) -> Iterator[RayNodes]:
    """A cluster of one CPU."""
    with RayNodes(tmp_path, head_cpus=1) as nodes:
        yield nodes


def test_a_sweep_and_a_study_share_one_cpu(
    tiny_study: dict[str, Any], tmp_path: Path, head: RayNodes
) -> None:
    """A trial whose process is killed resumes from its checkpoint, and keeps its turn; its model
    is measured at the end."""
    tiny_study |= {"families": {"ar": {}}, "checkpoint": {"every_seconds": 0.5}}
    study = write_study(tiny_study, tmp_path)
    base = {key: value for key, value in tiny_study.items() if key != "name"}
    base["ladder"] = [{"budget": 6e10, "core_parameters": 60_000}]
    # A key of inference besides: the trained model is measured where a CPU is free.
    space = {"training.optimizer.learning_rate": [2e-3], "evaluation.prompt_tokens": [8]}
    sweep = {"name": "rates", "study": base, "space": space, "algorithm": {"kind": "grid"}}
    path = tmp_path / "rates.yaml"
    path.write_text(yaml.safe_dump(sweep))
    outputs = Path(tiny_study["output"])
    ledger, folder = Ledger(outputs), outputs / "sweeps" / "rates"
    trials = head.run("sweep", str(path), "--address", head.address)
    saved = "runs/*/ray/*/step-*/manifest-00000.json"
    until(lambda: "launched" in names(folder), "the trial to hold its worker", process=trials)
    # Its driver starts while the trial's worker does.
    runs = head.run("run", str(study), "--address", head.address)
    waits = outputs / "studies" / "tiny"
    until(lambda: "waiting" in names(waits), "the study to wait", process=runs)
    until(lambda: bool(list(outputs.glob(saved))), "a checkpoint", process=trials)
    first = SweepLog(folder).requests[1].run_keys[0]
    lease = ledger.entry(first).lease
    assert lease is not None
    os.kill(int(lease.owner.split(":")[1]), signal.SIGKILL)
    sweep_output, _ = trials.communicate(timeout=300)
    study_output, _ = runs.communicate(timeout=300)
    assert (trials.returncode, runs.returncode) == (0, 0), sweep_output + study_output
    assert "trial 1: the trial's process died; retry 1 of 3" in sweep_output
    assert len(ledger.entry(first).attempts) == 2
    assert "continuation/chrf" in SweepLog(folder).outcomes[1].metrics
    starts = [e["step"] for e in read_events(folder) if e["event"] == "workers started"]
    assert starts[0] == 0
    assert starts[1] > 0
    assert "0 are free, rates/trial001-ar-6e+10-seed66 holds 1 of them" in study_output
    held = sorted([*spans(folder), *spans(outputs / "studies" / "tiny")])
    assert [run for _, _, run in held] == ["trial001-ar-6e+10-seed66", "ar-2e+10-seed66"]
    assert held[0][1] <= held[1][0]
