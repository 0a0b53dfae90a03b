"""Training curves: losses at steps of runs whose learning rate is known at every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from analysis.curve_laws.areas import annealing_area, end_of_warmup, forward_area, shape_of
from analysis.fitting.law import Array, Inputs
from cola.errors import FitError

KNOTS = 48  # chosen: timescales at which S2 is computed; between them it is a cubic spline
SHORTEST = 2.0  # steps: a shorter timescale is that of the rate itself
BEYOND = 4.0  # chosen: longest timescale, in steps of the longest run
MOST_POINTS, LEAST_OF_RUN = 1500, 20  # chosen: of all curves, above which neighbours are averaged
LEAST_POINTS = 5  # chosen: points of a curve after its warm-up, below which it says nothing


@dataclass(frozen=True)
class Curve:
    """A run: losses (k,) after `steps` (k,), and the rate of every step (T,), T >= all steps.

    parameters: N, where it is known. schedule: what its rates do, for people.
    """

    name: str
    steps: NDArray[np.int64]
    loss: Array
    rates: Array
    parameters: float | None = None

    @property
    def schedule(self) -> str:
        """See `shape_of`."""
        return shape_of(self.rates)

    @property
    def warmup(self) -> int:
        """Steps of the first rise of the rate."""
        return end_of_warmup(self.rates)

    @property
    def peak(self) -> float:
        """The largest rate."""
        return float(self.rates.max())


@dataclass(frozen=True)
class CurvePoints(Inputs):
    """Points of curves: S1 in place of compute, N (or None), and S2 over timescales.

    annealed: (n, knots) S2 over timescale and unit at the logs of timescales `knots`; run: the
    number of each point's curve; step: its step.
    """

    annealed: Array = field(default_factory=lambda: np.empty((0, 0)))
    knots: Array = field(default_factory=lambda: np.empty(0))
    run: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    step: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    @cached_property
    def spline(self) -> CubicSpline:
        """S2 over timescale and unit of every point, by the log of the timescale."""
        return CubicSpline(self.knots, self.annealed.T)

    def subset(self, index: NDArray[np.int64] | NDArray[np.bool_]) -> CurvePoints:
        """Some of the points."""
        parameters = None if self.parameters is None else self.parameters[index]
        return CurvePoints(
            self.loss[index], self.compute[index], parameters, annealed=self.annealed[index],
            knots=self.knots, run=self.run[index], step=self.step[index],
        )  # fmt: skip


@dataclass(frozen=True)
class Scale:
    """What points of several sets of curves have in common: knots, and the unit of S2 over its
    timescale (the largest rate)."""

    knots: Array
    unit: float


def scale_of(curves: Sequence[Curve]) -> Scale:
    """Timescales from two steps to four times the longest run."""
    longest = max(len(curve.rates) for curve in curves)
    ends = np.log(SHORTEST), np.log(max(BEYOND * longest, 4 * SHORTEST))
    return Scale(np.linspace(*ends, KNOTS), max(curve.peak for curve in curves))


def points_of(curves: Sequence[Curve], scale: Scale) -> CurvePoints:
    """All points after each curve's warm-up, each run's in the order of its steps.

    Raises:
        FitError: there is none.
    """
    parts = [_points_of(number, curve, scale) for number, curve in enumerate(curves)]
    if not sum(map(len, parts)):
        raise FitError("no loss is measured after the warm-up of its run; give more of the curves")
    sized = all(part.parameters is not None for part in parts)
    return CurvePoints(
        np.concatenate([part.loss for part in parts]),
        np.concatenate([part.compute for part in parts]),
        np.concatenate([_sizes(part) for part in parts]) if sized else None,
        annealed=np.concatenate([part.annealed for part in parts]),
        knots=scale.knots,
        run=np.concatenate([part.run for part in parts]),
        step=np.concatenate([part.step for part in parts]),
    )


def _sizes(part: CurvePoints) -> Array:
    assert part.parameters is not None
    return part.parameters


def _points_of(number: int, curve: Curve, scale: Scale) -> CurvePoints:
    after = curve.steps > curve.warmup
    return at_steps(curve, curve.steps[after], curve.loss[after], scale=scale, number=number)


def at_steps(
    curve: Curve, steps: NDArray[np.int64], loss: Array, *, scale: Scale, number: int = 0
) -> CurvePoints:
    """Points of a curve after these steps (from 1)."""
    forward = forward_area(curve.rates)[steps - 1]
    annealed = np.empty((len(steps), len(scale.knots)))
    for column, knot in enumerate(scale.knots):
        timescale = float(np.exp(knot))
        area = annealing_area(curve.rates, timescale)[steps - 1]
        annealed[:, column] = area / (timescale * scale.unit)
    size = None if curve.parameters is None else np.full(len(steps), curve.parameters)
    return CurvePoints(
        loss, forward, size, annealed=annealed, knots=scale.knots,
        run=np.full(len(steps), number), step=steps,
    )  # fmt: skip


def thinned(curves: Sequence[Curve]) -> tuple[list[Curve], list[str]]:
    """Curves with neighbouring points averaged where they are too many to fit, and a note of it."""
    most = max(LEAST_OF_RUN, MOST_POINTS // max(1, len(curves)))
    times = max((-(-len(curve.steps) // most) for curve in curves), default=1)
    if times <= 1:
        return list(curves), []
    note = (
        f"up to {times} neighbouring points of a curve are averaged into one: the curves have "
        f"{sum(len(curve.steps) for curve in curves):,} points"
    )
    return [_averaged(curve, most) for curve in curves], [note]


def _averaged(curve: Curve, most: int) -> Curve:
    count = -(-len(curve.steps) // most)
    if count <= 1:
        return curve
    groups = np.array_split(np.arange(len(curve.steps)), -(-len(curve.steps) // count))
    steps = np.array([round(float(curve.steps[group].mean())) for group in groups])
    loss = np.array([float(curve.loss[group].mean()) for group in groups])
    return Curve(curve.name, steps, loss, curve.rates, curve.parameters)
