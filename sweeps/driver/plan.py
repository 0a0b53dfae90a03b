"""What a sweep will do and take, before anything starts."""

from __future__ import annotations

import math
import random
from collections import Counter
from dataclasses import dataclass
from typing import Any

from cola.errors import SpecError
from orchestration.planning.costs import run_costs
from orchestration.planning.plan import PlannedRun
from orchestration.planning.rates import measured_rates
from orchestration.planning.units import duration
from orchestration.state.ledger import Ledger
from orchestration.state.paths import output_root
from sweeps.search.population import generation_start
from sweeps.space.domains import Choice, Integer, LogUniform, Space, Uniform, values_of
from sweeps.space.points import PlannedPoint, PointPlanner
from sweeps.space.space import Point, applies, grid
from sweeps.space.spec import PopulationSpec, is_inference
from sweeps.trials.prefix_claims import stage_prefixes

SAMPLE = 64  # points that stand for a space that cannot be counted, or is large


@dataclass(frozen=True)
class ArmPlan:
    """An arm: possible points (of a sample, where the space is not gone through), and their cost.

    `trials` is how many the budget lets start (of FLOPs: if none is stopped early); None where that
    depends on how they go.
    """

    arm: str
    space: Space
    sampled: bool
    candidates: list[PlannedPoint]
    excluded: Counter[str]
    trials: int | None


@dataclass(frozen=True)
class SweepPlan:
    """All arms. Runs are distinct ones; FLOPs are executed training FLOPs."""

    points: PointPlanner
    arms: list[ArmPlan]
    runs: list[PlannedRun]
    finished: int
    flops: float
    shared_flops: float
    seconds: float


def plan_sweep(points: PointPlanner) -> SweepPlan:
    """Go through the space of every arm, or a sample of it."""
    arms = [plan_arm(points, arm) for arm in points.arms()]
    runs: dict[str, PlannedRun] = {}
    for arm in arms:
        taken = arm.candidates[: arm.trials] if arm.trials is not None else arm.candidates
        for candidate in taken:
            runs |= {run.key: run for run in candidate.runs}
    root = output_root(points.base)
    ledger, rates = Ledger(root), measured_rates(root)
    left = [run for key, run in runs.items() if ledger.entry(key).state != "finished"]
    seen: set[str] = set()
    flops = shared = seconds = 0.0
    for run in left:
        first = 0
        for prefix in stage_prefixes(run.spec):
            if prefix.key in seen:
                first = prefix.step
            seen.add(prefix.key)
        keep = points.base.checkpoint.keep
        costs = run_costs(
            run.spec, run.resources, run.total_parameters, keep=keep, rates=rates, first_step=first
        )
        shared += run.spec.train_flops_at(first, "executed", charged=False)
        flops += run.spec.train_flops_at(
            run.spec.steps, "executed", charged=False
        ) - run.spec.train_flops_at(first, "executed", charged=False)
        seconds += costs.seconds
    return SweepPlan(
        points, arms, list(runs.values()), len(runs) - len(left), flops, shared, seconds
    )


def plan_arm(points: PointPlanner, arm: str) -> ArmPlan:
    """Possible and excluded points of an arm."""
    sweep = points.sweep
    space = sweep.spaces()[arm]
    finite = all(values_of(domain) is not None for domain in space.values())
    whole = finite and (sweep.algorithm.kind == "grid" or space_size(space) <= SAMPLE)
    several = list(grid(space)) if whole else sampled(space, SAMPLE, sweep.algorithm.seed)
    excluded: Counter[str] = Counter()
    found: dict[str, PlannedPoint] = {}
    for point in several:
        try:
            candidate = points.of(arm, point)
            found.setdefault(candidate.identity, candidate)
        except SpecError as error:
            excluded[str(error)] += 1
    limit = sweep.trials_an_arm
    if sweep.budget.flops is not None and found:
        each = sum(candidate.flops for candidate in found.values()) / len(found)
        affordable = math.ceil(sweep.budget.flops / each)
        limit = affordable if limit is None else min(limit, affordable)
    if sweep.algorithm.kind == "grid" or (limit is not None and whole):
        limit = min(len(found), limit or len(found))
    return ArmPlan(arm, space, not whole, list(found.values()), excluded, limit)


