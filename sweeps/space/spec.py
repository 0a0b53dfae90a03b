"""What a sweep is: a base study, a space of its keys, metrics, an algorithm, a budget."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import (
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Tag,
    model_validator,
)

from cola.records import RATE_CHANGES
from cola.spec import Spec
from cola.study.run import Seed

Value = Any  # whatever a key of a study can hold
Scale = Literal["laptop", "node", "cluster"]
SCALES = ("laptop", "node", "cluster")
LEARNING_RATE = "training.optimizer.learning_rate"
# Keys that only say how a finished model is used: points that differ in them share a training.
INFERENCE_KEYS = ("evaluation.generation.", "evaluation.likelihood.", "evaluation.prompt_tokens")


class Condition(Spec):
    """The key is part of a point only where another key of the space has one of these values."""

    key: str
    among: list[Value] = Field(min_length=1)


class Choice(Spec):
    """One of some values (of any kind: whole mappings too); a bare list of them will do."""

    kind: Literal["choice"] = "choice"
    values: list[Value] = Field(min_length=1)
    when: Condition | None = None

    @model_validator(mode="before")
    @classmethod
    def _bare_list(cls, values: object) -> object:
        return {"values": values} if isinstance(values, list) else values


class Uniform(Spec):
    """A number between `low` and `high`, in steps of `step` where that is given."""

    kind: Literal["uniform"] = "uniform"
    low: float
    high: float
    step: PositiveFloat | None = None
    when: Condition | None = None

    @model_validator(mode="after")
    def _has_room(self) -> Uniform:
        _check_range(self.low, self.high)
        return self


class LogUniform(Spec):
    """A positive number between `low` and `high`, even in its logarithm."""

    kind: Literal["loguniform"] = "loguniform"
    low: PositiveFloat
    high: PositiveFloat
    when: Condition | None = None

    @model_validator(mode="after")
    def _has_room(self) -> LogUniform:
        _check_range(self.low, self.high)
        return self


class Integer(Spec):
    """A whole number from `low` to `high`, both included; with `log` even in its logarithm."""

    kind: Literal["integer"] = "integer"
    low: int
    high: int
    step: PositiveInt = 1
    log: bool = False
    when: Condition | None = None

    @model_validator(mode="after")
    def _has_room(self) -> Integer:
        _check_range(self.low, self.high)
        if self.log and (self.low < 1 or self.step != 1):
            raise ValueError("log needs low of at least 1 and no step")
        return self


def _check_range(low: float, high: float) -> None:
    if not low < high:
        raise ValueError(f"low={low:g} must be below high={high:g}")


def _kind_of(values: object) -> str:
    """A bare list is a choice."""
    if isinstance(values, dict):
        return str(values.get("kind", "choice"))
    return str(getattr(values, "kind", "choice"))


Domain = Annotated[
    Annotated[Choice, Tag("choice")]
    | Annotated[Uniform, Tag("uniform")]
    | Annotated[LogUniform, Tag("loguniform")]
    | Annotated[Integer, Tag("integer")],
    Discriminator(
        _kind_of,
        custom_error_type="unknown_domain",
        custom_error_message="kind must be choice, uniform, loguniform or integer",
    ),
]
Space = dict[str, Domain]


class MetricGoal(Spec):
    """A metric of the finished runs, by its name in `cola.records`, and which way is better."""

    name: str = "val/nll_nats_per_token"
    direction: Literal["minimize", "maximize"] = "minimize"


class AlgorithmSpec(Spec):
    """How points are chosen. `grid` needs a space of finitely many values; `nsga2` and `tpe` take
    several metrics. `startup_trials` are drawn at random before a model is made of the results.
    """

    kind: Literal["grid", "random", "tpe", "gp", "cma-es", "nsga2"] = "tpe"
    seed: NonNegativeInt = 0
    startup_trials: PositiveInt = 8


class PopulationSpec(Spec):
    """Population based training of learning rates (Jaderberg et al., 2017, section 3).

    `members` runs train side by side, drawn by the algorithm. At each of `generations` - 1 borders,
    evenly spread over the steps, those in the worst `quantile` by the first metric are given up:
    each is replaced by one that goes on from the training state of a member of the best `quantile`,
    at that member's rate times a factor drawn evenly in its logarithm from 1 / `perturbation` to
    `perturbation` (within the bounds of the rate's space). So is a member that failed or diverged.
    The factors are `training.schedule.rate_changes`: the best member is a run that a study repeats.
    """

    members: int = Field(default=8, ge=2)
    generations: int = Field(default=4, ge=2)
    quantile: float = Field(default=0.25, gt=0, le=0.5)
    perturbation: float = Field(default=1.25, gt=1)


class SchedulerSpec(Spec):
    """Which trials end early, by the first metric at their evaluations.

    `asha`: of the trials that reached a share of their budget the best 1 / `reduction` go on; the
    first decision is at the share `grace`. `hyperband`: the same with three values of `grace` side
    by side (asynchronous HyperBand). `median`: a trial below the median of those before ends.
    `optuna-halving`, `optuna-hyperband`, `optuna-percentile` (which keeps the best 1 / `reduction`)
    are Optuna's pruners; `tpe` under `optuna-hyperband` models each bracket by itself, which is
    what BOHB does (Falkner et al., 2018). `pbt`: nothing ends early, see `population`.
    The first seed of a point is what is judged: the others are trained for points that pass.
    """

    kind: Literal[
        "none",
        "asha",
        "hyperband",
        "median",
        "optuna-halving",
        "optuna-hyperband",
        "optuna-percentile",
        "pbt",
    ] = "none"
    grace: float = Field(default=0.25, gt=0, lt=1)
    reduction: float = Field(default=2.0, gt=1)
    population: PopulationSpec = PopulationSpec()

    @property
    def is_pruner(self) -> bool:
        """Whether Optuna decides."""
        return self.kind.startswith("optuna-")

    @model_validator(mode="after")
    def _has_its_reduction(self) -> SchedulerSpec:
        whole = self.kind in ("optuna-halving", "optuna-hyperband")
        if whole and not self.reduction.is_integer():
            raise ValueError(f"kind={self.kind!r} needs a whole reduction, not {self.reduction:g}")
        return self


class BudgetSpec(Spec):
    """What the sweep may take, in each arm; no trial starts once one of them is spent.

    `trials` counts finished, stopped, failed and diverged ones, not what was excluded. FLOPs are
    executed training FLOPs, counted where they are spent: a reused run costs nothing.
    """

    trials: PositiveInt | None = None
    flops: PositiveFloat | None = None
    wall_seconds: PositiveFloat | None = None
    accelerator_hours: PositiveFloat | None = None


class Arm(Spec):
    """A part of the sweep with a search and a budget of its own: `set` on the study, and keys of
    `space` beside the common ones."""

    set: dict[str, Value] = Field(default={})
    space: Space = Field(default={})

    def with_values_of(self, space: Space) -> Arm:
        """The arm with other values of those of its keys that `space` has."""
        mine = {key: space.get(key, domain) for key, domain in self.space.items()}
        return self.model_copy(update={"space": mine})


class ScaleSpec(Spec):
    """What is different at a scale; what is left out is as in the sweep.

    Values of a key that an arm has are that arm's.
    """

    study: str | dict[str, Value] | None = None
    set: dict[str, Value] = Field(default={})
    space: Space = Field(default={})
    budget: BudgetSpec | None = None
    seeds: list[Seed] | None = Field(default=None, min_length=1)
    concurrent_trials: PositiveInt | None = None


class DriftQuestion(Spec):
    """Does the best value of `key` move with `over`, linearly in its logarithm where `log`?"""

    kind: Literal["drift"] = "drift"
    key: str
    over: str
    log: bool = True


class BestQuestion(Spec):
    """Which value is best, and is it better than the next by more than the seeds' spread?"""

    kind: Literal["best"] = "best"


class TradeoffQuestion(Spec):
    """Do the first two metrics agree on the best point?"""

    kind: Literal["tradeoff"] = "tradeoff"


Question = Annotated[DriftQuestion | BestQuestion | TradeoffQuestion, Field(discriminator="kind")]


class SweepSpec(Spec):
    """What `cola sweep` takes. See `sweeps/studies` for examples.

    `study` is a shipped (base) study's name, a file, or the study itself; `set` changes it. Every
    point of `space` (key of the study by its path -> values) is a study of one run a seed. Points
    of `start` come first. `seeds` stand in place of the study's.

    With `warm_workers` trials of one worker train in processes that stay for the next trial (Ray
    Train's local mode), which saves most of what starting a run takes. Without, with several
    workers, or on a cluster that others share, every run gets workers of its own, as in a study: a
    process that stays does not give back what the cluster's queue has granted to its trial. A trial
    whose process dies, or hangs for `resources.hang_seconds`, goes on from its checkpoint in
    another one, up to `resources.max_failures` times.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")
    description: str = ""
    question: str = ""
    answer: Question = BestQuestion()
    study: str | dict[str, Value]
    set: dict[str, Value] = Field(default={})
    space: Space = Field(default={})
    arms: dict[str, Arm] = Field(default={})
    metrics: list[MetricGoal] = Field(default=[MetricGoal()], min_length=1)
    algorithm: AlgorithmSpec = AlgorithmSpec()
    scheduler: SchedulerSpec = SchedulerSpec()
    budget: BudgetSpec = BudgetSpec()
    seeds: list[Seed] | None = Field(default=None, min_length=1)
    start: list[dict[str, Value]] = Field(default=[])
    concurrent_trials: PositiveInt | None = None
    warm_workers: bool = True
    scales: dict[Scale, ScaleSpec] = Field(default={})

    def at(self, scale: Scale | None) -> SweepSpec:
        """The sweep at a scale, without scales."""
        chosen = self.scales.get(scale, ScaleSpec()) if scale is not None else ScaleSpec()
        armed = {key for arm in self.arms.values() for key in arm.space}
        common = {key: domain for key, domain in chosen.space.items() if key not in armed}
        changes: dict[str, Any] = {
            "set": {**self.set, **chosen.set},
            "space": {**self.space, **common},
            "arms": {name: arm.with_values_of(chosen.space) for name, arm in self.arms.items()},
            "scales": {},
        }
        for key in ("study", "budget", "seeds", "concurrent_trials"):
            value = getattr(chosen, key)
            if value is not None:
                changes[key] = value
        return self.model_copy(update=changes)

    def spaces(self) -> dict[str, Space]:
        """Every arm's whole space; one arm without a name where the sweep has none."""
        if not self.arms:
            return {"": self.space}
        return {name: {**self.space, **arm.space} for name, arm in self.arms.items()}

    @property
    def trials_an_arm(self) -> int | None:
        """How many points each arm draws at most; None where another budget ends it."""
        return self.scheduler.population.members if self.is_population else self.budget.trials

    @property
    def is_population(self) -> bool:
        """Whether its arms are populations."""
        return self.scheduler.kind == "pbt"

    @model_validator(mode="after")
    def _is_possible(self) -> SweepSpec:
        for space in self.spaces().values():
            _check_space(self, space)
        if len(self.metrics) > 1 and self.scheduler.kind != "none":
            raise ValueError(
                f"scheduler.kind={self.scheduler.kind!r} judges by one metric; with several use "
                "'none'"
            )
        if self.is_population:
            _check_population(self)
        if self.scheduler.is_pruner and self.algorithm.kind == "grid":
            raise ValueError(
                f"scheduler.kind={self.scheduler.kind!r} belongs to Optuna's algorithms; with a "
                "grid use 'asha', 'hyperband' or 'median'"
            )
        if len(self.metrics) > 1 and self.algorithm.kind in ("gp", "cma-es"):
            raise ValueError(
                f"algorithm.kind={self.algorithm.kind!r} takes one metric; with several use tpe, "
                "nsga2, random or grid"
            )
        return self


def _check_population(sweep: SweepSpec) -> None:
    name = sweep.metrics[0].name
    if not name.startswith("val/"):
        raise ValueError(f"metrics: {name} is not measured while runs train; pbt needs a val/ one")
    if sweep.budget != BudgetSpec() or any(scale.budget for scale in sweep.scales.values()):
        raise ValueError(
            "budget: a population takes what scheduler.population.members whole runs take; leave "
            "budget out"
        )
    for space in sweep.spaces().values():
        if RATE_CHANGES in space:
            raise ValueError(f"space.{RATE_CHANGES}: is what pbt finds; leave it out")


def _check_space(sweep: SweepSpec, space: Space) -> None:
    if not space:
        raise ValueError("space: name at least one key (in the sweep or in each of its arms)")
    before: set[str] = set()
    for key, domain in space.items():
        condition = domain.when
        if condition is not None and condition.key not in before:
            raise ValueError(f"space.{key}.when.key={condition.key!r} must be a key before it")
        before.add(key)
        if sweep.algorithm.kind == "grid" and values_of(domain) is None:
            raise ValueError(
                f"space.{key}: a grid needs finitely many values; give step, or another algorithm"
            )
    for point in sweep.start:
        strangers = sorted(set(point) - set(space)) if not sweep.arms else []
        if strangers:
            raise ValueError(f"start: {strangers[0]} is not a key of the space")
    limited = sweep.algorithm.kind == "grid" or sweep.is_population or sweep.scales
    if not limited and sweep.budget == BudgetSpec():
        raise ValueError("budget: give trials, flops, wall_seconds or accelerator_hours")


def values_of(domain: Choice | Uniform | LogUniform | Integer) -> list[Value] | None:
    """All values of a domain in order, or None where they cannot be counted."""
    if isinstance(domain, Choice):
        return list(domain.values)
    if isinstance(domain, Integer):
        return list(range(domain.low, domain.high + 1, domain.step))
    if isinstance(domain, Uniform) and domain.step is not None:
        steps = math.floor((domain.high - domain.low) / domain.step + 1e-9)
        return [round(domain.low + index * domain.step, 12) for index in range(steps + 1)]
    return None


def is_inference(key: str) -> bool:
    """Whether a key only says how a finished model is used."""
    return key.startswith(INFERENCE_KEYS)
