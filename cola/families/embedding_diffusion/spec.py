"""Specifications of diffusion over token embeddings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from cola.families.interface.specs import FamilySettings, ModelSpec, ObjectiveSpec
from cola.spec.networks import DiTSpec
from cola.spec.objectives import FlowSpec, LikelihoodTime


class EmbeddingDiffusionModelSpec(ModelSpec):
    """The trunk, whose latents are the embeddings of the vocabulary's tokens."""

    family: Literal["embedding_diffusion"] = "embedding_diffusion"
    vocab_size: PositiveInt = Field(description="Entries of the tokenizer.")
    dit: DiTSpec = Field(description="Sizes of the trunk.")
    log_snr: float = Field(description="log(1 / variance) of a latent round its embedding.")


class EmbeddingFlow(FlowSpec, ObjectiveSpec):
    """Cross entropy of the tokens of noisy blocks (model.md, Eq. 49)."""

    family: Literal["embedding_diffusion"] = Field(
        default="embedding_diffusion", description="The family of the entry; may be left out."
    )

    def stage_shares(self) -> dict[str, float]:
        """One stage."""
        return {"train": 1.0}

    @model_validator(mode="after")
    def _times_have_no_weights(self) -> EmbeddingFlow:
        if isinstance(self.timestep, LikelihoodTime):
            raise ValueError(
                "timestep.kind=likelihood weighs squared errors, and this loss is a cross entropy; "
                "use logit_normal or uniform"
            )
        return self


class EmbeddingDiffusionSettings(FamilySettings):
    """Diffusion over token embeddings: what the matched size leaves open."""

    family: Literal["embedding_diffusion"] = Field(
        default="embedding_diffusion",
        description="A block-causal diffusion over the embeddings of tokens, without a VAE.",
    )
    embedding_dim: PositiveInt = Field(
        default=16, description="Dimensions of the embeddings that noise is added to."
    )
    block_size: PositiveInt = Field(
        default=16, description="Tokens that are denoised together, behind those before them."
    )
    log_snr: float = Field(
        default=3.0,
        ge=0,
        le=12,
        description="log(1 / variance) of a latent round its embedding, in nats: the flow ends "
        "there, and tokens are rounded off it.",
    )
    objective: EmbeddingFlow = Field(
        default=EmbeddingFlow(), description="At which noise tokens are predicted."
    )
