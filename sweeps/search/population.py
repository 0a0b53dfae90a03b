"""Population based training of learning rates (Jaderberg et al., 2017): generations of trials.

A trial trains one segment of a member's runs. Once all trials of a generation have ended, their
outcomes and a seed alone decide which member resumes from which: a restarted driver decides the
same.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cola.errors import SpecError
from cola.records import RATE_CHANGES, TrialFinished, TrialRequested, TrialSegment
from orchestration.planning.shared_prefixes import Prefix, prefix_at
from sweeps.search.arm_search import ArmSearch
from sweeps.search.trial_log import SweepLog
from sweeps.space.domains import Space
from sweeps.space.points import PlannedPoint, PointPlanner, trial_request
from sweeps.space.samplers import LEARNING_RATE
from sweeps.space.space import Point
from sweeps.space.spec import PopulationSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Member:
    """A member at the end of a generation.

    `badness` is its first metric, signed so that smaller is better; None before its first
    evaluation. A member that is not `alive` failed or diverged.
    """

    trial: int
    point: Point
    alive: bool
    badness: float | None


@dataclass(frozen=True)
class Successor:
    """A member of the next generation: its point, and the trial whose state it resumes from."""

    point: Point
    parent: int


def successors(
    members: Sequence[Member],
    settings: PopulationSpec,
    draws: random.Random,
    *,
    at: float,
    bounds: tuple[float, float],
) -> list[Successor]:
    """The next generation, one successor a member; empty where no member is alive.

    Exploit and explore (Jaderberg et al., 2017, section 3): the worst `quantile` of the measured
    members, and those that are not alive, resume from one of the best at a changed rate. `at` is
    the share of
    the steps at which they do, `bounds` are those of the learning rate's peak times its factor.
    """
    alive = [member for member in members if member.alive]
    if not alive:
        return []
    measured = [(m.badness, index, m) for index, m in enumerate(alive) if m.badness is not None]
    ranked = [member for _, _, member in sorted(measured, key=lambda entry: entry[:2])]
    count = min(max(1, math.floor(settings.quantile * len(members))), len(ranked) // 2)
    best = ranked[:count] or alive
    replaced = {member.trial for member in ranked[len(ranked) - count :]}
    generation = []
    for member in members:
        if member.alive and member.trial not in replaced:
            generation.append(Successor(member.point, member.trial))
            continue
        parent = draws.choice(best)
        factor = settings.perturbation ** draws.uniform(-1.0, 1.0)
        point = with_rate_change(parent.point, at, factor, bounds=bounds)
        generation.append(Successor(point, parent.trial))
    return generation


def with_rate_change(
    point: Point, at: float, factor: float, *, bounds: tuple[float, float]
) -> Point:
    """The point with its learning rate times `factor` from the share `at` of the steps on.

    The rate stays within `bounds`, where the point has one.
    """
    changes = list(point.get(RATE_CHANGES, []))
    present = changes[-1]["factor"] if changes else 1.0
    changed = present * factor
    peak = point.get(LEARNING_RATE)
    if peak is not None:
        changed = min(max(changed, bounds[0] / peak), bounds[1] / peak)
    return {**point, RATE_CHANGES: [*changes, {"at": at, "factor": float(f"{changed:.6g}")}]}


def rate_bounds(space: Space) -> tuple[float, float]:
    """Smallest and largest learning rate of a space; (0, inf) where the space has none."""
    domain = space.get(LEARNING_RATE)
    if domain is None:
        return (0.0, math.inf)
    if domain.kind == "choice":
        return (min(domain.values), max(domain.values))
    return (domain.low, domain.high)


class PopulationSearch:
    """The search of an arm that is a population: generation after generation of its members."""

    def __init__(self, arm: str, planner: PointPlanner, trial_log: SweepLog) -> None:
        """Resume from the log.

        Raises:
            SpecError: runs are not evaluated at the end of every generation.
        """
        self.arm, self._planner, self._log = arm, planner, trial_log
        self._settings = planner.sweep.scheduler.population
        self._goal = planner.sweep.metrics[0]
        self._bounds = rate_bounds(planner.sweep.spaces()[arm])
        check_evaluation_points(planner)
        self._first = ArmSearch(
            arm, planner, trial_log, segment_of=lambda index: self._segment(0, index, None)
        )
        self._ready = [r for r in trial_log.open_trials(arm) if r.leg and r.leg.generation > 0]
        self._running: set[int] = set()
        self.why_over: str | None = None

    def next(self) -> tuple[TrialRequested, PlannedPoint] | None:
        """See Search."""
        first = self._first.next()
        if first is not None:
            self._running.add(first[0].trial)
            return first
        if not self._ready and not self._running and self.why_over is None:
            self._begin_generation()
        if not self._ready:
            return None
        request = self._ready.pop(0)
        self._running.add(request.trial)
        return request, self._planner.plan(self.arm, request.point)

    def prunes(self, trial: int, spent: float, value: float) -> bool:
        """See Search: no member ends early."""
        return False

    def ended(self, outcome: TrialFinished) -> None:
        """See Search."""
        self._running.discard(outcome.trial)
        self._first.ended(outcome)

    def interrupted(self, trial: int) -> None:
        """See Search. The next generation depends on its outcome, so the arm is over."""
        self._running.discard(trial)
        self.why_over = f"trial {trial} was interrupted"

    def _begin_generation(self) -> None:
        """Request the next generation, or what a killed driver left out of it; or end the arm."""
        generations = self._generations()
        complete = [g for g in generations if len(g) == len(generations[0])]
        if len(complete) == self._settings.generations or not complete:
            self.why_over = f"{len(complete)} generations are done"
            return
        number = len(complete)
        already_requested = generations[number] if len(generations) > number else {}
        seed = f"{self._planner.sweep.algorithm.seed} {self.arm} {number - 1}"
        generation = successors(
            [self._member(r, self._log.outcomes[r.trial]) for r in complete[-1].values()],
            self._settings,
            random.Random(seed),  # noqa: S311
            at=generation_start(number, self._settings),
            bounds=self._bounds,
        )
        if not generation:
            self.why_over = f"no member of generation {number - 1} is left"
            return
        for index, successor in enumerate(generation):
            if index not in already_requested:
                segment = self._segment(number, index, successor.parent)
                self._ready.append(self._request(successor, segment))

    def _generations(self) -> list[dict[int, TrialRequested]]:
        """All trials of the arm by generation and member."""
        generations: list[dict[int, TrialRequested]] = []
        for _, request in sorted(self._log.requests.items()):
            if request.arm == self.arm and request.leg is not None:
                missing = request.leg.generation + 1 - len(generations)
                generations += [{} for _ in range(missing)]
                generations[request.leg.generation][request.leg.member] = request
        return [dict(sorted(members.items())) for members in generations]

    def _member(self, request: TrialRequested, outcome: TrialFinished) -> Member:
        value = outcome.metrics.get(self._goal.name)
        sign = 1 if self._goal.direction == "minimize" else -1
        alive = outcome.state in ("paused", "finished")
        return Member(request.trial, request.point, alive, None if value is None else sign * value)

    def _request(self, successor: Successor, segment: TrialSegment) -> TrialRequested:
        planned = self._planner.plan(self.arm, successor.point)
        request = trial_request(planned, self._log.next_number(), segment)
        self._log.write(request)
        log.info(
            "arm %r: trial %d is member %d of generation %d, from trial %s",
            self.arm, request.trial, segment.member, segment.generation, segment.parent,
        )  # fmt: skip
        return request

    def _segment(self, generation: int, member: int, parent: int | None) -> TrialSegment:
        return TrialSegment(
            generation=generation,
            member=member,
            parent=parent,
            since=generation_start(generation, self._settings),
            until=generation_start(generation + 1, self._settings),
        )


def generation_start(generation: int, settings: PopulationSpec) -> float:
    """The share of the steps at which a generation (from 0) begins."""
    return generation / settings.generations


def check_evaluation_points(planner: PointPlanner) -> None:
    """Check that runs are evaluated at the end of every generation.

    Raises:
        SpecError: they are not.
    """
    generations = planner.sweep.scheduler.population.generations
    if planner.base.evaluation.points % generations:
        raise SpecError(
            f"scheduler.population.generations={generations}: runs are evaluated at "
            f"evaluation.points={planner.base.evaluation.points} points; make that a multiple, so "
            "that members are compared at the end of each generation"
        )


def published_prefixes(request: TrialRequested, planned: PlannedPoint) -> Iterator[Prefix]:
    """Training states that a trial publishes: of each of its runs at the end of its segment."""
    if request.leg is not None and request.leg.until < 1:
        for run in planned.runs:
            yield prefix_at(run.spec, request.leg.until)
