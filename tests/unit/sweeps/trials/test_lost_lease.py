"""A trial whose process was frozen leaves its run to the driver that took it over."""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from cola.study import StudySpec
from orchestration.state.event_log import read_events
from orchestration.state.ledger import LEASE_STALE_SECONDS, Ledger
from orchestration.state.paths import RunFolder, output_root
from orchestration.worker.assignment import Assignment, RunOutcome
from sweeps.trials import trial
from sweeps.trials.trial import TrialExecutor
from sweeps.trials.trial_spec import TrialSpec


def outcome(attempt: int, state: str) -> str:
    return RunOutcome(
        attempt=attempt, state=state, reason=None, step=1, order_digests={}
    ).model_dump_json()


def test_a_run_that_was_taken_over_is_taken_as_its_successor_ends_it(
    tiny_study: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = StudySpec.parse(tiny_study | {"families": {"ar": {}}})
    later = time.time() + LEASE_STALE_SECONDS + 1
    successor = Ledger(output_root(study), clock=lambda: later)
    starts: list[int] = []
    ready = threading.Event()

    def fit_run(assignment: Assignment) -> None:
        """Workers that stop, as their run was taken over meanwhile and finished elsewhere."""
        assert ready.wait(60)
        starts.append(assignment.attempt)
        key, folder = assignment.run.run_key, RunFolder(Path(assignment.run_folder))
        successor.acquire(key)
        work._refreshed = -math.inf  # due
        work.keep_alive()
        stopping = threading.Thread(target=work.stop, args=("stopped with its sweep", 0.0))
        stopping.start()
        stopping.join()
        assert not folder.stop.exists(), "the successor's workers would stop"
        work._stopping.clear()
        folder.outcome.write_text(outcome(2, "interrupted"))
        successor.close(key, "finished")

    monkeypatch.setattr(trial, "fit_run", fit_run)
    spec = TrialSpec(
        trial=1, study=study, fingerprint="x" * 64, data_folder=str(tmp_path), folder=str(tmp_path),
        evaluation=None, likelihood=False, preemptible=False, in_process=True, driver="d",
    )  # fmt: skip
    work = TrialExecutor(spec, lambda folder, settings, likelihood: {})
    ready.set()
    work.thread.join(60)
    ended = work.outcome()
    assert ended is not None
    assert (ended.state, ended.reason, starts) == ("finished", None, [1])
    entry = successor.entry(work.runs[0].key)
    assert (entry.state, len(entry.attempts)) == ("finished", 2)
    assert entry.attempts[0].reason == "its driver was lost"
    (event,) = read_events(tmp_path)
    assert (event["event"], event["run"]) == ("lease lost", work.runs[0].name)
