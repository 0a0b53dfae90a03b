"""Budgets and sizes by a design: where the best size is looked for, or along training."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import (
    Discriminator,
    Field,
    PositiveFloat,
    Tag,
    field_validator,
    model_validator,
)

from cola.spec.base import Spec, check_distinct
from cola.spec.design import (
    Budget,
    CoreTarget,
    Parameters,
    PublishedRow,
    Rung,
    Size,
    TotalTarget,
    check_one_given,
)


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
        check_one_given(self, ("core_parameters", "total_parameters"))
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
        check_one_given(self, ("core_parameters", "total_parameters", "row"))
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


def _rounded(value: float) -> int:
    """Two significant digits: a size that people can say."""
    unit = 10 ** max(0, math.floor(math.log10(value)) - 1)
    return max(1_000, round(value / unit) * unit)
