"""Which point comes next: an algorithm, asked through a space in which not everything is possible.

Before a new point an arm takes up those that a killed driver left open. What no study can have is
excluded with its reason and drawn again; what was asked before is not asked again. Results of
earlier drivers are told to the algorithm as if they had just come in. An impossible point and a
diverged trial count as the worst result so far: an algorithm that learned nothing from them would
come back to them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from cola.errors import SpecError
from cola.records import PointExcluded, TrialFinished, TrialRequested, TrialSegment
from sweeps.search.algorithms import Algorithm, Grid, OptunaAlgorithm
from sweeps.search.trial_log import SweepLog
from sweeps.space.points import PlannedPoint, PointPlanner, segment_identity, trial_request
from sweeps.space.space import Point
from sweeps.space.spec import MetricGoal

TRIES = 500  # draws in a row without a new possible point: the space is exhausted


class Search(Protocol):
    """What an arm does next."""

    arm: str
    why_over: str | None

    def next(self) -> tuple[TrialRequested, PlannedPoint] | None:
        """The next trial, written to the log. None: the arm is over, or, where `why_over` is None,
        waits for trials that run."""

    def prunes(self, trial: int, spent: float, value: float) -> bool:
        """Whether a trial ends here: an evaluation of the first metric after a share of budget."""

    def ended(self, ended: TrialFinished) -> None:
        """A trial of the arm ended."""

    def interrupted(self, trial: int) -> None:
        """A trial left without an end: the next driver takes it up."""


class ArmSearch:
    """One arm's points, in the order in which they are done, until its budget is spent."""

    def __init__(
        self,
        arm: str,
        points: PointPlanner,
        log: SweepLog,
        leg_of: Callable[[int], TrialSegment | None] = lambda place: None,
    ) -> None:
        """`leg_of`: what part of its runs the trial at a place (from 0) carries out."""
        self.arm, self._points, self._log, self._leg_of = arm, points, log, leg_of
        self._sweep = points.sweep
        self._open = [asked for asked in log.open_trials(arm) if is_drawn(asked)]
        self._draws: dict[int, str] = {}  # trial -> draw
        self._drawn = 0
        self._began = time.time()
        self._planned: dict[int, float] = {}  # FLOPs of trials that have not ended
        self.repeats = 0
        self.why_over: str | None = None
        self._algorithm: Algorithm = self._prepared()

    def next(self) -> tuple[TrialRequested, PlannedPoint] | None:
        """See Search."""
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

    def prunes(self, trial: int, spent: float, value: float) -> bool:
        """See Search."""
        draw = self._draws.get(trial)
        ends = draw is not None and self._algorithm.report(draw, spent, value)
        return ends and self._sweep.scheduler.is_pruner

    def ended(self, ended: TrialFinished) -> None:
        """Tell the algorithm."""
        self._planned.pop(ended.trial, None)
        draw = self._draws.pop(ended.trial, None)
        if draw is not None:
            self._tell(draw, ended)

    def interrupted(self, trial: int) -> None:
        """See Search. What it was planned to take still counts."""

    def _tell(self, draw: str, ended: TrialFinished) -> None:
        metrics = learned_metrics(ended, self._sweep.metrics)
        if metrics is None and ended.state == "diverged":
            metrics = self._worst()
        self._algorithm.tell(draw, metrics, ended.state == "stopped")

    def _done(self) -> list[tuple[TrialRequested, TrialFinished]]:
        """Trials that the algorithm drew and that ended."""
        return [pair for pair in self._log.ended_of(self.arm) if is_drawn(pair[0])]

    def _worst(self) -> dict[str, float] | None:
        """The worst value of every metric so far; None before there is one."""
        found = {}
        done = [ended for _, ended in self._done()]
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
        done = self._done()
        # Trials that are still open are drawn with the others, so that their results find them.
        known = [asked for asked, _ in done] + self._open
        evaluations = self._points.base.evaluation.points
        name = f"{self._sweep.name} {self.arm}"
        self._algorithm = algorithm = OptunaAlgorithm(
            self._sweep, space, name, evaluations, len(known)
        )
        results = {asked.trial: ended for asked, ended in done}
        for asked in known:
            draw = self._next_draw()
            algorithm.draw_known(draw, self._points.parameters(self.arm, asked.point))
            if asked.trial not in results:
                self._draws[asked.trial] = draw
                continue
            for spent, value in results[asked.trial].course:
                algorithm.report(draw, spent, value)
            self._tell(draw, results[asked.trial])
        for point in start:
            algorithm.enqueue(self._points.parameters(self.arm, point))
        return algorithm

    def _next_draw(self) -> str:
        self._drawn += 1
        return f"{self.arm}-{self._drawn}"

    def _possible(self, draw: str, point: Point) -> PlannedPoint | None:
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
        leg = self._leg_of(self._asked_so_far())
        before = self._log.of_identity(segment_identity(candidate, leg))
        if before is None or (before.arm != self.arm):
            return candidate
        self.repeats += 1
        ended = self._log.ended.get(before.trial)
        if ended is None:
            self._algorithm.tell(draw, None)
        else:
            self._tell(draw, ended)
        return None

    def _asked(self, draw: str, found: PlannedPoint) -> TrialRequested:
        leg = self._leg_of(self._asked_so_far())
        asked = trial_request(found, self._log.next_number(), leg)
        self._log.write(asked)
        self._draws[asked.trial] = draw
        self._planned[asked.trial] = found.flops
        return asked

    def _asked_so_far(self) -> int:
        mine = (asked for asked in self._log.asked.values() if asked.arm == self.arm)
        return sum(is_drawn(asked) for asked in mine)

    def _spent(self) -> str | None:
        """Which budget is spent: running trials count with what they may still take."""
        budget, most = self._sweep.budget, self._sweep.trials_an_arm
        ended = [ended for _, ended in self._done()]
        if most is not None and self._asked_so_far() >= most:
            key = "scheduler.population.members" if self._sweep.is_population else "budget.trials"
            return f"{key}={most}"
        flops = sum(each.flops for each in ended) + sum(self._planned.values())
        if budget.flops is not None and flops >= budget.flops:
            return f"budget.flops={budget.flops:g} are spent"
        if budget.wall_seconds is not None and self._wall_seconds() > budget.wall_seconds:
            return f"budget.wall_seconds={budget.wall_seconds:g} are over"
        hours = sum(each.accelerator_hours for each in ended)
        if budget.accelerator_hours is not None and hours >= budget.accelerator_hours:
            return f"budget.accelerator_hours={budget.accelerator_hours:g} are spent"
        return None

    def _wall_seconds(self) -> float:
        """Time since this driver began, and in which trials of earlier ones ran."""
        spans = ((asked.time, ended.time) for asked, ended in self._done())
        earlier = union_length(span for span in spans if span[1] < self._began)
        return earlier + time.time() - self._began


def is_drawn(asked: TrialRequested) -> bool:
    """Whether an algorithm drew the point; later generations of a population have others'."""
    return asked.leg is None or asked.leg.generation == 0


def union_length(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of some intervals."""
    total, reached = 0.0, -math.inf
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def learned_metrics(ended: TrialFinished, goals: list[MetricGoal]) -> dict[str, float] | None:
    """What an algorithm learns of a trial: nothing of one that failed or diverged."""
    if ended.state in ("failed", "diverged"):
        return None
    return {g.name: ended.metrics[g.name] for g in goals if g.name in ended.metrics}
