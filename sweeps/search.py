"""Which point comes next: an algorithm, asked through a space in which not everything is possible.

Before a new point an arm takes up those that a killed driver left open. What no study can have is
excluded with its reason and drawn again; what was asked before is not asked again. Results of
earlier drivers are told to the algorithm as if they had just come in. An impossible point and a
diverged trial count as the worst result so far: an algorithm that learned nothing from them would
come back to them.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from typing import Any, Protocol

from cola.records import PointExcluded, TrialAsked, TrialEnded
from cola.spec import SpecError
from sweeps.log import SweepLog
from sweeps.points import Candidate, Points
from sweeps.space import Point, drawn, grid
from sweeps.spec import MetricGoal, Space, SweepSpec

TRIES = 500  # draws in a row without a new possible point: the space is exhausted


class Algorithm(Protocol):
    """Draws points and learns from results; each draw has an id."""

    def draw(self, draw: str) -> Point | None:
        """The next point, or None where there is none left."""

    def tell(self, draw: str, metrics: dict[str, float] | None) -> None:
        """What a drawn point gave; None where it gave nothing."""


class Grid:
    """All points of a finite space, then none."""

    def __init__(self, space: Space, first: list[Point]) -> None:
        self._points: Iterator[Point] = iter([*first, *grid(space)])

    def draw(self, draw: str) -> Point | None:
        """See Algorithm."""
        return next(self._points, None)

    def tell(self, draw: str, metrics: dict[str, float] | None) -> None:
        """A grid does not learn."""


class OptunaPoints:
    """Ray Tune's OptunaSearch over a space with conditions."""

    def __init__(
        self, sweep: SweepSpec, space: Space, first: list[dict[str, Any]], drawn_before: int
    ) -> None:
        """`first`: points (in Optuna's values) that are drawn first. `drawn_before` continues the
        random numbers of an earlier driver instead of repeating them."""
        from ray.tune.search.optuna import OptunaSearch

        self._points: dict[str, Point] = {}
        self._now = ""
        self._space = space
        goals = sweep.metrics
        modes = ["min" if goal.direction == "minimize" else "max" for goal in goals]
        several = len(goals) > 1
        self._goals = goals
        self._search = OptunaSearch(
            space=self._define,
            metric=[goal.name for goal in goals] if several else goals[0].name,
            mode=modes if several else modes[0],
            sampler=sampler_of(sweep, sweep.algorithm.seed + drawn_before),
            points_to_evaluate=first or None,
        )

    def draw(self, draw: str) -> Point | None:
        """See Algorithm."""
        self._now = draw
        with warnings.catch_warnings():  # of a busy machine on which this took a second
            warnings.filterwarnings("ignore", message="Define-by-run function")
            self._search.suggest(draw)
        return self._points.pop(draw)

    def tell(self, draw: str, metrics: dict[str, float] | None) -> None:
        """See Algorithm."""
        known = metrics if metrics and all(g.name in metrics for g in self._goals) else None
        self._search.on_trial_complete(draw, result=known, error=known is None)

    def _define(self, trial: Any) -> dict[str, Any]:
        self._points[self._now] = drawn(self._space, trial)
        return {}


