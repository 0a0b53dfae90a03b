"""The collapse rule against Monte Carlo, and against measured healthy and collapsed values."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from cola.objectives.collapse import (
    PATIENCE,
    collapse_reason,
    flow_matching_floor,
    irreducible_error,
    point_reason,
    settled_log_snr,
)
from cola.objectives.flow_matching import flow_draws, flow_matching_loss
from cola.objectives.flow_times import LikelihoodWeighting
from cola.objectives.joint import kl_between
from cola.objectives.vae import Posterior
from cola.seeding import Stream
from cola.spec import TextVAESpec
from cola.spec.objectives import (
    JointObjective,
    LikelihoodTime,
    LogitNormal,
    UniformTime,
    VAEObjective,
)


def spec(log_snr: float | None = None, scaling_factor: float = 1.0) -> tuple[TextVAESpec, float]:
    """A VAE, and the scale of its latents for the DiT."""
    vae = TextVAESpec(
        vocab_size=50, hidden_size=32, ffn_size=64, num_heads=2, encoder_layers=1,
        decoder_layers=1, latent_dim=16, log_snr=log_snr,
    )  # fmt: skip
    return vae, scaling_factor


# A small trial of the gradient modes detach_target, and joint at lambda_ref 0.
HEALTHY = {"log_snr": 4.8, "fm": 1.32}
COLLAPSED = {"log_snr": 29.9, "fm": 0.03}


@pytest.mark.parametrize("variance", [0.011, 0.2, 1.0])
@pytest.mark.parametrize("timestep", [LogitNormal(), UniformTime()])
def test_the_irreducible_error_is_that_of_the_best_velocity(
    variance: float, timestep: LogitNormal | UniformTime
) -> None:
    generator = torch.Generator().manual_seed(0)
    count = 1_000_000
    if isinstance(timestep, LogitNormal):
        t = torch.sigmoid(1.0 + torch.randn(count, generator=generator))
    else:
        t = torch.rand(count, generator=generator)
    z0 = 0.7 + math.sqrt(variance) * torch.randn(count, generator=generator)
    z1 = torch.randn(count, generator=generator)
    centred = (1 - t) * (z0 - 0.7) + t * z1
    total = (1 - t) ** 2 * variance + t**2
    best = (t - (1 - t) * variance) / total * centred - 0.7  # E[z1 - z0 | z_t]
    measured = float((z1 - z0 - best).square().mean())
    assert irreducible_error(variance, timestep) == pytest.approx(measured, rel=0.02)


def reason_of(points: list[dict[str, float]]) -> str | None:
    return collapse_reason(points, *spec(), stage1=VAEObjective(), stage2=JointObjective())


def test_measured_values_of_both_kinds() -> None:
    assert reason_of([HEALTHY] * 20) is None
    assert "clamp" in str(reason_of([COLLAPSED] * PATIENCE))
    hidden = {"log_snr": 11.0, "fm": 0.07}
    assert "fm 0.07" in str(reason_of([hidden] * PATIENCE))
    assert "logSNR 15" in str(reason_of([{"log_snr": 15.0}] * PATIENCE))
    assert "logSNR -5" in str(reason_of([{"log_snr": -5.0}] * PATIENCE))


def test_one_odd_point_on_either_side_does_not_trigger() -> None:
    assert reason_of([HEALTHY] * 9 + [COLLAPSED]) is None
    late = [COLLAPSED] * (PATIENCE - 1) + [HEALTHY]
    assert reason_of(late + [COLLAPSED] * (PATIENCE - 1)) is None
    assert reason_of(late + [COLLAPSED] * PATIENCE) is not None


def test_a_fixed_log_snr_is_only_held_against_the_floor() -> None:
    stage2 = JointObjective()
    assert point_reason({"log_snr": 16.0, "fm": 1.3}, *spec(log_snr=16.0), stage2) is None
    assert point_reason({"log_snr": 3.0, "fm": 0.13}, *spec(log_snr=3.0), stage2) is not None
    assert point_reason({"log_snr": 3.0, "fm": 0.3}, *spec(log_snr=3.0), stage2) is None


def test_a_channel_too_narrow_for_the_text_is_not_collapsed_for_it() -> None:
    """Two dimensions for four tokens hold 2.1 nats at most: text's least of 2 is not asked."""
    vae = spec(log_snr=2.0)[0].model_copy(update={"latent_dim": 2, "patch_size": 4})
    stage2 = JointObjective()
    constant = irreducible_error(math.exp(-2.0), stage2.timestep)
    used = irreducible_error(math.exp(-2.0 + 0.6), stage2.timestep)  # 0.6 nats a latent
    for fm, collapsed in ((0.95 * constant, True), (used, False)):
        reason = point_reason({"log_snr": 2.0, "fm": fm}, vae, 1.0, stage2)
        assert (reason is not None) == collapsed


def test_other_values_are_left_alone() -> None:
    stage2 = JointObjective()
    assert reason_of([{"loss": 0.0}] * 9) is None
    assert point_reason({"log_snr": math.nan, "fm": math.nan}, *spec(), stage2) is None


