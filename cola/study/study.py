"""A study: families trained over a ladder of compute budgets under matched conditions."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    Field,
    PositiveFloat,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from cola.families.registry import definition_of
from cola.spec.base import Spec, check_distinct
from cola.spec.data import DataSpec
from cola.spec.design import Convention, RulesSpec, Rung, Unit
from cola.spec.locations import LocalPath, StorageAddress
from cola.spec.resources import CheckpointSpec, DivergenceRetry, ResourcesSpec, TrackingSpec
from cola.spec.training import TrainingSpec
from cola.study.designs import Design, TrajectoryDesign
from cola.study.families import Families, by_family, check_images, check_likelihood
from cola.study.ladders import (
    check_batch_rules,
    check_given,
    check_overlap,
    check_shared_amounts,
    check_units,
    shared_rungs,
)
from cola.study.rules import check_latent_rules, overlaid_rules, with_tuned_rules
from cola.study.run import EvaluationSpec, Seed
from cola.study.task_lengths import check_tasks_fit, with_fitting_lengths
from cola.tuning.checks import check_counts, check_data, check_entries, check_reach
from cola.tuning.record import EntryTuning, TuningRecord


class MatchingSpec(Spec):
    """What is held equal between families at a rung; the report says by how much the rest differs.

    Data order and optimiser are always the same; its rate and schedule may be an entry's own.
    """

    parameters: Literal["core", "total"] = Field(
        default="core",
        description="Count in which sizes agree: `core` (all but token embeddings and output "
        "head) or `total`.",
    )
    compute: Literal["executed", "nominal", "steps", "tokens"] = Field(
        default="executed",
        description="What a budget counts: training FLOPs as `executed` matrix products or by the "
        "literature's `nominal` 6 N D, or optimiser `steps` or `tokens`, from which FLOPs follow.",
    )
    flops: Convention | None = Field(
        default=None,
        description="Convention of the FLOPs that follow from steps or tokens, in plans, fits and "
        "rules; null: `executed`. For `compute: steps` or `tokens`.",
    )
    budgets: Literal["overlapping", "offset"] = Field(
        default="overlapping",
        description="Whether a ladder of an entry's own must overlap with the budgets of another "
        "entry, or may lie apart from all of them (`offset`), so that curves meet in losses alone.",
    )
    tuning: Literal["none", "equal_trials", "unequal"] = Field(
        default="none",
        description="The author's word on how the optimiser's settings were found: not tuned, "
        "tuned with equally many trials of each family, or otherwise. Plan and report print it as "
        "such where the study has no `tuning`, and nothing of it where it has.",
    )
    stage1: Literal["charged", "amortised"] = Field(
        default="charged",
        description="What a first stage that several runs of a trajectory share costs each: "
        "`charged` in full, or `amortised` in equal parts.",
    )

    @property
    def unit(self) -> Unit:
        """What rungs count."""
        return self.compute if self.compute in ("steps", "tokens") else "flops"

    @property
    def convention(self) -> Convention:
        """Convention in which FLOPs are counted."""
        return "nominal" if "nominal" in (self.compute, self.flops) else "executed"

    @model_validator(mode="after")
    def _one_convention(self) -> MatchingSpec:
        if self.unit == "flops" and self.flops is not None:
            raise ValueError(
                f"flops={self.flops}: budgets count {self.compute} FLOPs already (compute); it is "
                "for compute: steps or tokens"
            )
        return self


def check_batch(training: TrainingSpec, resources: ResourcesSpec) -> None:
    """Whether a global batch can be spread over a run's workers in its way.

    Raises:
        ValueError: with the keys that do not go together.
    """
    batch, workers = training.batch_sequences, resources.workers
    if batch < workers:
        raise ValueError(
            f"resources.workers={workers} must be at most training.batch_sequences={batch}: every "
            "worker takes at least one sequence"
        )
    micro, share = resources.micro_batch_sequences, -(-batch // workers)
    if micro is not None and micro > share:
        raise ValueError(
            f"resources.micro_batch_sequences={micro} must be at most the {share} sequences of "
            "a worker"
        )
    if training.ema_decay is not None and resources.zero_stage == 3:
        raise ValueError(
            "training.ema_decay needs whole weights on every worker, which "
            "resources.zero_stage=3 shards; use 0, 1 or 2"
        )
    if resources.compile and resources.zero_stage == 3:
        raise ValueError(
            "resources.compile does not go with resources.zero_stage=3, which gathers weights "
            "inside of the compiled pass; use 0, 1 or 2"
        )


class StudySpec(Spec):
    """What `cola plan` and `cola run` take."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$",
        description="Name of the study's folder, MLflow experiment and job: lower-case letters, "
        "digits, `.`, `_` and `-`, at most 64.",
    )
    description: str = Field(default="", description="A sentence for lists and the report.")
    families: Families = Field(
        description="Curves of the study by name: the name of a family, or any other with `family` "
        "in its settings (a variant); a list of names takes the defaults.",
        json_schema_extra=by_family,
    )
    ladder: list[Rung] = Field(
        default=[],
        description="Budgets with a size at each; in place of `design`. Entries of `families` may "
        "multiply it (`budget_factor`) or have one of their own (`ladder`).",
    )
    design: Design | None = Field(
        default=None,
        description="Budgets, from which the sizes at each follow; in place of `ladder`.",
    )
    rules: RulesSpec = Field(
        default=RulesSpec(),
        description="Settings that follow from size and budget, by the same rule for every family "
        "that has none of its own.",
    )
    tuning: TuningRecord | None = Field(
        default=None,
        description="Settings that a tuning sweep found for the entries, with the effort behind "
        "them: what its `tuned.yaml` holds, taken by `--set @tuned.yaml`. They win over the same "
        "settings of the study and its entries. Null: none.",
    )
    max_epochs: PositiveFloat = Field(
        default=4.0,
        description="A run that would read the corpus more often is refused: repeated data counts "
        "less and less from about four times on (arXiv 2305.16264).",
    )
    seeds: list[Seed] = Field(
        default=[66],
        min_length=1,
        description="Seeds of initial weights and training noise, each listed once; every family "
        "has a run with each of them at every rung.",
    )
    matching: MatchingSpec = Field(
        default=MatchingSpec(), description="What is held equal between families at a rung."
    )
    data: DataSpec = Field(
        default=DataSpec(), description="The text, and how it becomes token sequences."
    )
    training: TrainingSpec = Field(
        default=TrainingSpec(), description="Batch, precision, optimiser and schedule."
    )
    evaluation: EvaluationSpec = Field(
        default=EvaluationSpec(), description="What is measured during and after training."
    )
    resources: ResourcesSpec = Field(
        default=ResourcesSpec(),
        description="Where and how runs execute; without effect on results beyond rounding.",
    )
    checkpoint: CheckpointSpec = Field(
        default=CheckpointSpec(), description="How training state is saved."
    )
    retry_diverged: DivergenceRetry | None = Field(
        default=None,
        description="Train a diverged run again at a lower learning rate; null: it stays diverged.",
    )
    tracking: TrackingSpec = Field(
        default=TrackingSpec(), description="MLflow, and how often a run logs."
    )
    output: LocalPath = Field(
        default="outputs",
        description="Folder of studies, runs and caches, relative to the working directory; for a "
        "study on a cluster an absolute path on storage that every node sees.",
    )
    output_mirror: StorageAddress | None = Field(
        default=None,
        description="Address of an object store (`s3://bucket/prefix`, ...), or another folder, to "
        "which the results of runs are copied as they end, and from which a driver whose `output` "
        "lacks them takes them: for nodes without a shared file system. Null: none.",
    )

    def training_of(self, variant: str) -> TrainingSpec:
        """The entry's training settings: what was tuned, its own, else the study's."""
        tuned = self.tuned(variant)
        layers = [self.families[variant].training, tuned.training if tuned else None]
        if not any(layers):
            return self.training
        values = self.training.model_dump()
        for layer in filter(None, layers):
            values = overlaid(values, layer.model_dump(exclude_unset=True))
        return TrainingSpec.model_validate(values)

    def rules_of(self, variant: str) -> RulesSpec:
        """The entry's rules: what was tuned, its own, else the study's."""
        tuned = self.tuned(variant)
        rules = overlaid_rules(self.rules, self.families[variant].rules)
        return rules if tuned is None else with_tuned_rules(rules, tuned.rules)

    def tuned(self, variant: str) -> EntryTuning | None:
        """What a tuning sweep found for the entry; None where none did."""
        return None if self.tuning is None else self.tuning.families.get(variant)

    def rungs_of(self, variant: str) -> list[Rung]:
        """Budgets and sizes of an entry: its own ladder, or the study's times its factor."""
        own = self.families[variant]
        return own.ladder or shared_rungs(
            self.ladder, self.design, self.matching.parameters, factor=own.budget_factor
        )

    @field_validator("seeds")
    @classmethod
    def _are_distinct(cls, seeds: list[int]) -> list[int]:
        check_distinct(seeds)
        return seeds

    @model_validator(mode="after")
    def _one_design(self) -> StudySpec:
        check_given(self.families, self.ladder, self.design)
        trajectory = isinstance(self.design, TrajectoryDesign)
        if trajectory and self.training.schedule.kind != "wsd":
            raise ValueError(
                f"training.schedule.kind={self.training.schedule.kind!r}: a trajectory branches "
                "from the stable phase of a schedule; use 'wsd'"
            )
        if self.matching.stage1 == "amortised" and not trajectory:
            raise ValueError(
                "matching.stage1='amortised': no two runs of this study share a first stage; only "
                "those of design.kind='trajectory' do"
            )
        return self

    @model_validator(mode="after")
    def _rungs_are_what_is_matched(self) -> StudySpec:
        matching = self.matching
        check_units(self.families, self.ladder, self.design, compute=matching.compute)
        ladders = {variant: self.rungs_of(variant) for variant in self.families}
        other = "core" if matching.parameters == "total" else "total"
        if any(
            getattr(rung, f"{other}_parameters") is not None
            for rungs in ladders.values()
            for rung in rungs
        ):
            raise ValueError(
                f"{other}_parameters: the study matches {matching.parameters} parameters "
                f"(matching.parameters), so give sizes as {matching.parameters}_parameters"
            )
        if matching.unit != "flops":
            check_batch_rules(self.families, self.rules, matching.compute)
            check_shared_amounts(ladders, matching.compute)
        elif matching.budgets == "overlapping":
            check_overlap(self.families, ladders)
        return self

    @model_validator(mode="after")
    def _batch_divides(self) -> StudySpec:
        sizes = [0, *(item.core_parameters for item in self.resources.larger)]
        for variant in self.families:
            training = self.training_of(variant)
            for resources in map(self.resources.at, sizes):
                check_batch(training, resources)
        return self

    @model_validator(mode="after")
    def _stages_exist(self) -> StudySpec:
        for variant, settings in self.families.items():
            training, rules = settings.training, settings.rules
            keys = [f"training.stages.{name}" for name in (training.stages if training else ())]
            if rules is not None:
                keys += [f"rules.stage_learning_rates.{n}" for n in rules.stage_learning_rates]
            stages = list(settings.objective.stage_shares())
            for key in keys:
                if key.rpartition(".")[2] not in stages:
                    raise ValueError(
                        f"families.{variant}.{key}: {settings.family} has no such stage; it has "
                        f"{', '.join(stages)}"
                    )
        return self

    @model_validator(mode="after")
    def _tuning_is_of_this_study(self) -> StudySpec:
        if self.tuning is not None:
            if self.matching.unit != "flops":
                raise ValueError(
                    f"matching.compute={self.matching.compute!r}: the rules of `tuning` are over "
                    "FLOPs; use executed or nominal, or leave `tuning` out"
                )
            families = {name: item.family for name, item in self.families.items()}
            stages = {n: list(s.objective.stage_shares()) for n, s in self.families.items()}
            check_entries(self.tuning, families, stages)
            check_data(self.tuning, self.data)
            compute, parameters = self.matching.compute, self.matching.parameters
            check_counts(self.tuning, compute=compute, parameters=parameters)
            for name in self.tuning.families:
                rungs = self.rungs_of(name)
                budgets = [rung.amount for rung in rungs]
                sizes = [rung.target for rung in rungs if rung.target is not None]
                check_reach(self.tuning, name, budgets=budgets, sizes=sizes)
        return self

    @model_serializer(mode="wrap")
    def _without_empty_parts(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Studies without a record or a mirror are the same as before there were any."""
        values: dict[str, Any] = handler(self)
        for key in ("tuning", "output_mirror"):
            if getattr(self, key) is None:
                values.pop(key, None)
        return values

    @model_validator(mode="before")
    @classmethod
    def _lengths_fit(cls, values: Any) -> Any:
        return with_fitting_lengths(values)

    @model_validator(mode="after")
    def _latents_exist(self) -> StudySpec:
        check_latent_rules(self.families)
        ruled = any(self.rules_of(variant).latent is not None for variant in self.families)
        if ruled and self.matching.unit != "flops":
            raise ValueError(
                f"matching.compute={self.matching.compute!r}: rules.latent are over FLOPs, which "
                "follow from the latents themselves here; use executed or nominal, or give values"
            )
        return self

    @model_validator(mode="after")
    def _evaluation_fits(self) -> StudySpec:
        length = self.data.sequence_length
        wanted = self.evaluation.prompt_tokens + self.evaluation.generation.max_new_tokens
        if self.evaluation.samples and wanted > length:
            raise ValueError(
                f"evaluation.prompt_tokens + evaluation.generation.max_new_tokens = {wanted} "
                f"must fit data.sequence_length={length}"
            )
        check_tasks_fit(self.evaluation, length)
        if self.data.image_shape is not None and self.evaluation.context_lengths:
            raise ValueError(
                "evaluation.context_lengths: is for text alone, and data.corpus has a pair with an "
                "image in each sequence; leave it out"
            )
        for key in self.evaluation.likelihoods:
            check_likelihood(self.families, self.evaluation.likelihood, f"evaluation.{key}")
        for name, settings in self.families.items():
            check_images(name, settings, self.data)
            multiple, keys = definition_of(settings.family).sequence_multiple(settings)
            longer = [("evaluation.context_lengths", n) for n in self.evaluation.context_lengths]
            for key, tokens in [("data.sequence_length", length), *longer]:
                if tokens % multiple:
                    raise ValueError(
                        f"{key}={tokens} must be a multiple of families.{name}.{keys} = {multiple}"
                    )
        return self


def overlaid(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`below` with the values that `above` has in their place, mapping by mapping."""
    result = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = overlaid(result[key], value) if both else value
    return result
