"""Tiny models."""

from __future__ import annotations

import torch
from torch import nn

from cola.families import Family, family_of
from cola.sizing import size_model


def tiny_model(
    name: str, core_parameters: int, vocabulary: int, factor: float = 1.0, **of_cola: int
) -> tuple[Family, nn.Module]:
    """An untrained model of a family, for evaluation; `of_cola` are sizes of Cola DLM alone."""
    torch.manual_seed(0)
    family, options = family_of(name), of_cola if name == "cola" else {}
    model = family.build(size_model(name, core_parameters, vocabulary, **options))
    return family, sharpened(model, factor)


def sharpened(model: nn.Module, factor: float) -> nn.Module:
    """The model for evaluation, every matrix times `factor`: an untrained model's logits are too
    flat to show a difference."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(factor)
    return model.eval()
