"""Specifications of the autoregressive family."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat

from cola.families.interface.specs import FamilySettings, ModelSpec, ObjectiveSpec
from cola.spec.networks import TransformerSpec


class ARModelSpec(ModelSpec, TransformerSpec):
    """Causal next-token model; opens in plain `transformers` as a Llama."""

    family: Literal["ar"] = "ar"


class NextToken(ObjectiveSpec):
    """Cross entropy of every token given those before it."""

    family: Literal["ar"] = Field(
        default="ar", description="The family of the entry; may be left out."
    )

    def stage_shares(self) -> dict[str, float]:
        """One stage."""
        return {"train": 1.0}


class ARSettings(FamilySettings):
    """The autoregressive baseline."""

    family: Literal["ar"] = Field(
        default="ar", description="Next-token prediction by a causal transformer."
    )
    rope_theta: PositiveFloat = Field(
        default=10_000.0, description="Base of the rotary position embedding's wavelengths."
    )
    objective: NextToken = Field(default=NextToken(), description="What is minimised.")
