"""From a study to its runs: sizes, steps and FLOPs of each, before anything starts (torch-free)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from cola.data.fingerprint import source_fingerprint
from cola.data.tokenizer import vocab_size_of
from cola.errors import SpecError
from cola.families.interface.specs import ModelSpec, ObjectiveSpec
from cola.families.registry import definition_of
from cola.spec.design import Rung, TrajectoryDesign
from cola.spec.resources import ResourcesSpec
from cola.study import RunSpec, StagePlan, StudySpec
from cola.study.run import TrainingSpec
from cola.study.schedule import warmup_steps
from orchestration.planning.accelerators import ACCELERATORS, accelerator_name
from orchestration.planning.memory import MemoryPlan, memory_plan


@dataclass(frozen=True)
class PlannedRun:
    """A resolved run and what the plan table says of it.

    `variant` is the study's entry that it belongs to: a curve, whose name is that of the family
    where the study has no variants of it. `memory` has one entry a ZeRO stage, and is empty where
    the device's memory is not known.
    """

    spec: RunSpec
    variant: str
    rung: int
    name: str  # for people to read; nothing parses it
    core_parameters: int
    embedding_parameters: int
    total_parameters: int
    resources: ResourcesSpec  # of a run of this size
    micro_batch_sequences: int | None
    memory: tuple[MemoryPlan, ...] = ()
    retry: int = 0  # how often its learning rate was lowered after it had diverged

    @cached_property
    def key(self) -> str:
        """The run's identity: hashing a specification takes a millisecond."""
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
    """Resolve every run of the study: rungs x families x seeds, in that nesting.

    `fingerprint` is that of the study's corpus, where it is known already.

    Raises:
        SpecError: a corpus that is missing, a size that cannot be built, a budget below one step, a
            run that fits no device, two variants that are the same.
    """
    fingerprint = fingerprint or source_fingerprint(study.data)
    runs = [
        plan_run(study, variant, index, rung, seed, fingerprint)
        for index, rung in enumerate(study.rungs())
        for variant in study.families
        for seed in study.seeds
    ]
    check_variants_differ(runs)
    return runs


