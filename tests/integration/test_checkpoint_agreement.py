"""Two DeepSpeed workers, one of which has no room: both drop that checkpoint and go on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cola.data import prepare
from cola.study import StudySpec
from orchestration.checkpoint.manifest import verify
from orchestration.planning.plan import plan_study
from orchestration.slurm.ports import free_ports
from orchestration.state.journal import JournalReader

WORKER = """
import contextlib, json, os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
import torch.distributed as dist
from cola.data import open_prepared
from cola.study import RunSpec
from orchestration.checkpoint.retention import RetentionPolicy
from orchestration.checkpoint.store import CheckpointStore
from orchestration.state.journal import JournalWriter
from orchestration.training.checkpoint_writer import CheckpointWriter
from orchestration.training.deepspeed_engine import DeepSpeedEngine, import_deepspeed
from orchestration.training.distributed import WorkerRank
from orchestration.training.hooks import Checkpoint
from orchestration.training.train_loop import LoopSettings, train
from tests.waiting import until

import_deepspeed()
dist.init_process_group("gloo")
worker = WorkerRank(dist.get_rank(), dist.get_world_size())
job = json.loads(Path(sys.argv[1]).read_text())
folder, disk = Path(job["folder"]), Path(job["disk"])
journal = JournalWriter(folder / "journal.jsonl") if worker.rank == 0 else None
store, policy = CheckpointStore(str(folder / "store")), RetentionPolicy(2)
save = CheckpointWriter(store, 1, worker, policy=policy, upload="async", journal=journal)


def fill(state):
    # Room for a folder and some files, not for this worker's shard.
    if worker.rank == 1 and state.step == 3:
        # Earlier parts that are still uploaded would make room later.
        until(lambda: not any(disk.glob("cola-checkpoint-*")), "the uploads")
        with (disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(65536))
        os.truncate(disk / "filler", (disk / "filler").stat().st_size - 131072)
    if worker.rank == 1 and state.step == 5:
        (disk / "filler").unlink()


run = RunSpec.model_validate(job["run"])
hooks = [fill, Checkpoint(1e-9, save)]
data = open_prepared(Path(job["data"]))
state = train(
    run, data.train, DeepSpeedEngine, settings=LoopSettings(2), worker=worker, hooks=hooks
)
save.close()
(folder / f"done-{worker.rank}").write_text(state.stop)
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.deepspeed
def test_a_worker_without_room_keeps_nobody_waiting(
    tiny_study: dict[str, Any], small_disk: Path, tmp_path: Path
) -> None:
    study = StudySpec.parse(tiny_study | {"families": {"ar": {}}})
    data = prepare(study.data, tmp_path / "cache")
    run = plan_study(study)[0].spec.model_dump(mode="json")
    run["stages"][0]["steps"] = 8
    job = tmp_path / "job.json"
    job.write_text(
        json.dumps(
            {"run": run, "data": str(data.folder), "folder": str(tmp_path), "disk": str(small_disk)}
        )
    )
    (port,) = free_ports("127.0.0.1", 1)
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2",
    }  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(job)],
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank), "TMPDIR": temporary},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, temporary in enumerate([str(tmp_path), str(small_disk)])
    ]
    errors = [process.communicate(timeout=400)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors[1][-3000:]
    assert [(tmp_path / f"done-{rank}").read_text() for rank in (0, 1)] == ["finished"] * 2
    failed = [
        line
        for line in JournalReader(tmp_path / "journal.jsonl").new_lines()
        if line.values["event"] == "checkpoint failed"
    ]
    assert [line.step for line in failed] == [3, 4]
    assert all(line.values["reason"].startswith("worker 1: ") for line in failed)
    assert all("No space left" in line.values["reason"] for line in failed)
    folders = sorted((tmp_path / "store" / "attempt-1").iterdir())
    assert [folder.name for folder in folders] == ["step-000000006", "step-000000007"]
    assert all(verify(folder) is not None for folder in folders)
