"""Tests of a GPU, each of which a CPU runs too at a tiny size: so its lines are known to work.

`pytest -m gpu tests/gpu` on a machine with a GPU; `make gpu-check` has the rest. Tests that take
long on a CPU run there only with COLA_GPU_REHEARSAL=1.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from cola.families.registry import definition_of, family_of
from cola.study import RunSpec, StudySpec
from orchestration.benchmark.steps import drawn
from orchestration.planning.plan import PlannedRun, plan_study
from orchestration.training.engine import EngineSettings
from orchestration.training.torch_engine import TorchEngine
from tests.sizes import FAMILIES, SMALL

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
CUDA = pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu])
REHEARSAL = os.environ.get("COLA_GPU_REHEARSAL") == "1"
# The stages of every family's default objective, and the last one of each, which is the largest.
BY_FAMILY = {
    name: list(definition_of(name).settings.parse({}).objective.stage_shares()) for name in FAMILIES
}
STAGES = [(name, stage) for name, stages in BY_FAMILY.items() for stage in stages]
LAST_STAGES = [(name, stages[-1]) for name, stages in BY_FAMILY.items()]


@dataclass(frozen=True)
class Setting:
    """A device, and the sizes of models and batches for it."""

    device: torch.device
    core: int
    vocabulary: int
    length: int
    rows: int
    steps: int

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"


SETTINGS = {
    "cpu": Setting(torch.device("cpu"), 60_000, 320, 32, 2, 3),
    "cuda": Setting(torch.device("cuda"), 10_000_000, 4096, 256, 8, 15),
}


@pytest.fixture(params=["cpu", CUDA])
def setting(request: pytest.FixtureRequest) -> Setting:
    """A CPU at a tiny size, and a GPU."""
    return SETTINGS[request.param]


@pytest.fixture(params=["cpu", CUDA])
def rehearsed(request: pytest.FixtureRequest) -> Setting:
    """As `setting`, of tests that take long on a CPU."""
    found = SETTINGS[request.param]
    if not found.on_gpu and not REHEARSAL:
        pytest.skip("takes long on a CPU; COLA_GPU_REHEARSAL=1 runs it")
    return found


@pytest.fixture(autouse=True)
def nothing_left_on_the_gpu() -> Iterator[None]:
    yield
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def study_values(setting: Setting, **changes: Any) -> dict[str, Any]:
    """A study of all families at the setting's size; nothing of it reads a corpus."""
    return {
        "name": "gpu",
        "families": {name: SMALL.get(name, {}) for name in FAMILIES},
        "ladder": [{"budget": 1e18, "core_parameters": setting.core}],
        "data": {
            "corpus": {"source": "python-stdlib"},
            "tokenizer": {"kind": "bpe", "vocab_size": setting.vocabulary},
            "sequence_length": setting.length,
        },
        "training": {
            "batch_sequences": setting.rows,
            "precision": "float32",
            "optimizer": {"learning_rate": 1e-3},
        },
        "evaluation": {"prompt_tokens": 8, "generation": {"max_new_tokens": 16, "steps": 4}},
        "resources": {"gpus_per_worker": 1 if setting.on_gpu else 0},
    } | changes


def planned(setting: Setting, family: str, **training: Any) -> PlannedRun:
    """The family's run at the setting's size."""
    values = study_values(setting)
    values["training"] |= training
    values["families"] = {family: values["families"][family]}
    (run,) = plan_study(StudySpec.parse(values), "random tokens")
    return run


def engine_of(spec: RunSpec, stage: str, device: torch.device) -> TorchEngine:
    """An engine for a stage of the run's untrained model, the same on every device."""
    torch.manual_seed(0)
    family = family_of(spec.family)
    module = family.stage_module(family.build(spec.model), spec.objective, stage)
    groups = family.parameter_groups(module, spec.objective, stage)
    return TorchEngine(module, groups, EngineSettings(spec.training, 0, 1), device=device)


def losses(spec: RunSpec, stage: str, device: torch.device, *, steps: int) -> list[float]:
    """Losses of so many steps on the same random tokens and draws, whatever the device."""
    engine = engine_of(spec, stage, device)
    generator = torch.Generator().manual_seed(1)
    found = []
    for step in range(steps):
        shape = (spec.training.batch_sequences, spec.data.sequence_length)
        tokens = torch.randint(0, spec.model.vocab_size, shape, generator=generator)
        rows = drawn(spec, engine.module, device, rows=len(tokens), step=step, tokens=tokens)
        found.append(engine.step(rows, 1.0).values["loss"])
    engine.close()
    return found
