"""One fully resolved training run; its identity is the hash of what changes its result."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
)

from cola.records import FEW_SHOT_TASKS, IN_DOMAIN_TASKS
from cola.spec.base import Spec
from cola.spec.data import DataSpec
from cola.spec.model import ModelSpec
from cola.spec.objective import GenerationSpec, LikelihoodSpec, Objective

Fraction = Annotated[float, Field(ge=0, le=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class OptimizerSpec(Spec):
    """AdamW, the same for every family."""

    learning_rate: PositiveFloat = 1.5e-4
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    eps: PositiveFloat = 1e-8
    weight_decay: NonNegativeFloat = 0.01
    grad_clip: PositiveFloat | None = 1.0


class RateChange(Spec):
    """From the share `at` of all of the run's steps on the rate is `factor` times the schedule's,
    until the next change."""

    at: float = Field(gt=0, lt=1)
    factor: PositiveFloat


class ScheduleSpec(Spec):
    """Linear warm-up, then cosine, WSD (stable, linear decay) or constant.

    Fractions are of the stage's steps; `final_ratio` is the last rate over the peak rate.
    `warmup_steps` stands in place of the fraction where it is given. `rate_changes` multiply what
    that gives; population based training finds such schedules.
    """

    kind: Literal["cosine", "wsd", "constant"] = "cosine"
    warmup_fraction: Fraction = 0.05
    warmup_steps: NonNegativeInt | None = None
    decay_fraction: Fraction = 0.2
    final_ratio: Fraction = 0.1
    rate_changes: tuple[RateChange, ...] = ()

    @field_validator("rate_changes")
    @classmethod
    def _are_in_order(cls, changes: tuple[RateChange, ...]) -> tuple[RateChange, ...]:
        shares = [change.at for change in changes]
        if shares != sorted(set(shares)):
            raise ValueError("their shares `at` must grow from one to the next")
        return changes


class TrainingSpec(Spec):
    """Everything about the optimisation that changes its result.

    With `ema_decay` an exponential moving average of the last stage's weights is what is evaluated
    and exported.
    """

    batch_sequences: PositiveInt = 16
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    optimizer: OptimizerSpec = OptimizerSpec()
    schedule: ScheduleSpec = ScheduleSpec()
    ema_decay: float | None = Field(default=None, gt=0, lt=1)


class EvaluationSpec(Spec):
    """What is measured during and after training, on fixed sequences with fixed noise.

    `points` evaluations are spread evenly over the steps; the last is the finished model.
    `samples` continuations of validation text are generated from `prompt_tokens` tokens each. The
    families' own diagnostics of the finished model (Cola DLM: of its latents) are taken on the
    first `diagnostic_sequences`; fewer than 2 is off.

    The finished model is also given `tasks` (see `cola.records`), of each its first `task_items`
    items; gaps of infilling are `gap_tokens` long. Items of few-shot tasks are read from
    `task_folder`, as `<task>.jsonl`, or come from the public data sets where it is not given.
    """

    validation_sequences: PositiveInt = 32
    points: PositiveInt = 2
    samples: NonNegativeInt = 4
    prompt_tokens: PositiveInt = 32
    diagnostic_sequences: NonNegativeInt = 32
    tasks: tuple[str, ...] = ()
    task_items: PositiveInt = 32
    task_folder: str | None = None
    gap_tokens: PositiveInt = 16
    generation: GenerationSpec = GenerationSpec()
    likelihood: LikelihoodSpec = LikelihoodSpec()

    @field_validator("tasks")
    @classmethod
    def _are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in IN_DOMAIN_TASKS + FEW_SHOT_TASKS:
                valid = ", ".join(IN_DOMAIN_TASKS + FEW_SHOT_TASKS)
                raise ValueError(f"{name!r} is no task; valid: {valid}")
        if len(set(names)) != len(names):
            raise ValueError("names a task twice")
        return names


class StagePlan(Spec):
    """One optimisation phase: `steps` optimiser steps, each of the run's global batch.

    `charged` is the share of its FLOPs that the run's budget pays: below 1 where the stage serves
    several runs and its cost is spread over them.
    """

    name: Literal["train", "vae", "joint"]
    steps: PositiveInt
    train_flops_per_token_executed: PositiveFloat
    train_flops_per_token_nominal: PositiveFloat
    charged: float = Field(default=1.0, gt=0, le=1)


class RunSpec(Spec):
    """A resolved run. `data_fingerprint` identifies the corpus' content, not only its name."""

    model: ModelSpec
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
        """ar, llada or cola."""
        return self.model.family

    @property
    def run_key(self) -> str:
        """SHA-256 (hex) of the canonical JSON: equal keys mean equal results."""
        return self.content_hash()

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

    def train_flops_at(self, step: int, convention: Literal["executed", "nominal"]) -> float:
        """FLOPs charged to the run after `step` steps, in the named convention."""
        total, left = 0.0, step
        for stage in self.stages:
            taken = min(left, stage.steps)
            per_token: float = getattr(stage, f"train_flops_per_token_{convention}")
            total += taken * self.tokens_per_step * per_token * stage.charged
            left -= taken
        return total
