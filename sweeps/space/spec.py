"""What a sweep is: a base study, a space of its keys, metrics, an algorithm, a budget."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from cola.spec import Spec
from cola.spec.base import check_distinct
from cola.study.run import Seed
from sweeps.space.arms import Arm, WideningSpec, arms_at_rungs
from sweeps.space.checks import check_answer, check_arm_names, check_population, check_space
from sweeps.space.domains import Space, Value
from sweeps.space.metrics import check_metrics
from sweeps.space.rate_question import RateQuestion, check_rate
from sweeps.space.samplers import check_sampler, search_notes

Scale = Literal["laptop", "node", "cluster"]
SCALES: tuple[Scale, ...] = ("laptop", "node", "cluster")


class MetricGoal(Spec):
    """A metric of the finished runs and which way is better."""

    name: str = Field(
        default="val/nll_nats_per_token",
        description="Name of the metric, as in MLflow: `val/...` is also measured while runs "
        "train, `continuation/...` on the finished models.",
    )
    direction: Literal["minimize", "maximize"] = Field(
        default="minimize", description="Which way is better."
    )


class AlgorithmSpec(Spec):
    """How points are chosen."""

    kind: Literal["grid", "random", "tpe", "gp", "cma-es", "nsga2"] = Field(
        default="tpe",
        description="`grid` takes every point, of a space of finitely many values; the others are "
        "Optuna's samplers. `grid`, `random`, `tpe` and `nsga2` take several metrics.",
    )
    seed: NonNegativeInt = Field(default=0, description="Seed of what is drawn at random.")
    startup_trials: PositiveInt = Field(
        default=8,
        description="Trials drawn at random before the algorithm models their results; for `nsga2` "
        "the population's size.",
    )


class PopulationSpec(Spec):
    """Population based training of learning rates (Jaderberg et al., 2017, section 3).

    Members train side by side, drawn by the algorithm. At the end of each generation the worst are
    replaced by ones that resume from the training state of a member of the best, at that member's
    rate times a factor. So are members that failed or diverged. The factors are
    `training.schedule.rate_changes`: the best member is a run that a study repeats.
    """

    members: int = Field(default=8, ge=2, description="Runs that train side by side.")
    generations: int = Field(
        default=4,
        ge=2,
        description="Equal parts of the steps; between two of them members are replaced.",
    )
    quantile: float = Field(
        default=0.25,
        gt=0,
        le=0.5,
        description="Share of the members, the worst by the first metric, that is replaced, and "
        "share of the best that replace them.",
    )
    perturbation: float = Field(
        default=1.25,
        gt=1,
        description="A replacement's learning rate is that of its source times a factor between "
        "1 / this and this, evenly drawn in its logarithm, within the space's bounds.",
    )


class SchedulerSpec(Spec):
    """Which trials end early, by the first metric at their evaluations.

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
    ] = Field(
        default="none",
        description="`asha`: of the trials that reach a share of their budget the best continue. "
        "`hyperband`: the same with three values of `grace` side by side. `median`: a trial below "
        "the median of earlier ones ends. `optuna-...`: Optuna's pruners; `tpe` under "
        "`optuna-hyperband` models each bracket by itself, as BOHB does (Falkner et al., 2018). "
        "`pbt`: nothing ends early, see `population`.",
    )
    grace: float = Field(
        default=0.25,
        gt=0,
        lt=1,
        description="Share of its budget that every trial gets before the first decision.",
    )
    reduction: float = Field(
        default=2.0,
        gt=1,
        description="The best 1 / `reduction` of the trials continue at each decision; a whole "
        "number for `optuna-halving` and `optuna-hyperband`, without effect on `median`.",
    )
    population: PopulationSpec = Field(
        default=PopulationSpec(), description="Population based training, for `kind: pbt`."
    )

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
    """What each arm of the sweep may take; no trial starts once one of the limits is reached."""

    trials: PositiveInt | None = Field(
        default=None,
        description="Trials, whether finished, stopped, failed or diverged; points that no study "
        "can have do not count. Null: no limit.",
    )
    flops: PositiveFloat | None = Field(
        default=None,
        description="Executed training FLOPs; a run that was finished already costs none. Null: no "
        "limit.",
    )
    wall_seconds: PositiveFloat | None = Field(
        default=None,
        description="Seconds since the command started, and those in which trials of earlier calls "
        "ran. Null: no limit.",
    )
    accelerator_hours: PositiveFloat | None = Field(
        default=None,
        description="GPU hours of trials (core hours where workers have no GPUs). Null: no limit.",
    )


