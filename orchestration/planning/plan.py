"""From a study to its runs: sizes, steps and FLOPs of each, before anything starts (torch-free)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from cola.data.fingerprint import source_fingerprint
from cola.data.hub import with_absolute_folders
from cola.data.tokenizer import vocab_size_of
from cola.errors import SpecError
from cola.families.interface.specs import FamilySettings, ModelSpec, ObjectiveSpec
from cola.families.registry import definition_of
from cola.spec.design import Rung, TrajectoryDesign
from cola.spec.resources import ResourcesSpec
from cola.spec.training import StageTraining, TrainingSpec
from cola.study import RunSpec, StagePlan, StudySpec
from cola.study.schedule import warmup_steps
from orchestration.planning.accelerators import accelerator_of
from orchestration.planning.latent_rules import latent_values, settings_at_rung
from orchestration.planning.memory import MemoryPlan, memory_by_stage

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlannedRun:
    """A resolved run with its sizes, resources and memory.

    `variant` names the entry of the study's families that the run belongs to, and so its curve; it
    is the family's name where the study has no variants of it. `memory` has one entry a ZeRO
    stage, and is empty where the device's memory is not known. `latents` are those that rules set.
    """

    spec: RunSpec
    variant: str
    rung: int
    name: str  # for people: nothing parses it
    core_parameters: int
    embedding_parameters: int
    total_parameters: int
    resources: ResourcesSpec  # of a run of this size
    micro_batch_sequences: int | None
    memory: tuple[MemoryPlan, ...] = ()
    latents: Mapping[str, float] = field(default_factory=dict)
    retry: int = 0  # how often its learning rate was lowered after it had diverged

    @cached_property
    def key(self) -> str:
        """The run's identity; cached, as hashing a specification takes a millisecond."""
        return self.spec.run_key

    @property
    def tokens(self) -> int:
        """Training tokens over all stages."""
        return self.spec.steps * self.spec.tokens_per_step

    def train_flops(self, convention: str) -> float:
        """Training FLOPs in the named convention (executed or nominal)."""
        return self.spec.train_flops_at(
            self.spec.steps, "nominal" if convention == "nominal" else "executed"
        )

    @property
    def budget_deviation_steps(self) -> float:
        """(budget - FLOPs spent) in units of the last stage's step; in [0, 1)."""
        per_step = self.spec.train_flops_at(
            self.spec.steps, self.spec.compute
        ) - self.spec.train_flops_at(self.spec.steps - 1, self.spec.compute)
        return (self.spec.budget - self.train_flops(self.spec.compute)) / per_step


def plan_study(study: StudySpec, fingerprint: str | None = None) -> list[PlannedRun]:
    """Every run of the study, resolved: rungs x families x seeds, in that nesting.

    `fingerprint` is the corpus' one, where it is known already.

    Raises:
        SpecError: a corpus that is missing, a size that cannot be built, a budget below one step, a
            run that fits no device, two variants that are the same.
    """
    fingerprint = fingerprint or source_fingerprint(study.data)
    runs = [
        plan_run(study, variant, index, rung=rung, seed=seed, fingerprint=fingerprint)
        for index, rung in enumerate(study.rungs())
        for variant in study.families
        for seed in study.seeds
    ]
    check_variants_differ(runs)
    log.debug("%s: %d runs planned", study.name, len(runs))
    return runs


def check_variants_differ(runs: Sequence[PlannedRun]) -> None:
    """Refuse variants that are the same run at some rung: two curves would show it.

    Raises:
        SpecError: naming both variants.
    """
    first: dict[str, PlannedRun] = {}
    for run in runs:
        other = first.setdefault(run.key, run)
        if other.variant != run.variant:
            raise SpecError(
                f"families.{run.variant}: is the same as families.{other.variant} at rung "
                f"{run.rung} (one run would be both); give it other settings or remove it"
            )


