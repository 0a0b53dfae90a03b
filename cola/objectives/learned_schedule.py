"""A monotone noise schedule that is learned with the prior (model.md, Eqs. 55 and 56).

On straight lines a schedule is a map of uniform quantiles to times. This one is learned so that the
loss of one block has the least variance; its mean stays the same.
Shapes: B batch, b blocks, n latents, K parts of [0, 1).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cola.objectives.flow_times import LikelihoodWeighting

PARTS = 32  # chosen: the loss changes slowly over time
# Of the density, so that no weight exceeds 1 / LEAST; chosen.
LEAST = 0.1
# Of the schedule's loss beside the prior's: Adam is blind to it, and the norm that gradients are
# clipped to should be.
SCALE = 1e-3


class LearnedSchedule(nn.Module):
    """A piecewise linear map of [0, 1) to itself, before the times of a `LikelihoodWeighting`."""

    def __init__(self, weighting: LikelihoodWeighting) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(PARTS))
        self._weighting = weighting

    def forward(self, quantile_Bb: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Times, weights of the squared error, and the log-density of the quantiles' places, (B, b)
        each; gradients reach the schedule through the latter alone."""
        density_K = LEAST + (1 - LEAST) * PARTS * self.logits.float().softmax(0)
        own_K = density_K.detach()
        end_K = own_K.cumsum(0) / PARTS
        part_Bb = torch.searchsorted(end_K, quantile_Bb, right=True).clamp_max(PARTS - 1)
        inside_Bb = (quantile_Bb - (end_K - own_K / PARTS)[part_Bb]) / own_K[part_Bb]
        place_Bb = part_Bb / PARTS + inside_Bb.clamp(0, 1 / PARTS)
        t_Bb = self._weighting.times(place_Bb)
        weight_Bb = self._weighting.weights(t_Bb) / own_K[part_Bb]
        return t_Bb, weight_Bb, density_K.log()[part_Bb]

    def variance_loss(self, error_Bn: Tensor, log_density_Bb: Tensor) -> Tensor:
        """0, with the gradient of the blocks' mean squared loss towards the schedule.

        error_Bn: the weighted errors of the latents.
        """
        usual = self._weighting.mean_loss(self._weighting.open_variance)
        loss_Bb = error_Bn.detach().unflatten(1, (log_density_Bb.shape[1], -1)).mean(-1) / usual
        found = -SCALE * (loss_Bb.square() * log_density_Bb).mean()
        return found - found.detach()
