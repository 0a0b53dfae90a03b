"""Latents as Gaussian channels: how much they hold (model.md, Eq. 40), and their noise."""

from __future__ import annotations

import math

# Of the latents given the text where no fixed logSNR says it: logSNR 4.6, about the paper's.
USUAL_SCALE = 0.1
NARROWEST_SCALE = 1e-3  # the widest is 1: noise is no narrower than the latents then
# First noise over the latents' own: below it z0 is read off z_t by a Gaussian. Chosen: on trained
# priors of the demo's size the bound is tightest there, within 0.04 nats a latent of the flow's
# (0.2 at 1, 0.2 to 0.5 at 0.25, 16 to 19 at 0.003).
FIRST_NOISE = 0.5


def channel_nats(dimensions: int, log_snr: float) -> float:
    """Most nats that a latent of so many dimensions holds, d ln(1 + e^logSNR) / 2."""
    log_one_plus = max(log_snr, 0.0) + math.log1p(math.exp(-abs(log_snr)))  # does not overflow
    return dimensions * log_one_plus / 2


def noise_scale(log_snr: float | None, scaling_factor: float) -> float:
    """About the standard deviation of latents given the text, in the flow's units.

    It follows from settings alone, so that a text's likelihood does not depend on the others of its
    batch; it decides how steps and times are spread, not what they converge to.
    """
    log_own = math.log(USUAL_SCALE) if log_snr is None else -log_snr / 2
    log_scale = log_own + math.log(scaling_factor)
    return math.exp(max(math.log(NARROWEST_SCALE), min(log_scale, 0.0)))
