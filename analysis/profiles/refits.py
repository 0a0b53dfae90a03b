"""Resampled IsoFLOP analyses, all at once: K refits of the b good optima.

The window of each profile and the corrections to the budgets' compute are those of the analysis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.profiles.analysis import IsoFLOP, fitted_loss, relative_sd
from analysis.profiles.method import Method
from analysis.profiles.profile import Array, Minimum, Profile, minimum


@dataclass(frozen=True)
class IsoFLOPRefits:
    """Log of size, tokens and loss at the good optima of every refit, (K, b); NaN where a refit's
    profile has no minimum. compute: of the budgets (b,)."""

    compute: Array
    size: Array
    tokens: Array
    loss: Array

    def __len__(self) -> int:
        return len(self.size)

    def exponent(self, name: str = "size") -> Array:
        """Exponent of the growth of size, tokens or loss with compute in every refit, (K,)."""
        return self._line(name)[0]

    def at(self, name: str, compute: float) -> Array:
        """Size, tokens or loss of every refit at this C by its power law, (K,)."""
        slope, level = self._line(name)
        return np.asarray(np.exp(level + slope * (np.log(compute) - np.log(self.compute).mean())))

    def _line(self, name: str) -> tuple[Array, Array]:
        x = np.log(self.compute) - np.log(self.compute).mean()
        y: Array = getattr(self, name)
        return y @ x / (x @ x), y.mean(1)


def refit(
    profiles: Sequence[Profile],
    method: Method,
    losses: Sequence[Array],
    weights: Sequence[Array] | None = None,
) -> IsoFLOPRefits:
    """Minima and growth of resampled profiles: losses (K, n) of each, weights (K, n) of runs."""
    each: Sequence[Array | None] = weights or [None] * len(profiles)
    found: list[Minimum] = [
        minimum(profile, method, loss, weight)
        for profile, loss, weight in zip(profiles, losses, each, strict=True)
    ]
    with np.errstate(invalid="ignore"):
        log_loss = np.log(np.stack([m.loss for m in found], 1))
    return IsoFLOPRefits(
        np.array([profile.compute for profile in profiles]),
        np.stack([m.log_n for m in found], 1),
        np.stack([m.log_d for m in found], 1),
        log_loss,
    )


def simulated_losses(
    analysis: IsoFLOP, samples: int, generator: np.random.Generator
) -> list[Array] | None:
    """Losses (samples, n) of each fitted profile, drawn about its parabola (of an interpolant:
    about the measured ones); None where no run is left over to know the noise by.

    The relative noise is that of all budgets' parabolas together, drawn with a scatter of its own
    as it is known from few runs (Student's t instead of normal). Runs that several budgets share
    have a part of their noise in common, as large as their residuals agree.
    """
    freedom = sum(len(profile) - 3 for profile in analysis.windowed)
    if freedom < 1:
        return None
    share = common_share(analysis.windowed)
    chi_square = generator.chisquare(freedom, (samples, 1))
    scatter = relative_sd(analysis.windowed) * np.sqrt(freedom / chi_square)
    profiles = analysis.fitted
    labels = sorted({str(label) for p in profiles if p.run is not None for label in p.run})
    of_run = generator.standard_normal((samples, len(labels)))
    losses = []
    for profile in profiles:
        noise = generator.standard_normal((samples, len(profile)))
        if share > 0 and profile.run is not None:
            column = np.searchsorted(labels, profile.run.astype(str))
            noise = np.sqrt(share) * of_run[:, column] + np.sqrt(1 - share) * noise
        centre = fitted_loss(profile) if analysis.method == "parabola" else profile.loss
        losses.append(centre * (1 + scatter * noise))
    return losses


def common_share(profiles: Sequence[Profile]) -> float:
    """Share of a run's noise that its points at several budgets have in common, 0 to 1.

    From the products of residuals of one run at two budgets, over what they would be if all noise
    were the run's.
    """
    products, expected = 0.0, 0.0
    left = [_left_over(profile) for profile in profiles]
    for i, (one, (residual, projector)) in enumerate(zip(profiles, left, strict=True)):
        for other, (residual_there, projector_there) in zip(profiles[:i], left[:i], strict=True):
            same = _same_run(one, other)
            if not same.any():
                continue
            products += float(residual @ same @ residual_there)
            expected += float((same * (projector @ same @ projector_there.T)).sum())
    sd = relative_sd(profiles)
    if expected <= 0 or not sd > 0:
        return 0.0
    return float(np.clip(products / (expected * sd**2), 0.0, 1.0))


def _same_run(one: Profile, other: Profile) -> NDArray[np.float64]:
    if one.run is None or other.run is None:
        return np.zeros((len(one), len(other)))
    return np.asarray(one.run[:, None] == other.run[None, :], float)


def _left_over(profile: Profile) -> tuple[Array, Array]:
    """Relative residuals of the parabola (n,), and the matrix (n, n) that takes noise to them."""
    x = profile.log_n - profile.log_n.mean()
    design = np.column_stack([np.ones_like(x), x, x**2])
    projector = np.eye(len(x)) - design @ np.linalg.pinv(design)
    return profile.loss / fitted_loss(profile) - 1, projector
