"""Specifications of the toy family."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt

from cola.families.interface.specs import FamilySettings, ModelSpec, ObjectiveSpec


class ToyModelSpec(ModelSpec):
    """Residual MLP layers between an embedding and a head."""

    family: Literal["toy"] = "toy"
    vocab_size: PositiveInt
    width: PositiveInt
    inner: PositiveInt
    layers: PositiveInt


class ToyObjective(ObjectiveSpec):
    """Cross entropy of every token given the one before it, with label smoothing."""

    family: Literal["toy"] = "toy"
    smoothing: float = Field(default=0.0, ge=0, lt=1)

    def stage_shares(self) -> dict[str, float]:
        """One stage, under a name of its own."""
        return {"counting": 1.0}


class ToySettings(FamilySettings):
    """What a study can set."""

    family: Literal["toy"] = "toy"
    layers: PositiveInt = Field(default=1, description="Residual layers.")
    objective: ToyObjective = ToyObjective()
