"""DeepSpeed's stages, a shortage of memory, and a whole study on a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from cola.data import PreparedData
from cola.study import RunSpec, StudySpec
from orchestration.benchmark.steps import drawn
from orchestration.planning.plan import plan_study
from orchestration.slurm.ports import free_ports
from orchestration.training.distributed import WorkerRank
from orchestration.training.engine import EngineSettings
from orchestration.training.hardware import gpu_load
from orchestration.training.torch_engine import TorchEngine
from orchestration.training.train_loop import LoopSettings, TrainState, train
from tests.conftest import write_study
from tests.gpu.conftest import Setting, engine_of, needs_gpu, planned

COLA = [sys.executable, "-m", "sweeps.cli"]
MINUTES = 4.0  # of a study of three tiny families on a GPU, its starts and its report


@pytest.fixture(scope="module")
def process_group() -> Iterator[None]:
    """A process group of this process alone, for DeepSpeed."""
    from cola import process_environment
    from orchestration.training.deepspeed_engine import close_process_group

    (port,) = free_ports("127.0.0.1", 1)
    back_end = "nccl" if torch.cuda.is_available() else "gloo"
    with process_environment.single_worker():
        address = f"tcp://127.0.0.1:{port}"
        dist.init_process_group(back_end, address, rank=0, world_size=1)
        yield
        close_process_group()


@pytest.mark.deepspeed
@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_every_zero_stage_has_the_plain_engines_losses(rehearsed: Setting, zero_stage: int) -> None:
    """Float32, three steps of the joint stage, in which groups rest."""
    from orchestration.training.deepspeed_engine import DeepSpeedEngine

    spec, device = planned(rehearsed, "cola").spec, rehearsed.device
    plain = engine_of(spec, "joint", device)
    settings = EngineSettings(spec.training, zero_stage, 1)
    again = engine_of(spec, "joint", torch.device("cpu"))
    sharded = DeepSpeedEngine(again.module, again.optimizer.param_groups, settings)
    found = []
    for engine in (plain, sharded):
        torch.manual_seed(1)
        losses = []
        for step in range(3):
            (batch,) = drawn(spec, engine.module, device, rows=rehearsed.rows, step=step)
            losses.append(engine.step([batch], 1.0).values["loss"])
        found.append(losses)
    sharded.close()
    assert found[1] == pytest.approx(found[0], rel=2e-4)


class Losses:
    """Keeps every step's loss."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def __call__(self, state: TrainState) -> None:
        self.values.append(state.result.values["loss"])


def trained(run: RunSpec, data: PreparedData, device: torch.device) -> list[float]:
    """Losses of the whole batch in one pass, as far as it fits."""
    losses = Losses()
    engine: Any = partial(TorchEngine, device=device)
    worker, settings = WorkerRank(), LoopSettings(0)
    train(run, data.train, engine, settings=settings, worker=worker, hooks=[losses])
    return losses.values


@pytest.mark.gpu
@needs_gpu
def test_a_gpu_tells_its_load() -> None:
    """With the driver's library, which the product installs the bindings of."""
    torch.ones(1024, 1024, device="cuda") @ torch.ones(1024, 1024, device="cuda")
    load = gpu_load()
    assert 0 <= load["gpu_utilization_percent"] <= 100
    assert 0 < load["gpu_memory_percent"] <= 100
    assert 10 < load["gpu_power_watts"] < 2000
    assert 10 < load["gpu_temperature_celsius"] < 110


@needs_gpu
def test_passes_that_do_not_fit_are_halved(tiny_study: dict[str, Any], data: PreparedData) -> None:
    """With a quarter of the memory that the whole batch takes, the losses are the same."""
    values = tiny_study | {"families": {"ar": {}}}
    values["training"] = tiny_study["training"] | {"batch_sequences": 256}
    values["ladder"] = [{"budget": 2e10, "core_parameters": 1_000_000}]
    (run,) = plan_study(StudySpec.parse(values))
    spec, device = run.spec, torch.device("cuda")
    torch.cuda.reset_peak_memory_stats()
    whole = trained(spec, data, device)
    peak = torch.cuda.max_memory_reserved()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(
        0.25 * peak / torch.cuda.get_device_properties(0).total_memory
    )
    try:
        found = trained(spec, data, device)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert found == pytest.approx(whole, rel=1e-5)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.deepspeed
def test_a_study_runs_from_its_corpus_to_its_report(
    rehearsed: Setting, tiny_study: dict[str, Any], tmp_path: Path
) -> None:
    """Three runs, on a GPU with a third of it each; run again, nothing is trained."""
    shares = {"gpus_per_worker": 0.33, "cpus_per_worker": 1} if rehearsed.on_gpu else {}
    file = write_study(tiny_study | {"resources": {**shares, "compile": False}}, tmp_path)
    environment = {**os.environ, "COLUMNS": "200", "COLA_LOG": "info"}
    if rehearsed.on_gpu:
        environment.pop("DS_ACCELERATOR", None)
    out = Path(os.environ.get("OUT", str(tmp_path))) / "study.log"
    out.parent.mkdir(parents=True, exist_ok=True)
    for command in (["run", str(file)], ["report", str(file)], ["run", str(file)]):
        with out.open("a") as log:
            done = subprocess.run(
                [*COLA, *command],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                timeout=60 * MINUTES,
            )
        assert done.returncode == 0, out.read_text()[-3000:]
    assert "nothing to train: all 3 runs are finished already" in out.read_text()
    states = [
        json.loads(path.read_text())["state"]
        for path in (tmp_path / "outputs").glob("runs/*/ledger.json")
    ]
    assert states == ["finished"] * 3
