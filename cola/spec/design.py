"""Budgets with their sizes, and the rules that follow from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from cola.spec.base import Spec

LARGEST_BUDGET, LARGEST_COUNT = 1e30, 10**18
Budget = Annotated[float, Field(gt=0, le=LARGEST_BUDGET)]
Count = Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
Parameters = Literal["core", "total"]
# What a ladder's rungs count; FLOPs in the convention of `matching`.
Unit = Literal["flops", "steps", "tokens"]
Convention = Literal["executed", "nominal"]
UNIT_KEYS: dict[Unit, str] = {"flops": "budget", "steps": "steps", "tokens": "tokens"}
Size = Annotated[int, Field(ge=1_000, le=10**13)]

# The three ways to say a size; of a rung and of a trajectory one is given.
CoreTarget = Annotated[
    Size | None,
    Field(
        description="Size aimed at, in parameters without token embeddings and output head; for "
        "`matching.parameters: core`."
    ),
]
TotalTarget = Annotated[
    Size | None,
    Field(description="Size aimed at, in all parameters; for `matching.parameters: total`."),
]
PublishedRow = Annotated[
    Literal["paper-2b"] | None,
    Field(description="A published size by its name, in place of a number."),
]


class Rung(Spec):
    """One budget of the ladder and the size trained at it, by every family with every seed.

    One of `budget`, `steps` and `tokens` is given, as `matching.compute` says, and one of
    `core_parameters`, `total_parameters` and `row`.
    """

    budget: Budget | None = Field(
        default=None,
        description="Training FLOPs of each run; for `matching.compute: executed` or `nominal`.",
    )
    steps: Count | None = Field(
        default=None,
        description="Optimiser steps of each run, over all of its stages; for `matching.compute: "
        "steps`.",
    )
    tokens: Count | None = Field(
        default=None,
        description="Training tokens of each run, over all of its stages; for `matching.compute: "
        "tokens`.",
    )
    core_parameters: CoreTarget = None
    total_parameters: TotalTarget = None
    row: PublishedRow = None

    @property
    def target(self) -> int | None:
        """Parameters that are aimed at; None for a published row."""
        return self.core_parameters or self.total_parameters

    @property
    def unit(self) -> Unit:
        """What the rung counts."""
        return next(unit for unit, key in UNIT_KEYS.items() if getattr(self, key) is not None)

    @property
    def amount(self) -> float:
        """FLOPs, steps or tokens of a run, as `unit` says."""
        return float(getattr(self, UNIT_KEYS[self.unit]))

    def times(self, factor: float) -> Rung:
        """The rung with its amount multiplied, its size kept; steps and tokens are rounded.

        Raises:
            ValueError: the product is beyond the bounds of an amount.
        """
        amount, counts = self.amount * factor, self.unit != "flops"
        if not (0.5 if counts else 0) < amount <= (LARGEST_COUNT if counts else LARGEST_BUDGET):
            raise ValueError(f"{self.amount:.10g} {self.unit} times {factor:.10g} is out of range")
        return self.model_copy(update={UNIT_KEYS[self.unit]: round(amount) if counts else amount})

    @model_validator(mode="after")
    def _one_amount_and_size(self) -> Rung:
        check_one_given(self, tuple(UNIT_KEYS.values()))
        check_one_given(self, ("core_parameters", "total_parameters", "row"))
        return self


def check_one_given(spec: Spec, keys: tuple[str, ...]) -> None:
    given = [key for key in keys if getattr(spec, key) is not None]
    if len(given) != 1:
        found = f"; {' and '.join(given)} are given" if given else ""
        raise ValueError(f"give one of {', '.join(keys)}{found}")


def check_order(rungs: Sequence[Rung]) -> None:
    """Refuse a ladder that does not climb (for validators of fields).

    Raises:
        ValueError: naming the first rung that lies below the one before it, or repeats one.
    """
    for index, (below, rung) in enumerate(pairwise(rungs), start=1):
        if rung.unit == below.unit and rung.amount < below.amount:
            raise ValueError(
                f"rung {index} ({rung.amount:.10g}) is below the rung before it "
                f"({below.amount:.10g}); list them from small to large"
            )
        if rung in rungs[:index]:
            raise ValueError(f"rung {index} is listed before already; list each rung once")


def log_linear(low: tuple[float, float], high: tuple[float, float], x: float) -> float:
    """The value at x of the line through two points (x, y), in log y over log x."""
    share = math.log(x / low[0]) / math.log(high[0] / low[0])
    return float(low[1] * (high[1] / low[1]) ** share)


class PowerLawRule(Spec):
    """coefficient x (N / 1e6)^parameters_exponent x (C / 1e15)^budget_exponent.

    N: the run's target of parameters (core or total, as `matching.parameters` says); C: its budget.
    """

    kind: Literal["power_law"] = Field(
        default="power_law",
        description="coefficient x (N / 1e6)^parameters_exponent x (C / 1e15)^budget_exponent, "
        "with N the run's target of parameters and C its budget in FLOPs.",
    )
    coefficient: PositiveFloat = Field(description="Value at 1e6 parameters and 1e15 FLOPs.")
    parameters_exponent: float = Field(
        default=0.0, description="Exponent of the size; 0: the size has no effect."
    )
    budget_exponent: float = Field(
        default=0.0, description="Exponent of the budget; 0: the budget has no effect."
    )

    def value(self, parameters: float, budget: float) -> float:
        """The rule at a size and a budget."""
        size = (parameters / 1e6) ** self.parameters_exponent
        return float(self.coefficient * size * (budget / 1e15) ** self.budget_exponent)


class TunedPoint(Spec):
    """What a tuning sweep found best at one budget."""

    budget: Budget = Field(description="Training FLOPs of the tuned runs.")
    value: PositiveFloat = Field(description="Best value found there.")


class TunedRule(Spec):
    """Through the points of a tuning sweep, linear in log value over log budget."""

    kind: Literal["tuned"] = Field(
        default="tuned", description="Interpolate what tuning sweeps found at some budgets."
    )
    points: list[TunedPoint] = Field(
        min_length=1,
        description="Tuned values, joined by lines in log value over log budget; beyond the first "
        "and the last point their values hold.",
    )

    def value(self, parameters: float, budget: float) -> float:
        """The rule at a budget (whatever the size)."""
        points = sorted(self.points, key=lambda point: point.budget)
        if budget <= points[0].budget:
            return points[0].value
        for low, high in pairwise(points):
            if budget == high.budget:
                return high.value
            if budget < high.budget:
                return log_linear((low.budget, low.value), (high.budget, high.value), budget)
        return points[-1].value


Rule = Annotated[PowerLawRule | TunedRule, Field(discriminator="kind")]


class LatentRules(Spec):
    """What latents hold, by size and budget. Each decides the rate at which text is encoded."""

    latent_dim: Rule | None = Field(
        default=None,
        description="Rule for `latent_dim`, rounded to a whole number; null: the entry's own.",
    )
    patch_size: Rule | None = Field(
        default=None,
        description="Rule for `patch_size`, rounded to the nearest patch (in its logarithm) whose "
        "blocks divide `data.sequence_length`; null: the entry's own.",
    )
    log_snr: Rule | None = Field(
        default=None, description="Rule for a positive `log_snr`; null: the entry's own."
    )
    beta: Rule | None = Field(
        default=None,
        description="Rule for `objective.stage1.beta`, the weight of the KL divergence in both "
        "stages; null: the entry's own.",
    )


class RulesSpec(Spec):
    """Settings that follow from size and budget; the study's hold for all families."""

    learning_rate: Rule | None = Field(
        default=None,
        description="Rule for the peak learning rate; null: `training.optimizer.learning_rate`.",
    )
    stage_learning_rates: dict[str, Rule] = Field(
        default={},
        description="Rules for the peak learning rates of single stages, by the stage's name.",
    )
    batch_tokens: Rule | None = Field(
        default=None,
        description="Rule for the tokens of an optimiser step; null: "
        "`training.batch_sequences` sequences.",
    )
    batch_multiple: PositiveInt = Field(
        default=8,
        description="Sequences that a batch from the rule is rounded to a multiple of, so that "
        "any number of workers that divides it gets equal shares.",
    )
    latent: LatentRules | None = Field(
        default=None,
        description="Rules for what latents hold, in place of the settings of entries whose family "
        "has latents; an entry's own are taken key by key. Null: none.",
    )

    @model_serializer(mode="wrap")
    def _latent_where_given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        return {key: item for key, item in values.items() if key != "latent" or item is not None}
