"""Weights of stage 2's loss and of its timestep distribution."""

from __future__ import annotations

import math

import pytest
import torch

from cola.families.cola.spec import ColaObjective
from cola.families.interface.family import Batch
from cola.families.registry import family_of
from cola.models.cola_dlm import ColaDLM
from cola.seeding import Stream
from cola.spec.objectives import JointObjective, LogitNormal
from tests.sizes import size_model

VOCAB, LENGTH = 40, 32


@pytest.fixture(scope="module")
def model() -> ColaDLM:
    torch.manual_seed(0)
    spec = size_model("cola", 60_000, VOCAB, latent_dim=4, block_size=8)
    built: ColaDLM = family_of("cola").build(spec)  # type: ignore[assignment]
    return built


def batch(rows: int) -> Batch:
    tokens = torch.randint(0, VOCAB, (rows, LENGTH), generator=torch.Generator().manual_seed(1))
    return Batch(tokens, Stream(0, 0, range(rows)), list(range(rows)), rows)


def test_lambda_fm_weighs_the_flow_matching_term_alone(model: ColaDLM) -> None:
    found = []
    for weight in (1.0, 3.0):
        objective = ColaObjective(stage2=JointObjective(lambda_fm=weight))
        module = family_of("cola").stage_module(model, objective, "joint")
        found.append(module(**module.draw(batch(4))))
    once, thrice = found
    assert torch.equal(once["fm"], thrice["fm"])
    torch.testing.assert_close(thrice["loss"] - once["loss"], 2 * once["fm"])


def test_lambda_fm_per_latent_weighs_the_sum_over_its_dimensions(model: ColaDLM) -> None:
    losses = []
    for per, weight in (("latent", 1.0), ("dimension", 4.0)):
        stage2 = JointObjective(lambda_fm=weight, lambda_fm_per=per)
        module = family_of("cola").stage_module(model, ColaObjective(stage2=stage2), "joint")
        losses.append(module(**module.draw(batch(4)))["loss"])
    assert torch.equal(*losses)  # a latent has 4 dimensions


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_timestep_scale_is_the_spread_of_the_logits_of_times(model: ColaDLM, scale: float) -> None:
    stage2 = JointObjective(timestep=LogitNormal(timestep_loc=0.0, timestep_scale=scale))
    module = family_of("cola").stage_module(model, ColaObjective(stage2=stage2), "joint")
    logits = module.draw(batch(600))["t_Bb"].logit()
    # The standard error of a standard deviation of n draws is scale / sqrt(2 n).
    error = scale / math.sqrt(2 * logits.numel())
    assert float(logits.std()) == pytest.approx(scale, abs=5 * error)