def check_variants_differ(runs: Sequence[PlannedRun]) -> None:
    """Refuse two curves that would share a run: they would say the same twice.

    Raises:
        SpecError: naming both.
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
    study: StudySpec, variant: str, index: int, rung: Rung, seed: int, fingerprint: str
) -> PlannedRun:
    """One run: the variant's matched size, and the steps that the budget pays for."""
    settings = study.families[variant]
    model = sized(study, variant, index, rung)
    counts = definition_of(settings.family).parameter_counts(model)
    training = ruled(study, rung, counts.core)
    stages = stages_within_budget(study, training, model, settings.objective, index, rung.budget)
    if isinstance(study.design, TrajectoryDesign):
        training = with_common_warmup(study, training, model, settings.objective)
    spec = RunSpec(
        model=model,
        objective=settings.objective,
        data=study.data,
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
    memory = memory_plans(resources, spec, index)
    chosen = next((plan for plan in memory if plan.zero_stage == resources.zero_stage), None)
    micro = resources.micro_batch_sequences
    return PlannedRun(
        spec,
        variant,
        index,
        run_name(study, variant, rung, counts.core, seed),
        counts.core,
        counts.embedding,
        counts.total,
        resources,
        chosen.micro_batch_sequences if chosen is not None else micro,
        memory,
    )


def run_name(study: StudySpec, variant: str, rung: Rung, core: int, seed: int) -> str:
    """Variant, budget and seed; the size too where a budget has several."""
    several = sum(other.budget == rung.budget for other in study.rungs()) > 1
    size = f"-{core:.3g}" if several else ""
    return f"{variant}-{rung.budget:.3g}{size}-seed{seed}"


def sized(study: StudySpec, variant: str, index: int, rung: Rung) -> ModelSpec:
    """The variant's configuration at a rung.

    Raises:
        SpecError: with the nearest size that can be built.
    """
    settings, vocab_size = study.families[variant], vocab_size_of(study.data)
    family = definition_of(settings.family)
    if rung.target is None:
        return family.paper_row(vocab_size, settings)
    size = family.size_by_total if study.matching.parameters == "total" else family.size
    try:
        return size(rung.target, vocab_size, settings)
    except SpecError as error:
        where = rung_key(study, index, f"{study.matching.parameters}_parameters")
        raise SpecError(f"{where}: {error}") from None


def rung_key(study: StudySpec, index: int, key: str) -> str:
    """Path of what set a rung's budget or size."""
    return f"ladder.{index}.{key}" if study.ladder else f"design (rung {index}, {key})"


def ruled(study: StudySpec, rung: Rung, core: int) -> TrainingSpec:
    """The study's training settings with its rules applied at this size and budget.

    The rung's target counts as the size, so that all families get the same; of a trajectory the
    largest budget, so that all points do.
    """
    training, rules = study.training, study.rules
    size = rung.target or core
    if isinstance(study.design, TrajectoryDesign):
        rung = study.rungs()[-1]
    changes: dict[str, object] = {}
    if rules.learning_rate is not None:
        rate = rules.learning_rate.value(size, rung.budget)
        changes["optimizer"] = training.optimizer.model_copy(update={"learning_rate": rate})
    if rules.batch_tokens is not None:
        sequences = rules.batch_tokens.value(size, rung.budget) / study.data.sequence_length
        multiple = rules.batch_multiple
        changes["batch_sequences"] = max(1, round(sequences / multiple)) * multiple
    return training.model_copy(update=changes)


def with_common_warmup(
    study: StudySpec, training: TrainingSpec, model: ModelSpec, objective: ObjectiveSpec
) -> TrainingSpec:
    """The smallest budget's warm-up, in steps, for every point of a trajectory."""
    smallest = study.rungs()[0].budget
    last = stages_within_budget(study, training, model, objective, 0, smallest)[-1]
    steps = warmup_steps(training.schedule, last.steps)
    schedule = training.schedule.model_copy(update={"warmup_steps": steps})
    return training.model_copy(update={"schedule": schedule})


def memory_plans(resources: ResourcesSpec, spec: RunSpec, index: int) -> tuple[MemoryPlan, ...]:
    """What every ZeRO stage takes of a worker's device, where its memory is known.

    Raises:
        SpecError: when the stage asked for does not fit, with the nearest that does.
    """
    device = ACCELERATORS[accelerator_name(resources)].memory
    if device is None:
        return ()
    fewest = resources.min_workers or resources.workers  # each then holds the most
    share = -(-spec.training.batch_sequences // fewest)
    plans = tuple(
        memory_plan(
            spec.model,
            spec.objective,
            spec.training.precision,
            spec.data.sequence_length,
            share,
            fewest,
            stage,
            device * (resources.gpus_per_worker or 1.0),
            resources.micro_batch_sequences,
        )
        for stage in range(4)
    )
    if not plans[resources.zero_stage].fits:
        raise SpecError(does_not_fit(spec, plans, resources.zero_stage, device, index))
    return plans


def does_not_fit(
    spec: RunSpec, plans: tuple[MemoryPlan, ...], stage: int, device: float, index: int
) -> str:
    """What is missing, and the nearest plan that works."""
    needed = plans[stage].total / 1e9
    said = (
        f"resources.zero_stage={stage}: {spec.family} at rung {index} needs {needed:.0f} GB on "
        f"each worker, with micro-batches of {plans[stage].micro_batch_sequences} sequences; "
        f"the device has {device / 1e9:.0f} GB"
    )
    fitting = [plan.zero_stage for plan in plans if plan.fits]
    if fitting:
        return f"{said}. It fits at resources.zero_stage={fitting[0]}"
    return (
        f"{said}. It fits at no stage: raise resources.workers, shorten data.sequence_length, or "
        "choose a smaller size or an accelerator with more memory"
    )


def stages_within_budget(
    study: StudySpec,
    training: TrainingSpec,
    model: ModelSpec,
    objective: ObjectiveSpec,
    index: int,
    budget: float,
) -> list[StagePlan]:
    """The most steps of each stage that the budget pays for; the last stage takes the rest.

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
    for position, (stage, share) in enumerate(shares.items()):
        costs = {
            convention: cost(model, objective, length, stage, convention).total
            for convention in ("executed", "nominal")
        }
        per_step = costs[study.matching.compute] * tokens_per_step
        last = position == len(shares) - 1
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
