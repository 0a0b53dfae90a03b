"""A study: families trained over a ladder of compute budgets under matched conditions."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, model_validator

from cola.families.registry import definition_of
from cola.records import FEW_SHOT_NEW_TOKENS, FEW_SHOT_TASKS
from cola.spec.base import Spec
from cola.spec.data import DataSpec
from cola.spec.design import Design, RulesSpec, Rung, TrajectoryDesign
from cola.spec.resources import CheckpointSpec, DivergenceRetry, ResourcesSpec, TrackingSpec
from cola.study.families import Families
from cola.study.run import EvaluationSpec, Seed, TrainingSpec


class MatchingSpec(Spec):
    """What is held equal between families at a rung; the rest is told, with by how much it differs.

    parameters: `core` (all but embeddings and head) or `total`. compute: the budget counts training
    FLOPs `executed` or `nominal` (see `cola.compute.flops`). tuning: how the optimiser's settings
    were found, as a statement of the study's author. stage1: what a first stage that serves several
    runs (Cola DLM's VAE in a trajectory) costs each of them: `charged` in full, as if each had
    trained it, or `amortised`, in equal parts. Data order and optimiser are always the same.
    """

    parameters: Literal["core", "total"] = "core"
    compute: Literal["executed", "nominal"] = "executed"
    tuning: Literal["none", "equal_trials", "unequal"] = "none"
    stage1: Literal["charged", "amortised"] = "charged"


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
    """What `cola plan` and `cola run` take. See README for an annotated example.

    A run that would read the corpus more than `max_epochs` times is refused: repeated data counts
    less and less from about four times on (arXiv 2305.16264).
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    description: str = ""
    families: Families
    ladder: list[Rung] = Field(default=[])
    design: Design | None = None
    rules: RulesSpec = RulesSpec()
    max_epochs: PositiveFloat = 4.0
    seeds: list[Seed] = Field(default=[66], min_length=1)
    matching: MatchingSpec = MatchingSpec()
    data: DataSpec = DataSpec()
    training: TrainingSpec = TrainingSpec()
    evaluation: EvaluationSpec = EvaluationSpec()
    resources: ResourcesSpec = ResourcesSpec()
    checkpoint: CheckpointSpec = CheckpointSpec()
    retry_diverged: DivergenceRetry | None = None
    tracking: TrackingSpec = TrackingSpec()
    output: str = "outputs"

    def rungs(self) -> list[Rung]:
        """Budgets and sizes: the ladder, or what the design makes of its budgets."""
        if self.design is not None:
            return self.design.rungs(self.matching.parameters)
        return self.ladder

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
        for resources in map(self.resources.at, sizes):
            check_batch(self.training, resources)
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds must differ from each other")
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


def check_tasks_fit(evaluation: EvaluationSpec, length: int) -> None:
    """Raise a ValueError where a task asks for more tokens than a sequence has."""
    few_shot = sorted(set(evaluation.tasks) & set(FEW_SHOT_TASKS))
    if few_shot and length <= FEW_SHOT_NEW_TOKENS:
        raise ValueError(
            f"evaluation.tasks: {few_shot[0]} generates {FEW_SHOT_NEW_TOKENS} tokens, which leaves "
            f"no room for a prompt in data.sequence_length={length}"
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
