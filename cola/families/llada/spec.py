"""Specifications of the masked-diffusion family."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat

from cola.families.interface.specs import FamilySettings, ModelSpec, ObjectiveSpec
from cola.spec.networks import TransformerSpec
from cola.spec.objectives import MaskingSpec


class LLaDAModelSpec(ModelSpec, TransformerSpec):
    """Bidirectional masked-diffusion model; its embedding has one more row, the mask token."""

    family: Literal["llada"] = "llada"


class MaskedDiffusion(MaskingSpec, ObjectiveSpec):
    """Cross entropy of masked tokens, weighted by 1 / p (model.md, Eq. 31)."""

    family: Literal["llada"] = Field(
        default="llada", description="The family of the entry; may be left out."
    )

    def stage_shares(self) -> dict[str, float]:
        """One stage."""
        return {"train": 1.0}


class LLaDASettings(FamilySettings):
    """The masked-diffusion baseline."""

    family: Literal["llada"] = Field(
        default="llada", description="Masked diffusion by a bidirectional transformer."
    )
    rope_theta: PositiveFloat = Field(
        default=10_000.0, description="Base of the rotary position embedding's wavelengths."
    )
    objective: MaskedDiffusion = Field(
        default=MaskedDiffusion(), description="How tokens are masked for training."
    )
