"""The DiT for bfloat16 generation on a CPU: weights prepacked for oneDNN, GELU fused.

A plain Linear packs its weights in every call, and one generation makes thousands of calls.
"""

from __future__ import annotations

import copy
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cola.models.dit import BlockCausalDiT
from cola.models.dit_layers import MLP, SelfAttention
from cola.models.layers import activation_dtype, merge_heads

# Rows (batch x latents) of the products that the packed layout is optimised for, a chosen value:
# other numbers of rows give correct results, only slower.
ROWS = 512


class PackedLinear(nn.Module):
    """A Linear without gradients whose weights are in oneDNN's packed layout."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().to(torch.bfloat16)
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
        self.bias = None if linear.bias is None else linear.bias.detach().to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), bfloat16."""
        return self.apply_with(x, "none", "")

    def apply_with(self, x: Tensor, activation: str, algorithm: str) -> Tensor:
        """The product followed by an activation, fused: (..., in) -> (..., out)."""
        operator = torch.ops.mkldnn._linear_pointwise
        product: Tensor = operator(x, self.packed, self.bias, activation, [], algorithm)
        return product


class PackedAttention(nn.Module):
    """`dit_layers.SelfAttention` with packed weights; norms and rotations are in float32."""

    def __init__(self, attention: SelfAttention) -> None:
        super().__init__()
        self.num_heads = attention.num_heads
        self.proj_qkv = PackedLinear(attention.proj_qkv)
        self.proj_out = PackedLinear(attention.proj_out)
        self.norms = [_float_affine(norm) for norm in (attention.norm_q, attention.norm_k)]
        self.rope = attention.rope  # whose frequencies the model asks for

    def qkv(self, x_BnC: Tensor, rotary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys, values (B, H, n, D)."""
        projected = self.proj_qkv(x_BnC).unflatten(-1, (3, self.num_heads, -1))
        qkv = projected.permute(2, 0, 3, 1, 4)  # (3, B, H, n, D)
        # One copy moves the heads forward and changes the type of queries and keys together.
        qk = qkv[:2].to(torch.float32, memory_format=torch.contiguous_format)
        rotary = rotary.transpose(1, 2)
        q, k = (
            _rotate(F.layer_norm(x, x.shape[-1:], *affine), rotary).to(projected.dtype)
            for x, affine in zip(qk, self.norms, strict=True)
        )
        return q, k, qkv[2]

    def out(self, x_BHnD: Tensor) -> Tensor:
        """Output projection, (B, H, n, D) -> (B, n, C)."""
        projected: Tensor = self.proj_out(merge_heads(x_BHnD))
        return projected


def _float_affine(norm: nn.LayerNorm) -> tuple[Tensor, Tensor, float]:
    return norm.weight.detach().float(), norm.bias.detach().float(), norm.eps


def _rotate(x_BHnD: Tensor, rotary: Tensor) -> Tensor:
    """Rotary embedding of the channel pairs (2i, 2i + 1), in place."""
    pairs = torch.view_as_complex(x_BHnD.unflatten(-1, (-1, 2)))
    pairs *= torch.view_as_complex(rotary)
    return x_BHnD


class PackedMLP(nn.Module):
    """`dit_layers.MLP` with packed weights."""

    def __init__(self, mlp: MLP) -> None:
        super().__init__()
        self.proj_in, self.proj_out = PackedLinear(mlp.proj_in), PackedLinear(mlp.proj_out)

    def forward(self, x_BnC: Tensor) -> Tensor:
        """(B, n, C) -> (B, n, C)."""
        projected: Tensor = self.proj_out(self.proj_in.apply_with(x_BnC, "gelu", "tanh"))
        return projected


def for_generation(dit: BlockCausalDiT) -> BlockCausalDiT:
    """A copy with packed weights on a CPU in bfloat16 (weights or autocast); else `dit` itself.

    Packed weights have no gradients, so with gradients enabled it is `dit` itself, too.
    """
    weight = dit.txt_in.proj.weight
    is_bfloat16_on_cpu = weight.device.type == "cpu" and activation_dtype(weight) == torch.bfloat16
    if (
        not is_bfloat16_on_cpu
        or torch.is_grad_enabled()
        or not torch.backends.mkldnn.is_available()
    ):
        return dit
    # deepcopy takes from `memo` what exists already: the copy shares all unreplaced tensors.
    memo = {id(tensor): tensor for tensor in (*dit.parameters(), *dit.buffers())}
    packed = copy.deepcopy(dit, memo)
    for block in packed.layers:
        block.msa = cast(SelfAttention, PackedAttention(block.msa))
        block.mlp = cast(MLP, PackedMLP(block.mlp))
    return packed
