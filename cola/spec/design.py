"""Which budgets and sizes a study trains, and the rules that follow from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    Tag,
    field_validator,
    model_serializer,
    model_validator,
)

from cola.spec.base import Spec, check_distinct

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
        _only_one(self, tuple(UNIT_KEYS.values()))
        _only_one(self, ("core_parameters", "total_parameters", "row"))
        return self


def _only_one(spec: Spec, keys: tuple[str, ...]) -> None:
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


class IsoFLOPDesign(Spec):
    """At every budget several sizes round the expected optimum; tokens follow from the budget.

    The expected optimum of a budget C is N = sqrt(C / (6 r)) with r `tokens_per_parameter`; sizes
    are of core or of total parameters as `matching.parameters` says.
    """

    kind: Literal["isoflop"] = Field(
        default="isoflop",
        description="At every budget, several sizes round the expected optimum.",
    )
    budgets: list[Budget] = Field(min_length=1, description="Training FLOPs of a run.")
    sizes: int = Field(
        default=5,
        ge=3,
        le=99,
        description="Sizes at each budget, evenly spaced in their logarithm.",
    )
    spread: float = Field(
        default=16.0,
        gt=1,
        description="Largest over smallest size at a budget; the expected optimum is their "
        "geometric mean.",
    )
    tokens_per_parameter: PositiveFloat = Field(
        default=20.0,
        description="Training tokens per parameter r at the expected optimum: a budget C has it at "
        "sqrt(C / (6 r)) parameters.",
    )

    def rungs(self, parameters: Parameters) -> list[Rung]:
        """Budgets from small to large, at each the sizes from small to large."""
        found = []
        for budget in sorted(self.budgets):
            optimum = math.sqrt(budget / (6 * self.tokens_per_parameter))
            for index in range(self.sizes):
                exponent = index / (self.sizes - 1) - 0.5
                target = _rounded(optimum * self.spread**exponent)
                found.append(Rung.parse({"budget": budget, f"{parameters}_parameters": target}))
        return found


class GridDesign(Spec):
    """Every size at every budget."""

    kind: Literal["grid"] = Field(default="grid", description="Every size at every budget.")
    budgets: list[Budget] = Field(min_length=1, description="Training FLOPs of a run.")
    core_parameters: list[Size] | None = Field(
        default=None,
        min_length=1,
        description="Sizes in parameters without token embeddings and output head; for "
        "`matching.parameters: core`.",
    )
    total_parameters: list[Size] | None = Field(
        default=None,
        min_length=1,
        description="Sizes in all parameters; for `matching.parameters: total`.",
    )

    def rungs(self, parameters: Parameters) -> list[Rung]:
        """Budgets from small to large, at each the sizes from small to large."""
        key = "core_parameters" if self.core_parameters else "total_parameters"
        return [
            Rung.parse({"budget": budget, key: size})
            for budget in sorted(self.budgets)
            for size in sorted(getattr(self, key))
        ]

    @model_validator(mode="after")
    def _one_size(self) -> GridDesign:
        _only_one(self, ("core_parameters", "total_parameters"))
        return self


class TrajectoryDesign(Spec):
    """One size along training: every budget is a finished model of it (the paper's RQ4).

    All points share the stable phase of a WSD schedule and branch from it into separate decays,
    so that the stable phase is trained once. Warm-up, rules and Cola DLM's first stage must not
    depend on the point: the first two are those of the largest budget's rules and the smallest
    budget's warm-up, and stage 1 is paid from the smallest budget.
    """

    kind: Literal["trajectory"] = Field(
        default="trajectory",
        description="One size along training: every budget is a finished model, and all share the "
        "stable phase of a schedule of `kind: wsd`.",
    )
    budgets: list[Budget] = Field(
        min_length=2, description="Training FLOPs of the points, each a different number."
    )
    core_parameters: CoreTarget = None
    total_parameters: TotalTarget = None
    row: PublishedRow = None

    def rungs(self, parameters: Parameters) -> list[Rung]:
        """Budgets from small to large."""
        size = self.model_dump(exclude={"kind", "budgets"})
        return [Rung.parse({"budget": budget, **size}) for budget in sorted(self.budgets)]

    @field_validator("budgets")
    @classmethod
    def _are_distinct(cls, budgets: list[float]) -> list[float]:
        check_distinct(budgets)
        return budgets

    @model_validator(mode="after")
    def _is_possible(self) -> TrajectoryDesign:
        _only_one(self, ("core_parameters", "total_parameters", "row"))
        return self


def _kind_of(values: object) -> str:
    """An IsoFLOP design needs no kind."""
    if isinstance(values, dict):
        return str(values.get("kind", "isoflop"))
    return str(getattr(values, "kind", "isoflop"))


Design = Annotated[
    Annotated[IsoFLOPDesign, Tag("isoflop")]
    | Annotated[GridDesign, Tag("grid")]
    | Annotated[TrajectoryDesign, Tag("trajectory")],
    Discriminator(
        _kind_of,
        custom_error_type="unknown_design",
        custom_error_message="kind must be isoflop, grid or trajectory",
    ),
]


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
                share = math.log(budget / low.budget) / math.log(high.budget / low.budget)
                return float(low.value * (high.value / low.value) ** share)
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


def _rounded(value: float) -> int:
    """Two significant digits: a size that people can say."""
    unit = 10 ** max(0, math.floor(math.log10(value)) - 1)
    return max(1_000, round(value / unit) * unit)
