"""The collapse rule against Monte Carlo, and against measured healthy and collapsed values."""

from __future__ import annotations

import math

import pytest
import torch

from cola.objectives.collapse import (
    PATIENCE,
    collapse_reason,
    flow_matching_floor,
    irreducible_error,
    point_reason,
)
from cola.spec import TextVAESpec
from cola.spec.objectives import JointObjective, LogitNormal, TimestepDistribution, UniformTime


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
    variance: float, timestep: TimestepDistribution
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


def test_measured_values_of_both_kinds() -> None:
    stage2 = JointObjective()
    assert collapse_reason([HEALTHY] * 20, *spec(), stage2) is None
    assert "clamp" in str(collapse_reason([COLLAPSED] * PATIENCE, *spec(), stage2))
    hidden = {"log_snr": 11.0, "fm": 0.07}
    assert "fm 0.07" in str(collapse_reason([hidden] * PATIENCE, *spec(), stage2))
    assert "logSNR 15" in str(collapse_reason([{"log_snr": 15.0}] * PATIENCE, *spec(), stage2))
    assert "logSNR -5" in str(collapse_reason([{"log_snr": -5.0}] * PATIENCE, *spec(), stage2))


def test_one_odd_point_on_either_side_does_not_trigger() -> None:
    stage2 = JointObjective()
    assert collapse_reason([HEALTHY] * 9 + [COLLAPSED], *spec(), stage2) is None
    late = [COLLAPSED] * (PATIENCE - 1) + [HEALTHY]
    assert collapse_reason(late + [COLLAPSED] * (PATIENCE - 1), *spec(), stage2) is None
    assert collapse_reason(late + [COLLAPSED] * PATIENCE, *spec(), stage2) is not None


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
    assert collapse_reason([{"loss": 0.0}] * 9, *spec(), stage2) is None
    assert point_reason({"log_snr": math.nan, "fm": math.nan}, *spec(), stage2) is None


def test_the_floor_knows_scale_prompts_and_times() -> None:
    plain = JointObjective(prompt_block_probability=0.0)
    floor = flow_matching_floor(4.5, *spec(), plain)
    assert flow_matching_floor(4.5, *spec(scaling_factor=3.0), plain) > 3 * floor
    assert flow_matching_floor(5.5, *spec(), plain) < floor
    half = JointObjective(prompt_block_probability=1.0)
    assert flow_matching_floor(4.5, *spec(), half) == pytest.approx(floor / 2)
    assert flow_matching_floor(4.5, *spec(), JointObjective(timestep=UniformTime())) > floor
