"""Robust least squares on log loss for many problems at once (starts, bootstrap refits).

Shapes: B problems, n points, P parameters.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.fitting.law import Array, Inputs, Law

ITERATIONS = 300  # chosen: most steps of one problem
TOLERANCE = 1e-13  # of the objective's relative decrease
PATIENCE = 3  # steps in a row below the tolerance
RIDGE = 1e-12  # chosen: share of the largest curvature that keeps the system solvable


@dataclass(frozen=True)
class Solutions:
    """Parameters (B, P), objectives (B,), and largest gradient entry over the objective (B,)."""

    theta: Array
    objective: Array
    gradient: Array


def huber(residual: Array, delta: float) -> Array:
    """r^2 / 2 within delta, delta (|r| - delta / 2) beyond it. delta infinite: least squares."""
    size = np.abs(residual)
    if not np.isfinite(delta):
        return 0.5 * size * size
    inside = np.minimum(size, delta)
    return inside * (size - 0.5 * inside)


@dataclass(frozen=True)
class Resampled:
    """What each of B problems takes of the n points: weights (B, n), and log losses (B, n) of its
    own (None: the points' losses)."""

    weights: Array
    log_loss: Array | None = None

    def rows(self, chosen: NDArray[np.int64]) -> Resampled:
        """Some of the problems."""
        own = None if self.log_loss is None else self.log_loss[chosen]
        return Resampled(self.weights[chosen], own)

    def target(self, points: Inputs) -> Array:
        """Log losses to be met, (B or 1, n)."""
        return np.log(points.loss)[None] if self.log_loss is None else self.log_loss


def minimise(
    law: Law, points: Inputs, start_BP: Array, *, delta: float, data: Resampled | None = None
) -> Solutions:
    """Minimise sum_i w_i Huber(log L_i - log L^(i)) from every start.

    Each step solves a quadratic model whose curvature is the Huber loss's own (only points within
    delta bend it) plus a share of its majoriser's (every point, reweighted). The share shrinks
    while steps succeed and grows when one fails: far away the method is iteratively reweighted
    least squares, which always descends, and near the optimum Newton's, which converges fast.
    """
    low, high = law.bounds
    theta = np.clip(np.array(start_BP, float), low, high)
    data = Resampled(np.ones((len(theta), len(points)))) if data is None else data
    objective, gradient = _objective(law, points, theta, data=data, delta=delta)
    share, small_steps = np.ones(len(theta)), np.zeros(len(theta), int)
    active = np.arange(len(theta))
    for _ in range(ITERATIONS):
        if not len(active):
            break
        mine = data.rows(active)
        step = _step(law, points, theta[active], data=mine, delta=delta, share=share[active])
        candidate = np.clip(theta[active] + step, low, high)
        value, _ = _objective(law, points, candidate, data=mine, delta=delta, with_gradient=False)
        better = value < objective[active]
        gain = np.where(better, objective[active] - value, 0.0)
        small = gain <= TOLERANCE * objective[active]
        moved = active[better]
        theta[moved], objective[moved] = candidate[better], value[better]
        share[active] = np.clip(np.where(better, 0.25, 4.0) * share[active], 1e-6, 1e8)
        small_steps[active] = np.where(small, small_steps[active] + 1, 0)
        active = active[(small_steps[active] < PATIENCE) | (~better & (share[active] < 1e4))]
    objective, gradient = _objective(law, points, theta, data=data, delta=delta)
    free = ~_held(theta, gradient, low, high)
    scale = np.maximum(objective, 1e-300)
    return Solutions(theta, objective, np.abs(np.where(free, gradient, 0.0)).max(1) / scale)


def _objective(
    law: Law,
    points: Inputs,
    theta: Array,
    *,
    data: Resampled,
    delta: float,
    with_gradient: bool = True,
) -> tuple[Array, Array]:
    """Objective (B,) and gradient (B, P)."""
    log_loss, slope = law.log_loss(theta, points)
    residual = log_loss - data.target(points)
    value = (data.weights * huber(residual, delta)).sum(1)
    value = np.where(np.isfinite(value), value, np.inf)
    if not with_gradient:
        return value, value
    pull = data.weights * np.clip(residual, -delta, delta)
    return value, np.einsum("bn,bnp->bp", pull, slope)


def _step(
    law: Law,
    points: Inputs,
    theta: Array,
    *,
    data: Resampled,
    delta: float,
    share: Array,
) -> Array:
    log_loss, slope = law.log_loss(theta, points)
    residual = log_loss - data.target(points)
    size = np.abs(residual)
    pull = data.weights * np.clip(residual, -delta, delta)
    gradient = np.einsum("bn,bnp->bp", pull, slope)
    majoriser = np.minimum(1.0, delta / np.maximum(size, 1e-300))
    curvature = data.weights * ((size <= delta) + share[:, None] * majoriser)
    hessian = (slope * curvature[..., None]).transpose(0, 2, 1) @ slope
    held = _held(theta, gradient, *law.bounds)
    hessian[held[:, :, None] | held[:, None, :]] = 0.0
    diagonal = np.einsum("bpp->bp", hessian)
    diagonal += RIDGE * diagonal.max(1, keepdims=True) + held + 1e-300
    right = np.where(held, 0.0, -gradient)
    return np.asarray(np.linalg.solve(hessian, right[..., None])[..., 0])


def _held(theta: Array, gradient: Array, low: Array, high: Array) -> NDArray[np.bool_]:
    """Parameters on a bound that the objective pushes outwards."""
    return ((theta <= low) & (gradient > 0)) | ((theta >= high) & (gradient < 0))
