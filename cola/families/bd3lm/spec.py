"""Specifications of block diffusion over masks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from cola.families.interface.specs import FamilySettings, ModelSpec, ObjectiveSpec
from cola.spec.networks import TransformerSpec
from cola.spec.objectives import MaskRateSpec


class BD3LMModelSpec(ModelSpec, TransformerSpec):
    """Block-causal masked-diffusion model; its embedding has one more row, the mask token."""

    family: Literal["bd3lm"] = "bd3lm"
    block_size: PositiveInt = Field(description="Tokens that are unmasked together.")


class BlockMaskedDiffusion(MaskRateSpec, ObjectiveSpec):
    """Cross entropy of each block's masked tokens, weighted by 1 / p (model.md, Eq. 42)."""

    family: Literal["bd3lm"] = Field(
        default="bd3lm", description="The family of the entry; may be left out."
    )

    def stage_shares(self) -> dict[str, float]:
        """One stage."""
        return {"train": 1.0}


class BD3LMSettings(FamilySettings):
    """Block diffusion over masks (BD3-LM)."""

    family: Literal["bd3lm"] = Field(
        default="bd3lm",
        description="Masked diffusion of one block after another by a block-causal transformer.",
    )
    block_size: PositiveInt = Field(
        default=16,
        description="Tokens that are unmasked together, behind the blocks before them; 1 is "
        "autoregressive, the sequence's length is LLaDA.",
    )
    rope_theta: PositiveFloat = Field(
        default=10_000.0, description="Base of the rotary position embedding's wavelengths."
    )
    objective: BlockMaskedDiffusion = Field(
        default=BlockMaskedDiffusion(), description="How tokens are masked for training."
    )
