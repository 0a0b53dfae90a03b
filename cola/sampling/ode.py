"""Solvers of dz/dt = v(z, t): each a short pure function over a grid of times."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

from torch import Tensor

Velocity = Callable[[Tensor, float], Tensor]
Solver = Literal["euler", "heun", "midpoint"]
Grid = Literal["uniform", "cosine", "quadratic"]


def time_grid(kind: Grid, steps: int) -> list[float]:
    """`steps` + 1 times from 1 (noise) to 0 (data); cosine and quadratic are finer near 0."""
    left = [1.0 - step / steps for step in range(steps + 1)]
    if kind == "cosine":
        return [1.0 - math.cos(0.5 * math.pi * t) for t in left]
    return [t * t for t in left] if kind == "quadratic" else left


def evaluation_times(times: Sequence[float], solver: Solver) -> list[float]:
    """Times at which `integrate` asks for the velocity."""
    starts = list(times[:-1])
    if solver == "heun":
        return list(times)
    if solver == "midpoint":
        return starts + [t + 0.5 * (following - t) for t, following in pairwise(times)]
    return starts


def integrate(velocity: Velocity, z: Tensor, times: Sequence[float], solver: Solver) -> Tensor:
    """Follow the flow along `times` (in either direction)."""
    step = {"euler": euler_step, "heun": heun_step, "midpoint": midpoint_step}[solver]
    for t, following in pairwise(times):
        z = step(velocity, z, t, following)
    return z


def euler_step(velocity: Velocity, z: Tensor, t: float, following: float) -> Tensor:
    """z + h v(z, t)."""
    return z + (following - t) * velocity(z, t)


def heun_step(velocity: Velocity, z: Tensor, t: float, following: float) -> Tensor:
    """Trapezoid of the slopes at both ends (second order)."""
    h = following - t
    first = velocity(z, t)
    return z + 0.5 * h * (first + velocity(z + h * first, following))


def midpoint_step(velocity: Velocity, z: Tensor, t: float, following: float) -> Tensor:
    """The slope half-way (second order)."""
    h = following - t
    return z + h * velocity(z + 0.5 * h * velocity(z, t), t + 0.5 * h)
