"""What the latents of a finished model are used for, from the measurements of its validation.

Three failures look alike in the bound and differ in their parts. Collapsed latents hold nothing:
their rate is next to nothing, and text is decoded as from token frequencies. A low rate with a
distortion below that line is none: a narrow channel that is used. A prior that has not learned
charges for each dimension what a Gaussian with the latents' moments would.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from cola.compute.channel import channel_nats
from cola.records import DISTORTION, GAUSSIAN_COST, LATENT_MEAN, LATENT_SQUARE, PRIOR_COST, RATE
from cola.spec import TextVAESpec

# Nats a token. Chosen: channels that held nothing had a rate of 0.00 to 0.04 and a distortion
# within 0.01 of the line; the narrowest one in use 0.48, and 0.7 below the line.
COLLAPSED_RATE = 0.05
ON_THE_LINE = 0.05
LEAST_GAIN = 0.01  # nats a dimension; chosen, near the measurement's noise on 32 sequences


def channel_capacity(vae: TextVAESpec) -> float | None:
    """Most nats a token that latents of a fixed logSNR hold, d / patch_size x ln(1 + e^logSNR) / 2
    (model.md, Eq. 40); None where the logSNR is learned."""
    if vae.log_snr is None:
        return None
    return channel_nats(vae.latent_dim, vae.log_snr) / vae.patch_size


def gaussian_cost(means: Mapping[str, float]) -> dict[str, float]:
    """What a dimension costs, in nats, under the Gaussian with the latents' mean and variance in
    each dimension; nothing without moments."""
    dimensions = sum(name.startswith(f"{LATENT_MEAN}/") for name in means)
    if not dimensions:
        return {}
    costs = []
    for dimension in range(dimensions):
        variance = means[f"{LATENT_SQUARE}/{dimension}"] - means[f"{LATENT_MEAN}/{dimension}"] ** 2
        costs.append(0.5 * math.log(2 * math.pi * math.e * max(variance, 1e-12)))
    return {GAUSSIAN_COST: sum(costs) / dimensions}


def latent_problem(values: Mapping[str, float], unigram: float) -> str | None:
    """One sentence where the latents hold nothing, or where the prior has learned nothing of them.

    `values` are measurements of a validation by name; unigram is the NLL of token frequencies.
    """
    rate = values.get(f"{RATE}_nats_per_token")
    distortion = values.get(f"{DISTORTION}_nats_per_token")
    if rate is None or distortion is None:
        return None
    unread = distortion > unigram - ON_THE_LINE
    if unread and rate < COLLAPSED_RATE:
        return (
            f"its latents have collapsed: they hold {rate:.3f} nats a token, and text is decoded "
            f"from them as from token frequencies ({distortion:.3f} against {unigram:.3f} nats a "
            "token); a wider channel (latent_dim, log_snr) or a smaller patch_size holds more"
        )
    if unread:
        return (
            f"its latents cost {rate:.3f} nats a token, and text is decoded from them as from "
            f"token frequencies ({distortion:.3f} against {unigram:.3f} nats a token): the VAE has "
            "not learned; a larger stage1_share or learning rate trains it more"
        )
    cost, gaussian = values.get(PRIOR_COST), values.get(GAUSSIAN_COST)
    if cost is not None and gaussian is not None and cost > gaussian - LEAST_GAIN:
        return (
            f"its prior has not learned: it charges {cost:.3f} nats for a dimension of the "
            f"latents, a Gaussian with their moments {gaussian:.3f}; more training, another "
            "learning rate or a narrower channel (latent_dim, log_snr, patch_size) changes that"
        )
    return None
