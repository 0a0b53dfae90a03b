"""The compute-optimal frontier of a fitted law: loss, N*, D* at a compute, and compute for a loss.

K refits; arrays of 1 + K rows have the fit itself first, then every refit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from analysis.fitting.bootstrap import Refits
from analysis.fitting.compare import compute_for_loss, curves
from analysis.fitting.law import Array, PowerOfCompute, SizedLaw

EXACT = 0.02  # C / (6 N D) within 2% of 1 is the usual convention
FAR = 1e3  # chosen: how far beyond its points a curve without a closed form is followed
GRID = 2000  # chosen: points of it, 1% apart in compute for three decades of data


@dataclass(frozen=True)
class Convention:
    """C = factor N D in this table; spread: the largest relative deviation of a row from it."""

    factor: float
    spread: float

    @property
    def usual(self) -> bool:
        """Whether C = 6 N D."""
        return abs(self.factor / 6 - 1) < EXACT and self.spread < EXACT

    def __str__(self) -> str:
        return f"C = {self.factor:.3g} N D (rows within {self.spread:.0%})"


def convention_of(rows: pd.DataFrame) -> Convention | None:
    """How the table counts compute; None where it does not know all of C, N and D."""
    if not {"parameters", "tokens"} <= set(rows.columns):
        return None
    columns = [np.log(rows[n].to_numpy(float)) for n in ("compute", "parameters", "tokens")]
    logs = columns[0] - columns[1] - columns[2]
    middle = float(np.median(logs))
    return Convention(float(np.exp(middle)), float(np.expm1(np.abs(logs - middle).max())))


@dataclass(frozen=True)
class Frontier:
    """What a law says of the best run at a compute, in every refit."""

    refits: Refits
    factor: float = 6.0  # FLOPs per parameter and token

    @cached_property
    def theta(self) -> Array:
        """Internal parameters, (1 + K, P)."""
        return np.concatenate([self.refits.fit.theta[None], self.refits.theta_KP])

    @property
    def span(self) -> tuple[float, float]:
        """Smallest and largest measured compute."""
        compute = self.refits.fit.points.compute
        return float(compute.min()), float(compute.max())

    def loss(self, compute: Array) -> Array:
        """(1 + K, n): lowest loss at these C (n,)."""
        law = self.refits.fit.law
        if self.refits.fit.is_sized and isinstance(law, SizedLaw):
            return law.optimum(self.theta, np.log(compute / self.factor)).loss
        return curves(self.refits, compute)

    def sizes(self, compute: Array) -> tuple[Array, Array] | None:
        """N* and D*, (1 + K, n) each; None of a law of compute alone."""
        law = self.refits.fit.law
        if not (self.refits.fit.is_sized and isinstance(law, SizedLaw)):
            return None
        split = law.optimum(self.theta, np.log(compute / self.factor))
        return np.exp(split.log_parameters), np.exp(split.log_tokens)

    def compute_for(self, loss: float) -> Array:
        """(1 + K,): C at which each curve reaches a loss; infinite where its floor lies above."""
        law, (low, high) = self.refits.fit.law, self.span
        if not isinstance(law, PowerOfCompute):
            grid = np.geomspace(low / FAR, high * FAR, GRID)
            return compute_for_loss(self.refits, np.array([loss]), grid)[:, 0]
        at = float(np.sqrt(low * high))
        floor, gamma = law.growth(self.theta)
        with np.errstate(divide="ignore", over="ignore"):
            ratio = (self.loss(np.array([at]))[:, 0] - floor) / np.maximum(loss - floor, 0.0)
            return np.asarray(at * ratio ** (1 / gamma))
