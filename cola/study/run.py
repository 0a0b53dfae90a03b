"""One fully resolved training run; its identity is the hash of what changes its result."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
)

from cola.families.interface.specs import ModelSpec, ObjectiveSpec
from cola.families.registry import union_of
from cola.records import FEW_SHOT_TASKS, IN_DOMAIN_TASKS
from cola.spec.base import Spec, canonical_json, check_distinct
from cola.spec.data import DataSpec
from cola.spec.inference import GenerationSpec, LikelihoodSpec

if TYPE_CHECKING:
    Model = ModelSpec
    Objective = ObjectiveSpec
else:
    Model = Annotated[union_of("model"), Field(discriminator="family")]
    Objective = Annotated[union_of("objective"), Field(discriminator="family")]

Fraction = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
TASKS = IN_DOMAIN_TASKS + FEW_SHOT_TASKS
Task = Annotated[str, Field(json_schema_extra={"enum": list(TASKS)})]


class OptimizerSpec(Spec):
    """AdamW, the same for every family."""

    learning_rate: PositiveFloat = Field(
        default=1.5e-4, description="Peak learning rate, which the schedule multiplies."
    )
    betas: tuple[Fraction, Fraction] = Field(
        default=(0.9, 0.95), description="Decay rates of the first and the second moment."
    )
    eps: PositiveFloat = Field(
        default=1e-8, description="Added to the root of the second moment, against division by 0."
    )
    weight_decay: NonNegativeFloat = Field(
        default=0.01, description="Decoupled weight decay; 0: none."
    )
    grad_clip: PositiveFloat | None = Field(
        default=1.0,
        description="Largest norm of the gradient over all weights; null: it is not clipped.",
    )


class RateChange(Spec):
    """A change of the learning rate, which holds until the next one."""

    at: float = Field(
        gt=0, lt=1, description="Share of all of the run's steps after which the change holds."
    )
    factor: PositiveFloat = Field(
        description="What the schedule's learning rate is multiplied by from there on."
    )


class ScheduleSpec(Spec):
    """The learning rate over a stage's steps: linear warm-up, then what `kind` says."""

    kind: Literal["cosine", "wsd", "constant"] = Field(
        default="cosine",
        description="What follows the warm-up: `cosine` decay to the end, `wsd` (stable, then a "
        "linear decay) or `constant`.",
    )
    warmup_fraction: Fraction = Field(
        default=0.05, description="Share of a stage's steps in which the rate grows to its peak."
    )
    warmup_steps: NonNegativeInt | None = Field(
        default=None, description="Warm-up in optimiser steps, in place of `warmup_fraction`."
    )
    decay_fraction: Fraction = Field(
        default=0.2, description="Share of a stage's steps in which `wsd` decays."
    )
    final_ratio: Fraction = Field(
        default=0.1, description="Learning rate at the end over the peak (`cosine` and `wsd`)."
    )
    rate_changes: tuple[RateChange, ...] = Field(
        default=(),
        description="Changes of the schedule's rate, in order; population based training finds "
        "such schedules.",
    )

    @field_validator("rate_changes")
    @classmethod
    def _are_in_order(cls, changes: tuple[RateChange, ...]) -> tuple[RateChange, ...]:
        shares = [change.at for change in changes]
        if shares != sorted(set(shares)):
            raise ValueError("their shares `at` must grow from one to the next")
        return changes


class TrainingSpec(Spec):
    """Everything about the optimisation that changes its result."""

    batch_sequences: PositiveInt = Field(
        default=16, description="Sequences of an optimiser step, over all workers."
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="bfloat16",
        description="Number format of forward and backward passes; weights and optimiser state "
        "are float32.",
    )
    optimizer: OptimizerSpec = Field(
        default=OptimizerSpec(), description="AdamW, the same for every family."
    )
    schedule: ScheduleSpec = Field(
        default=ScheduleSpec(), description="The learning rate over the steps of each stage."
    )
    ema_decay: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Decay per step of an exponential moving average of the last stage's weights, "
        "which is then evaluated and exported in place of the weights. Null: none.",
    )


class EvaluationSpec(Spec):
    """What is measured during and after training, on fixed sequences with fixed noise."""

    validation_sequences: PositiveInt = Field(
        default=32,
        description="Sequences of the validation split, the first ones, on which NLL is measured.",
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
        default=32, description="Tokens of validation text that are continued."
    )
    diagnostic_sequences: NonNegativeInt = Field(
        default=32,
        description="Validation sequences for a family's own diagnostics of the finished model; "
        "fewer than 2: none.",
    )
    tasks: tuple[Task, ...] = Field(
        default=(),
        description="Tasks for the finished model, each listed once; `cola items` writes the items "
        "of the few-shot ones.",
    )
    task_items: PositiveInt = Field(
        default=32, description="Items of each task that are answered, the first ones."
    )
    task_folder: str | None = Field(
        default=None,
        description="Folder with items of few-shot tasks as `TASK.jsonl`; null: the public data "
        "sets, from the Hugging Face hub.",
    )
    gap_tokens: PositiveInt = Field(
        default=16, description="Tokens of the gaps that the task `infilling` asks for."
    )
    generation: GenerationSpec = Field(
        default=GenerationSpec(), description="How text is generated."
    )
    likelihood: LikelihoodSpec = Field(
        default=LikelihoodSpec(), description="How likelihoods and their bounds are computed."
    )

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


class RunSpec(Spec):
    """A resolved run. `data_fingerprint` identifies the corpus' content, not only its name."""

    model: Model
    objective: Objective
    data: DataSpec
    data_fingerprint: str
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
        """SHA-256 (hex) of the specification: equal keys mean equal results.

        Where corpus and tokenizer lie is left out: `data_fingerprint` stands for what they hold.
        """
        values = self.model_dump(mode="json") | {"data": self.data.identity()}
        return hashlib.sha256(canonical_json(values).encode()).hexdigest()

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

        values = self.model_dump(mode="json")
        walk("", values | {"data": self.data.identity()} if identity else values)
        return flat
