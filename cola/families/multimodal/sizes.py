"""Sizes of the family of texts and images for a target of core parameters."""

from __future__ import annotations

from functools import cache

from cola.compute.flops import (
    adaln_layer_parameters,
    dit_fixed_parameters,
    dit_layer_parameters,
    vae_fixed_parameters,
    vae_layer_parameters,
)
from cola.compute.sizing import Shape, aspect, best_shape, head_dim, width_step
from cola.families.cola.sizes import paper_row as text_row
from cola.families.cola.sizes import shaped
from cola.families.cola.spec import ColaSettings
from cola.families.multimodal.spec import ImageVAESpec, MultimodalModelSpec, MultimodalSettings

IMAGE_BLOCKS = 1  # of encoder and of decoder: chosen
IMAGE_UNIT = 8  # its widths are multiples of it
PAPER_IMAGE_WIDTH = 256  # beside the paper's row, which has no images: chosen


def paper_row(vocab_size: int, settings: MultimodalSettings) -> MultimodalModelSpec:
    """The paper's row with a second half of the prior, and an image VAE, which are not its own."""
    text = text_row(vocab_size, text_settings(settings))
    return MultimodalModelSpec(text=text, image_vae=image_vae_of(settings, PAPER_IMAGE_WIDTH))


def core_sized(target: int, vocab_size: int, settings: MultimodalSettings) -> MultimodalModelSpec:
    """The model with about this many parameters outside token embeddings and head.

    Raises:
        SpecError: when the target is too small for any shape.
    """
    wanted = settings.vae_share * settings.image_vae_share * target
    width = image_width(wanted, settings)
    image_vae = image_vae_of(settings, width)
    dit, vae = _shapes(
        target,
        image_parameters=image_vae_parameters(image_vae),
        latent_dim=settings.latent_dim,
        vae_share=settings.vae_share,
    )
    text = shaped(vocab_size, text_settings(settings), dit, vae)
    return MultimodalModelSpec(text=text, image_vae=image_vae)


def text_settings(settings: MultimodalSettings) -> ColaSettings:
    """The settings of the texts' part as Cola DLM's."""
    return ColaSettings(
        latent_dim=settings.latent_dim, block_size=settings.block_size, log_snr=settings.log_snr
    )


def image_vae_of(settings: MultimodalSettings, width: int) -> ImageVAESpec:
    """An image VAE of this width."""
    return ImageVAESpec(
        image_size=settings.image_size,
        patch_size=settings.image_patch,
        hidden_size=width,
        num_blocks=IMAGE_BLOCKS,
        latent_dim=settings.latent_dim,
    )


def image_width(wanted: float, settings: MultimodalSettings) -> int:
    """The width whose image VAE is nearest to so many parameters from below, at least the first."""
    width = IMAGE_UNIT
    while image_vae_parameters(image_vae_of(settings, width + IMAGE_UNIT)) <= wanted:
        width += IMAGE_UNIT
    return width


def image_vae_parameters(vae: ImageVAESpec) -> int:
    """Of encoder and decoder."""
    width, pixels = vae.hidden_size, vae.channels * vae.patch_size**2
    block = 4 * width**2 + 5 * width + vae.latents * (vae.latents + 1)
    encoder = (pixels + 1) * width + (width + 1) * 2 * vae.latent_dim
    decoder = (vae.latent_dim + 1) * width + (width + 1) * 2 * pixels
    return 2 * vae.num_blocks * block + encoder + decoder


@cache
def _shapes(
    target: int, *, image_parameters: int, latent_dim: int, vae_share: float
) -> tuple[Shape, Shape]:
    """One half of the prior near its share first, then the text VAE makes up the rest."""
    step = width_step(target)

    def half(layers: int, width: int, _: int) -> int:
        layer = dit_layer_parameters(width, width, head_dim(width), ratio=4, bias=False)
        fixed = dit_fixed_parameters(width, latent_dim)
        return layers * (layer + adaln_layer_parameters(width)) + fixed

    def vae_size(layers: int, width: int, ffn: int) -> int:
        fixed = vae_fixed_parameters(width, latent_dim, 1)
        return 2 * layers * vae_layer_parameters(width, ffn, True) + fixed

    half_target = (1 - vae_share) * target / 2
    dit = best_shape(half_target, half, step, wanted_aspect=aspect(half_target), tuned=False)
    rest = target - 2 * dit.parameters - image_parameters
    wanted = ColaSettings.model_fields["vae_aspect"].default * aspect(rest)
    return dit, best_shape(rest, vae_size, step, wanted_aspect=wanted, scale=target)
