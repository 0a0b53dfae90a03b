"""Tiny models, and folders as a run leaves them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from cola.families.interface.family import Family
from cola.families.registry import family_of
from orchestration.state.paths import RunFolder
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


def exported_model(run_folder: Path) -> Path:
    """A file in place of a run's exported model, which counts as whole."""
    file = RunFolder(run_folder).model / "config.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("{}")
    return file
