"""Which budgets and sizes a study trains, and the rules that follow from them."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Discriminator, Field, PositiveFloat, PositiveInt, Tag, model_validator

from cola.spec.base import Spec

Budget = Annotated[float, Field(gt=0, le=1e30)]
Parameters = Literal["core", "total"]
Size = Annotated[int, Field(ge=1_000, le=10**13)]


class Rung(Spec):
    """One budget of the ladder and the model size trained at it (every family, every seed).

    The size is a target of core or of total parameters (which of them is what
    `matching.parameters` says), or a published row by name (`paper-2b`: docs/model.md).
    """

    budget: Budget
    core_parameters: Size | None = None
    total_parameters: Size | None = None
    row: Literal["paper-2b"] | None = None

    @property
    def target(self) -> int | None:
        """Parameters that are aimed at; None for a published row."""
        return self.core_parameters or self.total_parameters

    @model_validator(mode="after")
    def _one_size(self) -> Rung:
        _only_one(self, ("core_parameters", "total_parameters", "row"))
        return self


def _only_one(spec: Spec, keys: tuple[str, ...]) -> None:
    if sum(getattr(spec, key) is not None for key in keys) != 1:
        raise ValueError(f"give one of {', '.join(keys)}")


class IsoFLOPDesign(Spec):
    """At every budget several sizes round the expected optimum; tokens follow from the budget.

    The expected optimum of a budget C is N = sqrt(C / (6 r)) with r `tokens_per_parameter`; `sizes`
    targets from N / sqrt(spread) to N sqrt(spread) are evenly spaced in log N, of core or of total
    parameters as `matching.parameters` says.
    """

    kind: Literal["isoflop"] = "isoflop"
    budgets: list[Budget] = Field(min_length=1)
    sizes: int = Field(default=5, ge=3, le=99)
    spread: float = Field(default=16.0, gt=1)
    tokens_per_parameter: PositiveFloat = 20.0

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

    kind: Literal["grid"] = "grid"
    budgets: list[Budget] = Field(min_length=1)
    core_parameters: list[Size] | None = Field(default=None, min_length=1)
    total_parameters: list[Size] | None = Field(default=None, min_length=1)

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

    All points share the stable phase of a WSD schedule and branch from it into decays of their own,
    so that the stable phase is trained once. Warm-up, rules and Cola DLM's first stage must not
    depend on the point: the first two are those of the largest budget's rules and the smallest
    budget's warm-up, and stage 1 is paid from the smallest budget.
    """

    kind: Literal["trajectory"] = "trajectory"
    budgets: list[Budget] = Field(min_length=2)
    core_parameters: Size | None = None
    total_parameters: Size | None = None
    row: Literal["paper-2b"] | None = None

    def rungs(self, parameters: Parameters) -> list[Rung]:
        """Budgets from small to large."""
        size = self.model_dump(exclude={"kind", "budgets"})
        return [Rung.parse({"budget": budget, **size}) for budget in sorted(self.budgets)]

    @model_validator(mode="after")
    def _is_possible(self) -> TrajectoryDesign:
        _only_one(self, ("core_parameters", "total_parameters", "row"))
        if len(set(self.budgets)) != len(self.budgets):
            raise ValueError("budgets must differ from each other")
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

    kind: Literal["power_law"] = "power_law"
    coefficient: PositiveFloat
    parameters_exponent: float = 0.0
    budget_exponent: float = 0.0

    def value(self, parameters: float, budget: float) -> float:
        """The rule at a size and a budget."""
        size = (parameters / 1e6) ** self.parameters_exponent
        return float(self.coefficient * size * (budget / 1e15) ** self.budget_exponent)


class TunedPoint(Spec):
    """What a tuning sweep found best at one budget."""

    budget: Budget
    value: PositiveFloat


class TunedRule(Spec):
    """Through the points of a tuning sweep, linear in log value over log budget.

    Beyond the first and the last point their values hold: nothing is extrapolated.
    """

    kind: Literal["tuned"] = "tuned"
    points: list[TunedPoint] = Field(min_length=1)

    def value(self, parameters: float, budget: float) -> float:
        """The rule at a budget (whatever the size)."""
        points = sorted(self.points, key=lambda point: point.budget)
        if budget <= points[0].budget:
            return points[0].value
        for low, high in pairwise(points):
            if budget <= high.budget:
                share = math.log(budget / low.budget) / math.log(high.budget / low.budget)
                return float(low.value * (high.value / low.value) ** share)
        return points[-1].value


Rule = Annotated[PowerLawRule | TunedRule, Field(discriminator="kind")]


class RulesSpec(Spec):
    """Settings that follow from size and budget, by the same rule for all families.

    A setting without a rule is the study's own. `batch_tokens` is rounded to sequences, in
    multiples of `batch_multiple` (so that any number of workers that divides it can share them).
    """

    learning_rate: Rule | None = None
    batch_tokens: Rule | None = None
    batch_multiple: PositiveInt = 8


def _rounded(value: float) -> int:
    """Two significant digits: a size that people can say."""
    unit = 10 ** max(0, math.floor(math.log10(value)) - 1)
    return max(1_000, round(value / unit) * unit)
