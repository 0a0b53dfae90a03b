"""Specifications of Cola DLM."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from cola.families.interface.specs import FamilySettings, ModelSpec, ObjectiveSpec
from cola.spec.networks import DiTSpec, TextVAESpec
from cola.spec.objectives import JointObjective, VAEObjective


class ColaModelSpec(ModelSpec):
    """The VAE and the DiT, with the latents' normalisation at their border.

    z_DiT = (z_VAE - shifting_factor) * scaling_factor.
    """

    family: Literal["cola"] = "cola"
    vae: TextVAESpec = Field(description="Sizes of the text VAE.")
    dit: DiTSpec = Field(description="Sizes of the diffusion prior.")
    scaling_factor: PositiveFloat = Field(
        default=1.0, description="Factor of the VAE's latents on their way to the DiT."
    )
    shifting_factor: float = Field(
        default=0.0, description="Subtracted from the VAE's latents before they are scaled."
    )

    @model_validator(mode="after")
    def _latents_agree(self) -> ColaModelSpec:
        if self.vae.latent_dim != self.dit.latent_dim:
            raise ValueError(
                f"vae.latent_dim={self.vae.latent_dim} must equal "
                f"dit.latent_dim={self.dit.latent_dim}"
            )
        return self

    @property
    def vocab_size(self) -> int:
        """Entries of the tokenizer."""
        return self.vae.vocab_size

    @property
    def tokens_per_block(self) -> int:
        """Tokens that one block of latents encodes."""
        return self.dit.block_size * self.vae.patch_size


class ColaObjective(ObjectiveSpec):
    """Both stages: the VAE alone, then VAE and DiT."""

    family: Literal["cola"] = Field(
        default="cola", description="The family of the entry; may be left out."
    )
    stage1: VAEObjective = Field(default=VAEObjective(), description="The VAE's pretraining.")
    stage2: JointObjective = Field(
        default=JointObjective(), description="Training of VAE and DiT together."
    )
    stage1_share: float = Field(
        default=0.2,
        gt=0,
        lt=1,
        description="Share of the run's compute that pays for the VAE's pretraining.",
    )

    def stage_shares(self) -> dict[str, float]:
        """Stages vae and joint; `scratch` has no stage 1."""
        if self.stage2.gradient_mode == "scratch":
            return {"joint": 1.0}
        return {"vae": self.stage1_share, "joint": 1.0 - self.stage1_share}


class ColaSettings(FamilySettings):
    """Cola DLM: what the matched size leaves open."""

    family: Literal["cola"] = Field(
        default="cola",
        description="A text VAE, and a block-causal diffusion prior over its latents.",
    )
    latent_dim: PositiveInt = Field(default=16, description="Dimensions of a latent.")
    patch_size: PositiveInt = Field(default=1, description="Tokens that one latent encodes.")
    block_size: PositiveInt = Field(
        default=16, description="Latents that the prior denoises together."
    )
    vae_share: float = Field(
        default=0.3, gt=0, lt=1, description="Share of the core parameters that go to the VAE."
    )
    log_snr: float | None = Field(
        default=None,
        ge=-20,
        le=30,
        description=(
            "Fixed log(E[mu^2] / E[sigma^2]) of the latents in nats, or null to learn the "
            "posterior's variance."
        ),
    )
    latent_scaling: PositiveFloat = Field(
        default=1.0, description="Factor of the VAE's latents on their way to the prior."
    )
    latent_shift: float = Field(
        default=0.0, description="Subtracted from the VAE's latents before they are scaled."
    )
    vae_attention: Literal["causal", "block_causal"] = Field(
        default="causal",
        description=(
            "Attention of the VAE: `causal`, or `block_causal`, where a latent also sees the rest "
            "of its block of `vae_block_size`."
        ),
    )
    vae_block_size: PositiveInt = Field(
        default=1,
        description=(
            "Latents of a block of the VAE's `block_causal` attention; `block_size` must be a "
            "multiple of it."
        ),
    )
    vae_qk_norm: bool = Field(
        default=True, description="Whether the VAE's queries and keys pass a LayerNorm."
    )
    vae_post_norm: bool = Field(
        default=True,
        description="Whether the VAE normalises behind its sublayers (true) or in front of them.",
    )
    vae_rope_theta: PositiveFloat = Field(
        default=500_000.0,
        description="Base of the wavelengths of the VAE's rotary position embedding.",
    )
    dit_mlp_ratio: PositiveInt = Field(
        default=4, description="Inner width of the prior's MLP over its width."
    )
    dit_qk_bias: bool = Field(
        default=False, description="Whether the prior's attention projections have biases."
    )
    objective: ColaObjective = Field(
        default=ColaObjective(), description="What is minimised in the two stages."
    )

    @property
    def tokens_per_block(self) -> int:
        """Tokens that one block of latents encodes."""
        return self.patch_size * self.block_size

    @model_validator(mode="after")
    def _vae_blocks_fit(self) -> ColaSettings:
        size, block = self.vae_block_size, self.block_size
        if self.vae_attention == "causal" and size != 1:
            raise ValueError(
                f"vae_block_size={size} has no effect with vae_attention='causal'; use "
                "vae_attention='block_causal' or vae_block_size=1"
            )
        if block % size:
            raise ValueError(
                f"vae_block_size={size} must divide block_size={block}: text is decoded a block "
                "of the prior at a time"
            )
        return self
