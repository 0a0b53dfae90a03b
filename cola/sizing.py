"""From a target of core parameters to each family's configuration (torch-free).

Core parameters are everything but token embeddings and head; Cola DLM's are the DiT's and the
VAE's together. A small grid of depth, width and MLP width is searched: the shape closest to the
usual proportions among those that meet the target within tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from cola.flops import (
    adaln_layer_parameters,
    dit_fixed_parameters,
    dit_layer_parameters,
    parameter_counts,
    trunk_layer_parameters,
    vae_fixed_parameters,
    vae_layer_parameters,
)
from cola.spec.base import SpecError
from cola.spec.model import (
    ARModelSpec,
    ColaModelSpec,
    DiTSpec,
    LLaDAModelSpec,
    ModelSpec,
    TextVAESpec,
)

HARDWARE_FROM = 1_000_000  # core parameters from which widths are multiples of 64
TOLERANCE, SMALL_TOLERANCE = 0.0049, 0.014  # so that two families differ by < 1% (3% below 1 M)
FFN_RATIO = 4.0  # of the width, as in the paper's row (three SwiGLU matrices of 2048 x 8192)
ERROR_WEIGHT = 20.0


@dataclass(frozen=True)
class Shape:
    """A stack of equal layers."""

    layers: int
    width: int
    ffn: int
    parameters: int


def paper_row(
    family: str,
    vocab_size: int,
    *,
    latent_dim: int = 16,
    patch_size: int = 1,
    block_size: int = 16,
    vae_share: float = 0.3,
    log_snr: float | None = None,
) -> ModelSpec:
    """The paper's row of about 2 B parameters (docs/model.md); `vae_share` does not apply to it."""
    if family == "cola":
        return ColaModelSpec(
            vae=TextVAESpec(
                vocab_size=vocab_size,
                hidden_size=1536,
                ffn_size=6144,
                num_heads=12,
                encoder_layers=4,
                decoder_layers=4,
                latent_dim=latent_dim,
                patch_size=patch_size,
                log_snr=log_snr,
            ),
            dit=DiTSpec(
                hidden_size=2048,
                num_layers=24,
                num_heads=16,
                head_dim=128,
                rope_dim=96,
                latent_dim=latent_dim,
                block_size=block_size,
            ),
        )
    spec = ARModelSpec if family == "ar" else LLaDAModelSpec
    return spec(hidden_size=2048, ffn_size=8192, num_layers=27, num_heads=16, vocab_size=vocab_size)


def size_by_total(family: str, total_parameters: int, vocab_size: int, **options: Any) -> ModelSpec:
    """The family's configuration with this many parameters in all, embeddings included.

    Raises:
        SpecError: when embeddings leave no core, or no shape comes within the tolerance.
    """
    core, best = total_parameters, None
    for _ in range(20):
        try:
            model = size_model(family, max(core, 50_000), vocab_size, **options)
        except SpecError:
            core = round(core * 0.99)
            continue
        counts = parameter_counts(model)
        if best is None or abs(counts.total - total_parameters) < best[0]:
            best = (abs(counts.total - total_parameters), model)
        core = round(core + (total_parameters - counts.total))
        if core <= 0 or best[0] == 0:
            break
    if best is None or best[0] > 2 * tolerance(total_parameters) * total_parameters:
        reached = parameter_counts(best[1]).total if best else 0
        raise SpecError(
            f"{total_parameters} parameters in all cannot be met by {family} with a vocabulary of "
            f"{vocab_size} (the nearest is {reached}); choose more, or matching.parameters=core"
        )
    return best[1]


def size_model(
    family: str,
    core_parameters: int,
    vocab_size: int,
    *,
    latent_dim: int = 16,
    patch_size: int = 1,
    block_size: int = 16,
    vae_share: float = 0.3,
    log_snr: float | None = None,
) -> ModelSpec:
    """The family's configuration with this many core parameters, within the tolerance.

    `vae_share` of Cola DLM's core is the VAE's, as nearly as its shapes allow.

    Raises:
        SpecError: when no shape comes within the tolerance.
    """
    if family == "cola":
        model: ModelSpec = _cola(
            core_parameters, vocab_size, latent_dim, patch_size, block_size, vae_share, log_snr
        )
    else:
        model = _trunk(family, core_parameters, vocab_size)
    reached = parameter_counts(model).core
    if abs(reached / core_parameters - 1) > tolerance(core_parameters):
        raise SpecError(
            f"{core_parameters} cannot be met by {family} (the nearest is {reached}); "
            f"use {reached}, or at least 50000"
        )
    return model


def tolerance(core_parameters: float) -> float:
    """Largest relative deviation of a family's core parameters from the target."""
    return TOLERANCE if core_parameters >= HARDWARE_FROM else SMALL_TOLERANCE