def plan_run(
    study: StudySpec, variant: str, index: int, *, rung: Rung, seed: int, fingerprint: str
) -> PlannedRun:
    """One run of rung `index`: the variant's matched size, the steps that the budget pays for.

    Raises:
        SpecError: a size that cannot be built, a budget below one step, too little memory.
    """
    at_rung = settings_at_rung(study, variant, rung)
    settings = at_rung.settings
    model = model_at_rung(study, settings, index, rung=rung)
    counts = definition_of(settings.family).parameter_counts(model)
    training = training_at_rung(study, variant, rung, core=counts.core)
    stages = stages_within_budget(
        study, training, model, objective=settings.objective, index=index, budget=rung.budget
    )
    if isinstance(study.design, TrajectoryDesign):
        training = with_common_warmup(study, training, model, objective=settings.objective)
    spec = RunSpec(
        model=model,
        objective=settings.objective,
        data=with_absolute_folders(study.data),
        data_fingerprint=fingerprint,
        training=training,
        evaluation=study.evaluation,
        stages=stages,
        budget=rung.budget,
        compute=study.matching.compute,
        seed=seed,
    )
    # The rung's target is the size, so that all families get the same.
    resources = study.resources.at(rung.core_parameters or counts.core)
    memory = memory_by_stage(spec, resources)
    check_memory(spec, resources, memory, index=index)
    micro = resources.micro_batch_sequences
    return PlannedRun(
        spec=spec,
        variant=variant,
        rung=index,
        name=run_name(study, variant, rung, core=counts.core, seed=seed),
        core_parameters=counts.core,
        embedding_parameters=counts.embedding,
        total_parameters=counts.total,
        resources=resources,
        micro_batch_sequences=(
            memory[resources.zero_stage].micro_batch_sequences if memory else micro
        ),
        memory=memory,
        latents=latent_values(at_rung),
    )


def run_name(study: StudySpec, variant: str, rung: Rung, *, core: int, seed: int) -> str:
    """Variant, budget and seed; the size too where a budget has several."""
    several = sum(other.budget == rung.budget for other in study.rungs()) > 1
    size = f"-{core:.3g}" if several else ""
    return f"{variant}-{rung.budget:.3g}{size}-seed{seed}"


def model_at_rung(
    study: StudySpec, settings: FamilySettings, index: int, *, rung: Rung
) -> ModelSpec:
    """The model specification at rung `index` of an entry with these settings.

    Raises:
        SpecError: with the nearest size that can be built.
    """
    vocab_size = vocab_size_of(study.data)
    family = definition_of(settings.family)
    if rung.target is None:
        return family.paper_row(vocab_size, settings)
    size = family.size_by_total if study.matching.parameters == "total" else family.size
    try:
        return size(rung.target, vocab_size, settings)
    except SpecError as error:
        path = rung_key(study, index, f"{study.matching.parameters}_parameters")
        raise SpecError(f"{path}: {error}") from None


def rung_key(study: StudySpec, index: int, key: str) -> str:
    """Path of the key that set a rung's budget or size."""
    return f"ladder.{index}.{key}" if study.ladder else f"design (rung {index}, {key})"


def training_at_rung(study: StudySpec, variant: str, rung: Rung, *, core: int) -> TrainingSpec:
    """The entry's training settings with its rules applied at this size and budget.

    The rung's target counts as the size, so that all families get the same settings; in a
    trajectory the largest budget counts, so that all of its points do.
    """
    training, rules = study.training_of(variant), study.rules_of(variant)
    size = rung.target or core
    if isinstance(study.design, TrajectoryDesign):
        rung = study.rungs()[-1]
    changes: dict[str, object] = {}
    if rules.learning_rate is not None:
        rate = rules.learning_rate.value(size, rung.budget)
        changes["optimizer"] = training.optimizer.model_copy(update={"learning_rate": rate})
    if rules.stage_learning_rates:
        stages = dict(training.stages)
        for name, rule in rules.stage_learning_rates.items():
            rate = rule.value(size, rung.budget)
            own = stages.get(name, StageTraining())
            stages[name] = own.model_copy(update={"learning_rate": rate})
        changes["stages"] = stages
    if rules.batch_tokens is not None:
        sequences = rules.batch_tokens.value(size, rung.budget) / study.data.sequence_length
        multiple = rules.batch_multiple
        changes["batch_sequences"] = max(1, round(sequences / multiple)) * multiple
    return training.model_copy(update=changes)


