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
    losses, evaluations, average = {}, [], []

    def record(state):
        values = mean_over_workers(state.result.values, place, state.engine.device)
        losses[state.step] = values["loss"]
        if state.step == job["save"]:
            folder.mkdir(exist_ok=True)
            state.save(folder)
            if place.rank == 0:
                (folder / "cursor.json").write_text(state.cursor().model_dump_json())
        if state.step == job["stop"]:
            if job["evaluate"]:
                evaluations.append(validation_metrics(state, data))
            if state.average is not None:
                with state.averaged():
                    weights = [p.detach().flatten()[:20] for p in state.model.parameters()]
                    average.extend(torch.cat(weights).tolist())
            state.stop = "interrupted"

    resume = None
    if job["resume"]:
        resume = (folder, Cursor.model_validate_json((folder / "cursor.json").read_text()))
    settings = LoopSettings(job["zero_stage"], job["micro"])
    state = train(run, data.train, DeepSpeedEngine, settings, place, [record], resume)
    state.engine.close()
    return {"losses": losses, "evaluations": evaluations, "average": average}


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
            "save": None,
            "resume": False,
            "micro": None,
            "evaluate": True,
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


Sharding = tuple[int, int]  # workers, ZeRO stage


@pytest.mark.slow
@pytest.mark.deepspeed
def test_a_checkpoint_resumes_with_any_workers_at_any_zero_stage(
    jobs: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """Cola DLM interrupted inside its second stage (both engines' turn), at 8 sequences a step.

    Three workers have 2, 3 and 3 of them; with micro-batches of one, the first makes an empty pass.
    """
    first = jobs["cola"]["run"]["stages"][0]["steps"]
    base = jobs["cola"] | {"stop": first + 6, "evaluate": False}

    def job(source: Sharding, zero_stage: int, **changes: Any) -> dict[str, Any]:
        run = base["run"]
        if source[1] < 3 and zero_stage < 3:  # an average needs whole weights
            run = run | {"training": run["training"] | {"ema_decay": 0.9}}
        folder = tmp_path / f"state-{source[0]}-{source[1]}"
        return base | {"run": run, "folder": str(folder), "zero_stage": zero_stage} | changes

    sources = {2: [(2, stage) for stage in range(4)], 1: [(1, 0), (1, 1)]}
    to_one = [((2, 1), 1), ((2, 2), 2), ((2, 3), 3), ((2, 3), 0)]
    to_three = [((2, 1), 1), ((2, 2), 2), ((2, 3), 3), ((2, 0), 2)]
    to_two = [((1, 0), 2), ((1, 1), 1), ((1, 1), 3), *((source, source[1]) for source in sources[2])]
    saved = {
        workers: [job(source, source[1], save=first + 3) for source in sources[workers]]
        for workers in sources
    }
    whole = dict(zip(sources[2], run_workers(saved[2], 2, tmp_path), strict=True))
    resumed = [job(*case, resume=True) for case in to_one]
    found = run_workers(saved[1] + resumed, 1, tmp_path)
    whole |= dict(zip(sources[1], found, strict=False))
    pairs = list(zip(to_one, found[len(sources[1]) :], strict=True))
    for cases, workers, micro in ((to_three, 3, 1), (to_two, 2, None)):
        resumed = [job(*case, resume=True, micro=micro) for case in cases]
        pairs += zip(cases, run_workers(resumed, workers, tmp_path), strict=True)
    for (source, stage), result in pairs:
        expected = whole[source]
        for step in (str(first + step) for step in (4, 5, 6)):
            print(source, stage, result["losses"][step] - expected["losses"][step])
            assert result["losses"][step] == pytest.approx(expected["losses"][step], abs=1e-3)
        if result["average"]:
            print(max(abs(a-b) for a,b in zip(result["average"], expected["average"])))
            assert result["average"] == pytest.approx(expected["average"], abs=1e-5)
