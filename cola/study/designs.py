"""Budgets and sizes by a design: where the best size is looked for, or along training."""

from __future__ import annotations

import math
from itertools import pairwise
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
    log_linear,
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
        return [
            Rung.parse({"budget": budget, f"{parameters}_parameters": size})
            for budget in sorted(self.budgets)
            for size in _sizes_about(
                math.sqrt(budget / (6 * self.tokens_per_parameter)), self.sizes, self.spread
            )
        ]


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


class FittedOptimum(Spec):
    """The size that a fit predicts to be best at a compute."""

    budget: Budget = Field(description="Training FLOPs.")
    parameters: PositiveFloat = Field(description="Size of least predicted loss there.")
    extrapolation: PositiveFloat = Field(
        description="The budget over the largest compute of the fit's runs."
    )


ROUNDING = 1e-3  # a written extrapolation has four digits


class FromFitDesign(Spec):
    """At every budget the size that a fit predicts to be best, or several sizes about it.

    Between two points of the fit the size is linear in log N over log C; beyond them it is not
    known. `cola fit --predict c=... --design FILE` writes one.
    """

    kind: Literal["from_fit"] = Field(
        description="At every budget the size that a fit predicts to be best."
    )
    fit: str = Field(min_length=1, description="Which fit: its table and law, as text.")
    counts: Parameters = Field(
        description="What the fit's N counts: `core` or `total`, as `matching.parameters` says."
    )
    points: list[FittedOptimum] = Field(min_length=1, description="What the fit predicts.")
    budgets: list[Budget] = Field(
        min_length=1, description="Training FLOPs of a run, from the first point's to the last's."
    )
    sizes: int = Field(
        default=1, ge=1, le=99, description="Sizes at each budget, evenly spaced in logarithm."
    )
    spread: float = Field(
        default=4.0, gt=1, description="With several sizes: largest over smallest at a budget."
    )

    def optimum(self, budget: float) -> float:
        """The fit's best size, of which at least one point lies on either side.

        Raises:
            ValueError: the budget is beyond the points.
        """
        points = sorted((point.budget, point.parameters) for point in self.points)
        for low, high in pairwise(points):
            if low[0] <= budget <= high[0]:
                return log_linear(low, high, budget)
        if len(points) == 1 and budget == points[0][0]:
            return points[0][1]
        raise ValueError(
            f"design: a budget of {budget:.10g} FLOPs is beyond the fit's points "
            f"({points[0][0]:.10g} to {points[-1][0]:.10g}); add one by `cola fit --predict "
            f"c={budget:.10g}`"
        )

    def cautions(self) -> list[str]:
        """One sentence where the sizes are extrapolated."""
        point = self.points[0]
        beyond = max(self.budgets) / point.budget * point.extrapolation
        if beyond < 1 + ROUNDING:
            return []
        return [
            f"the design's sizes are extrapolated: its largest budget is {beyond:.3g} times the "
            f"largest compute of the fit's runs ({self.fit})"
        ]

    def rungs(self, parameters: Parameters) -> list[Rung]:
        """Budgets from small to large, at each the sizes from small to large.

        Raises:
            ValueError: a budget is beyond the points, or the fit counts other parameters.
        """
        if parameters != self.counts:
            raise ValueError(
                f"design.counts={self.counts}: matching.parameters={parameters}; fit the other "
                f"count of the runs, or set matching.parameters: {self.counts}"
            )
        return [
            Rung.parse({"budget": budget, f"{parameters}_parameters": size})
            for budget in sorted(self.budgets)
            for size in _sizes_about(self.optimum(budget), self.sizes, self.spread)
        ]

    @model_validator(mode="after")
    def _are_distinct(self) -> FromFitDesign:
        check_distinct([point.budget for point in self.points])
        check_distinct(self.budgets)
        for budget in self.budgets:
            self.optimum(budget)
        return self


def _kind_of(values: object) -> str:
    """An IsoFLOP design needs no kind."""
    if isinstance(values, dict):
        return str(values.get("kind", "isoflop"))
    return str(getattr(values, "kind", "isoflop"))


Design = Annotated[
    Annotated[IsoFLOPDesign, Tag("isoflop")]
    | Annotated[GridDesign, Tag("grid")]
    | Annotated[FromFitDesign, Tag("from_fit")]
    | Annotated[TrajectoryDesign, Tag("trajectory")],
    Discriminator(
        _kind_of,
        custom_error_type="unknown_design",
        custom_error_message="kind must be isoflop, grid, from_fit or trajectory",
    ),
]


def _sizes_about(optimum: float, count: int, spread: float) -> list[int]:
    """So many sizes, evenly spaced in their logarithm, the largest `spread` times the smallest;
    their geometric mean is the optimum."""
    exponents = [i / (count - 1) - 0.5 if count > 1 else 0.0 for i in range(count)]
    return [_rounded(optimum * spread**exponent) for exponent in exponents]


def _rounded(value: float) -> int:
    """Two significant digits: a size that people can say."""
    unit = 10 ** max(0, math.floor(math.log10(value)) - 1)
    return max(1_000, round(value / unit) * unit)
