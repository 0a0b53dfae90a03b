"""From what a rung pays for, FLOPs, steps or tokens, to the steps of each stage (torch-free)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cola.errors import SpecError
from cola.families.interface.specs import ModelSpec, ObjectiveSpec
from cola.families.registry import definition_of
from cola.spec.design import Convention, Rung
from cola.spec.training import TrainingSpec
from cola.study import StagePlan, StudySpec
from cola.study.designs import TrajectoryDesign
from cola.study.schedule import warmup_steps

# A relative slack that keeps an amount that is an exact multiple of the step.
SLACK = 1 + 1e-12


@dataclass(frozen=True)
class Stage:
    """A stage before its steps are known; FLOPs are a token's."""

    name: str
    share: float  # of the run's FLOPs, steps or tokens, as the rung counts
    executed: float
    nominal: float

    def flops(self, convention: Convention) -> float:
        """Training FLOPs of a token."""
        return self.nominal if convention == "nominal" else self.executed

    def plan(self, steps: int, charged: float = 1.0) -> StagePlan:
        """The stage with its steps."""
        return StagePlan(
            name=self.name,
            steps=steps,
            train_flops_per_token_executed=self.executed,
            train_flops_per_token_nominal=self.nominal,
            charged=charged,
        )


@dataclass(frozen=True)
class Place:
    """A rung of one entry of a study: what is planned, and what messages call it."""

    study: StudySpec
    variant: str
    index: int
    rung: Rung

    def key(self, key: str) -> str:
        """Path of the key that set the rung's amount or size."""
        if self.study.families[self.variant].ladder is not None:
            return f"families.{self.variant}.ladder.{self.index}.{key}"
        if self.study.ladder:
            return f"ladder.{self.index}.{key}"
        return f"design (rung {self.index}, {key})"

    def amount(self, key: str) -> str:
        """`key` with the entry's amount, and the factor in it."""
        factor = self.study.families[self.variant].budget_factor
        amount = f"{self.rung.amount:.3g}" if key == "budget" else f"{self.rung.amount:.0f}"
        if factor is None:
            return f"{self.key(key)}={amount}"
        times = f"families.{self.variant}.budget_factor={factor:g}"
        return f"{self.key(key)} times {times}, {amount},"


def stages_of(model: ModelSpec, objective: ObjectiveSpec, length: int) -> list[Stage]:
    """The family's stages with what a token of each costs, in order."""
    cost = definition_of(model.family).train_flops_per_token
    return [
        Stage(
            name,
            share,
            *(
                cost(model, objective, length, stage=name, convention=convention).total
                for convention in ("executed", "nominal")
            ),
        )
        for name, share in objective.stage_shares().items()
    ]


def expected_flops(place: Place, training: TrainingSpec, stages: Sequence[Stage]) -> float:
    """FLOPs of the rung, whose steps or tokens need not be whole: what rules depend on."""
    rung, matching = place.rung, place.study.matching
    if rung.unit == "flops":
        return rung.amount
    per_step = training.batch_sequences * place.study.data.sequence_length
    tokens = rung.amount * (per_step if rung.unit == "steps" else 1)
    return sum(stage.share * tokens * stage.flops(matching.convention) for stage in stages)


def planned_stages(
    place: Place, training: TrainingSpec, stages: Sequence[Stage]
) -> list[StagePlan]:
    """The steps of each stage that the rung pays for; the last stage takes what is left.

    Raises:
        SpecError: when the rung is below one step of every stage.
    """
    if place.rung.unit == "flops":
        return stages_within_budget(place, training, stages)
    key = "steps" if place.rung.unit == "steps" else "tokens"
    tokens_per_step = training.batch_sequences * place.study.data.sequence_length
    unit = 1 if key == "steps" else tokens_per_step
    total = int(place.rung.amount / unit * SLACK)
    steps = [int(total * stage.share * SLACK) for stage in stages[:-1]]
    steps.append(total - sum(steps))
    if min(steps) < 1:
        least = unit * math.ceil(1 / min(stage.share for stage in stages))
        raise SpecError(
            f"{place.amount(key)} is below one step of every stage of families.{place.variant} "
            f"({tokens_per_step} tokens a step); needs at least {least} {key}"
        )
    return [stage.plan(count) for stage, count in zip(stages, steps, strict=True)]


