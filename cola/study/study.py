"""A study: families trained over a ladder of compute budgets under matched conditions."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, PositiveFloat, field_validator, model_validator

from cola.families.registry import definition_of
from cola.records import FEW_SHOT_NEW_TOKENS, FEW_SHOT_TASKS
from cola.spec.base import Spec, check_distinct
from cola.spec.data import DataSpec
from cola.spec.design import Design, RulesSpec, Rung, TrajectoryDesign
from cola.spec.locations import LocalPath
from cola.spec.resources import CheckpointSpec, DivergenceRetry, ResourcesSpec, TrackingSpec
from cola.spec.training import TrainingSpec
from cola.study.families import Families, by_family
from cola.study.rules import check_latent_rules, overlaid_rules
from cola.study.run import EvaluationSpec, Seed


class MatchingSpec(Spec):
    """What is held equal between families at a rung; the report says by how much the rest differs.

    Data order and optimiser are always the same; its rate and schedule may be an entry's own.
    """

    parameters: Literal["core", "total"] = Field(
        default="core",
        description="Count in which sizes agree: `core` (all but token embeddings and output "
        "head) or `total`.",
    )
    compute: Literal["executed", "nominal"] = Field(
        default="executed",
        description="Training FLOPs that a budget counts: `executed` matrix products, or the "
        "literature's `nominal` 6 N D.",
    )
    tuning: Literal["none", "equal_trials", "unequal"] = Field(
        default="none",
        description="How the optimiser's settings were found: not tuned, tuned with equally many "
        "trials of each family, or otherwise. A statement for the report, without effect.",
    )
    stage1: Literal["charged", "amortised"] = Field(
        default="charged",
        description="What a first stage that several runs of a trajectory share costs each: "
        "`charged` in full, or `amortised` in equal parts.",
    )


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
        default=[], description="Budgets with a size at each; in place of `design`."
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

    def training_of(self, variant: str) -> TrainingSpec:
        """The entry's training settings: its own where it gives some, else the study's."""
        own = self.families[variant].training
        if own is None:
            return self.training
        values = overlaid(self.training.model_dump(), own.model_dump(exclude_unset=True))
        return TrainingSpec.model_validate(values)

    def rules_of(self, variant: str) -> RulesSpec:
        """The entry's rules: its own where it gives some, else the study's."""
        return overlaid_rules(self.rules, self.families[variant].rules)

    def rungs(self) -> list[Rung]:
        """Budgets and sizes: the ladder, or what the design makes of its budgets."""
        if self.design is not None:
            return self.design.rungs(self.matching.parameters)
        return self.ladder

    @field_validator("seeds")
    @classmethod
    def _are_distinct(cls, seeds: list[int]) -> list[int]:
        check_distinct(seeds)
        return seeds

    @model_validator(mode="after")
    def _one_design(self) -> StudySpec:
        if bool(self.ladder) == (self.design is not None):
            raise ValueError("give either ladder (budgets with sizes) or design (budgets alone)")
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
    def _sizes_are_of_what_is_matched(self) -> StudySpec:
        other = "core" if self.matching.parameters == "total" else "total"
        if any(getattr(rung, f"{other}_parameters") is not None for rung in self.rungs()):
            raise ValueError(
                f"{other}_parameters: the study matches {self.matching.parameters} parameters "
                f"(matching.parameters), so give sizes as {self.matching.parameters}_parameters"
            )
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
    def _latents_exist(self) -> StudySpec:
        check_latent_rules(self.families)
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
        for name, settings in self.families.items():
            multiple, keys = definition_of(settings.family).sequence_multiple(settings)
            if length % multiple:
                raise ValueError(
                    f"data.sequence_length={length} must be a multiple of families.{name}.{keys} "
                    f"= {multiple}"
                )
        return self


def overlaid(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`below` with the values that `above` has in their place, mapping by mapping."""
    result = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = overlaid(result[key], value) if both else value
    return result


def check_tasks_fit(evaluation: EvaluationSpec, length: int) -> None:
    """Raise a ValueError where a task asks for more tokens than a sequence has."""
    few_shot = sorted(set(evaluation.tasks) & set(FEW_SHOT_TASKS))
    if few_shot and length <= FEW_SHOT_NEW_TOKENS:
        raise ValueError(
            f"evaluation.tasks: {few_shot[0]} generates {FEW_SHOT_NEW_TOKENS} tokens, which leaves "
            f"no room for a prompt in data.sequence_length={length}; leave the task out or choose "
            "longer sequences"
        )
    prompt, gap = evaluation.prompt_tokens, evaluation.gap_tokens
    if {"continuation", "speed"} & set(evaluation.tasks) and prompt >= length:
        raise ValueError(
            f"evaluation.prompt_tokens={prompt} must be less than data.sequence_length={length} "
            "for the tasks continuation and speed"
        )
    if "infilling" in evaluation.tasks and max(1, prompt - gap // 2) + gap >= length:
        raise ValueError(
            f"evaluation.gap_tokens={gap}, centred behind evaluation.prompt_tokens={prompt} "
            f"tokens, must end before data.sequence_length={length}"
        )