def with_common_warmup(
    study: StudySpec, training: TrainingSpec, model: ModelSpec, *, objective: ObjectiveSpec
) -> TrainingSpec:
    """The settings with the warm-up steps of the smallest budget, which all points share."""
    smallest = study.rungs()[0].budget
    stages = stages_within_budget(
        study, training, model, objective=objective, index=0, budget=smallest
    )
    last = stages[-1]
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


def check_memory(
    spec: RunSpec, resources: ResourcesSpec, plans: Sequence[MemoryPlan], *, index: int
) -> None:
    """Refuse a run of rung `index` that does not fit its device.

    Raises:
        SpecError: with what is missing, and the nearest ZeRO stage that fits.
    """
    device, stage = accelerator_of(resources).memory, resources.zero_stage
    if device is None or plans[stage].fits:
        return
    shortage = (
        f"resources.zero_stage={stage}: {spec.family} at rung {index} needs "
        f"{plans[stage].total / 1e9:.0f} GB on each worker, with micro-batches of "
        f"{plans[stage].micro_batch_sequences} sequences; the device has {device / 1e9:.0f} GB"
    )
    fitting = [plan.zero_stage for plan in plans if plan.fits]
    if fitting:
        raise SpecError(f"{shortage}. It fits at resources.zero_stage={fitting[0]}")
    raise SpecError(
        f"{shortage}. It fits at no stage: raise resources.workers, shorten "
        "data.sequence_length, or choose a smaller size or an accelerator with more memory"
    )


def stages_within_budget(
    study: StudySpec,
    training: TrainingSpec,
    model: ModelSpec,
    *,
    objective: ObjectiveSpec,
    index: int,
    budget: float,
) -> list[StagePlan]:
    """The most steps of each stage that the budget (FLOPs) pays for; the last takes what is left.

    In a trajectory the stages before the last are those of the smallest budget.

    Raises:
        SpecError: when the budget is below one step of every stage.
    """
    length = study.data.sequence_length
    tokens_per_step = training.batch_sequences * length
    shares = objective.stage_shares()
    trajectory = isinstance(study.design, TrajectoryDesign)
    first_budget = study.rungs()[0].budget if trajectory else budget
    points = len(study.rungs()) if study.matching.stage1 == "amortised" else 1
    spent, plans, needed = 0.0, [], 0.0
    cost = definition_of(model.family).train_flops_per_token
    for number, (stage, share) in enumerate(shares.items(), start=1):
        costs = {
            convention: cost(model, objective, length, stage=stage, convention=convention).total
            for convention in ("executed", "nominal")
        }
        per_step = costs[study.matching.compute] * tokens_per_step
        last = number == len(shares)
        charged = 1.0 if last else 1.0 / points
        affordable = (budget - spent if last else share * first_budget) / per_step
        needed = max(needed, per_step / share)
        # A relative slack of 1e-12 keeps a budget that is an exact multiple of the step.
        steps = int(affordable * (1 + 1e-12))
        spent += steps * per_step * charged
        plans.append((stage, steps, charged, costs))
    if any(steps < 1 for _, steps, _, _ in plans):
        raise SpecError(
            f"{rung_key(study, index, 'budget')}={budget:.3g} is below one step of {model.family} "
            f"({tokens_per_step} tokens a step); needs at least {needed:.3g} FLOPs "
            f"({study.matching.compute}) or a smaller training.batch_sequences or size"
        )
    return [
        StagePlan(
            name=stage,
            steps=steps,
            train_flops_per_token_executed=costs["executed"],
            train_flops_per_token_nominal=costs["nominal"],
            charged=charged,
        )
        for stage, steps, charged, costs in plans
    ]
