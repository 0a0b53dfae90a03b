"""AdaLN (model.md, Eq. 17): shifts, scales and gates, evaluated once per distinct timestep.

AdaLN holds a third of the DiT's parameters. Latents that share a timestep share its vectors, so
projecting each distinct timestep once and broadcasting the result gives the same numbers for less.
Shapes: B batch, n latents, K distinct timesteps of a sample, C width.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cola.models.layers import normalized


def adaln_projection(
    emb_dim: int, width: int, vectors: int, *, rank: int | None = None
) -> nn.Sequential:
    """Linear(SiLU(embedding)) with `vectors` outputs of the given width, through `rank` channels
    where one is given (model.md, Eq. 59)."""
    if rank is None:
        return nn.Sequential(nn.SiLU(), nn.Linear(emb_dim, vectors * width))
    narrow = nn.Sequential(Narrowing(emb_dim, rank, bias=False), nn.Linear(rank, vectors * width))
    return nn.Sequential(nn.SiLU(), narrow)


class Narrowing(nn.Linear):
    """The first half of a map of low rank, drawn so that it keeps its input's size: the product of
    two small matrices would hardly learn."""

    def draw(self) -> None:
        """Fresh weights."""
        nn.init.normal_(self.weight, std=self.in_features**-0.5)


class TimestepEmbeddings:
    """Embeddings of a sample's distinct timesteps, and the assignment of latents to them.

    emb_BKC: (B or 1, K, C); the k-th embeds the k-th run of n / K consecutive latents. clean_Bn:
    True where a latent is at timestep 0 instead, whose embedding is zero_11C. t_BK: the embedded
    times, for whom they concern (None: they are not known).
    """

    def __init__(
        self,
        emb_BKC: Tensor,
        zero_11C: Tensor | None = None,
        clean_Bn: Tensor | None = None,
        *,
        t_BK: Tensor | None = None,
    ) -> None:
        self._one_hot_BnK, self.t_BK, self._clean_Bn = None, t_BK, clean_Bn
        if clean_Bn is not None and zero_11C is not None:
            self._one_hot_BnK = one_hot_timestep(clean_Bn, emb_BKC)
            emb_BKC = torch.cat([emb_BKC, zero_11C.expand(len(emb_BKC), 1, -1)], dim=1)
        self._active_BKC = F.silu(emb_BKC)  # the first layer of every `adaln_projection`

    def times(self, latents: int) -> Tensor:
        """The time of each of `latents` latents, (B or 1, n, 1); 0 where they are clean."""
        assert self.t_BK is not None
        return latent_times(self.t_BK, latents, self._clean_Bn)

    def project(self, ada: nn.Sequential, vectors: int) -> tuple[Tensor, ...]:
        """The projection's vectors, each (B or 1, K, 1, C), or (B, n, 1, C) with clean latents.

        They broadcast against the latents as `by_timestep` views them.
        """
        projected = ada[1](self._active_BKC).chunk(vectors, dim=-1)
        if self._one_hot_BnK is not None:
            # A product with 0 and 1 is exact, and its backward pass is a product too, which is
            # much faster than that of a gather or of torch.where.
            batch = len(self._one_hot_BnK)
            projected = tuple(self._one_hot_BnK @ part.expand(batch, -1, -1) for part in projected)
        return tuple(part.unsqueeze(2) for part in projected)

    def repeat_batch(self) -> TimestepEmbeddings:
        """The embeddings of the batch concatenated with itself."""
        if self._one_hot_BnK is None and len(self._active_BKC) == 1:
            return self
        doubled = copy.copy(self)
        if self.t_BK is not None and len(self.t_BK) > 1:
            doubled.t_BK = torch.cat([self.t_BK] * 2)
        if self._one_hot_BnK is not None:
            doubled._one_hot_BnK = torch.cat([self._one_hot_BnK] * 2)
        if self._clean_Bn is not None:
            doubled._clean_Bn = torch.cat([self._clean_Bn] * 2)
        if len(self._active_BKC) > 1:
            doubled._active_BKC = torch.cat([self._active_BKC] * 2)
        return doubled

    def modulate_norm(self, x_BnC: Tensor, ada: nn.Sequential, eps: float) -> Tensor:
        """LayerNorm without affine, then shift and scale: F's input in model.md, Eq. 17."""
        return modulate(normalized(x_BnC, eps), self, ada)