def test_the_floor_knows_scale_prompts_and_times() -> None:
    plain = JointObjective(prompt_block_probability=0.0)
    floor = flow_matching_floor(4.5, *spec(), plain)
    assert flow_matching_floor(4.5, *spec(scaling_factor=3.0), plain) > 3 * floor
    assert flow_matching_floor(5.5, *spec(), plain) < floor
    half = JointObjective(prompt_block_probability=1.0)
    assert flow_matching_floor(4.5, *spec(), half) == pytest.approx(floor / 2)
    assert flow_matching_floor(4.5, *spec(), JointObjective(timestep=UniformTime())) > floor


# (dimensions, changes of stage 2, beta, logSNR of a reference or None, derived logSNR)
TABLE = [
    (16, {}, 1e-4, None, 8.3),
    (16, {}, 4.4e-3, None, 4.4),
    (128, {}, 1e-4, None, 6.2),
    (16, {"lambda_fm_per": "latent"}, 1e-4, None, 11.1),
    (128, {"lambda_fm_per": "latent"}, 1e-4, None, 11.1),
    (16, {"gradient_mode": "joint", "lambda_ref": 0.1}, 1e-4, 4.8, 4.8),
    (16, {"lambda_fm_per": "latent", "timestep": LikelihoodTime()}, 0.8, None, 6.0),
]


def measured_variance(
    dimensions: int, stage2: JointObjective, beta: float, reference: float | None, near: float
) -> float:
    """Within half a nat of the log-variance `near`, where stage 2's own terms leave the variance of
    latents whose means the best prior knows: by the losses that are trained with, and autograd."""
    rows, weighting = 48_000 // dimensions, LikelihoodWeighting.of(None, 1.0)
    mean = torch.randn(rows, 1, dimensions, generator=torch.Generator().manual_seed(0))
    draws = flow_draws(
        stage2,
        (rows, 1, dimensions),
        1,
        stream=Stream(0, 0, range(rows)),
        positions=range(rows),
        global_size=rows,
        weighting=weighting if isinstance(stage2.timestep, LikelihoodTime) else None,
    )
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(1))

    def gradient(log_variance: float) -> float:
        own = torch.tensor(log_variance, requires_grad=True)
        posterior = Posterior(mean, own.expand(mean.shape))
        z0, variance = posterior.sample(noise), math.exp(log_variance)
        loss = beta * posterior.log_density(z0).mean()
        field = BestVelocity(mean, variance)
        fm = flow_matching_loss(field, z0, draws)  # type: ignore[arg-type]
        loss = loss + stage2.fm_weight(dimensions) * fm
        if reference is not None:
            anchor = Posterior(mean, torch.full(mean.shape, -reference))
            loss = loss + stage2.lambda_ref * kl_between(posterior, anchor)
        loss.backward()
        return float(own.grad)  # type: ignore[arg-type]

    low, high = near - 0.5, near + 0.5
    for _ in range(6):
        middle = (low + high) / 2
        low, high = (low, middle) if gradient(middle) > 0 else (middle, high)
    return math.exp((low + high) / 2)


class BestVelocity:
    """The best velocity of latents N(mean, variance), in blocks of one."""

    config = SimpleNamespace(block_size=1)

    def __init__(self, mean: Tensor, variance: float) -> None:
        self._mean, self._variance = mean, variance

    def __call__(self, z0: Tensor, zt: Tensor, t_BK: Tensor, **_: Any) -> Tensor:
        t, v = t_BK[..., None], self._variance
        behind = zt - (1 - t) * self._mean
        return (t - (1 - t) * v) / ((1 - t) ** 2 * v + t**2) * behind - self._mean


@pytest.mark.parametrize(("dimensions", "changes", "beta", "reference", "log_snr"), TABLE)
def test_latents_settle_at_the_variance_that_is_derived(
    dimensions: int, changes: dict[str, Any], beta: float, reference: float | None, log_snr: float
) -> None:
    given = {"gradient_mode": "joint", "lambda_ref": 0.0, "prompt_block_probability": 0.0}
    stage2 = JointObjective(**(given | changes), stratified=True)
    vae = spec()[0].model_copy(update={"latent_dim": dimensions})
    derived = settled_log_snr(
        vae,
        1.0,
        stage1=VAEObjective(beta=beta),
        stage2=stage2,
        reference_log_snr=reference,
    )
    assert derived == pytest.approx(log_snr, abs=0.1)
    measured = measured_variance(dimensions, stage2, beta, reference, -derived)
    assert math.exp(-derived) == pytest.approx(measured, rel=0.1)


def test_a_collapse_says_where_the_weights_of_the_loss_leave_the_latents() -> None:
    joint = JointObjective(gradient_mode="joint", lambda_ref=0.0)
    points = [{"log_snr": 15.0}] * PATIENCE
    reason = collapse_reason(points, *spec(), stage1=VAEObjective(), stage2=joint)
    assert "settle logSNR at 8.3" in str(reason)
