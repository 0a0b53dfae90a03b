"""An upper bound of a diffusion prior's -log p(z0) by forward passes alone (model.md, Eq. 38).

It bounds the density of the reverse diffusion with the prior's velocity, which is the flow's where
the velocity is that of some data. Nothing is solved: its Monte Carlo error is its only error.
Shapes: B batch, n latents, d latent width, s latents a block, b blocks, M times a block.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cola.compute.channel import FIRST_NOISE
from cola.likelihood.flow_density import by_block
from cola.seeding import Stream

BlockVelocity = Callable[[Tensor, Tensor], Tensor]  # z (B, n, d), t (B, b) -> v (B, n, d)


def diffusion_bound_by_block(
    velocity: BlockVelocity,
    z_Bnd: Tensor,
    times: int,
    *,
    stream: Stream,
    block: int,
    scale: float,
) -> Tensor:
    """-log p(z0) or more in expectation, by block in nats, (B, b) float64.

    Each block is measured at `times` times, one in each of as many strata of a distribution with
    density in proportion to 1 / (t + scale), and once where its decoding begins. `scale` is the
    standard deviation of the latents given the text, in the flow's units: any makes a bound, the
    right one the tightest.
    """
    latents, width = z_Bnd.shape[1:]
    excess = _Excess(velocity, z_Bnd, block, scale)
    first = FIRST_NOISE * scale / (1 + FIRST_NOISE * scale)
    inside_BMb = stream.uniform("bound_time", times, latents // block).double()
    log_span = math.log((1 + scale) / (first + scale))

    def noise(name: str) -> Tensor:
        return stream.normal(f"bound_noise/{name}", latents, width)

    first_Bb = torch.full_like(inside_BMb[:, 0], first)
    decoding = ((1 - first) ** 2 * scale**2 + first**2) / (2 * scale**2)
    total_Bb = decoding * excess(first_Bb, noise("first"))
    for stratum in range(times):
        quantile_Bb = (stratum + inside_BMb[:, stratum]) / times
        t_Bb = (first + scale) * (log_span * quantile_Bb).exp() - scale
        weight_Bb = (1 - t_Bb) / t_Bb * (t_Bb + scale) * log_span / times
        total_Bb = total_Bb + weight_Bb * excess(t_Bb, noise(str(stratum)))
    entropy = 0.5 * math.log(2 * math.pi * math.e * scale**2)
    return total_Bb + block * width * entropy


@dataclass(frozen=True)
class _Excess:
    """|v - u|^2 by block, less what a velocity that knows the latents' means could not avoid."""

    velocity: BlockVelocity
    z_Bnd: Tensor
    block: int
    scale: float

    def __call__(self, t_Bb: Tensor, z1_Bnd: Tensor) -> Tensor:
        """(B, b) at the blocks' times, with the noise z1."""
        t_Bn1 = t_Bb.repeat_interleave(self.block, dim=1)[..., None].float()
        v = self.velocity((1 - t_Bn1) * self.z_Bnd + t_Bn1 * z1_Bnd, t_Bb.float())
        error_Bb = self._power(v - (z1_Bnd - self.z_Bnd))
        dimensions = self.block * self.z_Bnd.shape[2]
        variance_Bb = (1 - t_Bb) ** 2 * self.scale**2 + t_Bb**2
        # The error of that velocity is known but for the noise's part in it, which goes with |z1|^2
        # (of mean `dimensions`): taking it away leaves the mean and less noise.
        part_Bb = ((1 - t_Bb) * self.scale**2 / variance_Bb).square()
        known_Bb = dimensions * self.scale**2 / variance_Bb
        return error_Bb - known_Bb - part_Bb * (self._power(z1_Bnd) - dimensions)

    def _power(self, x_Bnd: Tensor) -> Tensor:
        return by_block(x_Bnd.double().square().sum(-1), self.block)