class ScaleSpec(Spec):
    """What is different at a scale; what is left out is as in the sweep."""

    study: str | dict[str, Any] | None = Field(
        default=None, description="In place of the sweep's `study`."
    )
    set: dict[str, Value] = Field(default={}, description="Added to the sweep's `set`.")
    space: Space = Field(
        default={},
        description="Keys with other values; a key that an arm has is changed in that arm.",
    )
    budget: BudgetSpec | None = Field(default=None, description="In place of the sweep's `budget`.")
    seeds: list[Seed] | None = Field(
        default=None, min_length=1, description="In place of the sweep's `seeds`."
    )
    rungs: list[NonNegativeInt] | None = Field(
        default=None, description="In place of the sweep's `rungs`."
    )
    concurrent_trials: PositiveInt | None = Field(
        default=None, description="In place of the sweep's `concurrent_trials`."
    )


class DriftQuestion(Spec):
    """Does the best value of `key` move with `over`?"""

    kind: Literal["drift"] = Field(
        default="drift", description="Does the best value of one key move with another key?"
    )
    key: str = Field(description="Key of the space whose best value is asked for.")
    over: str = Field(description="Key of the space that it may move with.")
    log: bool = Field(
        default=True, description="Whether it moves linearly in the logarithm of `over`."
    )
    control: Literal["random_code"] | None = Field(
        default=None,
        description="What is taken from the drift of the timestep's loc: `random_code`, (ln d) / 2 "
        "in logit t, what a code of d = `over` dimensions has without structure. Null: nothing.",
    )


class BestQuestion(Spec):
    """Which value is best, and is it better than the next by more than the seeds' spread?"""

    kind: Literal["best"] = Field(
        default="best",
        description="Which value is best, and by more than the seeds' spread?",
    )


class TradeoffQuestion(Spec):
    """Do the first two metrics agree on the best point?"""

    kind: Literal["tradeoff"] = Field(
        default="tradeoff", description="Do the first two metrics agree on the best point?"
    )


Question = Annotated[
    DriftQuestion | BestQuestion | TradeoffQuestion | RateQuestion, Field(discriminator="kind")
]


