"""The prior's half for latents of images: Cola DLM's network with positions in a plane.

B batch, T latents, R rotated channels of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel

from cola.models.dit import ColaDiT
from cola.models.dit_config import DiTConfig
from cola.models.layers import rotations


class ImageDiTConfig(DiTConfig):
    """`DiTConfig`, and the latents of a row of an image, which has as many rows."""

    model_type = "cola_image_dit"

    def __init__(self, columns: int = 4, **kwargs: Any) -> None:
        self.columns = columns
        super().__init__(**kwargs)


class ImageDiT(ColaDiT):
    """Latents of images in a block-causal sequence, behind others or in front of them."""

    config_class = ImageDiTConfig

    def rotary(self, position: Tensor) -> Tensor:
        """Rotations by row and by column (model.md, Eq. 71), of places in the whole sequence.

        Places of images begin at multiples of their length. A text's place p lies at (p, p) of the
        same plane, which is the rotation that the prior's half for text has.
        """
        columns: int = self.config.columns
        cell = position % columns**2
        first, rope = position - cell, self.layers[0].msa.rope.rope
        down, across = rope(first + cell // columns), rope(first + cell % columns)
        by_row = torch.arange(down[0].shape[-1], device=position.device) % 2 == 0
        cos, sin = (torch.where(by_row, a, b) for a, b in zip(down, across, strict=True))
        return rotations((cos, sin), self.config.head_dim)


AutoConfig.register(ImageDiTConfig.model_type, ImageDiTConfig)
AutoModel.register(ImageDiTConfig, ImageDiT)
