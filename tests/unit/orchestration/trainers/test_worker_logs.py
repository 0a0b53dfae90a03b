"""Why workers failed, in one line, and the files of what they wrote."""

from __future__ import annotations

from typing import Any

from orchestration.state.heartbeat import Beat
from orchestration.trainers.worker_logs import MOST_FILES, cause_of, files_of, raised_in


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
