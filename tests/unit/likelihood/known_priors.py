"""Priors of latents whose density and velocity are known: Gaussians around codewords."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cola.likelihood.flow_density import FlowDensity, flow_density_by_block


@dataclass(frozen=True)
class Codewords:
    """z0 ~ sum_k N(word_k, scale^2 I) / K, with words of E[word^2] = 1: logSNR -2 log scale."""

    words_Kd: Tensor
    scale: float

    @classmethod
    def drawn(cls, width: int, words: int, log_snr: float) -> Codewords:
        """`words` random words of `width` dimensions."""
        drawn_Kd = torch.randn(words, width, generator=torch.Generator().manual_seed(0)).double()
        drawn_Kd = drawn_Kd / drawn_Kd.square().mean().sqrt()
        return cls(drawn_Kd, math.exp(-log_snr / 2))

    def sample(self, count: int, seed: int = 1) -> Tensor:
        """z0 (count, 1, d): blocks of one latent."""
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randint(len(self.words_Kd), (count,), generator=generator)
        noise = torch.randn(count, self.words_Kd.shape[1], generator=generator).double()
        return (self.words_Kd[chosen] + self.scale * noise)[:, None]

    def nll(self, z_B1d: Tensor) -> Tensor:
        """-log p(z0), (B,)."""
        square_BK = (z_B1d - self.words_Kd).square().sum(-1) / (2 * self.scale**2)
        constant = self.words_Kd.shape[1] / 2 * math.log(2 * math.pi * self.scale**2)
        return math.log(len(self.words_Kd)) - (-square_BK).logsumexp(1) + constant

    def velocity(self, z_B1d: Tensor, t: float | Tensor) -> Tensor:
        """E[z1 - z0 | z_t] in closed form; t is one time, or (B, 1)."""
        t_B11 = torch.as_tensor(t, dtype=torch.float64).reshape(-1, 1, 1)
        means_BKd = (1 - t_B11) * self.words_Kd
        variance_B11 = (1 - t_B11) ** 2 * self.scale**2 + t_B11**2
        behind_BKd = z_B1d.double() - means_BKd
        share_BK1 = (-behind_BKd.square().sum(-1, keepdim=True) / (2 * variance_B11)).softmax(1)
        slope_B11 = (t_B11 - (1 - t_B11) * self.scale**2) / variance_B11
        return (share_BK1 * (slope_B11 * behind_BKd - self.words_Kd)).sum(1, keepdim=True)

    def density(self, z_B1d: Tensor, steps: int) -> FlowDensity:
        """The flow's log-density with the exact trace."""
        return flow_density_by_block(
            self.velocity,
            z_B1d,
            steps,
            divergence="exact",
            probe_Bnd=z_B1d,
            block=1,
            scale=self.scale,
        )