def sampler_of(sweep: SweepSpec, seed: int) -> Any:
    """Optuna's sampler of an algorithm."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    startup = sweep.algorithm.startup_trials
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match sweep.algorithm.kind:
            case "tpe":
                # Trials that run side by side should not all be the same best guess.
                return optuna.samplers.TPESampler(
                    seed=seed, n_startup_trials=startup, constant_liar=True
                )
            case "gp":
                return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup)
            case "cma-es":
                return optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=startup)
            case "nsga2":
                return optuna.samplers.NSGAIISampler(seed=seed, population_size=startup)
            case _:
                return optuna.samplers.RandomSampler(seed=seed)


class ArmSearch:
    """One arm's points, in the order in which they are done, until its budget is spent."""

    def __init__(self, arm: str, points: Points, log: SweepLog) -> None:
        self.arm, self._points, self._log = arm, points, log
        self._sweep = points.sweep
        self._open = log.open_trials(arm)
        self._draws: dict[int, str] = {}  # trial -> draw
        self._drawn = 0
        self._began = time.monotonic()
        self._planned: dict[int, float] = {}  # FLOPs of trials that have not ended
        self.repeats = 0
        self.why_over: str | None = None
        self._algorithm: Algorithm = self._prepared()

    def next(self) -> tuple[TrialAsked, Candidate] | None:
        """The next trial, written to the log; None once the arm is over."""
        if self._open:
            asked = self._open.pop(0)
            candidate = self._points.of(self.arm, asked.point)
            self._planned[asked.trial] = candidate.flops
            return asked, candidate
        if self.why_over is None:
            self.why_over = self._spent()
        for _ in range(TRIES):
            if self.why_over is not None:
                return None
            draw = self._next_draw()
            point = self._algorithm.draw(draw)
            if point is None:
                self.why_over = "every point is done"
                return None
            found = self._possible(draw, point)
            if found is not None:
                return self._asked(draw, found), found
        self.why_over = f"{TRIES} draws in a row gave no new possible point"
        return None

    def ended(self, ended: TrialEnded) -> None:
        """Tell the algorithm."""
        self._planned.pop(ended.trial, None)
        draw = self._draws.pop(ended.trial, None)
        if draw is not None:
            self._tell(draw, ended)

    def _tell(self, draw: str, ended: TrialEnded) -> None:
        metrics = told_metrics(ended, self._sweep.metrics)
        if metrics is None and ended.state == "diverged":
            metrics = self._worst()
        self._algorithm.tell(draw, metrics)

    def _worst(self) -> dict[str, float] | None:
        """The worst value of every metric so far; None before there is one."""
        found = {}
        done = [ended for _, ended in self._log.ended_of(self.arm)]
        for goal in self._sweep.metrics:
            values = [e.metrics[goal.name] for e in done if goal.name in e.metrics]
            if not values:
                return None
            found[goal.name] = max(values) if goal.direction == "minimize" else min(values)
        return found

    def _prepared(self) -> Algorithm:
        space = self._sweep.spaces()[self.arm]
        start = [
            {key: value for key, value in point.items() if key in space}
            for point in self._sweep.start
        ]
        if self._sweep.algorithm.kind == "grid":
            return Grid(space, start)
        done = self._log.ended_of(self.arm)
        # Trials that are still open are drawn with the others, so that their results find them.
        known = [asked for asked, _ in done] + self._open
        first = [self._points.parameters(self.arm, asked.point) for asked in known]
        first += [self._points.parameters(self.arm, point) for point in start]
        self._algorithm = algorithm = OptunaPoints(self._sweep, space, first, len(known))
        results = {asked.trial: ended for asked, ended in done}
        for asked in known:
            draw = self._next_draw()
            algorithm.draw(draw)
            if asked.trial in results:
                self._tell(draw, results[asked.trial])
            else:
                self._draws[asked.trial] = draw
        return algorithm

    def _next_draw(self) -> str:
        self._drawn += 1
        return f"{self.arm}-{self._drawn}"

    def _possible(self, draw: str, point: Point) -> Candidate | None:
        try:
            candidate = self._points.of(self.arm, point)
        except SpecError as error:
            self._algorithm.tell(draw, self._worst())
            known = any(e.arm == self.arm and e.point == point for e in self._log.excluded)
            if not known:
                reason = str(error)
                self._log.write(
                    PointExcluded(arm=self.arm, point=point, reason=reason, time=time.time())
                )
            return None
        before = self._log.of_identity(candidate.identity)
        if before is None or (before.arm != self.arm):
            return candidate
        self.repeats += 1
        ended = self._log.ended.get(before.trial)
        if ended is None:
            self._algorithm.tell(draw, None)
        else:
            self._tell(draw, ended)
        return None

    def _asked(self, draw: str, candidate: Candidate) -> TrialAsked:
        asked = TrialAsked(
            trial=self._log.next_number(),
            arm=self.arm,
            point=candidate.point,
            identity=candidate.identity,
            run_keys=[run.key for run in candidate.runs],
            time=time.time(),
        )
        self._log.write(asked)
        self._draws[asked.trial] = draw
        self._planned[asked.trial] = candidate.flops
        return asked

    def _spent(self) -> str | None:
        """Which budget is spent: running trials count with what they may still take."""
        budget = self._sweep.budget
        ended = [ended for _, ended in self._log.ended_of(self.arm)]
        asked = sum(asked.arm == self.arm for asked in self._log.asked.values())
        if budget.trials is not None and asked >= budget.trials:
            return f"budget.trials={budget.trials}"
        flops = sum(each.flops for each in ended) + sum(self._planned.values())
        if budget.flops is not None and flops >= budget.flops:
            return f"budget.flops={budget.flops:g} are spent"
        if budget.wall_seconds is not None and time.monotonic() - self._began > budget.wall_seconds:
            return f"budget.wall_seconds={budget.wall_seconds:g} are over"
        hours = sum(each.accelerator_hours for each in ended)
        if budget.accelerator_hours is not None and hours >= budget.accelerator_hours:
            return f"budget.accelerator_hours={budget.accelerator_hours:g} are spent"
        return None


def told_metrics(ended: TrialEnded, goals: list[MetricGoal]) -> dict[str, float] | None:
    """What an algorithm learns of a trial: nothing of one that failed or diverged."""
    if ended.state in ("failed", "diverged"):
        return None
    return {g.name: ended.metrics[g.name] for g in goals if g.name in ended.metrics}
