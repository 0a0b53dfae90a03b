"""Points of a sweep over the rate of latents, as what draws them and what reads them know them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LADDER = "ladder"  # the key of the space whose values are the budgets, a ladder of one rung each


def budget_of(point: Mapping[str, Any]) -> float:
    """The budget of a point, FLOPs."""
    return float(point[LADDER][0]["budget"])


def is_of_training(key: str) -> bool:
    """Whether a key of the space sets the training, of which the best value counts."""
    return "training" in key.split(".")
