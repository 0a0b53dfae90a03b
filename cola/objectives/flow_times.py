"""At which times a flow is trained, and with which weights (model.md, Eqs. 6 and 52 to 54)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cola.compute.channel import FIRST_NOISE, noise_scale
from cola.spec.objectives import LogitNormal, TimestepDistribution


@dataclass(frozen=True)
class LikelihoodWeighting:
    """Times and weights of the likelihood's bound (model.md, Eqs. 52 to 54).

    `scale` is the standard deviation s of the latents given the text, `open_variance` v what a
    prior without knowledge leaves open of each dimension; both in the flow's units. Any v > 0 gives
    the same mean loss; for a prior that leaves v open, the loss is the same at all times.
    """

    scale: float
    open_variance: float

    @classmethod
    def of(cls, log_snr: float | None, scaling_factor: float) -> LikelihoodWeighting:
        """Of latents of unit power and this logSNR (None: a usual one), scaled for the flow."""
        scale = noise_scale(log_snr, scaling_factor)
        return cls(scale, scaling_factor**2 + scale**2)

    @property
    def first(self) -> float:
        """t_*, below which z0 is read off z_t: where t / (1 - t) is s / 2."""
        noise = FIRST_NOISE * self.scale
        return noise / (1 + noise)

    def error(self, variance: float, t: float) -> float:
        """F_t(v): the squared error a dimension of the best velocity of a prior that leaves
        `variance` open."""
        return variance / ((1 - t) ** 2 * variance + t**2)

    def information(self, variance: float) -> float:
        """What z_t says at t_* of a dimension with this variance, in nats: the integral of F_t(v)
        (1 - t) / t from t_* to 1."""
        return 0.5 * math.log1p(variance * ((1 - self.first) / self.first) ** 2)

    def decoding(self, variance: float) -> float:
        """The bound's share at t_*, g_*^2 F_{t_*}(v) / (2 s^2), in nats a dimension."""
        t, own = self.first, self.scale**2
        noise = (1 - t) ** 2 * own + t**2
        return noise / (2 * own) * self.error(variance, t)

    def mean_loss(self, variance: float) -> float:
        """The mean loss (model.md, Eq. 52) of the best velocity of a prior that leaves `variance`
        of a dimension open, in nats."""
        return self.decoding(variance) + self.information(variance)

    def times(self, quantile: Tensor) -> Tensor:
        """Times at these quantiles in [0, 1): t_*, then evenly in what z_t says of z0."""
        share = self.decoding(self.open_variance) / self.mean_loss(self.open_variance)
        left = (1 - (quantile - share).clamp_min(0) / (1 - share)).clamp_min(0)
        nats = self.information(self.open_variance) * left
        ratio = (torch.expm1(2 * nats) / self.open_variance).sqrt()  # (1 - t) / t
        return 1 / (1 + ratio)

    def weights(self, t: Tensor) -> Tensor:
        """Of the squared error at these times: the mean loss over the error that v leaves."""
        error = self.open_variance / ((1 - t).square() * self.open_variance + t.square())
        return self.mean_loss(self.open_variance) / error


def times_at(quantile: Tensor, distribution: TimestepDistribution) -> Tensor:
    """Times of a distribution without weights (model.md, Eq. 6) at these quantiles in [0, 1)."""
    if isinstance(distribution, LogitNormal):
        logit = torch.special.ndtri(quantile)
        return torch.sigmoid(distribution.timestep_loc + distribution.timestep_scale * logit)
    return quantile
