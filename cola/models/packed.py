"""The DiT for generation on a CPU in bfloat16: weights laid out once for oneDNN, GELU fused.

A plain Linear lays its weights out anew in every call, which a generation makes by the thousand.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cola.models.dit import MLP, ColaDiT, SelfAttention
from cola.models.layers import activation_dtype, merge_heads

ROWS = 512  # of the products that the layout is made for; others are right too


class PackedLinear(nn.Module):
    """A Linear without gradients whose weights are in oneDNN's own layout."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().to(torch.bfloat16)
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
        self.bias = None if linear.bias is None else linear.bias.detach().to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), bfloat16."""
        return self.apply_with(x, "none", "")

    def apply_with(self, x: Tensor, activation: str, algorithm: str) -> Tensor:
        """The product followed by an activation, in one call."""
        operator = torch.ops.mkldnn._linear_pointwise
        product: Tensor = operator(x, self.packed, self.bias, activation, [], algorithm)
        return product


class PackedAttention(nn.Module):
    """See `cola.models.dit.SelfAttention`. Queries and keys are normalised and turned in float32.

    They are moved heads first on the way there, once and together, so that nothing copies them
    again; each then has a LayerNorm of its own, whose affine part costs nothing there.
    """

    def __init__(self, attention: SelfAttention) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.proj_qkv = PackedLinear(attention.proj_qkv)
        self.proj_out = PackedLinear(attention.proj_out)
        self.norms = [_float_affine(norm) for norm in (attention.norm_q, attention.norm_k)]
        self.rope = attention.rope  # whose frequencies the model asks for

    def qkv(self, x_BnC: Tensor, turns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, values (B, H, n, D)."""
        projected = self.proj_qkv(x_BnC).unflatten(-1, (3, self.num_heads, -1))
        moved = projected.permute(2, 0, 3, 1, 4)  # (3, B, H, n, D)
        qk = moved[:2].to(torch.float32, memory_format=torch.contiguous_format)
        turns = turns.transpose(1, 2)
        q, k = (
            _turned(F.layer_norm(x, x.shape[-1:], *affine), turns).to(projected.dtype)
            for x, affine in zip(qk, self.norms, strict=True)
        )
        return q, k, moved[2]

    def out(self, x_BHnD: Tensor) -> Tensor:
        """Back to the model's width."""
        projected: Tensor = self.proj_out(merge_heads(x_BHnD))
        return projected


def _float_affine(norm: nn.LayerNorm) -> tuple[Tensor, Tensor, float]:
    return norm.weight.detach().float(), norm.bias.detach().float(), norm.eps


def _turned(x_BHnD: Tensor, turns: Tensor) -> Tensor:
    """Rotary embedding of the pairs (2i, 2i + 1), in place."""
    pairs = torch.view_as_complex(x_BHnD.unflatten(-1, (-1, 2)))
    pairs *= turns
    return x_BHnD


class PackedMLP(nn.Module):
    """See `cola.models.dit.MLP`."""

    def __init__(self, mlp: MLP) -> None:
        super().__init__()
        self.proj_in, self.proj_out = PackedLinear(mlp.proj_in), PackedLinear(mlp.proj_out)

    def forward(self, x_BnC: Tensor) -> Tensor:
        """(B, n, C) -> (B, n, C)."""
        projected: Tensor = self.proj_out(self.proj_in.apply_with(x_BnC, "gelu", "tanh"))
        return projected


def for_generation(dit: ColaDiT) -> ColaDiT:
    """A copy of the model that generates faster, where there is one; else the model itself.

    There is one on a CPU where activations are bfloat16 (by weights or by autocast) and no
    gradients are wanted.
    """
    weight = dit.txt_in.proj.weight
    fitting = weight.device.type == "cpu" and activation_dtype(weight) == torch.bfloat16
    if not fitting or torch.is_grad_enabled() or not torch.backends.mkldnn.is_available():
        return dit
    # The copy shares what it does not replace with the model.
    memo = {id(tensor): tensor for tensor in (*dit.parameters(), *dit.buffers())}
    packed = copy.deepcopy(dit, memo)
    for block in packed.layers:
        block.msa = cast(SelfAttention, PackedAttention(block.msa))
        block.mlp = cast(MLP, PackedMLP(block.mlp))
    return packed
