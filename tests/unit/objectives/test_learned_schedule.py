"""A noise schedule that is learned to have the least variance of the loss."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cola.families.cola.family import JointStage
from cola.families.cola.spec import ColaObjective
from cola.families.interface.family import Batch
from cola.families.registry import family_of
from cola.objectives.flow_times import LikelihoodWeighting
from cola.objectives.learned_schedule import LearnedSchedule
from cola.seeding import Stream
from cola.spec.objectives import JointObjective
from tests.sizes import size_model
from tests.unit.likelihood.known_priors import Codewords

WIDTH, STEPS = 4, 150


def errors(prior: Codewords, t_B1: Tensor, seed: int) -> Tensor:
    """Squared errors of the prior's best velocity, mean over dimensions, (B, 1)."""
    z0 = prior.sample(len(t_B1), seed)
    generator = torch.Generator().manual_seed(seed + 1)
    z1 = torch.randn(z0.shape, generator=generator, dtype=z0.dtype)
    t_B11 = t_B1[..., None]
    velocity = prior.velocity((1 - t_B11) * z0 + t_B11 * z1, t_B1)
    return (velocity - (z1 - z0)).square().mean(-1)


def drawn(schedule: LearnedSchedule, prior: Codewords, rows: int, seed: int) -> tuple[Tensor, ...]:
    """Losses of evenly spread quantiles, and the log-density of their places, (B, 1) each."""
    quantile_B1 = (torch.arange(rows)[:, None] + 0.5) / rows
    t_B1, weight_B1, log_density_B1 = schedule(quantile_B1)
    return weight_B1 * errors(prior, t_B1, seed), log_density_B1


def second_moments(schedule: LearnedSchedule, prior: Codewords) -> Tensor:
    """Of the loss in eight parts of the quantiles."""
    loss_B1, _ = drawn(schedule, prior, 16_000, 10_000)
    return torch.stack([part.square().mean() for part in loss_B1.chunk(8)])


def test_the_loss_of_a_learned_schedule_is_flat_and_its_mean_stays() -> None:
    """A prior that knows the latents but for their own noise."""
    prior = Codewords.drawn(WIDTH, 1, 3.0)
    schedule = LearnedSchedule(LikelihoodWeighting(prior.scale, 1 + prior.scale**2))
    before, first = second_moments(schedule, prior), drawn(schedule, prior, 16_000, 1)[0]
    optimizer = torch.optim.Adam(schedule.parameters(), lr=0.1)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / STEPS)
        optimizer.zero_grad()
        loss_B1, log_density_B1 = drawn(schedule, prior, 512, step)
        schedule.variance_loss(loss_B1, log_density_B1).backward()
        optimizer.step()
    after, last = second_moments(schedule, prior), drawn(schedule, prior, 16_000, 1)[0]
    assert float((before / before.mean() - 1).abs().max()) > 0.5
    assert float((after / after.mean() - 1).abs().max()) < 0.2
    assert float(last.var()) < 0.8 * float(first.var())
    error = float(first.std()) / math.sqrt(len(first))
    assert float(last.mean()) == pytest.approx(float(first.mean()), abs=5 * error)


def test_it_begins_as_the_schedule_that_is_not_learned() -> None:
    weighting = LikelihoodWeighting.of(3.0, 1.0)
    quantile_Bb = torch.rand(50, 4, generator=torch.Generator().manual_seed(0))
    t_Bb, weight_Bb, log_density_Bb = LearnedSchedule(weighting)(quantile_Bb)
    torch.testing.assert_close(t_Bb, weighting.times(quantile_Bb), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(weight_Bb, weighting.weights(t_Bb))
    assert float(log_density_Bb.detach().abs().max()) < 1e-6


def test_times_rise_with_the_quantile_whatever_is_learned() -> None:
    schedule = LearnedSchedule(LikelihoodWeighting.of(3.0, 1.0))
    with torch.no_grad():
        schedule.logits.normal_(std=3.0, generator=torch.Generator().manual_seed(0))
        t_Bb, weight_Bb, _ = schedule(torch.arange(10_000)[None] / 10_000)
    assert (t_Bb.diff() >= 0).all()
    assert (weight_Bb > 0).all()
    assert float(t_Bb.max()) < 1


def test_stage_2_trains_it_beside_the_prior_and_leaves_the_loss_as_it_is() -> None:
    torch.manual_seed(0)
    family = family_of("cola")
    model = family.build(size_model("cola", 60_000, 40, latent_dim=WIDTH, block_size=8))
    tokens = torch.randint(0, 40, (4, 32), generator=torch.Generator().manual_seed(1))
    found = {}
    for learned in (False, True):
        stage2 = JointObjective.parse({"timestep": {"kind": "likelihood", "learned": learned}})
        module = family.stage_module(model, ColaObjective(stage2=stage2), "joint")
        assert isinstance(module, JointStage)
        batch = Batch(tokens, Stream(0, 0, range(4)), range(4), 4)
        found[learned] = module(**module.draw(batch))
    for name in ("fm", "loss"):
        mine, other = (float(found[learned][name].detach()) for learned in (True, False))
        assert mine == pytest.approx(other, rel=1e-4)
    found[True]["loss"].backward()
    assert module.schedule is not None
    assert module.schedule.logits.grad is not None
    assert float(module.schedule.logits.grad.abs().max()) > 0
    (prior, _) = family.parameter_groups(module, ColaObjective(stage2=stage2), "joint")
    assert any(parameter is module.schedule.logits for parameter in prior["params"])
