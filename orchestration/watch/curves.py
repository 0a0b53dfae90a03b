"""Learning curves of bounded size, from journals that grow without bound."""

from __future__ import annotations

from dataclasses import dataclass, field

from cola.records import Metric
from cola.study import RunSpec
from orchestration.state.journal import Line
from orchestration.state.run_progress import number

POINTS = 24_000  # of all curves of a page together, so that it stays below a megabyte; chosen
FEWEST, MOST = 16, 240  # points of one curve: what shows its shape, and what a screen resolves


@dataclass(frozen=True)
class Point:
    """A value after `step` steps and `flops` training FLOPs."""

    step: float
    flops: float
    value: float


@dataclass
class ThinnedCurve:
    """The values of one stage; each point is the mean of `stride` of them, which doubles once
    there are more points than twice `limit`."""

    limit: int
    stride: int = 1
    _points: list[Point] = field(default_factory=list)
    _rest: list[Point] = field(default_factory=list)  # fewer than `stride`

    def add(self, point: Point) -> None:
        """Take in a value; their order is that of the steps."""
        self._rest.append(point)
        if len(self._rest) < self.stride:
            return
        self._points.append(mean_of(self._rest))
        self._rest = []
        if len(self._points) >= 2 * self.limit:
            pairs = zip(self._points[::2], self._points[1::2], strict=True)
            self._points = [mean_of(pair) for pair in pairs]
            self.stride *= 2

    def points(self) -> list[Point]:
        """The curve up to the last value."""
        return [*self._points, *([mean_of(self._rest)] if self._rest else [])]


class RunCurves:
    """A run's training loss, a curve for each stage, as losses of stages do not compare, and a
    metric at its evaluations."""

    def __init__(self, spec: RunSpec, metric: str, *, limit: int) -> None:
        self._spec, self._metric = spec, metric
        self._ends = [sum(stage.steps for stage in spec.stages[: i + 1])
                      for i in range(len(spec.stages))]  # fmt: skip
        self.losses = [ThinnedCurve(limit) for _ in spec.stages]
        self.evaluations: list[Point] = []
        self.not_finite = 0  # logged losses that are no numbers, and so no points

    def add(self, line: Line) -> None:
        """Take in a line of the journal."""
        if line.kind == "train" and Metric.TRAIN_LOSS in line.values:
            loss = number(line.values[Metric.TRAIN_LOSS])
            if loss is None:
                self.not_finite += 1
            else:
                self.losses[self._stage(line.step)].add(self._point(line, loss))
        elif line.kind == "evaluation":
            value = number(line.values.get(self._metric))
            if value is not None:
                self.evaluations.append(self._point(line, value))

    def _stage(self, step: int) -> int:
        """The stage that a step belongs to, the last one of steps beyond the plan."""
        return next((i for i, end in enumerate(self._ends) if step <= end), len(self._ends) - 1)

    def _point(self, line: Line, value: float) -> Point:
        return Point(line.step, self._spec.train_flops_at(line.step, self._spec.compute), value)


def limit_for(runs: int) -> int:
    """Points of each curve where there are so many runs."""
    return min(MOST, max(FEWEST, POINTS // (2 * max(1, runs))))


def mean_of(points: list[Point] | tuple[Point, ...]) -> Point:
    """The mean point."""
    count = len(points)
    return Point(
        sum(point.step for point in points) / count,
        sum(point.flops for point in points) / count,
        sum(point.value for point in points) / count,
    )


def as_json(points: list[Point]) -> list[tuple[float, float, float]]:
    """Step, FLOPs and value of each point, with six digits."""
    return [(float(f"{p.step:.6g}"), float(f"{p.flops:.6g}"), float(f"{p.value:.6g}"))
            for p in points]  # fmt: skip
