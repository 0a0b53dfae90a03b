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

import_deepspeed()
dist.init_process_group("gloo")
place = Place(dist.get_rank(), dist.get_world_size())


def carry_out(job):
    run, folder = RunSpec.model_validate(job["run"]), Path(job["folder"])
    data = open_prepared(Path(job["data"]))
    losses, evaluations = {}, []

    def record(state):
        values = mean_over_workers(state.result.values, place, state.engine.device)
        losses[state.step] = values["loss"]
        if state.step == job["stop"]:
            evaluations.append(validation_metrics(state, data))
            if job["save"]:
                state.save(folder)
                if place.rank == 0:
                    (folder / "cursor.json").write_text(state.cursor().model_dump_json())
                dist.barrier()
            state.stop = "interrupted"

    resume = None
    if job["resume"]:
        resume = (folder, Cursor.model_validate_json((folder / "cursor.json").read_text()))
    settings = LoopSettings(job["zero_stage"])
    state = train(run, data.train, DeepSpeedEngine, settings, place, [record], resume)
    state.engine.close()
    return {"losses": losses, "evaluations": evaluations}


jobs = json.loads(Path(sys.argv[1]).read_text())
results = [carry_out(job) for job in jobs]
if place.rank == 0:
    Path(sys.argv[2]).write_text(json.dumps(results))
dist.barrier()
dist.destroy_process_group()
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def run_workers(jobs: list[dict[str, Any]], workers: int, folder: Path) -> list[dict[str, Any]]:
    """Losses and evaluations of some jobs, one after the other on this many processes."""
    given, found = folder / f"jobs-{workers}.json", folder / f"results-{workers}.json"
    given.write_text(json.dumps(jobs))
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(workers),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(given), str(found)],
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(workers)
    ]
    errors = [process.communicate(timeout=400)[1] for process in processes]
    assert all(process.returncode == 0 for process in processes), errors[0][-3000:]
    results: list[dict[str, Any]] = json.loads(found.read_text())
    return results


@pytest.fixture
def jobs(tiny_study: dict[str, Any], tmp_path: Path) -> dict[str, dict[str, Any]]:
    """One job a family: 20 steps, at an accumulation of one; Cola DLM's are half of each stage."""
    study = StudySpec.parse(tiny_study)
    data = prepare(study.data, tmp_path / "cache")
    found = {}
    for planned in plan_study(study):
        run = planned.spec.model_dump(mode="json")
        if len(run["stages"]) > 1:
            run["stages"][0]["steps"] = 10
        found[planned.spec.family] = {
            "run": run,
            "data": str(data.folder),
            "folder": str(tmp_path),
            "stop": 20,
            "save": False,
            "resume": False,
        }
    return found


def differences(a: dict[str, float], b: dict[str, float]) -> float:
    assert a.keys() == b.keys()
    return max(abs(a[step] - b[step]) for step in a)


@pytest.mark.slow
@pytest.mark.deepspeed
def test_two_workers_equal_one_at_every_zero_stage(
    jobs: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """The same global batch over 20 steps in float32, all three families."""
    families = list(jobs)
    one = run_workers([jobs[name] | {"zero_stage": 0} for name in families], 1, tmp_path)
    cases = [(name, stage) for name in families for stage in (1, 2, 3)]
    two = run_workers([jobs[name] | {"zero_stage": stage} for name, stage in cases], 2, tmp_path)
    for (name, _), found in zip(cases, two, strict=True):
        expected = one[families.index(name)]
        assert len(found["losses"]) == 20
        assert differences(expected["losses"], found["losses"]) < 1e-3
        for metric, value in expected["evaluations"][0].items():
            assert found["evaluations"][0][metric] == pytest.approx(value, abs=1e-3)


@pytest.mark.slow
@pytest.mark.deepspeed
def test_a_sharded_checkpoint_resumes_where_it_was(
    jobs: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """Cola DLM at every ZeRO stage, interrupted inside its second stage: both engines' turn."""
    first = jobs["cola"]["run"]["stages"][0]["steps"]
    saved, resumed, whole = [], [], []
    for stage in range(4):
        folder = tmp_path / f"zero-{stage}"
        folder.mkdir()
        job = jobs["cola"] | {"zero_stage": stage, "folder": str(folder)}
        saved.append(job | {"stop": first + 3, "save": True})
        resumed.append(job | {"stop": first + 6, "resume": True})
        whole.append(job | {"stop": first + 6})
    run_workers(saved, 2, tmp_path)
    results = run_workers(resumed + whole, 2, tmp_path)
    steps = [str(first + step) for step in (4, 5, 6)]
    for found, expected in zip(results[:4], results[4:], strict=True):
        # Not bit by bit: in a process that ran other jobs before, buffers lie elsewhere in memory,
        # and sums are rounded in another order.
        for step in steps:
            assert found["losses"][step] == pytest.approx(expected["losses"][step], rel=1e-5)