def space_size(space: Space) -> int:
    """PointPlanner of a finite space, conditions left out: an upper bound."""
    total = 1
    for domain in space.values():
        total *= len(values_of(domain) or [])
    return total


def sampled(space: Space, count: int, seed: int) -> list[Point]:
    """PointPlanner drawn evenly from a space."""
    draws = random.Random(seed)  # noqa: S311
    points: list[Point] = []
    for _ in range(count):
        point: Point = {}
        for key, domain in space.items():
            if applies(domain, point):
                point[key] = _drawn(domain, draws)
        points.append(point)
    return points


def _drawn(domain: Choice | Uniform | LogUniform | Integer, draws: random.Random) -> Any:
    values = values_of(domain)
    if values is not None:
        return draws.choice(values)
    assert isinstance(domain, Uniform | LogUniform)
    if isinstance(domain, LogUniform):
        return domain.low * (domain.high / domain.low) ** draws.random()
    return draws.uniform(domain.low, domain.high)


def describe_plan(plan: SweepPlan) -> list[str]:
    """The plan in words."""
    sweep = plan.points.sweep
    said = [f"{sweep.name}: {sweep.question or sweep.description}".rstrip(": ")]
    goals = ", ".join(f"{goal.name} ({goal.direction})" for goal in sweep.metrics)
    said.append(
        f"Search: {sweep.algorithm.kind} for {goals}; scheduler: {sweep.scheduler.kind}; "
        f"seeds {', '.join(map(str, plan.points.base.seeds))}."
    )
    if sweep.is_population:
        said.append(_population(sweep.scheduler.population))
    for arm in plan.arms:
        said += _arm_sentences(arm)
    said += _effort(plan)
    said.append(
        f"In all {len(plan.runs)} trainings{' at most' if _early(plan) else ''}, {plan.finished} "
        f"of them finished already; {plan.flops:.3g} executed FLOPs, about "
        f"{duration(plan.seconds)} of run time one after the other."
    )
    if plan.shared_flops:
        said.append(
            "A first stage is trained once for all trials with the same one, and charged to each "
            f"of them in full (matching.stage1): {plan.shared_flops:.3g} FLOPs are not repeated."
        )
    return said


def _arm_sentences(arm: ArmPlan) -> list[str]:
    name = f"arm {arm.arm}" if arm.arm else "space"
    keys = ", ".join(key.rsplit(".", 1)[-1] for key in arm.space)
    only = all(is_inference(key) for key in arm.space)
    kind = " (finished models are measured, none is trained for it)" if only else ""
    of = f" of {SAMPLE} drawn" if arm.sampled else ""
    trials = f", {arm.trials} trials" if arm.trials is not None else ""
    said = [f"  {name}: {keys}{kind}: {len(arm.candidates)}{of} points are possible{trials}."]
    for reason, count in arm.excluded.most_common():
        said.append(f"    excluded: {count} ({reason})")
    return said


def _population(settings: PopulationSpec) -> str:
    borders = ", ".join(
        f"{generation_start(g, settings):.0%}" for g in range(1, settings.generations)
    )
    return (
        f"Population: {settings.members} members; at {borders} of their steps the worst "
        f"{settings.quantile:.0%} go on from one of the best {settings.quantile:.0%}, at its "
        f"learning rate times 1/{settings.perturbation:g} to {settings.perturbation:g}. In all "
        "that costs what as many whole runs do."
    )


def _early(plan: SweepPlan) -> bool:
    return plan.points.sweep.scheduler.kind not in ("none", "pbt")


def _effort(plan: SweepPlan) -> list[str]:
    """Whether the arms get the same."""
    if len(plan.arms) < 2 or plan.points.sweep.algorithm.kind == "grid":
        return []
    budget = plan.points.sweep.budget.model_dump(exclude_none=True)
    told = ", ".join(f"{key} {value:g}" for key, value in budget.items())
    if plan.points.sweep.is_population:
        told = "a population of its own"
    spaces = {tuple(sorted(arm.space)) for arm in plan.arms}
    same = "over the same keys" if len(spaces) == 1 else "over keys of its own"
    return [f"Equal effort: each of the {len(plan.arms)} arms has a search of its own {same} with "
            f"{told}, the same algorithm and the same seeds."]  # fmt: skip