def latent_times(t_BK: Tensor, latents: int, clean_Bn: Tensor | None) -> Tensor:
    """The time of each of `latents` latents, (B or 1, n, 1), of K runs; 0 where they are clean."""
    t_Bn = t_BK.repeat_interleave(latents // t_BK.shape[1], dim=1)
    return (t_Bn if clean_Bn is None else t_Bn.masked_fill(clean_Bn, 0))[..., None]


def one_hot_timestep(clean_Bn: Tensor, emb_BKC: Tensor) -> Tensor:
    """(B, n, K + 1), one-hot: the index of a latent's timestep, or K where the latent is clean."""
    count = emb_BKC.shape[1]
    own_n = torch.arange(clean_Bn.shape[1], device=clean_Bn.device) * count // clean_Bn.shape[1]
    # Compared, not `F.one_hot`, which reads its input back to check it.
    index_K = torch.arange(count + 1, device=clean_Bn.device)
    own_Bn = own_n.expand_as(clean_Bn).masked_fill(clean_Bn, count)
    return (own_Bn.unsqueeze(-1) == index_K).to(emb_BKC.dtype)


class TimestepTable:
    """Cached projections of the timesteps that a solver repeats in every block.

    Each AdaLN projects all K timesteps at once, on first use. Holds no gradients. emb_1KC:
    (1, K, C). t_1K: the embedded times (None: they are not known).
    """

    def __init__(self, emb_1KC: Tensor, t_1K: Tensor | None = None) -> None:
        self._timesteps, self.t_1K = TimestepEmbeddings(emb_1KC), t_1K
        self._vectors: dict[nn.Module, list[tuple[Tensor, ...]]] = {}
        self._affine: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}

    def vectors(self, ada: nn.Sequential, count: int) -> list[tuple[Tensor, ...]]:
        """For each timestep, the projection's `count` vectors (1, 1, 1, C)."""
        if ada not in self._vectors:
            columns = [part.split(1, dim=1) for part in self._timesteps.project(ada, count)]
            self._vectors[ada] = list(zip(*columns, strict=True))
        return self._vectors[ada]

    def affine(self, ada: nn.Sequential) -> list[tuple[Tensor, Tensor]]:
        """For each timestep, 1 + scale and shift as a LayerNorm's weight and bias, (C,) each."""
        if ada not in self._affine:
            vectors = self.vectors(ada, 2)
            self._affine[ada] = [(1 + scale.flatten(), shift.flatten()) for shift, scale in vectors]
        return self._affine[ada]


class CachedTimestep(TimestepEmbeddings):
    """All latents at one timestep, the `index`-th of a table."""

    def __init__(self, table: TimestepTable, index: int) -> None:
        self._table, self._index, self._clean_Bn = table, index, None
        self.t_BK = None if table.t_1K is None else table.t_1K[:, index : index + 1]

    def repeat_batch(self) -> TimestepEmbeddings:
        """Itself, as it broadcasts over the batch."""
        return self

    def project(self, ada: nn.Sequential, vectors: int) -> tuple[Tensor, ...]:
        """The table's vectors, each (1, 1, 1, C)."""
        return self._table.vectors(ada, vectors)[self._index]

    def modulate_norm(self, x_BnC: Tensor, ada: nn.Sequential, eps: float) -> Tensor:
        """The same in one fused LayerNorm: 1 + scale and shift are its affine parameters."""
        weight_C, bias_C = self._table.affine(ada)[self._index]
        return F.layer_norm(x_BnC, x_BnC.shape[-1:], weight_C, bias_C, eps)


def by_timestep(x_BnC: Tensor, like: Tensor) -> Tensor:
    """(B, K, n / K, C) view whose second dimension is that of the projection `like`."""
    count = like.shape[1]
    return x_BnC.unflatten(1, (count, x_BnC.shape[1] // count))


def modulate(normed_BnC: Tensor, timesteps: TimestepEmbeddings, ada: nn.Sequential) -> Tensor:
    """x (1 + scale) + shift, (B, n, C)."""
    shift, scale = timesteps.project(ada, 2)
    return torch.addcmul(shift, by_timestep(normed_BnC, shift), 1 + scale).flatten(1, 2)


def add_gated(
    x_BnC: Tensor, update_BnC: Tensor, timesteps: TimestepEmbeddings, *, ada: nn.Sequential
) -> Tensor:
    """x + gate * update, (B, n, C): the sum in model.md, Eq. 17."""
    (gate,) = timesteps.project(ada, 1)
    added = torch.addcmul(by_timestep(x_BnC, gate), gate, by_timestep(update_BnC, gate))
    return added.flatten(1, 2)
