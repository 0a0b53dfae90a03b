"""What a sweep will run and cost, before anything starts."""

from __future__ import annotations

import logging
import math
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from cola.errors import SpecError
from orchestration.planning.costs import run_costs, warm_starts
from orchestration.planning.plan import PlannedRun
from orchestration.planning.rates import measured_rates
from orchestration.planning.units import duration
from orchestration.state.ledger import Ledger
from orchestration.state.paths import output_root
from sweeps.search.known_trials import describe_left_out, leave_out_trials
from sweeps.search.population import generation_start
from sweeps.search.trial_log import SweepLog
from sweeps.space.catalog import sweep_folder
from sweeps.space.checks import space_size
from sweeps.space.domains import Domain, LogUniform, Space, Uniform, values_of
from sweeps.space.points import PlannedPoint, PointPlanner
from sweeps.space.rate_question import held_out_budget
from sweeps.space.samplers import is_inference
from sweeps.space.space import Point, applies, grid
from sweeps.space.spec import PopulationSpec, SweepSpec
from sweeps.trials.prefix_claims import stage_prefixes
from sweeps.trials.readings import flops_between

log = logging.getLogger(__name__)

# Points drawn from a space that is infinite, or larger than this; a chosen value.
SAMPLE_SIZE = 64
MOST_REASONS = 5  # of excluded points that are shown for each arm; a chosen value


@dataclass(frozen=True, kw_only=True)
class ArmPlan:
    """An arm's feasible points (of a sample, where `is_sampled`), and reasons of the others.

    `repeated` points come to the same runs as another one.
    `trials` is how many the budget allows (a FLOPs budget: if no trial stops early); None where
    that depends on how they go.
    """

    arm: str
    space: Space
    is_sampled: bool
    points: list[PlannedPoint]
    excluded: Counter[str]
    trials: int | None
    repeated: int = 0


@dataclass(frozen=True)
class Effort:
    """Executed training FLOPs and seconds of runs that are not finished.

    `shared_flops` are those of first stages that another of the runs trains.
    """

    flops: float
    shared_flops: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class SweepPlan:
    """All arms, their distinct runs, and what the runs that are not finished cost."""

    planner: PointPlanner
    arms: list[ArmPlan]
    runs: list[PlannedRun]
    finished: int
    effort: Effort
    left_out: str | None = None  # a sentence on known trials outside of the space


def plan_sweep(planner: PointPlanner) -> SweepPlan:
    """Plan every arm over its whole space, or over a sample of it."""
    trial_log = SweepLog(sweep_folder(planner.base))
    leave_out_trials(planner, trial_log)
    arms = [plan_arm(planner, arm) for arm in planner.arms()]
    runs: dict[str, PlannedRun] = {}
    for arm in arms:
        for planned in arm.points[: arm.trials]:
            runs |= {run.key: run for run in planned.runs}
    ledger = Ledger(output_root(planner.base))
    unfinished = [run for key, run in runs.items() if ledger.known_entry(key).state != "finished"]
    return SweepPlan(
        planner=planner,
        arms=arms,
        runs=list(runs.values()),
        finished=len(runs) - len(unfinished),
        effort=effort_of(planner, unfinished),
        left_out=describe_left_out(trial_log),
    )


def effort_of(planner: PointPlanner, runs: Iterable[PlannedRun]) -> Effort:
    """What these runs cost in this order: each resumes from the first stages of those before it."""
    rates = measured_rates(output_root(planner.base))
    trained: set[str] = set()  # keys of prefixes
    flops = shared_flops = seconds = 0.0
    runs = list(runs)
    warm_runs = warm_starts(run.resources for run in runs)
    for run, finds_process in zip(runs, warm_runs, strict=True):
        first_step = 0
        for prefix in stage_prefixes(run.spec):
            if prefix.key in trained:
                first_step = prefix.step
            trained.add(prefix.key)
        keep = planner.base.checkpoint.keep
        costs = run_costs(
            run.spec,
            run.resources,
            run.total_parameters,
            keep=keep,
            rates=rates,
            first_step=first_step,
            warm=finds_process and planner.sweep.warm_workers,
        )
        shared_flops += flops_between(run.spec, 0, first_step)
        flops += flops_between(run.spec, first_step, run.spec.steps)
        seconds += costs.seconds
    return Effort(flops, shared_flops, seconds)


def plan_arm(planner: PointPlanner, arm: str) -> ArmPlan:
    """Feasible and excluded points of an arm, and how many trials its budget allows."""
    sweep = planner.sweep
    space = sweep.spaces()[arm]
    size = space_size(space)
    is_whole = size is not None and (sweep.algorithm.kind == "grid" or size <= SAMPLE_SIZE)
    points = (
        list(grid(space)) if is_whole else sample_points(space, SAMPLE_SIZE, sweep.algorithm.seed)
    )
    excluded: Counter[str] = Counter()
    repeated = 0
    feasible: dict[str, PlannedPoint] = {}
    for point in points:
        try:
            planned = planner.plan(arm, point)
            first = feasible.setdefault(planned.identity, planned)
            repeated += first.point != planned.point
        except SpecError as error:
            excluded[str(error)] += 1
    log.info("arm %r: %d of %d points are feasible", arm, len(feasible), len(points))
    return ArmPlan(
        arm=arm,
        space=space,
        is_sampled=not is_whole,
        points=list(feasible.values()),
        excluded=excluded,
        repeated=repeated,
        trials=trial_limit(sweep, list(feasible.values()), is_whole=is_whole),
    )


