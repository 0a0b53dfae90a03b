"""What the latents of a text VAE can hold, and how rules for them are rounded."""

from __future__ import annotations

import math

from cola.compute.channel import channel_nats

# Chosen: far below anything that training uses (the narrowest channel in use holds 0.3 nats a
# token), and far above rounding.
LEAST_CAPACITY = 1e-6


def check_capacity(latent_dim: int, patch_size: int, log_snr: float | None) -> None:
    """Refuse latents that hold nothing; a learned variance (`log_snr` None) is not known before.

    Raises:
        ValueError: with the capacity and what raises it.
    """
    if log_snr is None:
        return
    nats = channel_nats(latent_dim, log_snr) / patch_size
    if nats < LEAST_CAPACITY:
        raise ValueError(
            f"log_snr={log_snr:g}: latents of {latent_dim} dimensions for {patch_size} tokens hold "
            f"{nats:.1g} nats a token at that noise, which is nothing; raise log_snr, or give null "
            "to learn the variance"
        )


def whole_dimension(value: float) -> int:
    """The whole number of dimensions nearest to a rule's value.

    Raises:
        ValueError: it is below 1, or not finite.
    """
    if not 0.5 <= value <= 2**31:
        remedy = "smaller" if value > 1 else "larger"
        raise ValueError(
            f"gives {value:.3g}, which is no whole number of dimensions from 1 on; give {remedy} "
            "values"
        )
    return max(1, round(value))


def patches(block_size: int, sequence_length: int) -> list[int]:
    """Sizes of patches of which whole blocks fill a sequence."""
    blocks = sequence_length // block_size
    return [p for p in range(1, blocks + 1) if sequence_length % (p * block_size) == 0]


def whole_patch(value: float, block_size: int, sequence_length: int) -> int:
    """The possible patch nearest to a rule's value in its logarithm.

    A whole number is taken as it is, and has to be possible.

    Raises:
        ValueError: it is none that is possible, or further from all of them than rounding goes.
    """
    possible = patches(block_size, sequence_length)
    if possible and possible[0] / math.sqrt(2) <= value <= possible[-1] * math.sqrt(2):
        whole = float(value).is_integer()
        if not whole or value in possible:
            return min(possible, key=lambda patch: abs(math.log(patch / value)))
    known = ", ".join(map(str, possible)) or "none"
    raise ValueError(
        f"gives {value:.3g} tokens, which do not divide a sequence into blocks; with blocks of "
        f"block_size={block_size} latents in data.sequence_length={sequence_length} possible are "
        f"{known}"
    )
