"""Recognising a collapsed latent space from the values that a training step logs (section 8).

All is read off `log_snr` = log(E[mu^2] / E[sigma^2]) and `fm`, the flow-matching loss. Given the
text, z0 = mu + sigma eps, and even a network that knew mu would face, per dimension and exactly
(z_t = (1 - t) z0 + t z1, u = z1 - z0),

    Var[u | z_t, mu] = sigma^2 / ((1 - t)^2 sigma^2 + t^2),

and F(v) is its mean over t at sigma^2 = v. F is also the loss of a prior that leaves the variance v
of each dimension open, so F^-1(fm) says how much of the latents it cannot predict. (One v stands
for all dimensions: F is concave, so very unequal ones may be a little below.) A collapse shows in
one of three ways:

1. sigma is at the clamp of its log-variance, or a learned logSNR is absurd;
2. fm is under F(sigma^2 exp(2 h / d)): latents of d dimensions that tell h nats more than their
   history are Gaussian channels with (d / 2) log(v / sigma^2) >= h. h is taken under any text's
   (`TEXT_NATS`), so constant latents or a memorised corpus pass this floor and text does not;
3. the prior leaves less than `OPEN_SHARE` of the latents' power open while a learned sigma has
   shrunk (logSNR above `SHRUNK_LOG_SNR`): the encoder has hidden the text in differences too small
   for the prior's loss. Healthy priors leave most of it open: fm 1.3 is v = 0.8 (F(1) = 1.6).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist

from cola.models.text_vae import LOG_VARIANCE_RANGE
from cola.spec import TextVAESpec
from cola.spec.objectives import JointObjective, LogitNormal, TimestepDistribution

MAX_LOG_SNR, MIN_LOG_SNR = 14.0, -4.0  # useful: 3 to 6 (the paper's best 4.5); 9 at d = 4
CLAMP_MARGIN = 0.5  # nats of log-variance from the clamp that count as being at it
TEXT_NATS = 0.5  # per token given its history; words have 3 or more, bytes about 0.7
SHRUNK_LOG_SNR = 8.0
OPEN_SHARE = 0.1  # of E[mu^2]; F = 0.25 at loc 1; healthy 0.6 or more, collapsed 0.01 to 0.07
PATIENCE = 5  # consecutive points
QUANTILES = 512


def collapse_reason(
    points: Sequence[Mapping[str, float]],
    vae: TextVAESpec,
    scaling_factor: float,
    stage2: JointObjective,
) -> str | None:
    """What has collapsed, when each of the last `PATIENCE` points shows it; None otherwise.

    `points` are the logged values of a stage, oldest first: "log_snr" in nats, "fm" (if the stage
    has it) as squared error per latent dimension.
    """
    if len(points) < PATIENCE:
        return None
    recent = points[-PATIENCE:]
    reasons = [point_reason(point, vae, scaling_factor, stage2) for point in recent]
    if any(reason is None for reason in reasons):
        return None
    return f"latents collapsed at {PATIENCE} consecutive points: {reasons[-1]}"


def point_reason(
    values: Mapping[str, float], vae: TextVAESpec, scaling_factor: float, stage2: JointObjective
) -> str | None:
    """What one point shows, or None. A fixed logSNR is only held against the second floor."""
    log_snr = values.get("log_snr")
    if log_snr is None or not math.isfinite(log_snr):
        return None
    if vae.log_snr is None:
        # E[mu^2] = 1 after the encoder's LayerNorm, so log E[sigma^2] = -logSNR (section 8).
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
    """Least plausible flow-matching loss (2. and 3. above), squared error per latent dimension.

    Latents of a prompt carry no loss: on average half of a chosen block (`flow_draws`).
    """
    nats = TEXT_NATS * vae.patch_size
    open_variance = math.exp(-log_snr + 2 * nats / vae.latent_dim)
    if vae.log_snr is None and log_snr > SHRUNK_LOG_SNR:
        open_variance = max(open_variance, OPEN_SHARE)
    scored = 1 - stage2.prompt_block_probability / 2
    return scored * irreducible_error(open_variance * scaling_factor**2, stage2.timestep)


def irreducible_error(variance: float, timestep: TimestepDistribution) -> float:
    """F(v) = E_t[v / ((1 - t)^2 v + t^2)]: the loss of the best velocity for z0 ~ N(known, v)."""
    total = 0.0
    for index in range(QUANTILES):
        t = time_quantile((index + 0.5) / QUANTILES, timestep)
        total += variance / ((1 - t) ** 2 * variance + t**2)
    return total / QUANTILES


def time_quantile(probability: float, timestep: TimestepDistribution) -> float:
    """The t that a draw is below with this probability."""
    if not isinstance(timestep, LogitNormal):
        return probability
    normal = NormalDist(timestep.timestep_loc, timestep.timestep_scale).inv_cdf(probability)
    return 1 / (1 + math.exp(-normal))