class SweepSpec(Spec):
    """What `cola sweep` takes: a base study and a search space over its keys."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$",
        description="Name of the sweep's folder and MLflow experiment: lower-case letters, digits, "
        "`.`, `_` and `-`, at most 64.",
    )
    description: str = Field(default="", description="A sentence on what is varied.")
    question: str = Field(default="", description="The question, as the report's heading.")
    answer: Question = Field(
        default=BestQuestion(), description="What the report's answer is computed from."
    )
    study: str | dict[str, Any] = Field(
        description="Base study: name of one that ships, a YAML file, or the study itself (its "
        "name may be left out)."
    )
    set: dict[str, Value] = Field(
        default={}, description="Keys of the study by their paths, with other values."
    )
    space: Space = Field(
        default={},
        description="Keys of the study by their paths, with the values to search; a point is one "
        "run for each seed.",
    )
    arms: dict[str, Arm] = Field(
        default={},
        description="Parts of the sweep by their names, each with a search and a budget of its "
        "own. Metrics of two families do not compare, so each family needs an arm.",
    )
    rungs: list[NonNegativeInt] = Field(
        default=[],
        description="Rungs of the base study, from 0, at which every arm searches: an arm becomes "
        "several of the names ARM-rung0, ARM-rung1, ..., each with a budget of its own.",
    )
    metrics: list[MetricGoal] = Field(
        default=[MetricGoal()],
        min_length=1,
        description="What is optimised. The first metric decides which trials end early; several "
        "make a Pareto front.",
    )
    algorithm: AlgorithmSpec = Field(default=AlgorithmSpec(), description="How points are chosen.")
    scheduler: SchedulerSpec = Field(default=SchedulerSpec(), description="Which trials end early.")
    budget: BudgetSpec = Field(default=BudgetSpec(), description="What each arm may take.")
    widening: WideningSpec = Field(
        default=WideningSpec(), description="Trials beyond an edge on which an optimum lies."
    )
    seeds: list[Seed] | None = Field(
        default=None, min_length=1, description="In place of the study's seeds."
    )
    start: list[dict[str, Value]] = Field(
        default=[], description="Points that are tried first: keys of the space with a value each."
    )
    start_with_study: bool = Field(
        default=False,
        description="Try first, before `start`, what the base study itself has of an arm's keys: "
        "an arm whose space has all of these does not end with worse. A key of which the space "
        "does not have the study's value is drawn; a grid then begins as ever.",
    )
    concurrent_trials: PositiveInt | None = Field(
        default=None,
        description="Most trials that run at the same time; null: as many as there is room for.",
    )
    warm_workers: bool = Field(
        default=True,
        description="Train trials of one worker in processes that stay for the next trial, which "
        "saves most of a run's start. Without effect with several workers or on a shared cluster.",
    )
    scales: dict[Scale, ScaleSpec] = Field(
        default={}, description="What is different at the scales laptop, node and cluster."
    )

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
        for key in ("study", "budget", "seeds", "rungs", "concurrent_trials"):
            value = getattr(chosen, key)
            if value is not None:
                changes[key] = value
        return self.model_copy(update=changes)

    def at_rungs(self) -> SweepSpec:
        """The sweep with an arm for each of its rungs, and no `rungs`."""
        if not self.rungs:
            return self
        arms = arms_at_rungs(self.arms, self.rungs)
        return self.model_copy(update={"arms": arms, "rungs": []})

    def spaces(self) -> dict[str, Space]:
        """Every arm's whole space; one arm without a name where the sweep has none."""
        if not self.arms:
            return {"": self.space}
        return {name: {**self.space, **arm.space} for name, arm in self.arms.items()}

    @property
    def trials_an_arm(self) -> int | None:
        """How many points each arm draws at most; None where another budget ends it."""
        return self.scheduler.population.members if self.is_population else self.budget.trials

    def search_notes(self, arm: str) -> list[str]:
        """What the search does not do with the keys of an arm's space, a sentence each."""
        notes = search_notes(
            self.algorithm.kind,
            self.spaces()[arm],
            startup_trials=self.algorithm.startup_trials,
            trials=self.trials_an_arm,
            is_population=self.is_population,
        )
        first = len(self.start) + self.start_with_study
        untried = 0 if self.trials_an_arm is None else first - self.trials_an_arm
        if untried > 0:
            late = f"The last {untried} of {first} start points are not tried: an arm has "
            return [*notes, f"{late}{self.trials_an_arm} trials."]
        return list(notes)

    @property
    def is_population(self) -> bool:
        """Whether its arms are populations."""
        return self.scheduler.kind == "pbt"

    @model_validator(mode="after")
    def _is_possible(self) -> SweepSpec:
        check_distinct(self.rungs)
        check_arm_names(arms_at_rungs(self.arms, self.rungs) if self.rungs else self.arms)
        widens = self.widening.trials > 0
        if widens and (self.is_population or len(self.metrics) > 1):
            raise ValueError(
                f"widening.trials={self.widening.trials}: goes with one metric, and not with pbt; "
                "leave it out"
            )
        check_metrics([goal.name for goal in self.metrics])
        spaces, answer = self.spaces(), self.answer
        for space in spaces.values():
            check_space(space, self.algorithm.kind)
            check_sampler(self.algorithm.kind, space)
        limited = self.algorithm.kind == "grid" or self.is_population or self.scales
        if not limited and self.budget == BudgetSpec():
            raise ValueError("budget: give trials, flops, wall_seconds or accelerator_hours")
        keys = (answer.key, answer.over) if isinstance(answer, DriftQuestion) else ()
        check_answer(answer.kind, keys, spaces=spaces, metrics=len(self.metrics))
        if isinstance(answer, RateQuestion):
            if self.start_with_study:
                raise ValueError(
                    "start_with_study: answer.kind=rate trains every point of its grid, in order "
                    "of the budgets; leave it out"
                )
            names = [goal.name for goal in self.metrics]
            check_rate(answer, spaces, algorithm=self.algorithm.kind, metrics=names)
        if len(self.metrics) > 1 and self.scheduler.kind != "none":
            raise ValueError(
                f"scheduler.kind={self.scheduler.kind!r} judges by one metric; with several use "
                "'none'"
            )
        if self.is_population:
            if self.budget != BudgetSpec() or any(s.budget for s in self.scales.values()):
                raise ValueError(
                    "budget: a population takes what scheduler.population.members whole runs take; "
                    "leave budget out"
                )
            members = self.scheduler.population.members
            check_population(self.metrics[0].name, spaces.values(), members)
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
