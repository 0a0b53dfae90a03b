"""The log-density of a flow (model.md, Eq. 24), from two solutions that say how exact it is.

The trace is exact or estimated (model.md, Eq. 25).
Shapes: B batch, n latents, d latent width, s latents a block, b blocks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

VelocityField = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class FlowDensity:
    """log p(z) by block in nats, (B, b) float64, by N and by 2 N steps of a second-order method."""

    coarse_Bb: Tensor
    fine_Bb: Tensor

    @property
    def extrapolated(self) -> Tensor:
        """Richardson's extrapolation to steps of length 0, (B, b) (model.md, Eq. 37)."""
        return self.fine_Bb + (self.fine_Bb - self.coarse_Bb) / 3

    @property
    def difference(self) -> Tensor:
        """What twice as many steps add to -log p(z), (B, b) in nats."""
        return self.coarse_Bb - self.fine_Bb


def flow_density_by_block(
    velocity: VelocityField,
    z_Bnd: Tensor,
    steps: int,
    *,
    divergence: str,
    probe_Bnd: Tensor,
    block: int,
    scale: float,
) -> FlowDensity:
    """log p(z) by block, with `steps` steps and with twice as many.

    `scale` is the standard deviation of the latents given the text, in the flow's units: the
    divergence peaks at about this time, and the steps are short there (`time_nodes`).
    """
    coarse, fine = (
        flow_log_density_by_block(
            velocity,
            z_Bnd,
            time_nodes(count, scale),
            divergence=divergence,
            probe_Bnd=probe_Bnd,
            block=block,
        )
        for count in (steps, 2 * steps)
    )
    return FlowDensity(coarse, fine)


def time_nodes(steps: int, scale: float) -> list[float]:
    """Times 0 to 1 whose distances grow in proportion to t + `scale` (model.md, Eq. 36)."""
    growth = 1 + 1 / scale
    return [scale * (growth ** (node / steps) - 1) for node in range(steps)] + [1.0]


def flow_log_density_by_block(
    velocity: VelocityField,
    z_Bnd: Tensor,
    times: list[float],
    *,
    divergence: str,
    probe_Bnd: Tensor,
    block: int,
) -> Tensor:
    """log p(z) by block in nats, (B, b) float64, by Heun's method over `times` from 0 to 1.

    The divergence is taken at the solution's nodes, and integrated by the trapezoidal rule. The
    blocks of a sequence are solved side by side: a block's velocity depends on its own noisy
    latents and on clean history, so each block has its own divergence.
    """

    def slope(z: Tensor, t: float) -> tuple[Tensor, Tensor]:
        return velocity_and_divergence(
            velocity, z, t, divergence=divergence, probe_Bnd=probe_Bnd, block=block
        )

    z = z_Bnd
    v, div_Bb = slope(z, times[0])
    integral_Bb = torch.zeros_like(div_Bb)
    for start, end in itertools.pairwise(times):
        h = end - start
        with torch.no_grad():
            v_ahead = velocity(z + h * v, end)
        z = z + 0.5 * h * (v + v_ahead)
        v, div_end_Bb = slope(z, end)
        integral_Bb = integral_Bb + 0.5 * h * (div_Bb + div_end_Bb)
        div_Bb = div_end_Bb
    log_normal_Bn = -0.5 * (z.double().square() + math.log(2 * math.pi)).sum(-1)
    return by_block(log_normal_Bn, block) + integral_Bb


def velocity_and_divergence(
    velocity: VelocityField,
    z_Bnd: Tensor,
    t: float,
    *,
    divergence: str,
    probe_Bnd: Tensor,
    block: int,
) -> tuple[Tensor, Tensor]:
    """v (B, n, d) and div v by block (B, b), exact or estimated with the probe."""
    with torch.enable_grad():
        z_Bnd = z_Bnd.detach().requires_grad_(True)
        v = velocity(z_Bnd, t)
        if divergence == "hutchinson":
            (product,) = torch.autograd.grad(v, z_Bnd, probe_Bnd)
            div_Bb = by_block((product * probe_Bnd).double().sum(-1), block)
        else:
            div_Bb = exact_trace(v, z_Bnd, block)
    return v.detach(), div_Bb


def exact_trace(v_Bnd: Tensor, z_Bnd: Tensor, block: int) -> Tensor:
    """sum_i dv_i / dz_i by block (B, b), in one backward pass per coordinate of a block.

    No block's velocity depends on another block, so a pass serves that coordinate in all blocks.
    """
    v_Bbsd = v_Bnd.unflatten(1, (-1, block))
    trace_Bb = z_Bnd.new_zeros(v_Bbsd.shape[:2], dtype=torch.float64)
    for latent in range(block):
        for channel in range(v_Bnd.shape[-1]):
            component = v_Bbsd[:, :, latent, channel].sum()
            (row,) = torch.autograd.grad(component, z_Bnd, retain_graph=True)
            own_Bb = row.unflatten(1, (-1, block))[:, :, latent, channel].double()
            trace_Bb = trace_Bb + own_Bb
    return trace_Bb


def by_block(value_Bn: Tensor, block: int) -> Tensor:
    """Sums over each block, (B, b)."""
    return value_Bn.unflatten(1, (-1, block)).sum(-1)
