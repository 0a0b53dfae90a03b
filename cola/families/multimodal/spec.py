"""Specifications of the family of texts and images."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from cola.families.cola.spec import ColaModelSpec
from cola.families.interface.specs import FamilySettings, ModelSpec, ObjectiveSpec
from cola.spec.base import Spec
from cola.spec.objectives import FlowSpec, Fraction, LikelihoodTime, LogitNormal, VAEObjective


class ImageVAESpec(Spec):
    """Image VAE: one latent for each square of `patch_size` pixels (model.md, Eq. 68)."""

    channels: PositiveInt = Field(default=3, description="Channels of an image.")
    image_size: PositiveInt = Field(description="Pixels of an image's side.")
    patch_size: PositiveInt = Field(description="Pixels of the side of a latent's square.")
    hidden_size: PositiveInt = Field(description="Width of encoder and decoder.")
    num_blocks: PositiveInt = Field(description="Residual blocks of encoder and of decoder.")
    latent_dim: PositiveInt = Field(description="Dimensions of a latent.")

    @property
    def columns(self) -> int:
        """Latents of a row of an image."""
        return self.image_size // self.patch_size

    @property
    def latents(self) -> int:
        """Latents of an image."""
        return self.columns**2


class MultimodalModelSpec(ModelSpec):
    """Cola DLM of the texts, the image VAE, and a second half of the prior, of the sizes of the
    texts' one, for the images."""

    family: Literal["multimodal"] = "multimodal"
    text: ColaModelSpec = Field(description="Text VAE, and the prior's half for texts.")
    image_vae: ImageVAESpec = Field(description="Sizes of the image VAE.")

    @property
    def vocab_size(self) -> int:
        """Entries of the tokenizer."""
        return self.text.vocab_size


class MultimodalObjective(ObjectiveSpec):
    """Both VAEs, each by its own loss; then the prior over their latents, VAEs at rest."""

    family: Literal["multimodal"] = Field(
        default="multimodal", description="The family of the entry; may be left out."
    )
    stage1: VAEObjective = Field(
        default=VAEObjective(), description="The text VAE's training, in the first stage."
    )
    image_beta: NonNegativeFloat = Field(
        default=1.0,
        description="Weight of the KL divergence of images' latents to N(0, I), per nat; 1 is the "
        "evidence bound itself.",
    )
    lambda_image_vae: PositiveFloat = Field(
        default=1.0,
        description="Weight of the image VAE's loss, in nats a level, beside the text VAE's, in "
        "nats a token.",
    )
    text_flow: FlowSpec = Field(
        default=FlowSpec(), description="At which times the prior is trained on texts."
    )
    image_flow: FlowSpec = Field(
        default=FlowSpec(timestep=LogitNormal(timestep_loc=0.5), prompt_block_probability=0.0),
        description="At which times the prior is trained on images.",
    )
    lambda_text: PositiveFloat = Field(
        default=1.0, description="Weight of the flow-matching loss of texts."
    )
    lambda_image: PositiveFloat = Field(
        default=1.0, description="Weight of the flow-matching loss of images."
    )
    image_first: Fraction = Field(
        default=0.5,
        description="Share of the steps in which images stand in front of their texts: those teach "
        "texts behind images, and images alone; the others images behind texts, and texts alone.",
    )
    stage1_share: float = Field(
        default=0.3,
        gt=0,
        lt=1,
        description="Share of the run's compute that pays for the VAEs' training.",
    )

    def stage_shares(self) -> dict[str, float]:
        """Stages vaes and prior."""
        return {"vaes": self.stage1_share, "prior": 1.0 - self.stage1_share}

    def puts_image_first(self, step: int) -> bool:
        """Whether images stand in front in the step, counted from the stage's first at 0: exactly
        the share of the steps, evenly spread."""
        return math.floor((step + 1) * self.image_first) > math.floor(step * self.image_first)

    @model_validator(mode="after")
    def _times_have_no_weights(self) -> MultimodalObjective:
        for key in ("text_flow", "image_flow"):
            if isinstance(getattr(self, key).timestep, LikelihoodTime):
                raise ValueError(
                    f"{key}.timestep.kind=likelihood is not offered with images; use logit_normal "
                    "or uniform"
                )
        return self


class MultimodalSettings(FamilySettings):
    """Texts and images: what the matched size leaves open."""

    family: Literal["multimodal"] = Field(
        default="multimodal",
        description="Latents of a text and of an image in one block-causal prior, which has a half "
        "for each.",
    )
    latent_dim: PositiveInt = Field(
        default=16, description="Dimensions of a latent, of texts and of images."
    )
    block_size: PositiveInt = Field(
        default=16,
        description="Latents that the prior denoises together; whole rows of an image, and an "
        "image has whole blocks.",
    )
    image_size: PositiveInt = Field(
        default=16, description="Pixels of an image's side: those of `data.corpus`."
    )
    image_patch: PositiveInt = Field(
        default=4, description="Pixels of the side of the square that one latent encodes."
    )
    vae_share: float = Field(
        default=0.3, gt=0, lt=1, description="Share of the core parameters that go to both VAEs."
    )
    image_vae_share: float = Field(
        default=0.3, gt=0, lt=1, description="Of that, the image VAE's share."
    )
    log_snr: float | None = Field(
        default=None,
        ge=-20,
        le=30,
        description="Fixed log(E[mu^2] / E[sigma^2]) of texts' latents in nats, or null to learn "
        "the posterior's variance.",
    )
    objective: MultimodalObjective = Field(
        default=MultimodalObjective(), description="What is minimised in the two stages."
    )

    @property
    def image_latents(self) -> int:
        """Latents of an image."""
        return (self.image_size // self.image_patch) ** 2

    @model_validator(mode="after")
    def _blocks_fit(self) -> MultimodalSettings:
        size, patch, block = self.image_size, self.image_patch, self.block_size
        if size % patch:
            raise ValueError(f"image_patch={patch} must divide image_size={size}")
        columns = size // patch
        if block % columns or self.image_latents % block:
            fitting = [rows * columns for rows in range(1, columns + 1) if columns % rows == 0]
            raise ValueError(
                f"block_size={block} must be whole rows of the {columns} x {columns} latents of an "
                f"image and divide it; with image_size={size} and image_patch={patch} possible are "
                f"{', '.join(map(str, fitting))}"
            )
        return self
