"""AdaLN: shifts, scales and gates from timesteps, once per distinct timestep (sections 2 and 8).

Shapes: B batch, n latents, K distinct timesteps of a sample, C width.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def modulation(emb_dim: int, width: int, parts: int) -> nn.Sequential:
    """Linear(SiLU(emb)) giving `parts` vectors of the width."""
    return nn.Sequential(nn.SiLU(), nn.Linear(emb_dim, parts * width))


class Times:
    """Embeddings of the distinct timesteps of a sample, and which latent has which.

    emb_BKC: (B or 1, K, C), one for each run of n / K latents. clean_Bn: True where a latent is at
    timestep 0 instead, whose embedding zero_11C then is.
    """

    def __init__(
        self, emb_BKC: Tensor, zero_11C: Tensor | None = None, clean_Bn: Tensor | None = None
    ) -> None:
        self._pick_BnK = None
        if clean_Bn is not None and zero_11C is not None:
            self._pick_BnK = _picks(clean_Bn, emb_BKC)
            emb_BKC = torch.cat([emb_BKC, zero_11C.expand(len(emb_BKC), 1, -1)], dim=1)
        self._active_BKC = F.silu(emb_BKC)  # what every AdaLN begins with

    def project(self, ada: nn.Sequential, parts: int) -> tuple[Tensor, ...]:
        """`parts` of (B or 1, K, 1, C), or (B, n, 1, C) where some latents are clean.

        They broadcast against a (B, K, n / K, C) view of the latents.
        """
        projected = ada[1](self._active_BKC).chunk(parts, dim=-1)
        if self._pick_BnK is not None:
            # A product with 0 and 1 is exact, and its backward pass is a product as well: that of
            # a gather or a choice is much slower.
            rows = len(self._pick_BnK)
            projected = tuple(self._pick_BnK @ part.expand(rows, -1, -1) for part in projected)
        return tuple(part[:, :, None] for part in projected)

    def twice(self) -> Times:
        """The same for two copies of the batch, one behind the other."""
        if self._pick_BnK is None and len(self._active_BKC) == 1:
            return self
        both = copy.copy(self)
        if self._pick_BnK is not None:
            both._pick_BnK = torch.cat([self._pick_BnK] * 2)
        if len(self._active_BKC) > 1:
            both._active_BKC = torch.cat([self._active_BKC] * 2)
        return both

    def modulated(self, x_BnC: Tensor, ada: nn.Sequential, eps: float) -> Tensor:
        """LayerNorm without affine, then x (1 + scale) + shift."""
        return modulate(F.layer_norm(x_BnC, x_BnC.shape[-1:], eps=eps), self, ada)


def _picks(clean_Bn: Tensor, emb_BKC: Tensor) -> Tensor:
    """(B, n, K + 1), one 1 in each row: a latent's own timestep, or the last where it is clean."""
    count = emb_BKC.shape[1]
    own_n = torch.arange(clean_Bn.shape[1], device=clean_Bn.device) * count // clean_Bn.shape[1]
    return F.one_hot(own_n.where(~clean_Bn, count), count + 1).to(emb_BKC.dtype)


class TimeTable:
    """Times that come again, as a solver's at every block: each AdaLN projects all of them at once.

    Without gradients. emb_1KC: (1, K, C), the embeddings of K times.
    """

    def __init__(self, emb_1KC: Tensor) -> None:
        self._times = Times(emb_1KC)
        self._parts: dict[nn.Module, list[tuple[Tensor, ...]]] = {}
        self._affine: dict[nn.Module, list[tuple[Tensor, Tensor]]] = {}

    def parts(self, ada: nn.Sequential, count: int) -> list[tuple[Tensor, ...]]:
        """`count` of (1, 1, 1, C) for each time."""
        if ada not in self._parts:
            columns = [part.split(1, dim=1) for part in self._times.project(ada, count)]
            self._parts[ada] = list(zip(*columns, strict=True))
        return self._parts[ada]

    def affine(self, ada: nn.Sequential) -> list[tuple[Tensor, Tensor]]:
        """1 + scale and shift of each time, (C,): a LayerNorm's weight and bias."""
        if ada not in self._affine:
            parts = self.parts(ada, 2)
            self._affine[ada] = [(1 + scale.flatten(), shift.flatten()) for shift, scale in parts]
        return self._affine[ada]


class KeptTimes(Times):
    """All latents are at one time, number `index` of a table."""

    def __init__(self, table: TimeTable, index: int) -> None:
        self._table, self._index = table, index

    def twice(self) -> Times:
        """See `Times.twice`."""
        return self

    def project(self, ada: nn.Sequential, parts: int) -> tuple[Tensor, ...]:
        """See `Times.project`."""
        return self._table.parts(ada, parts)[self._index]

    def modulated(self, x_BnC: Tensor, ada: nn.Sequential, eps: float) -> Tensor:
        """See `Times.modulated`: scale and shift are the LayerNorm's own affine here."""
        weight_C, bias_C = self._table.affine(ada)[self._index]
        return F.layer_norm(x_BnC, x_BnC.shape[-1:], weight_C, bias_C, eps)


def runs(x_BnC: Tensor, like: Tensor) -> Tensor:
    """(B, K, n / K, C) view whose second dimension is that of a projection."""
    count = like.shape[1]
    return x_BnC.unflatten(1, (count, x_BnC.shape[1] // count))


def modulate(normed_BnC: Tensor, times: Times, ada: nn.Sequential) -> Tensor:
    """x (1 + scale) + shift."""
    shift, scale = times.project(ada, 2)
    return torch.addcmul(shift, runs(normed_BnC, shift), 1 + scale).flatten(1, 2)


def gated(x_BnC: Tensor, update_BnC: Tensor, times: Times, ada: nn.Sequential) -> Tensor:
    """x + gate update."""
    (gate,) = times.project(ada, 1)
    return torch.addcmul(runs(x_BnC, gate), gate, runs(update_BnC, gate)).flatten(1, 2)
