"""From a study to its runs: sizes, steps and FLOPs of each, before anything starts (torch-free)."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import itemgetter

from cola.data.fingerprint import source_fingerprint
from cola.data.hub import with_absolute_folders
from cola.data.tokenizer import vocab_size_of
from cola.errors import SpecError
from cola.families.interface.specs import FamilySettings, ModelSpec
from cola.families.registry import definition_of
from cola.held_out_sets.texts import fingerprints_of
from cola.spec.design import Unit
from cola.spec.resources import ResourcesSpec
from cola.spec.training import StageTraining, TrainingSpec
from cola.study import RunSpec, StudySpec
from cola.study.chosen_sizes import ladders_of
from cola.study.designs import TrajectoryDesign
from cola.study.latent_rules import latent_values, settings_at_rung
from cola.study.study import check_batch
from cola.tuning.checks import why_other_corpus
from orchestration.planning.accelerators import accelerator_of
from orchestration.planning.memory import MemoryPlan, device_share, memory_by_stage
from orchestration.planning.stages import (
    Place,
    Stage,
    expected_flops,
    late_stages,
    planned_stages,
    stages_of,
    with_common_warmup,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlannedRun:
    """A resolved run with its sizes, resources and memory.

    `variant` names the entry of the study's families that the run belongs to, and so its curve; it
    is the family's name where the study has no variants of it. `rung` is the place in the entry's
    ladder, which counts `amount` in `unit`. `memory` has one entry a ZeRO stage, and is empty where
    the device's memory is not known. `latents` are those that rules set.
    """

    spec: RunSpec
    variant: str
    rung: int
    name: str  # for people: nothing parses it
    core_parameters: int
    embedding_parameters: int
    head_parameters: int
    total_parameters: int
    resources: ResourcesSpec  # of a run of this size
    micro_batch_sequences: int | None
    amount: float
    unit: Unit
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

    @cached_property
    def prior_share(self) -> float | None:
        """Share of the run's executed FLOPs that trains the prior of latents; None where the family
        has no such part."""
        spec, family = self.spec, definition_of(self.spec.family)
        prior = 0.0
        for stage in spec.stages:
            per_token = family.prior_flops_per_token(
                spec.model, spec.objective, spec.data.sequence_length, stage=stage.name
            )
            if per_token is None:
                return None
            prior += stage.steps * spec.tokens_per_step * stage.charged * per_token
        return prior / self.train_flops("executed")

    @property
    def budget_deviation_steps(self) -> float:
        """(budget - FLOPs spent) in units of the last stage's step; in [0, 1)."""
        per_step = self.spec.train_flops_at(
            self.spec.steps, self.spec.compute
        ) - self.spec.train_flops_at(self.spec.steps - 1, self.spec.compute)
        return (self.spec.budget - self.train_flops(self.spec.compute)) / per_step


def plan_study(study: StudySpec, fingerprint: str | None = None) -> list[PlannedRun]:
    """Every run of the study, resolved: rungs x entries x seeds, in that nesting.

    `fingerprint` is the corpus' one, where it is known already.

    Raises:
        SpecError: a corpus that is missing, a size that cannot be built, a budget below one step or
            too small for its design, a run that fits no device, two variants that are the same, a
            schedule that ends before a run, a tuning record of another corpus.
    """
    fingerprint = fingerprint or source_fingerprint(study.data)
    texts = fingerprints_of(study.evaluation.held_out)
    other = None if study.tuning is None else why_other_corpus(study.tuning, fingerprint)
    if other is not None:
        raise SpecError(other)
    ladders = ladders_of(study)
    runs = [
        plan_run(
            Place(study, variant, index, rungs[index]),
            seed=seed,
            fingerprint=fingerprint,
            held_out=texts,
        )
        for index in sorted(set().union(*ladders.values()))
        for variant, rungs in ladders.items()
        if index in rungs
        for seed in study.seeds
    ]
    check_variants_differ(runs)
    check_horizons(study, runs)
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