def _trunk(family: str, target: int, vocab_size: int) -> ModelSpec:
    shape = _best_shape(
        target,
        lambda layers, width, ffn: layers * trunk_layer_parameters(width, ffn) + width,
        width_step(target),
        aspect(target),
    )
    spec = ARModelSpec if family == "ar" else LLaDAModelSpec
    return spec(
        hidden_size=shape.width,
        ffn_size=shape.ffn,
        num_layers=shape.layers,
        num_heads=shape.width // head_dim(shape.width),
        vocab_size=vocab_size,
    )


def _cola(
    target: int,
    vocab_size: int,
    latent_dim: int,
    patch_size: int,
    block_size: int,
    vae_share: float,
    log_snr: float | None,
) -> ColaModelSpec:
    """The DiT near its share first (its shapes are coarse), then the VAE makes up the rest."""
    step = width_step(target)

    def dit_size(layers: int, width: int, _: int) -> int:
        layer = dit_layer_parameters(width, width, head_dim(width), 4, False)
        return layers * (layer + adaln_layer_parameters(width)) + dit_fixed_parameters(
            width, latent_dim
        )

    def vae_size(layers: int, width: int, ffn: int) -> int:
        fixed = vae_fixed_parameters(width, latent_dim, patch_size)
        return 2 * layers * vae_layer_parameters(width, ffn, True) + fixed

    dit_target = (1 - vae_share) * target
    dit = _best_shape(dit_target, dit_size, step, aspect(dit_target), tuned=False)
    rest = target - dit.parameters
    # Encoder and decoder are shallow and wide: 4 + 4 layers of 1536 in the reference sizes.
    vae = _best_shape(rest, vae_size, step, 3 * aspect(rest), scale=target)
    width = head_dim(dit.width)
    return ColaModelSpec(
        vae=TextVAESpec(
            vocab_size=vocab_size,
            hidden_size=vae.width,
            ffn_size=vae.ffn,
            num_heads=vae.width // head_dim(vae.width),
            encoder_layers=vae.layers,
            decoder_layers=vae.layers,
            latent_dim=latent_dim,
            patch_size=patch_size,
            log_snr=log_snr,
        ),
        dit=DiTSpec(
            hidden_size=dit.width,
            num_layers=dit.layers,
            num_heads=dit.width // width,
            head_dim=width,
            rope_dim=width * 3 // 4,
            latent_dim=latent_dim,
            block_size=block_size,
        ),
    )


def width_step(target: float) -> int:
    """Widths are multiples of this."""
    return 64 if target >= HARDWARE_FROM else 16


def aspect(target: float) -> float:
    """Usual width over depth: 24 at 0.2 M, 76 at 1.8 B (the paper's 2048 / 27)."""
    return 24.0 * (max(target, 1e4) / 2e5) ** 0.126


@cache
def head_dim(width: int) -> int:
    """Width of an attention head: 128 in wide models, down to 16; it divides the width."""
    wanted = 128 if width >= 2048 else 64 if width >= 384 else 32 if width >= 96 else 16
    while width % wanted:
        wanted //= 2
    return wanted


def _best_shape(
    target: float,
    size: Callable[[int, int, int], int],
    step: int,
    wanted_aspect: float,
    tuned: bool = True,
    scale: float | None = None,
) -> Shape:
    """The shape of least penalty: distance from the target (relative to `scale`) and oddness."""
    scale = scale or target
    best, least = None, math.inf
    for layers, width in _candidates(target, step):
        ffns = _ffn_candidates(target, size, layers, width) if tuned else iter([4 * width])
        for ffn in ffns:
            parameters = size(layers, width, ffn)
            error = abs(parameters - target) / scale
            odd = abs(math.log(width / (wanted_aspect * layers)))
            odd += abs(math.log(ffn / (FFN_RATIO * width)))
            over = max(0.0, error - tolerance(scale)) if tuned else error
            penalty = odd + ERROR_WEIGHT * over * (100 if tuned else 1)
            if penalty < least:
                best, least = Shape(layers, width, ffn, parameters), penalty
    if best is None:
        raise SpecError(f"{target:.0f} parameters are too few for any shape; use at least 50000")
    return best


def _candidates(target: float, step: int) -> Iterator[tuple[int, int]]:
    """Depths and widths whose square part alone does not exceed the target by far."""
    target = max(target, 0.0)
    for layers in range(1, 129):
        widest = int((1.5 * target / (4 * layers)) ** 0.5)
        narrowest = max(step, widest // 6 // step * step)
        for width in range(narrowest, widest + step, step):
            yield layers, width


def _ffn_candidates(
    target: float, size: Callable[[int, int, int], int], layers: int, width: int
) -> Iterator[int]:
    """MLP widths around the one that meets the target (sizes are linear in it)."""
    unit = 64 if width >= 1024 else 32 if width >= 512 else 16
    zero, one = size(layers, width, 0), size(layers, width, unit)
    wanted = (target - zero) / (one - zero)
    for multiple in {math.floor(wanted), math.ceil(wanted)}:
        if width <= multiple * unit <= 8 * width:
            yield multiple * unit
