"""Population based training of learning rates (Jaderberg et al., 2017): generations of trials.

A trial carries out one part of a member's runs. Who goes on from whom is decided once all trials of
a generation have ended, from their results and a seed alone: a driver that was killed decides the
same again.
"""

from __future__ import annotations

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
from sweeps.space.space import Point
from sweeps.space.spec import LEARNING_RATE, MetricGoal, PopulationSpec


@dataclass(frozen=True)
class Member:
    """One member at a border: `badness` is its first metric, smaller is better; None where that
    was not measured yet. A member that is not `alive` failed or diverged."""

    trial: int
    point: Point
    alive: bool
    badness: float | None


@dataclass(frozen=True)
class Successor:
    """What takes a member's place: a point, and the trial whose state it goes on from."""

    point: Point
    parent: int


def successors(
    members: Sequence[Member],
    settings: PopulationSpec,
    at: float,
    bounds: tuple[float, float],
    draws: random.Random,
) -> list[Successor]:
    """Exploit and explore at the share `at` of the steps; none where no member is alive.

    `bounds` are of the learning rate's peak times its factor.
    """
    alive = [member for member in members if member.alive]
    if not alive:
        return []
    ranked = sorted((m for m in alive if m.badness is not None), key=_badness)
    count = min(max(1, math.floor(settings.quantile * len(members))), len(ranked) // 2)
    best = ranked[:count] or alive
    given_up = {member.trial for member in ranked[len(ranked) - count :]}
    found = []
    for member in members:
        if member.alive and member.trial not in given_up:
            found.append(Successor(member.point, member.trial))
            continue
        parent = draws.choice(best)
        factor = settings.perturbation ** draws.uniform(-1.0, 1.0)
        found.append(Successor(with_rate_change(parent.point, at, factor, bounds), parent.trial))
    return found


def with_rate_change(point: Point, at: float, factor: float, bounds: tuple[float, float]) -> Point:
    """The point with the rate times `factor` from the share `at` on, within bounds."""
    changes = list(point.get(RATE_CHANGES, []))
    now = changes[-1]["factor"] if changes else 1.0
    wanted = now * factor
    peak = point.get(LEARNING_RATE)
    if peak is not None:
        wanted = min(max(wanted, bounds[0] / peak), bounds[1] / peak)
    return {**point, RATE_CHANGES: [*changes, {"at": at, "factor": float(f"{wanted:.6g}")}]}


def rate_bounds(space: Space) -> tuple[float, float]:
    """Smallest and largest learning rate of a space; no bounds where it does not vary."""
    domain = space.get(LEARNING_RATE)
    if domain is None:
        return (0.0, math.inf)
    if domain.kind == "choice":
        return (min(domain.values), max(domain.values))
    return (domain.low, domain.high)


def _badness(member: Member) -> float:
    assert member.badness is not None
    return member.badness


class PopulationSearch:
    """An arm's members, generation by generation."""

    def __init__(self, arm: str, points: PointPlanner, log: SweepLog) -> None:
        """Raises SpecError where the evaluations of a run do not fall on the borders."""
        self.arm, self._points, self._log = arm, points, log
        self._settings = points.sweep.scheduler.population
        self._goal: MetricGoal = points.sweep.metrics[0]
        self._bounds = rate_bounds(points.sweep.spaces()[arm])
        check_evaluation_points(points)
        self._first = ArmSearch(arm, points, log, self._first_leg)
        self._ready: list[TrialRequested] = [a for a in log.open_trials(arm) if _generation(a) > 0]
        self._running: set[int] = set()
        self.why_over: str | None = None

    @property
    def repeats(self) -> int:
        """Draws of the first generation that were there already."""
        return self._first.repeats

    def next(self) -> tuple[TrialRequested, PlannedPoint] | None:
        """See Search."""
        found = self._first.next()
        if found is not None:
            self._running.add(found[0].trial)
            return found
        if not self._ready and not self._running and self.why_over is None:
            self._decide()
        if not self._ready:
            return None
        asked = self._ready.pop(0)
        self._running.add(asked.trial)
        return asked, self._points.of(self.arm, asked.point)

    def prunes(self, trial: int, spent: float, value: float) -> bool:
        """No member ends early."""
        return False

    def ended(self, ended: TrialFinished) -> None:
        """See Search."""
        self._running.discard(ended.trial)
        self._first.ended(ended)

    def interrupted(self, trial: int) -> None:
        """See Search. Without it nobody knows who goes on from whom."""
        self._running.discard(trial)
        self.why_over = f"trial {trial} was interrupted"

    def _decide(self) -> None:
        """Ask for the next generation, or for what a killed driver left out of it; or be over."""
        generations = self._generations()
        whole = [g for g in generations if len(g) == len(generations[0])]
        if len(whole) == self._settings.generations or not whole:
            self.why_over = f"{len(whole)} generations are done"
            return
        last, begun = len(whole) - 1, generations[len(whole) :]
        seed = f"{self._points.sweep.algorithm.seed} {self.arm} {last}"
        draws = random.Random(seed)  # noqa: S311
        members = [
            self._member(asked, self._log.ended[asked.trial]) for asked in whole[-1].values()
        ]
        at = generation_start(last + 1, self._settings)
        found = successors(members, self._settings, at, self._bounds, draws)
        if not found:
            self.why_over = f"no member of generation {last} is left"
            return
        for place, successor in enumerate(found):
            if not begun or place not in begun[0]:
                leg = self._leg(last + 1, place, successor.parent)
                self._ready.append(self._asked(successor, leg))

    def _generations(self) -> list[dict[int, TrialRequested]]:
        """All trials of the arm by generation and member."""
        found: list[dict[int, TrialRequested]] = []
        for _, asked in sorted(self._log.asked.items()):
            if asked.arm == self.arm and asked.leg is not None:
                found += [{} for _ in range(asked.leg.generation + 1 - len(found))]
                found[asked.leg.generation][asked.leg.member] = asked
        return [dict(sorted(members.items())) for members in found]

    def _member(self, asked: TrialRequested, ended: TrialFinished) -> Member:
        value = ended.metrics.get(self._goal.name)
        sign = 1 if self._goal.direction == "minimize" else -1
        alive = ended.state in ("paused", "finished")
        return Member(asked.trial, asked.point, alive, None if value is None else sign * value)

    def _asked(self, successor: Successor, leg: TrialSegment) -> TrialRequested:
        candidate = self._points.of(self.arm, successor.point)
        asked = trial_request(candidate, self._log.next_number(), leg)
        self._log.write(asked)
        return asked

    def _first_leg(self, place: int) -> TrialSegment:
        return self._leg(0, place, None)

    def _leg(self, generation: int, member: int, parent: int | None) -> TrialSegment:
        since, until = (generation_start(g, self._settings) for g in (generation, generation + 1))
        return TrialSegment(
            generation=generation, member=member, parent=parent, since=since, until=until
        )


def generation_start(generation: int, settings: PopulationSpec) -> float:
    """The share of the steps at which a generation begins."""
    return generation / settings.generations


def check_evaluation_points(points: PointPlanner) -> None:
    """Raises SpecError where the evaluations of a run do not fall on the borders."""
    generations = points.sweep.scheduler.population.generations
    if points.base.evaluation.points % generations:
        raise SpecError(
            f"scheduler.population.generations={generations}: runs are evaluated at "
            f"evaluation.points={points.base.evaluation.points} points; make that a multiple, so "
            "that members are compared at the end of each generation"
        )


def published_prefixes(asked: TrialRequested, candidate: PlannedPoint) -> Iterator[Prefix]:
    """States that a trial publishes: of each of its runs at the end of its leg."""
    if asked.leg is not None and asked.leg.until < 1:
        for run in candidate.runs:
            yield prefix_at(run.spec, asked.leg.until)


def _generation(asked: TrialRequested) -> int:
    return asked.leg.generation if asked.leg else 0
