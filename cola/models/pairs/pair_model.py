"""A model of texts and images: Cola DLM's text VAE and prior, an image VAE, and the prior's half
for images (model.md, Eq. 70).

Shapes: B batch, L tokens, c channels, S pixels a side, n latents, d latent width.
"""

from __future__ import annotations

from torch import Tensor

from cola.models.cola_dlm import ColaDLM
from cola.models.dit import ColaDiT
from cola.models.pairs.image_dit import ImageDiT
from cola.models.pairs.image_vae import ImageVAE
from cola.models.text_vae import TextVAE


class PairModel(ColaDLM):
    """Texts alone are Cola DLM's: `vae` and `dit` are those of text."""

    def __init__(
        self, vae: TextVAE, dit: ColaDiT, image_vae: ImageVAE, image_dit: ImageDiT
    ) -> None:
        super().__init__(vae, dit)
        self.image_vae, self.image_dit = image_vae, image_dit

    def text_latents(self, tokens_BL: Tensor) -> Tensor:
        """Mean latents of texts in the prior's normalisation, (B, n, d)."""
        return self.to_dit(self.vae.encoder(tokens_BL)[0])

    def image_latents(self, images: Tensor) -> Tensor:
        """Mean latents of images (B, c, S, S), (B, n, d); the prior takes them as they are."""
        return self.image_vae.encoder(images)[0]
