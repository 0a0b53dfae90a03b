"""How much latents can hold: the capacity of Gaussian channels (model.md, Eq. 40)."""

from __future__ import annotations

import math


def channel_nats(dimensions: int, log_snr: float) -> float:
    """Most nats that a latent of so many dimensions holds, d ln(1 + e^logSNR) / 2."""
    log_one_plus = max(log_snr, 0.0) + math.log1p(math.exp(-abs(log_snr)))  # does not overflow
    return dimensions * log_one_plus / 2
