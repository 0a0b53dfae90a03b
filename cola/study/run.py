"""One fully resolved training run; its identity is the hash of what changes its result."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
)

from cola.families.interface.specs import ModelSpec, ObjectiveSpec
from cola.families.registry import definition_of, union_of
from cola.records import FEW_SHOT_TASKS, IN_DOMAIN_TASKS, OWN_TEXT, TaskSelection
from cola.spec.base import SparseSpec, Spec, canonical_json, check_distinct
from cola.spec.data import DataSpec, HeldOutText, drop_places
from cola.spec.inference import GenerationSpec, LikelihoodSpec, PredictiveSpec
from cola.spec.locations import LocalPath
from cola.spec.training import TrainingSpec

if TYPE_CHECKING:
    Model = ModelSpec
    Objective = ObjectiveSpec
else:
    Model = Annotated[union_of("model"), Field(discriminator="family")]
    Objective = Annotated[union_of("objective"), Field(discriminator="family")]

Seed = Annotated[int, Field(ge=0, lt=2**32)]
TextName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
TASKS = IN_DOMAIN_TASKS + FEW_SHOT_TASKS
Task = Annotated[str, Field(json_schema_extra={"enum": list(TASKS)})]


class EvaluationSpec(Spec):
    """What is measured during and after training, on fixed sequences with fixed noise."""

    validation_sequences: PositiveInt = Field(
        default=32,
        description="Sequences of the validation split on which NLL is measured, of as many "
        "documents as possible; the finished model is scored on as many of the test split.",
    )
    points: PositiveInt = Field(
        default=2,
        description="Evaluations of a run, evenly spaced over its steps; the last is of the "
        "finished model.",
    )
    samples: NonNegativeInt = Field(
        default=4, description="Continuations of validation text in the report; 0: none."
    )
    prompt_tokens: PositiveInt = Field(
        default=32,
        description="Tokens of held-out text that are continued; by default a third of a sequence "
        "that is too short for this and the default continuation.",
    )
    diagnostic_sequences: NonNegativeInt = Field(
        default=32,
        description="Validation sequences for a family's own diagnostics of the finished model; "
        "fewer than 2: none.",
    )
    tasks: tuple[Task, ...] = Field(
        default=(),
        description="Tasks for the finished model, each listed once; `cola items` writes the items "
        "of the few-shot ones, which generate 32 tokens whatever `generation.max_new_tokens` says.",
    )
    task_items: PositiveInt = Field(
        default=32,
        description="Items of each task, at most; of held-out text they are of as many documents "
        "as possible.",
    )
    task_selection: TaskSelection = Field(
        default="stratified",
        description="Which items of few-shot tasks: `stratified`, drawn by the seed from every "
        "part of the data set (subjects of MMLU, sources of HellaSwag, levels of RACE), or the "
        "`first` ones, as the public release took them.",
    )
    task_folder: LocalPath | None = Field(
        default=None,
        description="Folder with items of few-shot tasks as `TASK.jsonl`; null: the public data "
        "sets, from the Hugging Face hub.",
    )
    shots: int | None = Field(
        default=None,
        ge=0,
        le=5,
        description="Demonstrations before each item of few-shot tasks, drawn by the seed from "
        "`TASK.train.jsonl` of the task folder or the public training split, of the item's stratum "
        "where that has as many; results are named `TASK-Kshot`. null: the release's own, 1 or 2 "
        "a task, none of LAMBADA.",
    )
    held_out: dict[TextName, HeldOutText] = Field(
        default={},
        description="Further texts by name, on which each finished model is measured beside the "
        "study's own test split: other domains or languages, each as `data.corpus` has one, or "
        "the test text with typing errors, `{source: perturbed, rate: 0.03, seed: 0}`, where "
        "`rate` is their share of letters and digits. Bits per byte of `validation_sequences` "
        "sequences of each, and with the task `predictive` its scores.",
    )
    context_lengths: tuple[PositiveInt, ...] = Field(
        default=(),
        description="Lengths above `data.sequence_length` at which each finished model is measured "
        "on longer sequences of the test split: likelihood within and beyond the length of "
        "training, and continuations of whole prompts against those cut to that length.",
    )
    prompt_remainders: int = Field(
        default=1,
        ge=1,
        le=16,
        description="Lengths of each prompt of `cloze`, `continuation` and `predictive`: all of "
        "its tokens, without the first one, without the first two, ... 4 says by what remainder of "
        "a length modulo 4 answers are right, as patches of 2 and 4 may split a prompt's end; 1: "
        "whole prompts alone.",
    )
    gap_tokens: PositiveInt = Field(
        default=16, description="Tokens of the gaps that the task `infilling` asks for."
    )
    predictive: PredictiveSpec = Field(
        default=PredictiveSpec(), description="Draws and prompts of the task `predictive`."
    )
    generation: GenerationSpec = Field(
        default=GenerationSpec(), description="How text is generated."
    )
    likelihood: LikelihoodSpec = Field(
        default=LikelihoodSpec(), description="How likelihoods and their bounds are computed."
    )

    @model_serializer(mode="wrap")
    def _without_unread(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Runs without a task have the keys of those before it had settings."""
        values: dict[str, Any] = handler(self)
        if self.task_selection == "stratified" and not set(self.tasks) & set(FEW_SHOT_TASKS):
            values.pop("task_selection", None)
        if self.shots is None:
            values.pop("shots", None)
        if self.predictive == PredictiveSpec() and "predictive" not in self.tasks:
            values.pop("predictive", None)
        for key in ("held_out", "context_lengths", "prompt_remainders"):
            if getattr(self, key) == type(self).model_fields[key].default:
                values.pop(key, None)
        return values

    @property
    def held_out_sequences(self) -> int:
        """Sequences of each further text that measurements ask for."""
        return max(self.validation_sequences, self.predictive_prompts)

    @property
    def likelihoods(self) -> list[str]:
        """The keys that ask for a likelihood."""
        asked = {
            "tasks: likelihood": "likelihood" in self.tasks,
            "held_out": bool(self.held_out),
            "context_lengths": bool(self.context_lengths),
        }
        return [key for key, given in asked.items() if given]

    def context_sequences(self, length: int, trained: int) -> int:
        """Sequences of a longer length that measurements ask for."""
        return max(self.sequences_of(length, trained), self.task_items)

    def sequences_of(self, length: int, trained: int) -> int:
        """Sequences of a longer length whose likelihood is measured: as many tokens as of the
        validation sequences, at least one."""
        return max(1, self.validation_sequences * trained // length)

    def new_tokens_of_contexts(self, trained: int) -> int:
        """Tokens that are asked for at the end of longer sequences: they leave half of the training
        length for a prompt that is cut to it."""
        return min(self.generation.max_new_tokens, max(1, trained // 2))

    @field_validator("held_out")
    @classmethod
    def _are_not_the_studys(cls, texts: dict[str, HeldOutText]) -> dict[str, HeldOutText]:
        if OWN_TEXT in texts:
            raise ValueError(
                f"{OWN_TEXT!r} is the study's own test split, which is measured beside the others; "
                "choose another name"
            )
        return texts

    @property
    def predictive_prompts(self) -> int:
        """Prompts that the task `predictive` asks for; 0 where it is not among the tasks."""
        return (self.predictive.prompts or self.task_items) if "predictive" in self.tasks else 0

    @field_validator("tasks")
    @classmethod
    def _are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in TASKS:
                raise ValueError(f"{name!r} is no task; valid: {', '.join(TASKS)}")
        check_distinct(names)
        return names


class StagePlan(Spec):
    """One optimisation phase: `steps` optimiser steps, each of the run's global batch.

    `charged` is the share of its FLOPs that the run's budget pays: below 1 where the stage serves
    several runs and its cost is spread over them.
    """

    name: str
    steps: PositiveInt
    train_flops_per_token_executed: PositiveFloat
    train_flops_per_token_nominal: PositiveFloat
    charged: float = Field(default=1.0, gt=0, le=1)


class RunSpec(SparseSpec):
    """A resolved run. `data_fingerprint` identifies the corpus' content, not only its name, and
    `held_out_fingerprints` that of each text in `evaluation.held_out`."""

    sparse_keys: ClassVar = ("held_out_fingerprints",)

    model: Model
    objective: Objective
    data: DataSpec
    data_fingerprint: str
    held_out_fingerprints: dict[str, str] = Field(default={})
    training: TrainingSpec
    evaluation: EvaluationSpec
    stages: list[StagePlan] = Field(min_length=1)
    budget: PositiveFloat
    compute: Literal["executed", "nominal"]
    seed: Seed

    @property
    def family(self) -> str:
        """Name of the model's family."""
        return self.model.family

    @property
    def run_key(self) -> str:
        """SHA-256 (hex) of the identity's canonical JSON: equal keys mean equal results."""
        return hashlib.sha256(canonical_json(self.identity()).encode()).hexdigest()

    def identity(self) -> dict[str, Any]:
        """What decides the run's results, as plain values: all but where texts lie."""
        values = {**self.model_dump(mode="json"), "data": self.data.identity()}
        for text in values["evaluation"].get("held_out", {}).values():
            drop_places(text)
        return values

    @property
    def readable_lengths(self) -> list[int]:
        """Those of `evaluation.context_lengths` that the model can read."""
        longest = definition_of(self.family).longest_sequence(self.model)
        lengths = self.evaluation.context_lengths
        return [length for length in lengths if longest is None or length <= longest]

    @property
    def steps(self) -> int:
        """Optimiser steps over all stages."""
        return sum(stage.steps for stage in self.stages)

    def step_at(self, share: float) -> int:
        """The step at a share of all of the run's steps."""
        return round(self.steps * share)

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one optimiser step, over all workers."""
        return self.training.batch_sequences * self.data.sequence_length

    def learning_rates(self) -> dict[str, float]:
        """Peak learning rate of each stage."""
        return {
            stage.name: self.training.of_stage(stage.name).optimizer.learning_rate
            for stage in self.stages
        }

    def train_flops_at(
        self, step: int, convention: Literal["executed", "nominal"], *, charged: bool = True
    ) -> float:
        """FLOPs after `step` steps in the named convention: `charged` to the run, or spent."""
        total, left = 0.0, step
        for stage in self.stages:
            taken = min(left, stage.steps)
            per_token: float = getattr(stage, f"train_flops_per_token_{convention}")
            share = stage.charged if charged else 1.0
            total += taken * self.tokens_per_step * per_token * share
            left -= taken
        return total

    def flat(self, *, identity: bool = False) -> dict[str, str]:
        """The specification as dotted keys and texts; lists of settings by index.

        `identity` leaves out what the run's key leaves out.
        """
        flat: dict[str, str] = {}

        def walk(prefix: str, value: object) -> None:
            if isinstance(value, dict) and value:
                for key, item in value.items():
                    walk(f"{prefix}.{key}" if prefix else str(key), item)
            elif isinstance(value, list) and value and isinstance(value[0], dict):
                for index, item in enumerate(value):
                    walk(f"{prefix}.{index}", item)
            else:
                flat[prefix] = str(value)

        walk("", self.identity() if identity else self.model_dump(mode="json"))
        return flat
