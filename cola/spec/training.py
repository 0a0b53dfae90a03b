"""How a run is optimised: batch, AdamW, the schedule of its rate; by stage where asked."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from cola.spec.base import SparseSpec, Spec

Fraction = Annotated[float, Field(ge=0, le=1)]


class OptimizerSpec(Spec):
    """AdamW: the optimiser of every family."""

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
    horizon_steps: PositiveInt | None = Field(
        default=None,
        description="Step, counted from the run's first, at which `cosine` reaches `final_ratio`, "
        "in place of the stage's last: the run ends before the schedule does. Every stage warms "
        "up on its own.",
    )
    rate_changes: tuple[RateChange, ...] = Field(
        default=(),
        description="Changes of the schedule's rate, in order; population based training finds "
        "such schedules.",
    )

    @model_validator(mode="after")
    def _horizon_has_an_effect(self) -> ScheduleSpec:
        horizon, warmup = self.horizon_steps, self.warmup_steps
        if horizon is not None and self.kind != "cosine":
            raise ValueError(
                f"horizon_steps={horizon} goes with kind: cosine alone, not with {self.kind}; "
                "leave it out"
            )
        if horizon is not None and warmup is not None and warmup >= horizon:
            raise ValueError(f"warmup_steps={warmup} must be less than horizon_steps={horizon}")
        return self

    @field_validator("rate_changes")
    @classmethod
    def _are_in_order(cls, changes: tuple[RateChange, ...]) -> tuple[RateChange, ...]:
        shares = [change.at for change in changes]
        if shares != sorted(set(shares)):
            raise ValueError("their shares `at` must grow from one to the next")
        return changes


class StageTraining(Spec):
    """What one stage of a family trains with in place of the run's settings."""

    learning_rate: PositiveFloat | None = Field(
        default=None, description="Peak learning rate; null: `training.optimizer.learning_rate`."
    )
    weight_decay: NonNegativeFloat | None = Field(
        default=None, description="Weight decay; null: `training.optimizer.weight_decay`."
    )
    schedule: ScheduleSpec | None = Field(
        default=None, description="Schedule over the stage's steps; null: `training.schedule`."
    )

    @model_validator(mode="after")
    def _changes_count_over_the_run(self) -> StageTraining:
        if self.schedule is not None and self.schedule.rate_changes:
            raise ValueError(
                "schedule.rate_changes counts over all of a run's steps; give it in "
                "training.schedule"
            )
        return self


class TrainingSpec(SparseSpec):
    """Everything about the optimisation that changes its result."""

    sparse_keys: ClassVar[tuple[str, ...]] = ("stages",)

    batch_sequences: PositiveInt = Field(
        default=16, description="Sequences of an optimiser step, over all workers."
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="bfloat16",
        description="Number format of forward and backward passes; weights and optimiser state "
        "are float32.",
    )
    optimizer: OptimizerSpec = Field(
        default=OptimizerSpec(), description="AdamW: the optimiser of every family."
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
    stages: dict[str, StageTraining] = Field(
        default={},
        description="Settings of single stages by name, for families that have several: `vae` and "
        "`joint` of Cola DLM.",
    )

    def of_stage(self, name: str) -> TrainingSpec:
        """The settings that hold in a stage."""
        own = self.stages.get(name)
        if own is None:
            return self
        changes = {
            key: getattr(own, key)
            for key in ("learning_rate", "weight_decay")
            if getattr(own, key) is not None
        }
        return self.model_copy(
            update={
                "optimizer": self.optimizer.model_copy(update=changes),
                "schedule": own.schedule or self.schedule,
                "stages": {},
            }
        )