def check_horizons(study: StudySpec, runs: Sequence[PlannedRun]) -> None:
    """Refuse a schedule that ends before a stage that follows it.

    Raises:
        SpecError: naming the key, and the steps that it must have at least for every run.
    """
    late = [
        (key, end, stage, run.name)
        for run in runs
        for key, end, stage in late_stages(study, run.variant, run.spec.training, run.spec.stages)
    ]
    if late:
        first = late[0][0]
        key, end, stage, name = max((item for item in late if item[0] == first), key=itemgetter(1))
        raise SpecError(
            f"{key}: ends before stage {stage} of {name} does, which is at step {end} of the run; "
            f"give at least {end}, or null for a schedule that ends with the stage"
        )


def plan_run(
    place: Place, *, seed: int, fingerprint: str, held_out: Mapping[str, str]
) -> PlannedRun:
    """One run of an entry's rung: its matched size, the steps that the rung pays for.

    `held_out` has the fingerprints of the texts in `evaluation.held_out`.

    Raises:
        SpecError: a size that cannot be built, a rung below one step, too little memory.
    """
    study, rung = place.study, place.rung
    at_rung = settings_at_rung(study, place.variant, rung)
    settings = at_rung.settings
    model = model_at_rung(place, settings)
    counts = definition_of(settings.family).parameter_counts(model)
    costs = stages_of(model, settings.objective, study.data.sequence_length)
    training = training_at_rung(place, costs, core=counts.core)
    stages = planned_stages(place, training, costs)
    if isinstance(study.design, TrajectoryDesign):
        training = with_common_warmup(place, training, costs)
    spec = RunSpec(
        model=model,
        objective=settings.objective,
        data=with_absolute_folders(study.data),
        data_fingerprint=fingerprint,
        held_out_fingerprints=dict(held_out),
        training=training,
        evaluation=study.evaluation,
        stages=stages,
        budget=expected_flops(place, training, costs),
        compute=study.matching.convention,
        seed=seed,
    )
    if rung.unit != "flops":
        whole = spec.train_flops_at(spec.steps, spec.compute)
        spec = spec.model_copy(update={"budget": whole})
    # The rung's target is the size, so that all families get the same.
    resources = study.resources.at(rung.core_parameters or counts.core)
    try:
        check_batch(training, resources)
    except ValueError as error:  # of a batch that a rule gives
        raise SpecError(f"{place.key('budget')} of {place.variant}: {error}") from None
    check_checkpointing(spec, resources)
    memory = memory_by_stage(spec, resources)
    check_memory(spec, resources, memory, index=place.index)
    micro = resources.micro_batch_sequences
    if memory and memory[resources.zero_stage].checkpoints_activations:
        resources = resources.model_copy(update={"activation_checkpointing": "always"})
    return PlannedRun(
        spec=spec,
        variant=place.variant,
        rung=place.index,
        name=run_name(place, core=counts.core, seed=seed),
        core_parameters=counts.core,
        embedding_parameters=counts.embedding,
        head_parameters=counts.head,
        total_parameters=counts.total,
        resources=resources,
        micro_batch_sequences=(
            memory[resources.zero_stage].micro_batch_sequences if memory else micro
        ),
        memory=memory,
        unit=rung.unit,
        amount=rung.amount,
        latents=latent_values(at_rung),
    )


def run_name(place: Place, *, core: int, seed: int) -> str:
    """Variant, budget and seed; the size too where a budget has several."""
    rung, rungs = place.rung, place.study.rungs_of(place.variant)
    several = sum(other.amount == rung.amount for other in rungs) > 1
    size = f"-{core:.3g}" if several else ""
    amount = {
        "flops": f"{rung.amount:.3g}",
        "steps": f"{rung.amount:.0f}steps",
        "tokens": f"{rung.amount:.3g}tokens",
    }[rung.unit]
    return f"{place.variant}-{amount}{size}-seed{seed}"


