"""Specifications of Cola DLM."""

from __future__ import annotations

import math
from typing import ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from cola.families.cola.latents import check_capacity, whole_dimension, whole_patch
from cola.families.cola.priors import check_prior
from cola.families.interface.specs import FamilySettings, LatentError, ModelSpec, ObjectiveSpec
from cola.spec.base import SparseSpec
from cola.spec.networks import DiTSpec, FlowPrior, MixturePrior, PriorSpec, TextVAESpec
from cola.spec.objectives import JointObjective, VAEObjective


class ColaModelSpec(SparseSpec, ModelSpec):
    """The VAE and the DiT, with the latents' normalisation at their border.

    z_DiT = (z_VAE - shifting_factor) * scaling_factor.
    """

    sparse_keys: ClassVar[tuple[str, ...]] = ("prior",)

    family: Literal["cola"] = "cola"
    prior: PriorSpec = Field(
        default=FlowPrior(), description="How a block of latents is made behind those before it."
    )
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

    @model_validator(mode="after")
    def _network_says_what_the_prior_needs(self) -> ColaModelSpec:
        dit, needed = self.dit, self.dit.latent_dim
        if isinstance(self.prior, MixturePrior):
            needed = self.prior.outputs(dit.latent_dim)
        if dit.outputs != needed:
            raise ValueError(
                f"dit.output_dim={dit.outputs} must be {needed} for prior.kind={self.prior.kind}"
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

    @property
    def vae_in_stage2(self) -> VAEObjective:
        """The VAE's own terms in stage 2."""
        weight = self.stage2.lambda_mask
        return (
            self.stage1
            if weight is None
            else self.stage1.model_copy(update={"lambda_mask": weight})
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
    prior: PriorSpec = Field(
        default=FlowPrior(), description="How a block of latents is made behind those before it."
    )
    vae_share: float = Field(
        default=0.3, gt=0, lt=1, description="Share of the core parameters that go to the VAE."
    )
    vae_aspect: PositiveFloat = Field(
        default=3.0,
        description="Width over depth that the VAE's encoder and decoder aim at, in units of what "
        "a trunk of as many parameters has; 6.7 in the paper's row.",
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
    adaln_rank: PositiveInt | None = Field(
        default=None,
        description="Channels through which the prior's projections of the timestep pass, which "
        "are a third of its parameters otherwise; null: none, they are full.",
    )
    objective: ColaObjective = Field(
        default=ColaObjective(), description="What is minimised in the two stages."
    )

    sparse_keys: ClassVar[tuple[str, ...]] = (*FamilySettings.sparse_keys, "adaln_rank", "prior")
    latent_keys: ClassVar[tuple[str, ...]] = ("latent_dim", "patch_size", "log_snr", "beta")

    @property
    def tokens_per_block(self) -> int:
        """Tokens that one block of latents encodes."""
        return self.patch_size * self.block_size

    def with_latents(self, values: dict[str, float], sequence_length: int) -> Self:
        """See `FamilySettings.with_latents`: whole dimensions, patches of whole blocks."""
        changes: dict[str, object] = {}
        for key, value in values.items():
            try:
                changes |= self._latent_change(key, value, sequence_length)
            except ValueError as error:
                raise LatentError(key, str(error)) from None
        changed = self.model_copy(update=changes)
        try:
            check_capacity(changed.latent_dim, changed.patch_size, changed.log_snr)
        except ValueError as error:
            key = next(k for k in ("log_snr", "latent_dim", "patch_size", "beta") if k in values)
            raise LatentError(key, str(error)) from None
        return changed

    def _latent_change(self, key: str, value: float, length: int) -> dict[str, object]:
        if key == "latent_dim":
            return {key: whole_dimension(value)}
        if key == "patch_size":
            return {key: whole_patch(value, self.block_size, length)}
        if not math.isfinite(value):
            raise ValueError(f"gives {value:g}, which is no finite number")
        if key == "log_snr":
            return {key: value}
        stage1 = self.objective.stage1.model_copy(update={"beta": value})
        return {"objective": self.objective.model_copy(update={"stage1": stage1})}

    @model_validator(mode="after")
    def _latents_hold_something(self) -> ColaSettings:
        check_capacity(self.latent_dim, self.patch_size, self.log_snr)
        return self

    @model_validator(mode="after")
    def _prior_reads_the_objective(self) -> ColaSettings:
        check_prior(self.prior, self.objective.stage2)
        return self

    @model_validator(mode="after")
    def _prompts_have_an_effect(self) -> ColaSettings:
        stage2 = self.objective.stage2
        probability = stage2.prompt_block_probability
        default = type(stage2).model_fields["prompt_block_probability"].default
        if self.block_size == 1 and probability not in (0.0, default):
            raise ValueError(
                f"objective.stage2.prompt_block_probability={probability:g} has no effect with "
                "block_size=1: a block of one latent has no left part to know; leave it out"
            )
        return self

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
