"""How an attempt ended: one line that names the cause, and where the workers' logs are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cola.records import StopCode, Tag
from cola.study import StudySpec
from orchestration.driver.attempt import closing_tags, outcome_of, read_outcome
from orchestration.driver.ray_trainer import TrainingError
from orchestration.driver.worker_logs import MOST_FILES, cause_of, files_of, raised_in
from orchestration.planning.plan import plan_study
from orchestration.state.heartbeat import Beat
from orchestration.state.ledger import Ledger
from orchestration.state.paths import RunFolder
from orchestration.worker.assignment import RunOutcome


def node(name: str, alive: bool = True) -> dict[str, Any]:
    """A node as `ray.nodes()` has it."""
    return {
        "NodeID": f"id-{name}",
        "NodeManagerHostname": name,
        "Alive": alive,
        "RayletSocketName": f"/tmp/ray-{name}/session_2026/sockets/raylet",
    }


def beat(rank: int, name: str) -> Beat:
    return Beat(
        attempt=1, rank=rank, pid=100 + rank, host=name, node_id=f"id-{name}", step=1, time=0.0,
        seconds_per_step=None, data_wait_fraction=None, memory_gb=1.0,
    )  # fmt: skip


def test_each_workers_file_is_on_its_own_node() -> None:
    named = files_of([beat(0, "one"), beat(1, "two")], [node("one"), node("two")])
    assert named == (
        "one:/tmp/ray-one/session_2026/logs/worker-*-100.err, "
        "two:/tmp/ray-two/session_2026/logs/worker-*-101.err"
    )


def test_a_message_names_few_files() -> None:
    many = [beat(rank, "one") for rank in range(8)]
    assert files_of(many, [node("one")]).count(".err") == MOST_FILES


def test_without_heartbeats_the_folders_of_living_nodes_are_named() -> None:
    named = files_of([], [node("one"), node("two", alive=False)])
    assert named == "worker-*.err in one:/tmp/ray-one/session_2026/logs"


def test_a_failures_message_is_whole(tmp_path: Path) -> None:
    """Long causes are cut where they are read, so that the place of the logs is not cut off."""
    message = "rank 0: " + "x" * 300 + "; logs: one:/tmp/worker-*-100.err"
    assert outcome_of(tmp_path, TrainingError(message), attempt=1) == ("failed", message)


def test_a_foreign_errors_text_is_one_short_line(tmp_path: Path) -> None:
    state, reason = outcome_of(tmp_path, ValueError("a\n" + "b" * 1000), attempt=1)
    assert state == "failed"
    assert reason is not None
    assert reason.startswith("a bbb")
    assert len(reason) < 310


def test_no_outcome_names_the_file_the_remedy_and_the_logs(tmp_path: Path) -> None:
    state, reason = outcome_of(tmp_path, None, attempt=1)
    assert state == "failed"
    assert reason is not None
    assert reason.startswith(f"{RunFolder(tmp_path).outcome}: not written")
    assert "the same command resumes the run" in reason
    assert "; logs: worker-*.err" in reason


@pytest.mark.parametrize(
    ("written", "state"),
    [("finished", "finished"), ("diverged", "diverged"), ("stopped", "interrupted")],
)
def test_the_workers_outcome_decides(written: str, state: str, tmp_path: Path) -> None:
    outcome = RunOutcome(attempt=1, state=written, reason="why", step=3, order_digests={})
    RunFolder(tmp_path).outcome.write_text(outcome.model_dump_json())
    assert outcome_of(tmp_path, None, attempt=1) == (state, "why")


def test_ranks_of_the_same_cause_are_named_together() -> None:
    trace = "Traceback (most recent call last):\n  File\nOSError: no room\n"
    failures = {2: OSError(trace), 0: OSError(trace), 1: ValueError("other"), 3: KeyError("third")}
    assert cause_of(failures) == "rank 0, 2: OSError: no room; rank 1: ValueError: other and 1 more"


OUT_OF_MEMORY = """ray.exceptions.RayTaskError: ray::RayTrainWorker() (pid=7)
Traceback (most recent call last):
  File "/venv/lib/python3.11/site-packages/ray/train/worker.py", line 40, in run
    train_func()
  File "/checkout/orchestration/training/train_loop.py", line 120, in train
    state.engine.step()
    ^^^^^^^^^^^^^^^^^^^
  File "/venv/lib/python3.11/site-packages/torch/nn/functional.py", line 2000, in linear
    return torch.linear(x)
RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate \
memory: you tried to allocate 137438953472 bytes. Error code 12 (Cannot allocate memory)
"""
CHAINED = """Traceback (most recent call last):
  File "/x/cola/files.py", line 3, in read
    open()
FileNotFoundError: first

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "/x/cola/data/packed.py", line 9, in rows
    raise ValueError(text)
ValueError: the shard is damaged:
  rows 3 to 5
remove it
"""


def test_a_cause_has_class_message_and_place() -> None:
    assert raised_in(RuntimeError(OUT_OF_MEMORY)) == (
        "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't "
        "allocate memory: you tried to allocate 137438953472 bytes. Error code 12 (Cannot "
        "allocate memory) (at orchestration/training/train_loop.py:120)"
    )
    assert raised_in(ValueError(CHAINED)) == (
        "ValueError: the shard is damaged: rows 3 to 5 remove it (at cola/data/packed.py:9)"
    )


def test_a_cause_without_a_traceback_keeps_its_first_and_last_sentences() -> None:
    died = (
        "The actor died unexpectedly before finishing this task.\n\tclass_name: RayTrainWorker\n"
        + "\tactor_id: 0123456789\n" * 8
        + "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR"
    )
    assert raised_in(RuntimeError(died)) == (
        "RuntimeError: The actor died unexpectedly before finishing this task: "
        "The actor is dead because its worker process has died"
    )


@pytest.mark.parametrize("content", ["", "{", "[]", '{"attempt": "x"}', '{"later": 1}'])
def test_a_damaged_outcome_is_named_and_passes_for_none(tmp_path: Path, content: str) -> None:
    path = RunFolder(tmp_path).outcome
    path.write_text(content)
    assert read_outcome(tmp_path) is None
    state, reason = outcome_of(tmp_path, None, attempt=1)
    assert state == "failed"
    assert reason is not None
    assert reason.startswith(f"{path}: is not an outcome that this version reads (")
    assert "the same command resumes" in reason


def test_another_attempts_outcome_counts_for_nothing(tmp_path: Path) -> None:
    outcome = RunOutcome(attempt=1, state="finished", reason=None, step=3, order_digests={})
    RunFolder(tmp_path).outcome.write_text(outcome.model_dump_json())
    assert outcome_of(tmp_path, None, attempt=1) == ("finished", None)
    state, reason = outcome_of(tmp_path, None, attempt=2)
    assert (state, "is of attempt 1, this one is 2" in str(reason)) == ("failed", True)


@pytest.mark.parametrize("code", ["collapsed", "diverged", None])
def test_a_stop_code_reaches_mlflow(
    tiny_study: dict[str, Any], tmp_path: Path, code: StopCode | None
) -> None:
    run = plan_study(StudySpec.parse(tiny_study), "0" * 64)[0]
    ledger = Ledger(tmp_path)
    ledger.acquire(run.key)
    outcome = RunOutcome(
        attempt=1, state="diverged", reason="why", stop_code=code, step=3, order_digests={1: "d"}
    )
    RunFolder(ledger.run_folder(run.key)).outcome.write_text(outcome.model_dump_json())
    ledger.close(run.key, "diverged", "why")
    tags = closing_tags(run, ledger)
    assert tags.get(Tag.STOP_CODE) == code
    assert tags[Tag.STATUS_REASON] == "why"


def test_an_outcome_without_a_stop_code_is_read(tmp_path: Path) -> None:
    values = {"attempt": 1, "state": "diverged", "reason": "why", "step": 3, "order_digests": {}}
    RunFolder(tmp_path).outcome.write_text(json.dumps(values))
    outcome = read_outcome(tmp_path)
    assert outcome is not None
    assert outcome.stop_code is None