def model_at_rung(place: Place, settings: FamilySettings) -> ModelSpec:
    """The model specification at a rung of an entry with these settings.

    Raises:
        SpecError: with the nearest size that can be built.
    """
    study, rung = place.study, place.rung
    vocab_size = vocab_size_of(study.data)
    family = definition_of(settings.family)
    if rung.target is None:
        return family.paper_row(vocab_size, settings)
    size = family.size_by_total if study.matching.parameters == "total" else family.size
    try:
        return size(rung.target, vocab_size, settings)
    except SpecError as error:
        path = place.key(f"{study.matching.parameters}_parameters")
        raise SpecError(f"{path}: {error}") from None


def training_at_rung(place: Place, costs: Sequence[Stage], *, core: int) -> TrainingSpec:
    """The entry's training settings with its rules applied at this size and budget.

    The rung's target counts as the size, so that all families get the same settings; in a
    trajectory the largest budget counts, so that all of its points do. Where rungs count steps or
    tokens, the budget is the FLOPs that follow from them.
    """
    study = place.study
    training, rules = study.training_of(place.variant), study.rules_of(place.variant)
    size, budget = place.rung.target or core, expected_flops(place, training, costs)
    if isinstance(study.design, TrajectoryDesign):
        budget = study.rungs_of(place.variant)[-1].amount
    changes: dict[str, object] = {}
    if rules.learning_rate is not None:
        rate = rules.learning_rate.value(size, budget)
        changes["optimizer"] = training.optimizer.model_copy(update={"learning_rate": rate})
    if rules.stage_learning_rates:
        stages = dict(training.stages)
        for name, rule in rules.stage_learning_rates.items():
            rate = rule.value(size, budget)
            own = stages.get(name, StageTraining())
            stages[name] = own.model_copy(update={"learning_rate": rate})
        changes["stages"] = stages
    if rules.batch_tokens is not None:
        sequences = rules.batch_tokens.value(size, budget) / study.data.sequence_length
        multiple = rules.batch_multiple
        changes["batch_sequences"] = max(1, round(sequences / multiple)) * multiple
    return training.model_copy(update=changes)


def check_checkpointing(spec: RunSpec, resources: ResourcesSpec) -> None:
    """Refuse activation checkpointing of a family whose networks cannot.

    Raises:
        SpecError: naming the family.
    """
    family, precision = definition_of(spec.family), spec.training.precision
    if not resources.checkpoints_activations:
        return
    if family.checkpointed_bytes(spec.model, spec.objective, precision) is None:
        raise SpecError(
            f"resources.activation_checkpointing=always: the networks of {spec.family} do not "
            "compute their blocks again; give auto or never"
        )


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
    share = device_share(resources)
    has = f"the device has {device / 1e9:.0f} GB"
    if share < 1:
        has += f", of which gpus_per_worker={share:g} gives it {share * device / 1e9:.0f} GB"
    checkpointed = " and activation checkpointing" if plans[stage].checkpoints_activations else ""
    shortage = (
        f"resources.zero_stage={stage}: {spec.family} at rung {index} needs "
        f"{plans[stage].total / 1e9:.0f} GB on each worker, with micro-batches of "
        f"{plans[stage].micro_batch_sequences} sequences{checkpointed}; {has}"
    )
    other = resources.model_copy(update={"activation_checkpointing": "auto"})
    if memory_by_stage(spec, other)[stage].fits:
        raise SpecError(f"{shortage}. It fits with resources.activation_checkpointing=auto")
    fitting = [plan.zero_stage for plan in plans if plan.fits]
    if fitting:
        raise SpecError(f"{shortage}. It fits at resources.zero_stage={fitting[0]}")
    raise SpecError(
        f"{shortage}. It fits at no stage: raise resources.workers, shorten "
        "data.sequence_length, or choose a smaller size or an accelerator with more memory"
    )
