"""The plan's activations against what steps keep, and what they keep against its definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cola.families.interface.family import StageModule
from cola.families.registry import family_of
from cola.study import StudySpec
from orchestration.benchmark.memory import kept_bytes
from orchestration.benchmark.steps import drawn
from orchestration.planning.memory import memory_plan
from orchestration.planning.plan import plan_study
from tests.sizes import SMALL

CPU = torch.device("cpu")
SIZES = (300_000, 1_000_000, 4_000_000)


class Exponential(StageModule):
    """y = exp(w x), of which autograd keeps x (for w) and y."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.weight * x).exp().sum()}


def test_kept_bytes_are_those_of_autograds_tensors() -> None:
    assert kept_bytes(Exponential(), {"x": torch.zeros(100)}) == 2 * 100 * 4


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("core", SIZES)
@pytest.mark.parametrize("family", ["ar", "llada", "cola", "bd3lm", "embedding_diffusion"])
def test_plans_are_within_15_percent_of_what_steps_keep(
    family: str, core: int, precision: Any, tiny_study: dict[str, Any]
) -> None:
    """States and activations of the largest stage, and never under."""
    study = tiny_study | {
        "families": {family: SMALL.get(family, {})},
        "ladder": [{"budget": 1e15, "core_parameters": core}],
        "data": tiny_study["data"] | {"sequence_length": 256},
        "training": {"batch_sequences": 2, "precision": precision},
    }
    (run,) = plan_study(StudySpec.parse(study))
    networks = family_of(family)
    spec, stage = run.spec, run.spec.stages[-1].name
    module = networks.stage_module(networks.build(spec.model), spec.objective, stage)
    (batch,) = drawn(spec, module, CPU, rows=2)
    kept = kept_bytes(module, batch.inputs, precision)
    plan = memory_plan(spec, run.resources, 0, device_bytes=1e18)
    assert kept <= plan.activations
    ratio = (plan.states + plan.activations) / (plan.states + kept)
    print(
        f"{family} {core:.0e} {precision}: {plan.activations / kept:.3f}, with states {ratio:.3f}"
    )
    assert ratio <= 1.15
