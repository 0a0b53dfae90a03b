"""Recognising a collapsed latent space from the values that a training step logs.

The values are `log_snr` (model.md, Eq. 13) and `fm`, the flow-matching loss (model.md, Eqs. 9, 52).
F(v) of model.md, Eq. 28 is the loss of a prior that leaves the variance v of each latent dimension
open, so F^-1(fm) says how much of the latents the prior cannot predict. (One v for all dimensions:
F is concave, so with very unequal ones the loss may be slightly lower.) A collapse shows in one of
three ways:

1. sigma is at the clamp of its log-variance, or a learned logSNR is implausible;
2. fm is below F(sigma^2 exp(2 h / d)). A latent of d dimensions that carries h nats beyond its
   history is d Gaussian channels with (d / 2) log(v / sigma^2) >= h. h is chosen below any text's
   (`TEXT_NATS`) and below what the channel can hold (`LEAST_FILLED`), so text stays above this
   floor, and constant latents or a memorised corpus fall below it;
3. the prior leaves less than `OPEN_SHARE` of the latents' power open while a learned sigma has
   shrunk (logSNR above `SHRUNK_LOG_SNR`): the encoder has hidden the text in differences that are
   too small to matter in the prior's loss. Healthy priors leave most of the power open: fm = 1.3 is
   v = 0.8, and F(1) = 1.6.

The thresholds are chosen values. `tests/benchmarks/latent_space.py stage2` shows both quantities in
healthy runs (gradient mode detach_target) and in collapsing ones (joint at lambda_ref = 0).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from cola.compute.channel import channel_nats
from cola.models.text_vae import LOG_VARIANCE_RANGE
from cola.objectives.flow_times import LikelihoodWeighting, times_at
from cola.spec import TextVAESpec
from cola.spec.objectives import (
    JointObjective,
    LikelihoodTime,
    LogitNormal,
    UniformTime,
    VAEObjective,
)

MAX_LOG_SNR, MIN_LOG_SNR = 14.0, -4.0  # healthy: 3 to 6 (the paper's best: 4.5), 9 at d = 4
CLAMP_MARGIN = 0.5  # nats of log-variance from the clamp that count as being at it
# Nats per token given its history. Words have 3 or more; the least is a byte's, for which Shannon
# (Prediction and Entropy of Printed English, 1951) gives 0.6 to 1.3 bits, 0.4 to 0.9 nats.
TEXT_NATS = 0.5
# Share of its capacity (model.md, Eq. 40) that a channel too narrow for the text holds at least;
# chosen: narrow channels in use held 0.6 or more of it.
LEAST_FILLED = 0.1
SHRUNK_LOG_SNR = 8.0
OPEN_SHARE = 0.1  # of E[mu^2], fm = 0.25 at loc 1; healthy 0.6 or more, collapsed 0.01 to 0.07
PATIENCE = 5  # consecutive points; one alone may be a noisy batch
STEP, BISECTIONS = 0.01, 40  # of log v: a derivative's half width, and halvings of its range
QUANTILES = 512  # of the midpoint rule for F, which is then within 1.5% for v of 0.001 or more


def collapse_reason(
    points: Sequence[Mapping[str, float]],
    vae: TextVAESpec,
    scaling_factor: float,
    *,
    stage1: VAEObjective,
    stage2: JointObjective,
) -> str | None:
    """The symptom of collapse, if each of the last `PATIENCE` points shows one; else None.

    `points` are the logged values of a stage, oldest first: "log_snr" in nats, "fm" (if the stage
    has it) as squared error, or nats, per latent dimension.
    """
    if len(points) < PATIENCE:
        return None
    reasons = [point_reason(point, vae, scaling_factor, stage2) for point in points[-PATIENCE:]]
    if any(reason is None for reason in reasons):
        return None
    reason = f"latents collapsed at {PATIENCE} consecutive points: {reasons[-1]}"
    if vae.log_snr is None and stage2.reaches_latents:
        settled = settled_log_snr(vae, scaling_factor, stage1=stage1, stage2=stage2)
        reason += f"; without a reference the weights of the loss settle logSNR at {settled:.1f}"
    return reason


def point_reason(
    values: Mapping[str, float], vae: TextVAESpec, scaling_factor: float, stage2: JointObjective
) -> str | None:
    """The symptom of collapse in one point, or None. A fixed logSNR only has the second one."""
    log_snr = values.get("log_snr")
    if log_snr is None or not math.isfinite(log_snr):
        return None
    if vae.log_snr is None:
        # E[mu^2] = 1 after the encoder's LayerNorm, so log E[sigma^2] = -logSNR.
        low, high = LOG_VARIANCE_RANGE
        if not low + CLAMP_MARGIN < -log_snr < high - CLAMP_MARGIN:
            return f"log sigma^2 {-log_snr:.2f} is at its clamp [{low:g}, {high:g}]"
        if log_snr > MAX_LOG_SNR:
            return f"logSNR {log_snr:.2f} is above {MAX_LOG_SNR:g}"
        if log_snr < MIN_LOG_SNR:
            return f"logSNR {log_snr:.2f} is below {MIN_LOG_SNR:g}"
    fm = values.get("fm")
    floor = flow_matching_floor(log_snr, vae, scaling_factor, stage2)
    if fm is not None and fm < floor:
        return f"fm {fm:.4f} is below {floor:.4f}, the least with text in latents of this logSNR"
    return None


def flow_matching_floor(
    log_snr: float, vae: TextVAESpec, scaling_factor: float, stage2: JointObjective
) -> float:
    """Least plausible flow-matching loss (symptoms 2 and 3), a squared error or nats per latent
    dimension."""
    held = LEAST_FILLED * channel_nats(vae.latent_dim, log_snr)
    nats = min(TEXT_NATS * vae.patch_size, held)
    open_variance = math.exp(-log_snr + 2 * nats / vae.latent_dim)
    if vae.log_snr is None and log_snr > SHRUNK_LOG_SNR:
        open_variance = max(open_variance, OPEN_SHARE)
    # Prompt latents carry no loss: half of a prompt block on average (`flow_draws`).
    scored = 1 - stage2.prompt_block_probability / 2
    return scored * least_loss(open_variance * scaling_factor**2, vae, scaling_factor, stage2)


def least_loss(
    variance: float, vae: TextVAESpec, scaling_factor: float, stage2: JointObjective
) -> float:
    """The flow's loss of a prior that leaves `variance` of a dimension open, in the flow's units:
    a squared error (model.md, Eq. 28), or nats (model.md, Eq. 54)."""
    if isinstance(stage2.timestep, LikelihoodTime):
        return LikelihoodWeighting.of(vae.log_snr, scaling_factor).mean_loss(variance)
    return irreducible_error(variance, stage2.timestep)


def settled_log_snr(
    vae: TextVAESpec,
    scaling_factor: float,
    *,
    stage1: VAEObjective,
    stage2: JointObjective,
    reference_log_snr: float | None = None,
) -> float:
    """The logSNR at which stage 2 leaves latents that the flow's loss reaches (model.md, Eq. 60),
    where the prior knows their means and the decoder reads them anyway.

    `reference_log_snr`: of the reference, where there is one.
    """
    dimensions, patch = vae.latent_dim, vae.patch_size
    entropy = stage2.lambda_vae * stage1.beta
    held = 0.0
    if reference_log_snr is not None and stage2.uses_reference:
        entropy += stage2.lambda_ref
        held = stage2.lambda_ref * math.exp(reference_log_snr)
    weight = 2 * patch * stage2.fm_weight(dimensions) / dimensions

    def pull(log_variance: float) -> float:
        """v dL/dv by d / (2 patch): above 0 where a smaller v lowers the loss."""
        own = log_variance + 2 * math.log(scaling_factor)
        more, less = (
            least_loss(math.exp(own + step), vae, scaling_factor, stage2) for step in (STEP, -STEP)
        )
        slope = (more - less) / (2 * STEP)
        return held * math.exp(log_variance) - entropy + weight * slope

    low, high = LOG_VARIANCE_RANGE
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if pull(middle) > 0 else (middle, high)
    return -(low + high) / 2


def irreducible_error(variance: float, timestep: LogitNormal | UniformTime) -> float:
    """F(v) (model.md, Eq. 28): the loss of the best velocity for z0 ~ N(known, v)."""
    quantile = (torch.arange(QUANTILES, dtype=torch.float64) + 0.5) / QUANTILES
    t = times_at(quantile, timestep)
    return float((variance / ((1 - t).square() * variance + t.square())).mean())