def trial_limit(sweep: SweepSpec, feasible: list[PlannedPoint], *, is_whole: bool) -> int | None:
    """How many trials an arm's budget allows; None where no count of them follows from it."""
    limit = sweep.trials_an_arm
    if sweep.budget.flops is not None and feasible:
        mean_flops = sum(planned.flops for planned in feasible) / len(feasible)
        affordable = math.ceil(sweep.budget.flops / mean_flops)
        limit = affordable if limit is None else min(limit, affordable)
    if sweep.algorithm.kind == "grid" or (limit is not None and is_whole):
        limit = min(len(feasible), limit or len(feasible))
    return limit


def sample_points(space: Space, count: int, seed: int) -> list[Point]:
    """Points drawn evenly from a space."""
    draws = random.Random(seed)  # noqa: S311
    points: list[Point] = []
    for _ in range(count):
        point: Point = {}
        for key, domain in space.items():
            if applies(domain, point):
                point[key] = _draw_value(domain, draws)
        points.append(point)
    return points


def _draw_value(domain: Domain, draws: random.Random) -> Any:
    if isinstance(domain, LogUniform):
        return domain.low * (domain.high / domain.low) ** draws.random()
    if isinstance(domain, Uniform) and domain.step is None:
        return draws.uniform(domain.low, domain.high)
    return draws.choice(values_of(domain) or [])


def describe_plan(plan: SweepPlan) -> list[str]:
    """The plan in sentences, a line each."""
    sweep, effort = plan.planner.sweep, plan.effort
    lines = [f"{sweep.name}: {sweep.question or sweep.description}".rstrip(": ")]
    goals = ", ".join(f"{goal.name} ({goal.direction})" for goal in sweep.metrics)
    lines.append(
        f"Search: {sweep.algorithm.kind} for {goals}; scheduler: {sweep.scheduler.kind}; "
        f"seeds {', '.join(map(str, plan.planner.base.seeds))}."
    )
    if sweep.is_population:
        lines.append(_describe_population(sweep.scheduler.population))
    for arm in plan.arms:
        lines += _describe_arm(arm)
        held_out = held_out_budget(sweep.answer, arm.space)
        if held_out is not None:
            lines.append(
                f"    note: the largest budget, {held_out:.3g} FLOPs, is trained last, once its "
                "best rate is forecast from the others and the forecast is written down."
            )
        lines += [f"    note: {note}" for note in sweep.search_notes(arm.arm)]
    if plan.left_out is not None:
        lines.append(f"note: {plan.left_out}.")
    lines += _describe_equal_effort(plan)
    at_most = " at most" if sweep.scheduler.kind not in ("none", "pbt") else ""
    lines.append(
        f"In all {len(plan.runs)} trainings{at_most}, {plan.finished} "
        f"of them finished already; {effort.flops:.3g} executed FLOPs, about "
        f"{duration(effort.seconds)} of run time one after the other."
    )
    if effort.shared_flops:
        lines.append(
            "A first stage is trained once for all trials with the same one, and charged to each "
            f"of them in full (matching.stage1): {effort.shared_flops:.3g} FLOPs are not repeated."
        )
    return lines


def _describe_arm(arm: ArmPlan) -> list[str]:
    name = f"arm {arm.arm}" if arm.arm else "space"
    keys = ", ".join(key.rsplit(".", 1)[-1] for key in arm.space)
    trains_nothing = all(is_inference(key) for key in arm.space)
    kind = " (finished models are measured, none is trained for it)" if trains_nothing else ""
    sample = f" of {SAMPLE_SIZE} drawn" if arm.is_sampled else ""
    trials = f", {arm.trials} trials" if arm.trials is not None else ""
    lines = [f"  {name}: {keys}{kind}: {len(arm.points)}{sample} points are possible{trials}."]
    for reason, count in arm.excluded.most_common(MOST_REASONS):
        lines.append(f"    excluded: {count} ({reason})")
    if len(arm.excluded) > MOST_REASONS:
        others = arm.excluded.total() - sum(n for _, n in arm.excluded.most_common(MOST_REASONS))
        lines.append(f"    excluded: {others} more, for {len(arm.excluded) - MOST_REASONS} reasons")
    if arm.repeated:
        lines.append(
            f"    note: {arm.repeated} more points come to the same runs as one of these, so that "
            "they are no trials of their own: keys that have no effect on them change nothing."
        )
    return lines


def _describe_population(settings: PopulationSpec) -> str:
    starts = [generation_start(number, settings) for number in range(1, settings.generations)]
    return (
        f"Population: {settings.members} members; at {', '.join(f'{s:.0%}' for s in starts)} of "
        f"their steps the worst {settings.quantile:.0%} resume from one of the best "
        f"{settings.quantile:.0%}, at its learning rate times 1/{settings.perturbation:g} to "
        f"{settings.perturbation:g}. In all that costs as much as {settings.members} whole runs."
    )


def _describe_equal_effort(plan: SweepPlan) -> list[str]:
    """That all arms get the same, where several share a budget."""
    sweep = plan.planner.sweep
    if len(plan.arms) < 2 or sweep.algorithm.kind == "grid":
        return []
    limits = sweep.budget.model_dump(exclude_none=True)
    budget = ", ".join(f"{key} {value:g}" for key, value in limits.items())
    if sweep.is_population:
        budget = "one population"
    has_equal_keys = len({tuple(sorted(arm.space)) for arm in plan.arms}) == 1
    keys = "over the same keys" if has_equal_keys else "over the arm's own keys"
    return [f"Equal effort: each of the {len(plan.arms)} arms has a separate search {keys} with "
            f"{budget}, the same algorithm and the same seeds."]  # fmt: skip
