"""From a study to its runs: sizes, steps and FLOPs of each, before anything starts (torch-free)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cola.data.fingerprint import source_fingerprint
from cola.data.tokenizer import vocab_size_of
from cola.flops import parameter_counts, train_flops_per_token
from cola.sizing import size_model
from cola.spec import ModelSpec, Objective, RunSpec, SpecError, StagePlan, StudySpec
from cola.spec.study import ResourcesSpec, Rung
from orchestration.accelerators import estimated_seconds


@dataclass(frozen=True)
class PlannedRun:
    """A resolved run and what the plan table says of it."""

    spec: RunSpec
    rung: int
    core_parameters: int
    embedding_parameters: int
    total_parameters: int

    @property
    def name(self) -> str:
        """For people to read; nothing parses it."""
        return f"{self.spec.family}-{self.spec.budget:.3g}-seed{self.spec.seed}"

    @property
    def tokens(self) -> int:
        """Training tokens over all stages."""
        return self.spec.steps * self.spec.tokens_per_step

    def train_flops(self, convention: str) -> float:
        """Training FLOPs in the named convention (executed or nominal)."""
        return self.spec.train_flops_at(
            self.spec.steps, "nominal" if convention == "nominal" else "executed"
        )

    def estimated_seconds(self, resources: ResourcesSpec) -> float:
        """Expected wall time on the study's workers (an assumption, see `accelerators`)."""
        precision = self.spec.training.precision
        return estimated_seconds(self.train_flops("executed"), precision, resources)

    @property
    def budget_deviation_steps(self) -> float:
        """(budget - FLOPs spent) in units of the last stage's step; in [0, 1)."""
        per_step = self.spec.train_flops_at(
            self.spec.steps, self.spec.compute
        ) - self.spec.train_flops_at(self.spec.steps - 1, self.spec.compute)
        return (self.spec.budget - self.train_flops(self.spec.compute)) / per_step


def plan_study(study: StudySpec) -> list[PlannedRun]:
    """Resolve every run of the study: families x rungs x seeds, in that nesting.

    Raises:
        SpecError: a corpus that is missing, a size that cannot be built, a budget below one step.
    """
    fingerprint = source_fingerprint(study.data)
    return [
        plan_run(study, family, index, rung, seed, fingerprint)
        for index, rung in enumerate(study.ladder)
        for family in study.families.named()
        for seed in study.seeds
    ]


def plan_run(
    study: StudySpec, family: str, index: int, rung: Rung, seed: int, fingerprint: str
) -> PlannedRun:
    """One run: the family's matched size, and the steps that the budget pays for."""
    settings = study.families.named()[family]
    try:
        model = size_model(
            family,
            rung.core_parameters,
            vocab_size_of(study.data),
            **settings.sizing_options(),
        )
    except SpecError as error:
        raise SpecError(f"ladder.{index}.core_parameters: {error}") from None
    counts = parameter_counts(model)
    spec = RunSpec(
        model=model,
        objective=settings.objective,
        data=study.data,
        data_fingerprint=fingerprint,
        training=study.training,
        evaluation=study.evaluation,
        stages=stages_within_budget(study, model, settings.objective, index, rung.budget),
        budget=rung.budget,
        compute=study.matching.compute,
        seed=seed,
    )
    return PlannedRun(spec, index, counts.core, counts.embedding, counts.total)


def stages_within_budget(
    study: StudySpec, model: ModelSpec, objective: Objective, index: int, budget: float
) -> list[StagePlan]:
    """The most steps of each stage that the budget pays for; the last stage takes the rest.

    Raises:
        SpecError: when the budget is below one step of every stage.
    """
    length = study.data.sequence_length
    tokens_per_step = study.training.batch_sequences * length
    shares = objective.stage_shares()
    spent, plans, needed = 0.0, [], 0.0
    for position, (stage, share) in enumerate(shares.items()):
        costs = {
            convention: train_flops_per_token(model, objective, length, stage, convention).total
            for convention in ("executed", "nominal")
        }
        per_step = costs[study.matching.compute] * tokens_per_step
        last = position == len(shares) - 1
        affordable = (budget - spent if last else share * budget) / per_step
        needed = max(needed, per_step / share)
        # A relative slack of 1e-12 keeps a budget that is an exact multiple of the step.
        steps = int(affordable * (1 + 1e-12))
        spent += steps * per_step
        plans.append((stage, steps, costs))
    if any(steps < 1 for _, steps, _ in plans):
        raise SpecError(
            f"ladder.{index}.budget={budget:.3g} is below one step of {model.family} "
            f"({tokens_per_step} tokens a step); needs at least {needed:.3g} FLOPs "
            f"({study.matching.compute}) or a smaller training.batch_sequences or core_parameters"
        )
    return [
        StagePlan(
            name=stage,  # type: ignore[arg-type]
            steps=steps,
            train_flops_per_token_executed=costs["executed"],
            train_flops_per_token_nominal=costs["nominal"],
        )
        for stage, steps, costs in plans
    ]


def study_folder(study: StudySpec) -> Path:
    """Where the study's own files lie: `<output>/studies/<name>`."""
    return output_root(study) / "studies" / study.name


def output_root(study: StudySpec) -> Path:
    """Absolute output folder: workers change their directory, so nothing relative may leave."""
    return Path(study.output).expanduser().resolve()
