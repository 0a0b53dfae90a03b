"""Starts of a job that take no step are counted; a step anywhere begins the count anew."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cola.errors import StorageError
from cola.records import SweepFile
from orchestration.slurm.record import (
    MOST_IDLE_STARTS,
    JobRecord,
    read_job,
    record_file,
    work_done,
    write_job,
)
from orchestration.state.journal import JournalWriter
from orchestration.state.paths import OutputFolder, RunFolder


def write_steps(output: Path, key: str, *steps: int) -> None:
    """Lines of a run's journal, as its workers write them."""
    journal = JournalWriter(RunFolder(OutputFolder(output).runs / key).journal)
    for step in steps:
        journal.write("train", step, 0.0, values={"train/loss": 1.0})
    journal.close()


def write_plan(output: Path, study: str, *keys: str) -> None:
    folder = OutputFolder(output).studies / study
    folder.mkdir(parents=True)
    slots = {key: {"run_key": key, "name": key, "params": {}} for key in keys}
    (folder / "plan.json").write_text(json.dumps(slots))


def test_starts_without_a_step_are_few() -> None:
    record = JobRecord(name="tiny", kind="study", job="7").started(0, ["n1"])
    assert (record.starts, record.idle_starts) == (1, 0)
    assert record.may_start_again(0)
    for idle in range(1, MOST_IDLE_STARTS):
        record = record.started(0, ["n1"])
        assert (record.starts, record.idle_starts) == (idle + 1, idle)
    assert not record.may_start_again(0)
    assert record.may_start_again(1)
    record = record.started(5, ["n2"])
    assert (record.idle_starts, record.progress, record.nodes) == (0, 5, ["n2"])


def test_steps_of_a_study_are_those_of_its_own_runs(tmp_path: Path) -> None:
    assert work_done(tmp_path, "tiny", "study") == 0
    write_plan(tmp_path, "tiny", "a", "b", "never-started")
    write_steps(tmp_path, "a", 5, 10, 5, 10)  # repeated after a lost checkpoint
    write_steps(tmp_path, "b", 7)
    write_steps(tmp_path, "of-another-study", 100)
    assert work_done(tmp_path, "tiny", "study") == 17
    (OutputFolder(tmp_path).studies / "tiny" / "plan.json").write_text("{")
    assert work_done(tmp_path, "tiny", "study") == 0


def test_a_sweep_also_counts_the_trials_that_have_ended(tmp_path: Path) -> None:
    write_steps(tmp_path, "a", 5)
    trials = OutputFolder(tmp_path).sweeps / "search" / SweepFile.TRIALS
    trials.parent.mkdir(parents=True)
    lines = [{"event": "asked", "run_keys": ["a"]}, {"event": "ended"}, {"event": "asked"}]
    trials.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"event": "end')
    assert work_done(tmp_path, "search", "sweep") == 6


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_job(tmp_path, "tiny", "7") is None
    record = JobRecord(name="tiny", kind="study", job="7", nodes=["n1"], starts=2)
    write_job(tmp_path, record)
    found = read_job(tmp_path, "tiny", "7")
    assert found is not None
    assert found.model_copy(update={"changed": 0.0}) == record
    record_file(tmp_path, "tiny", "7").write_text("{}")
    with pytest.raises(StorageError, match="remove it: only the count of starts is lost"):
        read_job(tmp_path, "tiny", "7")
