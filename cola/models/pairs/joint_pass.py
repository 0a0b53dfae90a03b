"""One block-causal pass over latents of several modalities (model.md, Eq. 70).

Each modality has its own network: projections, AdaLN and MLPs. All have the same heads, layers and
block size, and attend together: the keys and values of a layer stand one after the other in the
sequence's order, and a block sees those before it of whatever modality.
Shapes: B batch, n latents of a part, d latent width, N latents of all parts, s latents a block,
C width, H heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import torch
from torch import Tensor

from cola.models.adaln import TimestepEmbeddings
from cola.models.dit import BlockCausalDiT
from cola.models.layers import KeysValues, attend
from cola.models.masks import block_causal_mask, visible


@dataclass(frozen=True)
class CleanPart:
    """Clean latents z0_Bnd of one modality, whole blocks, and the network that reads them."""

    dit: BlockCausalDiT
    z0_Bnd: Tensor


@dataclass(frozen=True)
class NoisyPart:
    """Noisy latents of one modality, the `start`-th of the sequence and those behind it.

    t_BK: times in [0, 1], one for each run of n / K latents. clean_Bn: True where a latent is clean
    at time 0 (None: nowhere).
    """

    dit: BlockCausalDiT
    zt_Bnd: Tensor
    t_BK: Tensor
    start: int
    clean_Bn: Tensor | None = None


@dataclass
class PassingPart:
    """A part on its way through its network."""

    dit: BlockCausalDiT
    x_BnC: Tensor
    timesteps: TimestepEmbeddings
    rotary: Tensor

    def qkv(self, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of a layer, (B, H, n, D) each."""
        return self.dit.layers[layer].qkv(self.x_BnC, self.timesteps, self.rotary)

    def finish(self, layer: int, attended_BHnD: Tensor) -> None:
        """The rest of the layer."""
        block = self.dit.layers[layer]
        self.x_BnC = block.finish(self.x_BnC, attended_BHnD, self.timesteps)


def joint_history(parts: Sequence[CleanPart]) -> list[KeysValues]:
    """Keys and values (B, H, N - s, D) of the clean parts in their order, per layer.

    The last block is left out, as no block sees it.
    """
    size, device = parts[0].dit.config.block_size, parts[0].z0_Bnd.device
    lengths = [part.z0_Bnd.shape[1] for part in parts]
    lengths[-1] -= size
    starts = accumulate(lengths, initial=0)
    streams = [
        PassingPart(
            part.dit,
            part.dit.embed(part.z0_Bnd[:, :length]),
            part.dit.timestep_zero(part.z0_Bnd),
            part.dit.rotary(torch.arange(start, start + length, device=device)),
        )
        for part, length, start in zip(parts, lengths, starts, strict=False)
        if length
    ]
    layers = len(parts[0].dit.layers)
    if not streams:  # one block: it has no history
        empty = _no_keys(parts[0])
        return [(empty, empty)] * layers
    mask, history = block_causal_mask(sum(lengths), size, device), []
    for layer in range(layers):
        q, k, v = _joined(streams, layer)
        history.append((k, v))
        if layer < layers - 1:  # the last layer's output is never read
            _finish(streams, layer, attend(q, k, v, mask=mask))
    return history


def noisy_velocities(parts: Sequence[NoisyPart], history: Sequence[KeysValues]) -> list[Tensor]:
    """Velocities (B, n, d) of noisy parts behind the clean blocks before each of their blocks.

    `history` is `joint_history` of the whole sequence, of which `parts` are consecutive ones.
    """
    streams = [
        PassingPart(
            part.dit,
            part.dit.embed(part.zt_Bnd),
            part.dit.timesteps(part.t_BK, part.clean_Bn),
            part.dit.rotary(_places(part)),
        )
        for part in parts
    ]
    first, count = parts[0].start, sum(part.zt_Bnd.shape[1] for part in parts)
    size, clean = parts[0].dit.config.block_size, history[0][0].shape[2]
    mask = noisy_mask(first, count, size, clean=clean, device=parts[0].zt_Bnd.device)
    for layer, (past_k, past_v) in enumerate(history):
        q, k, v = _joined(streams, layer)
        k, v = torch.cat([past_k, k], dim=2), torch.cat([past_v, v], dim=2)
        _finish(streams, layer, attend(q, k, v, mask=mask))
    return [
        stream.dit.velocity(
            stream.dit.features(stream.x_BnC, stream.timesteps), part.zt_Bnd, stream.timesteps
        )
        for stream, part in zip(streams, parts, strict=True)
    ]


@lru_cache(maxsize=64)
def noisy_mask(
    first: int, count: int, block_size: int, *, clean: int, device: torch.device
) -> Tensor:
    """(count, clean + count) mask of `count` noisy latents from the `first` on: keys are those of
    the `clean` latents from the sequence's beginning, and the noisy ones' own."""
    noisy = clean + first + torch.arange(count, device=device)
    key = torch.cat([torch.arange(clean, device=device), noisy])
    return visible(noisy[:, None], key, block_size, clean=clean)


def _places(part: NoisyPart) -> Tensor:
    return part.start + torch.arange(part.zt_Bnd.shape[1], device=part.zt_Bnd.device)


def _no_keys(part: CleanPart) -> Tensor:
    config = part.dit.config
    return part.z0_Bnd.new_zeros(len(part.z0_Bnd), config.heads, 0, config.head_dim)


def _joined(streams: Sequence[PassingPart], layer: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of all parts, one behind the other."""
    q, k, v = zip(*(stream.qkv(layer) for stream in streams), strict=True)
    return torch.cat(q, dim=2), torch.cat(k, dim=2), torch.cat(v, dim=2)


def _finish(streams: Sequence[PassingPart], layer: int, attended_BHND: Tensor) -> None:
    lengths = [stream.x_BnC.shape[1] for stream in streams]
    for stream, own in zip(streams, attended_BHND.split(lengths, dim=2), strict=True):
        stream.finish(layer, own)
