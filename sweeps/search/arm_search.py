"""One arm's search: samples feasible points from its space until a budget is spent.

Trials that a killed driver left open come first. Infeasible points are excluded with their reason
and drawn again; points with the identity of an earlier trial are not repeated. Outcomes of earlier
drivers are given to the algorithm as if they had just come in, unless the space no longer has their
points. Infeasible points and diverged trials count as the worst result so far: an algorithm that
learned nothing from them would propose them again.

Once the budget of trials is spent and all have ended, an optimum on an edge of what was searched
gets trials beyond it (`widening`), which the algorithm does not learn from.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from typing import Protocol

from cola.errors import SpecError
from cola.records import PointExcluded, TrialFinished, TrialRequested, TrialSegment
from sweeps.search.algorithms import Algorithm, Grid, OptunaAlgorithm
from sweeps.search.edges import beyond, edges_of
from sweeps.search.known_trials import known_point
from sweeps.search.trial_log import SweepLog, best_trial
from sweeps.space.metrics import missing_metric
from sweeps.space.points import PlannedPoint, PointPlanner, segment_identity, trial_request
from sweeps.space.space import Point
from sweeps.space.spec import MetricGoal

log = logging.getLogger(__name__)

# A chosen value: draws in a row without a new feasible point after which the space is exhausted.
MOST_DRAWS = 500


class Search(Protocol):
    """Decides what an arm runs next."""

    arm: str

    @property
    def why_over(self) -> str | None:
        """Why no trial comes after those that are known; None while one may."""

    def next(self) -> tuple[TrialRequested, PlannedPoint] | None:
        """The next trial, which is in the log.

        None: the arm is over; or, while `why_over` is None, it waits for running trials.
        """

    def prunes(self, trial: int, spent: float, value: float) -> bool:
        """Whether a trial should end at this evaluation.

        `value` is the first metric after the share `spent` of the budget.
        """

    def ended(self, outcome: TrialFinished) -> None:
        """Take in the outcome of a trial of the arm."""

    def interrupted(self, trial: int) -> None:
        """Take note of a trial that stopped without an outcome: the next driver resumes it."""


class ArmSearch:
    """The search of an arm whose algorithm draws every point."""

    def __init__(
        self,
        arm: str,
        planner: PointPlanner,
        trial_log: SweepLog,
        *,
        segment_of: Callable[[int], TrialSegment | None] = lambda index: None,
    ) -> None:
        """`segment_of` gives the segment that the arm's trial of an index (from 0) trains."""
        self.arm, self._planner, self._log, self._segment_of = arm, planner, trial_log, segment_of
        self._sweep = planner.sweep
        self._open = [request for request in trial_log.open_trials(arm) if is_charged(request)]
        self._draws: dict[int, str] = {}  # trial -> draw
        self._draw_count = 0
        self._began = time.time()
        self._planned_flops: dict[int, float] = {}  # of trials without an outcome
        self.repeats = 0
        self.why_over: str | None = None
        self._why_drawn: str | None = None  # no point is drawn any more
        self._algorithm: Algorithm = self._resumed_algorithm()

    def next(self) -> tuple[TrialRequested, PlannedPoint] | None:
        """See Search."""
        if self._open:
            request = self._open.pop(0)
            planned = self._planner.plan(self.arm, request.point)
            self._planned_flops[request.trial] = planned.flops
            log.info("arm %r: resuming open trial %d", self.arm, request.trial)
            return request, planned
        if self.why_over is None:
            self.why_over = self._spent_budget()
        if self.why_over is not None:
            return None
        if self._why_drawn is None:
            self._why_drawn = self._spent_trials()
        for _ in range(MOST_DRAWS):
            if self._why_drawn is not None:
                return self._next_beyond()
            draw = self._next_draw()
            point = self._algorithm.draw(draw)
            if point is None:
                self._why_drawn = "every point is done"
                continue
            new = self._new_point(draw, point)
            if new is not None:
                return self._request(draw, new), new
        self._why_drawn = f"{MOST_DRAWS} draws in a row gave no new feasible point"
        return self._next_beyond()

    def _next_beyond(self) -> tuple[TrialRequested, PlannedPoint] | None:
        """A trial beyond an edge on which the best one lies; None while trials run, and without.

        The arm is over, with the reason why nothing is drawn any more, once there is none.
        """
        if self._sweep.widening.trials and self._planned_flops:
            return None
        planned = self._beyond_edge()
        if planned is None:
            self.why_over = self._why_drawn
            return None
        return self._request(None, planned), planned

    def _beyond_edge(self) -> PlannedPoint | None:
        """The best point moved beyond an edge, where a study can have it and none has had it."""
        widening, ended = self._sweep.widening, self._log.searched_trials(self.arm)
        if sum(request.beyond for request, _ in ended) >= widening.trials:
            return None
        best = best_trial(self._log, self.arm, self._sweep.metrics[0])
        if best is None:
            return None
        space, point = self._sweep.spaces()[self.arm], known_point(best[0])
        tried = [known_point(r) for r, outcome in ended if outcome.state != "failed"]
        for edge in edges_of(space, point, tried):
            further = beyond(space, point, edge, widening.factor)
            try:
                planned = self._planner.plan(self.arm, further)
            except SpecError as error:
                log.info("arm %r: nothing lies beyond %s: %s", self.arm, edge, error)
                continue
            if self._log.with_identity(planned.identity) is None:
                return planned
        return None

    def prunes(self, trial: int, spent: float, value: float) -> bool:
        """See Search."""
        draw = self._draws.get(trial)
        ends = draw is not None and self._algorithm.report(draw, spent, value)
        return ends and self._sweep.scheduler.is_pruner

    def ended(self, outcome: TrialFinished) -> None:
        """See Search."""
        self._planned_flops.pop(outcome.trial, None)
        if outcome.state == "finished":
            names = [goal.name for goal in self._sweep.metrics]
            self.why_over = self.why_over or missing_metric(names, outcome.metrics)
        draw = self._draws.pop(outcome.trial, None)
        if draw is not None:
            self._learn(draw, outcome)

    def interrupted(self, trial: int) -> None:
        """See Search. Its planned FLOPs still count."""

    def _learn(self, draw: str, outcome: TrialFinished) -> None:
        metrics = learned_metrics(outcome, self._sweep.metrics)
        if metrics is None and outcome.state == "diverged":
            metrics = self._worst()
        self._algorithm.learn(draw, metrics, stopped=outcome.state == "stopped")

    def _drawn_trials(self) -> list[tuple[TrialRequested, TrialFinished]]:
        """Trials of the present space that the algorithm drew and that ended."""
        return [pair for pair in self._log.searched_trials(self.arm) if is_drawn(pair[0])]

    def _charged_trials(self) -> list[tuple[TrialRequested, TrialFinished]]:
        """Trials that ended and count towards the budget: also those of an earlier space."""
        return [pair for pair in self._log.ended_trials(self.arm) if is_charged(pair[0])]

    def _worst(self) -> dict[str, float] | None:
        """The worst value of every metric so far; None before there is one of each."""
        worst = {}
        outcomes = [outcome for _, outcome in self._drawn_trials()]
        for goal in self._sweep.metrics:
            values = [o.metrics[goal.name] for o in outcomes if goal.name in o.metrics]
            if not values:
                return None
            worst[goal.name] = max(values) if goal.direction == "minimize" else min(values)
        return worst

    def _resumed_algorithm(self) -> Algorithm:
        """The algorithm, with the draws and outcomes of earlier drivers."""
        space = self._sweep.spaces()[self.arm]
        start = [
            {key: value for key, value in point.items() if key in space}
            for point in self._sweep.start
        ]
        is_grid = self._sweep.algorithm.kind == "grid"
        if self._sweep.start_with_study:
            own = self._planner.own_point(self.arm)
            if own and (own.keys() == space.keys() or not is_grid):
                start.insert(0, own)
        if is_grid:
            return Grid(space, start)
        ended = self._drawn_trials()
        # Trials that are still open are drawn with the others, so that their outcomes find them.
        earlier = [request for request, _ in ended] + [r for r in self._open if is_drawn(r)]
        self._algorithm = algorithm = OptunaAlgorithm(
            self._sweep,
            space,
            f"{self._sweep.name} {self.arm}",
            evaluations=self._planner.base.evaluation.points,
            earlier_draws=len(earlier),
        )
        outcomes = {request.trial: outcome for request, outcome in ended}
        for request in earlier:
            draw = self._next_draw()
            algorithm.draw_known(draw, self._planner.parameters(self.arm, known_point(request)))
            if request.trial not in outcomes:
                self._draws[request.trial] = draw
                continue
            for spent, value in outcomes[request.trial].course:
                algorithm.report(draw, spent, value)
            self._learn(draw, outcomes[request.trial])
        for point in start:
            algorithm.enqueue(self._planner.parameters(self.arm, point))
        return algorithm

    def _next_draw(self) -> str:
        self._draw_count += 1
        return f"{self.arm}-{self._draw_count}"

    def _new_point(self, draw: str, point: Point) -> PlannedPoint | None:
        """The point with its runs; None where it is infeasible or repeats an earlier trial."""
        try:
            planned = self._planner.plan(self.arm, point)
        except SpecError as error:
            self._exclude(draw, point, str(error))
            return None
        segment = self._segment_of(self._request_count())
        earlier = self._log.with_identity(segment_identity(planned, segment))
        if earlier is None or earlier.arm != self.arm:
            return planned
        self.repeats += 1
        log.debug("arm %r: draw %s repeats trial %d", self.arm, draw, earlier.trial)
        outcome = self._log.outcomes.get(earlier.trial)
        if outcome is None:
            self._algorithm.learn(draw, None)
        else:
            self._learn(draw, outcome)
        return None

    def _exclude(self, draw: str, point: Point, reason: str) -> None:
        self._algorithm.learn(draw, self._worst())
        if any(e.arm == self.arm and e.point == point for e in self._log.excluded):
            return
        log.info("arm %r: excluded %s: %s", self.arm, point, reason)
        self._log.write(PointExcluded(arm=self.arm, point=point, reason=reason, time=time.time()))

    def _request(self, draw: str | None, planned: PlannedPoint) -> TrialRequested:
        """Log the trial of a draw; of None, one beyond the space."""
        segment = self._segment_of(self._request_count()) if draw is not None else None
        request = trial_request(planned, self._log.next_number(), segment)
        request = request.model_copy(update={"beyond": draw is None})
        self._log.write(request)
        if draw is not None:
            self._draws[request.trial] = draw
        self._planned_flops[request.trial] = planned.flops
        log.info("arm %r: trial %d is %s", self.arm, request.trial, request.point)
        return request

    def _request_count(self) -> int:
        """Number of trials that the algorithm drew and that ended or are to end."""
        ended = [request for request, _ in self._log.ended_trials(self.arm)]
        return sum(map(is_drawn, [*ended, *self._log.open_trials(self.arm)]))

    def _spent_trials(self) -> str | None:
        """The number of trials that is reached, with its key; None while it is not."""
        most = self._sweep.trials_an_arm
        if most is None or self._request_count() < most:
            return None
        key = "scheduler.population.members" if self._sweep.is_population else "budget.trials"
        return f"{key}={most}"

    def _spent_budget(self) -> str | None:
        """The limit of effort that is reached, with its key; None while none is.

        Running trials count with all that they may still take.
        """
        budget = self._sweep.budget
        outcomes = [outcome for _, outcome in self._charged_trials()]
        flops = sum(outcome.flops for outcome in outcomes) + sum(self._planned_flops.values())
        if budget.flops is not None and flops >= budget.flops:
            return f"budget.flops={budget.flops:g} are spent"
        if budget.wall_seconds is not None and self._wall_seconds() > budget.wall_seconds:
            return f"budget.wall_seconds={budget.wall_seconds:g} are over"
        hours = sum(outcome.accelerator_hours for outcome in outcomes)
        if budget.accelerator_hours is not None and hours >= budget.accelerator_hours:
            return f"budget.accelerator_hours={budget.accelerator_hours:g} are spent"
        return None

    def _wall_seconds(self) -> float:
        """Seconds since this driver began, and those in which trials of earlier ones ran."""
        spans = ((request.time, outcome.time) for request, outcome in self._charged_trials())
        earlier = union_length(span for span in spans if span[1] < self._began)
        return earlier + time.time() - self._began


def is_drawn(request: TrialRequested) -> bool:
    """Whether an algorithm drew the point: later generations of a population inherit theirs."""
    return not request.beyond and is_charged(request)


def is_charged(request: TrialRequested) -> bool:
    """Whether the trial takes of its arm's budget: it begins at a run's first step."""
    return request.leg is None or request.leg.generation == 0


def union_length(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals (begin, end)."""
    total, reached = 0.0, -math.inf
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total


def learned_metrics(outcome: TrialFinished, goals: list[MetricGoal]) -> dict[str, float] | None:
    """The goals' metrics of a trial; None of one that failed or diverged."""
    if outcome.state in ("failed", "diverged"):
        return None
    return {g.name: outcome.metrics[g.name] for g in goals if g.name in outcome.metrics}
