"""Solvers of dz/dt = v(z, t) (model.md, Eq. 19): each a pure function of one step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

from torch import Tensor

Velocity = Callable[[Tensor, float], Tensor]
StepCallback = Callable[[float, Tensor, Tensor], None]  # time, state and velocity at a step's start
Solver = Literal["euler", "heun", "midpoint"]
Grid = Literal["uniform", "cosine", "quadratic"]


def time_grid(kind: Grid, steps: int) -> list[float]:
    """`steps` + 1 times from 1 (noise) to 0 (data); cosine and quadratic are finer near 0."""
    uniform = [1.0 - step / steps for step in range(steps + 1)]
    if kind == "cosine":
        return [1.0 - math.cos(0.5 * math.pi * t) for t in uniform]
    return [t * t for t in uniform] if kind == "quadratic" else uniform


def evaluation_times(times: Sequence[float], solver: Solver) -> list[float]:
    """Times at which `integrate` evaluates the velocity."""
    starts = list(times[:-1])
    if solver == "heun":
        return list(times)
    if solver == "midpoint":
        return starts + [t + 0.5 * (t_next - t) for t, t_next in pairwise(times)]
    return starts


def integrate(
    velocity: Velocity,
    z: Tensor,
    times: Sequence[float],
    *,
    solver: Solver,
    callback: StepCallback | None = None,
) -> Tensor:
    """z at the last of `times`, which may run in either direction, from z at the first.

    `callback(t, z, v)` gets the time, state and velocity at the start of every step.
    """
    step = {"euler": euler_step, "heun": heun_step, "midpoint": midpoint_step}[solver]
    for t, t_next in pairwise(times):
        v = velocity(z, t)
        if callback is not None:
            callback(t, z, v)
        z = step(velocity, z, v, t=t, t_next=t_next)
    return z


def euler_step(velocity: Velocity, z: Tensor, v: Tensor, *, t: float, t_next: float) -> Tensor:
    """z + h v, with v = v(z, t) and h = t_next - t."""
    return z + (t_next - t) * v


def heun_step(velocity: Velocity, z: Tensor, v: Tensor, *, t: float, t_next: float) -> Tensor:
    """The mean of v and of the velocity at the end of an Euler step (second order)."""
    h = t_next - t
    return z + 0.5 * h * (v + velocity(z + h * v, t_next))


def midpoint_step(velocity: Velocity, z: Tensor, v: Tensor, *, t: float, t_next: float) -> Tensor:
    """The velocity after half an Euler step (second order)."""
    h = t_next - t
    return z + h * velocity(z + 0.5 * h * v, t + 0.5 * h)
