"""Real DeepSpeed engines: two workers give one worker's losses, at every ZeRO stage."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cola.data import prepare
from cola.spec import StudySpec
from orchestration.plan import plan_study

WORKER = """
import json, os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
import torch.distributed as dist
from cola.data import open_prepared
from cola.spec import RunSpec
from orchestration.checkpoint import Cursor
from orchestration.deepspeed_engine import DeepSpeedEngine, import_deepspeed
from orchestration.evaluate import validation_metrics
from orchestration.train_loop import LoopSettings, Place, mean_over_workers, train

job = json.loads(sys.argv[1])
import_deepspeed()
dist.init_process_group("gloo")
place = Place(dist.get_rank(), dist.get_world_size())
run = RunSpec.model_validate(job["run"])
data = open_prepared(Path(job["data"]))
losses, evaluations = {}, []

def record(state):
    values = mean_over_workers(state.result.values, place, state.engine.device)
    losses[state.step] = values["loss"]
    if state.step == job["stop"]:
        evaluations.append(validation_metrics(state, data))
        folder = Path(job["folder"])
        state.engine.save(folder)
        if place.rank == 0:
            (folder / "cursor.json").write_text(state.cursor().model_dump_json())
        state.stop = "interrupted"

resume = None
if job["resume"]:
    folder = Path(job["folder"])
    resume = (folder, Cursor.model_validate_json((folder / "cursor.json").read_text()))
state = train(run, data.train, DeepSpeedEngine, LoopSettings(job["zero_stage"]), place, [record],
              resume)
if place.rank == 0:
    Path(job["out"]).write_text(json.dumps({"losses": losses, "evaluations": evaluations}))
dist.barrier()
dist.destroy_process_group()
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def run_workers(job: dict[str, Any], workers: int, folder: Path) -> dict[str, Any]:
    """Losses by step of a job on this many processes."""
    job = job | {"out": str(folder / f"out-{workers}-{job['zero_stage']}-{job['resume']}.json")}
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(workers),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, json.dumps(job)],
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(workers)
    ]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert all(process.returncode == 0 for process in processes), errors[0][-3000:]
    result: dict[str, Any] = json.loads(Path(job["out"]).read_text())
    return result


@pytest.fixture
def jobs(tiny_study: dict[str, Any], tmp_path: Path) -> dict[str, dict[str, Any]]:
    study = StudySpec.parse(tiny_study)
    data = prepare(study.data, tmp_path / "cache")
    return {
        run.spec.family: {
            "run": run.spec.model_dump(mode="json"),
            "data": str(data.folder),
            "folder": str(tmp_path / "checkpoint"),
            "stop": 20,
            "resume": False,
        }
        for run in plan_study(study)
    }


def differences(a: dict[str, float], b: dict[str, float]) -> float:
    assert a.keys() == b.keys()
    return max(abs(a[step] - b[step]) for step in a)


@pytest.mark.slow
@pytest.mark.deepspeed
@pytest.mark.parametrize("family", ["ar", "llada", "cola"])
def test_two_workers_equal_one_at_every_zero_stage(
    family: str, jobs: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "checkpoint").mkdir()
    job = jobs[family]
    one = run_workers(job | {"zero_stage": 0}, 1, tmp_path)
    assert len(one["losses"]) == 20
    for zero_stage in (1, 2, 3):
        two = run_workers(job | {"zero_stage": zero_stage}, 2, tmp_path)
        assert differences(one["losses"], two["losses"]) < 1e-3
        for name, value in one["evaluations"][0].items():
            assert two["evaluations"][0][name] == pytest.approx(value, abs=1e-3)


@pytest.mark.slow
@pytest.mark.deepspeed
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_a_sharded_checkpoint_resumes_bit_by_bit(
    zero_stage: int, jobs: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """Cola DLM, interrupted inside its second stage: both engines' turn."""
    (tmp_path / "checkpoint").mkdir()
    first = jobs["cola"]["run"]["stages"][0]["steps"]
    job = jobs["cola"] | {"zero_stage": zero_stage, "stop": first + 3}
    run_workers(job, 2, tmp_path)
    resumed = run_workers(job | {"resume": True, "stop": first + 6}, 2, tmp_path)
    whole = run_workers(job | {"stop": first + 6}, 2, tmp_path)
    steps = [str(first + step) for step in (4, 5, 6)]
    assert [resumed["losses"][step] for step in steps] == [whole["losses"][step] for step in steps]
