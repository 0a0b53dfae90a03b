"""What a forward pass keeps for its backward pass."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from cola.families.interface.family import StageModule
from orchestration.training.engine import autocast


def kept_bytes(
    module: StageModule,
    inputs: dict[str, Tensor],
    precision: Literal["float32", "bfloat16"] = "float32",
) -> int:
    """Bytes of the distinct storages that autograd keeps, parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    device = next(module.parameters()).device
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        autocast(device, precision),
    ):
        module(**inputs)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
