"""Image VAE: pixels <-> one latent per square of `patch_size` pixels (model.md, Eqs. 68 and 69).

Shapes: B batch, c channels, S pixels a side, g = S / patch_size, n = g^2 latents row by row,
d latent width, C width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel

from cola.models.text_vae import LOG_VARIANCE_RANGE, init_normal

LEVELS = 256
HALF_BIN = 1 / (LEVELS - 1)  # half a level, in units in which all levels are from -1 to 1
LOG_BIN = math.log(2 * HALF_BIN) - 0.5 * math.log(2 * math.pi)  # of a bin, over a normal's density
# Below it a level's probability is taken from the density at its middle: a difference of two
# probabilities has no digits left there.
SMALL_PROBABILITY = 1e-5
# Of pixels' distributions, a third of a level and 17 levels: a wider one would explain a thing that
# is not drawn as noise. Chosen.
LOG_SCALES = (-6.0, -2.0)


class ImageVAEConfig(PretrainedConfig):
    """Sizes of an image VAE."""

    model_type = "cola_image_vae"

    def __init__(
        self,
        channels: int = 3,
        image_size: int = 16,
        patch_size: int = 4,
        *,
        dim: int = 64,
        num_blocks: int = 2,
        latent_dim: int = 16,
        init_std: float = 0.02,
        **kwargs: Any,
    ) -> None:
        self.channels = channels
        self.image_size = image_size
        self.patch_size = patch_size
        self.dim = dim
        self.num_blocks = num_blocks
        self.latent_dim = latent_dim
        self.init_std = init_std
        super().__init__(**kwargs)

    @property
    def columns(self) -> int:
        """Latents of a row of an image; it has as many rows."""
        return self.image_size // self.patch_size

    @property
    def latents(self) -> int:
        """Latents of an image."""
        return self.columns**2


class MixerBlock(nn.Module):
    """A residual block: a linear map over the places of each channel, norm, and an MLP of each
    place (after MLP-Mixer, arXiv 2105.01601, of images of one size)."""

    def __init__(self, width: int, places: int) -> None:
        super().__init__()
        self.around = nn.Linear(places, places)
        self.norm = nn.GroupNorm(1, width)
        self.proj_in = nn.Conv2d(width, 2 * width, 1)
        self.proj_out = nn.Conv2d(2 * width, width, 1)

    def forward(self, x_BCgg: Tensor) -> Tensor:
        """(B, C, g, g) -> (B, C, g, g)."""
        seen = x_BCgg + self.around(x_BCgg.flatten(2)).view_as(x_BCgg)
        update: Tensor = self.proj_out(F.gelu(self.proj_in(self.norm(seen))))
        return x_BCgg + update


def mixer_blocks(config: ImageVAEConfig) -> nn.ModuleList:
    """The blocks of encoder or decoder."""
    blocks = (MixerBlock(config.dim, config.latents) for _ in range(config.num_blocks))
    return nn.ModuleList(blocks)


class ImageEncoder(nn.Module):
    """q(z0 | image) (model.md, Eq. 68)."""

    def __init__(self, config: ImageVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.patches = nn.Conv2d(
            config.channels, config.dim, config.patch_size, stride=config.patch_size
        )
        self.blocks = mixer_blocks(config)
        self.final_layer = nn.Conv2d(config.dim, 2 * config.latent_dim, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, c, S, S) uint8 -> mean, log-variance (B, n, d), float32."""
        x = self.patches(as_numbers(images).to(self.patches.weight.dtype))
        for block in self.blocks:
            x = block(x)
        found_Bnd = self.final_layer(x).float().flatten(2).transpose(1, 2)
        mean, log_variance = found_Bnd.chunk(2, dim=-1)
        return mean, log_variance.clamp(*LOG_VARIANCE_RANGE)


class ImageDecoder(nn.Module):
    """p(image | z0) (model.md, Eq. 69): a normal distribution of each pixel's level."""

    def __init__(self, config: ImageVAEConfig) -> None:
        super().__init__()
        self.config = config
        self.in_layer = nn.Conv2d(config.latent_dim, config.dim, 1)
        self.blocks = mixer_blocks(config)
        self.final_layer = nn.Conv2d(config.dim, 2 * config.channels * config.patch_size**2, 1)

    def forward(self, z_Bnd: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (B, n, d) -> means of the pixels, which are from -1 to 1 where levels are, and
        logarithms of their scales, (B, c, S, S) each."""
        grid = (self.config.columns, self.config.columns)
        x = self.in_layer(z_Bnd.to(self.in_layer.weight.dtype).transpose(1, 2).unflatten(2, grid))
        for block in self.blocks:
            x = block(x)
        pixels = F.pixel_shuffle(self.final_layer(x).float(), self.config.patch_size)
        mean, log_scale = pixels.chunk(2, dim=1)
        low, high = LOG_SCALES
        return mean, low + (high - low) * log_scale.sigmoid()

    def pixel_nll(self, z_Bnd: Tensor, images: Tensor) -> Tensor:
        """-log p of each pixel's level in each channel, in nats, (B, c, S, S)."""
        mean, log_scale = self(z_Bnd)
        return level_nll(mean, log_scale, as_numbers(images))

    def images(self, z_Bnd: Tensor) -> Tensor:
        """The most probable images, (B, c, S, S) uint8."""
        mean, _ = self(z_Bnd)
        levels = (mean + 1) / (2 * HALF_BIN)
        return levels.round().clamp(0, LEVELS - 1).to(torch.uint8)


class ImageVAE(PreTrainedModel):
    """Both halves as a Hugging Face model."""

    config_class = ImageVAEConfig
    base_model_prefix = ""

    def __init__(self, config: ImageVAEConfig) -> None:
        super().__init__(config)
        self.encoder = ImageEncoder(config)
        self.decoder = ImageDecoder(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.GroupNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        else:
            init_normal(module, self.config.init_std)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, log-variance, and the pixels' means decoded from the mean."""
        mean, log_variance = self.encoder(images)
        return mean, log_variance, self.decoder(mean)[0]


def as_numbers(images: Tensor) -> Tensor:
    """Levels 0 to 255 -> -1 to 1, float32."""
    return images.float() * (2 * HALF_BIN) - 1


def level_nll(mean: Tensor, log_scale: Tensor, value: Tensor) -> Tensor:
    """-log of the probability that a normal distribution gives the level of `value`, in nats: its
    mass in the level's bin; the lowest and highest levels have the tails."""
    z, inverse = value - mean, (-log_scale).exp()
    above, below = (z + HALF_BIN) * inverse, (z - HALF_BIN) * inverse
    inside = torch.special.ndtr(above) - torch.special.ndtr(below)
    density = -0.5 * (z * inverse).square() - log_scale + LOG_BIN
    middle = torch.where(
        inside > SMALL_PROBABILITY, inside.clamp_min(SMALL_PROBABILITY).log(), density
    )
    lowest, highest = value < HALF_BIN - 1, value > 1 - HALF_BIN
    tail = torch.where(lowest, torch.special.log_ndtr(above), torch.special.log_ndtr(-below))
    return -torch.where(lowest | highest, tail, middle)


AutoConfig.register(ImageVAEConfig.model_type, ImageVAEConfig)
AutoModel.register(ImageVAEConfig, ImageVAE)
