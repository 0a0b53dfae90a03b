"""Fitted curves in compute with their refits: what they reach, and the compute that it takes.

K refits; arrays of 1 + K rows have the fit itself first, then every refit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import numpy as np

from analysis.fitting.bootstrap import Refits
from analysis.fitting.law import Array, Inputs, PowerOfCompute, SizedLaw, predicted

FAR = 1e3  # chosen: how far beyond its points a curve without a closed form is followed
GRID = 2000  # chosen: points of it, 1% apart in compute for three decades of data

Better = Literal["lower", "higher"]  # which values of a quantity are the better ones


class ScalingCurve(Protocol):
    """A quantity as a function of compute, in the fit and in every refit."""

    @property
    def better(self) -> Better:
        """Which values are the better ones; compute moves the curve towards them."""

    @property
    def span(self) -> tuple[float, float]:
        """Smallest and largest measured compute."""

    def values(self, compute: Array) -> Array:
        """(1 + K, n): the quantity at these C (n,)."""

    def compute_for(self, value: float) -> Array:
        """(1 + K,): C at which each curve reaches a value; infinite where none does."""


def at_compute(compute: Array) -> Inputs:
    """Points of a law of compute alone."""
    return Inputs(np.ones_like(compute), compute)


@dataclass(frozen=True)
class Frontier:
    """The loss of the best run at a compute under a law (see `ScalingCurve`)."""

    refits: Refits
    factor: float = 6.0  # FLOPs per parameter and token
    better: Better = "lower"

    @cached_property
    def theta(self) -> Array:
        """Internal parameters, (1 + K, P)."""
        return np.concatenate([self.refits.fit.theta[None], self.refits.theta_KP])

    @property
    def span(self) -> tuple[float, float]:
        """Smallest and largest measured compute."""
        compute = self.refits.fit.points.compute
        return float(compute.min()), float(compute.max())

    def values(self, compute: Array) -> Array:
        """(1 + K, n): lowest loss at these C (n,)."""
        law = self.refits.fit.law
        if self.refits.fit.is_sized and isinstance(law, SizedLaw):
            return law.optimum(self.theta, np.log(compute / self.factor)).loss
        return predicted(law, self.theta, at_compute(compute))

    def sizes(self, compute: Array) -> tuple[Array, Array] | None:
        """N* and D*, (1 + K, n) each; None of a law of compute alone."""
        law = self.refits.fit.law
        if not (self.refits.fit.is_sized and isinstance(law, SizedLaw)):
            return None
        split = law.optimum(self.theta, np.log(compute / self.factor))
        return np.exp(split.log_parameters), np.exp(split.log_tokens)

    def compute_for(self, value: float) -> Array:
        """(1 + K,): C at which each curve reaches a loss; infinite where its floor lies above.

        A law without a closed form is followed a factor of 1,000 beyond its points, and is NaN
        where it does not reach the loss within them.
        """
        law, (low, high) = self.refits.fit.law, self.span
        if not isinstance(law, PowerOfCompute):
            return self._on_grid(value)
        at = float(np.sqrt(low * high))
        floor, gamma = law.growth(self.theta)
        with np.errstate(divide="ignore", over="ignore"):
            ratio = (self.values(np.array([at]))[:, 0] - floor) / np.maximum(value - floor, 0.0)
            return np.asarray(at * ratio ** (1 / gamma))

    def _on_grid(self, loss: float) -> Array:
        low, high = self.span
        grid = np.geomspace(low / FAR, high * FAR, GRID)
        reached = []
        for curve in self.values(grid):
            falling = np.minimum.accumulate(curve)
            logs = np.interp(-loss, -falling, np.log(grid), left=np.nan, right=np.nan)
            reached.append(np.exp(logs))
        return np.array(reached)