def stages_within_budget(
    place: Place, training: TrainingSpec, stages: Sequence[Stage]
) -> list[StagePlan]:
    """The most steps of each stage that the budget (FLOPs) pays for; the last takes what is left.

    In a trajectory the stages before the last are those of the smallest budget.

    Raises:
        SpecError: when the budget is below one step of every stage.
    """
    study, budget = place.study, place.rung.amount
    convention = study.matching.convention
    tokens_per_step = training.batch_sequences * study.data.sequence_length
    trajectory, points = isinstance(study.design, TrajectoryDesign), 1
    first_budget = study.rungs_of(place.variant)[0].amount if trajectory else budget
    if study.matching.stage1 == "amortised":
        points = len(study.rungs_of(place.variant))
    spent, planned, needed = 0.0, [], 0.0
    for number, stage in enumerate(stages, start=1):
        per_step = stage.flops(convention) * tokens_per_step
        last = number == len(stages)
        charged = 1.0 if last else 1.0 / points
        affordable = (budget - spent if last else stage.share * first_budget) / per_step
        needed = max(needed, per_step / stage.share)
        steps = int(affordable * SLACK)
        spent += steps * per_step * charged
        planned.append((stage, steps, charged))
    if any(steps < 1 for _, steps, _ in planned):
        raise SpecError(
            f"{place.amount('budget')} is below one step of {study.families[place.variant].family} "
            f"({tokens_per_step} tokens a step); needs at least {needed:.3g} FLOPs "
            f"({convention}) or a smaller training.batch_sequences or size"
        )
    return [stage.plan(steps, charged) for stage, steps, charged in planned]


def with_common_warmup(
    place: Place, training: TrainingSpec, stages: Sequence[Stage]
) -> TrainingSpec:
    """The settings with the warm-up steps of the smallest budget, which all points share."""
    smallest = place.study.rungs_of(place.variant)[0]
    first = Place(place.study, place.variant, 0, smallest)
    last = stages_within_budget(first, training, stages)[-1]
    steps = warmup_steps(training.of_stage(last.name).schedule, last.steps)
    changes: dict[str, object] = {
        "schedule": training.schedule.model_copy(update={"warmup_steps": steps})
    }
    own = training.stages.get(last.name)
    if own is not None and own.schedule is not None:
        schedule = own.schedule.model_copy(update={"warmup_steps": steps})
        changes["stages"] = training.stages | {
            last.name: own.model_copy(update={"schedule": schedule})
        }
    return training.model_copy(update=changes)


def late_stages(
    study: StudySpec, variant: str, training: TrainingSpec, planned: Sequence[StagePlan]
) -> Iterator[tuple[str, int, str]]:
    """Stages that end after the schedule that they follow: its key with its value, the step of the
    run at which the stage ends, the stage's name."""
    end = 0
    for stage in planned:
        end += stage.steps
        horizon = training.of_stage(stage.name).schedule.horizon_steps
        if horizon is not None and horizon < end:
            key = _horizon_key(study.families[variant].training, training, stage.name)
            where = f"families.{variant}.training" if key.startswith("own.") else "training"
            yield f"{where}.{key.partition('.')[2]}={horizon}", end, stage.name


def _horizon_key(own: TrainingSpec | None, training: TrainingSpec, stage: str) -> str:
    """Path of the key that set the horizon of a stage, below `own.` or `study.`."""
    staged = training.stages.get(stage)
    if staged is not None and staged.schedule is not None:
        mine = own.stages.get(stage) if own is not None else None
        given = mine is not None and mine.schedule is not None
        return f"{'own' if given else 'study'}.stages.{stage}.schedule.horizon_steps"
    given = own is not None and own.schedule.horizon_steps is not None
    return f"{'own' if given else 'study'}.schedule.horizon_steps"
