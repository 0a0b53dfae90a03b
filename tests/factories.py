"""Tiny models."""

from __future__ import annotations

import torch
from torch import nn

from cola.families.interface.family import Family
from cola.families.registry import family_of
from tests.sizes import size_model


def tiny_model(
    name: str, core_parameters: int, vocabulary: int, factor: float = 1.0, **settings: int
) -> tuple[Family, nn.Module]:
    """An untrained model of a family, for evaluation; `settings` as a study has them."""
    torch.manual_seed(0)
    family = family_of(name)
    model = family.build(size_model(name, core_parameters, vocabulary, **settings))
    return family, sharpened(model, factor)


def sharpened(model: nn.Module, factor: float) -> nn.Module:
    """The model for evaluation, every matrix times `factor`: an untrained model's logits are too
    flat to show a difference."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(factor)
    return model.eval()
