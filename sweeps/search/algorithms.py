"""Algorithms that choose points: a grid, and Optuna's samplers with its pruners."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from typing import Any, Protocol

from sweeps.space.domains import Space
from sweeps.space.space import Point, grid, suggest_point
from sweeps.space.spec import SweepSpec

log = logging.getLogger(__name__)

# A chosen value, as in Tune's median rule: fewer whole trials make no percentile.
PERCENTILE_STARTUP_TRIALS = 3


class Algorithm(Protocol):
    """Chooses points and learns from results; each draw has an id."""

    def draw(self, draw: str) -> Point | None:
        """The next point; None once there is none left."""

    def report(self, draw: str, spent: float, value: float) -> bool:
        """Whether the trial of a draw should end at this evaluation.

        `value` is the first metric after the share `spent` of the budget.
        """

    def learn(self, draw: str, metrics: dict[str, float] | None, *, stopped: bool = False) -> None:
        """Take in the metrics of a draw's trial; None where it has none.

        `stopped`: the trial ended before its budget was spent.
        """


class Grid:
    """The start points, then all points of a finite space; learns nothing and ends no trial."""

    def __init__(self, space: Space, start: list[Point]) -> None:
        self._points: Iterator[Point] = iter([*start, *grid(space)])

    def draw(self, draw: str) -> Point | None:
        """See Algorithm."""
        return next(self._points, None)

    def report(self, draw: str, spent: float, value: float) -> bool:
        """See Algorithm."""
        return False

    def learn(self, draw: str, metrics: dict[str, float] | None, *, stopped: bool = False) -> None:
        """See Algorithm."""


class OptunaAlgorithm:
    """An Optuna study with a sampler and a pruner, whose clock is the number of evaluations."""

    def __init__(
        self, sweep: SweepSpec, space: Space, name: str, *, evaluations: int, earlier_draws: int
    ) -> None:
        """`evaluations` are those of a whole run. HyperBand's brackets follow from `name`.

        `earlier_draws` of earlier drivers move the seed, so that their random numbers do not come
        again.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space, self._goals, self._evaluations = space, sweep.metrics, evaluations
        self._learns_from_stopped = sweep.algorithm.kind in ("tpe", "random")
        self._trials: dict[str, Any] = {}
        self._study = optuna.create_study(
            study_name=name,
            directions=[goal.direction for goal in sweep.metrics],
            sampler=sampler_of(sweep, sweep.algorithm.seed + earlier_draws),
            pruner=pruner_of(sweep, evaluations),
        )
        log.info("%s: %s with %d earlier draws", name, sweep.algorithm.kind, earlier_draws)

    def draw(self, draw: str) -> Point:
        """See Algorithm."""
        self._trials[draw] = trial = self._study.ask()
        with warnings.catch_warnings():
            # Optuna warns of enqueued values that a space, changed since, no longer has.
            warnings.simplefilter("ignore", UserWarning)
            return suggest_point(self._space, trial)

    def draw_known(self, draw: str, parameters: dict[str, Any]) -> None:
        """Make these Optuna parameters the point of this draw."""
        self._study.enqueue_trial(parameters)
        self.draw(draw)

    def enqueue(self, parameters: dict[str, Any]) -> None:
        """Make these Optuna parameters the point of the next draw that has none."""
        self._study.enqueue_trial(parameters)

    def report(self, draw: str, spent: float, value: float) -> bool:
        """See Algorithm."""
        trial = self._trials.get(draw)
        if trial is None or len(self._goals) > 1:
            return False
        trial.report(value, max(1, round(spent * self._evaluations)))
        return bool(trial.should_prune())

    def learn(self, draw: str, metrics: dict[str, float] | None, *, stopped: bool = False) -> None:
        """See Algorithm.

        TPE ranks a stopped trial by its last evaluation. Other samplers ignore pruned trials, so
        they get its last value as if the trial had been whole.
        """
        from optuna.trial import TrialState

        trial = self._trials.pop(draw)
        if metrics is None or any(goal.name not in metrics for goal in self._goals):
            self._study.tell(trial, state=TrialState.FAIL)
        elif stopped and self._learns_from_stopped:
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, [metrics[goal.name] for goal in self._goals])


def sampler_of(sweep: SweepSpec, seed: int) -> Any:
    """Optuna's sampler for `algorithm.kind`."""
    import optuna

    startup = sweep.algorithm.startup_trials
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match sweep.algorithm.kind:
            case "tpe":
                # Trials that run side by side should not all be the same best guess.
                return optuna.samplers.TPESampler(
                    seed=seed, n_startup_trials=startup, constant_liar=True
                )
            case "gp":
                return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup)
            case "cma-es":
                return optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=startup)
            case "nsga2":
                return optuna.samplers.NSGAIISampler(seed=seed, population_size=startup)
            case _:
                return optuna.samplers.RandomSampler(seed=seed)


def pruner_of(sweep: SweepSpec, evaluations: int) -> Any:
    """Optuna's pruner for `scheduler.kind`, with `evaluations` in a whole run.

    Where Ray Tune decides, or nobody, it is one that ends no trial.
    """
    from optuna import pruners

    scheduler = sweep.scheduler
    first = max(1, round(scheduler.grace * evaluations))
    factor = round(scheduler.reduction)
    match scheduler.kind:
        case "optuna-halving":
            return pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=factor)
        case "optuna-hyperband":
            return pruners.HyperbandPruner(
                min_resource=first, max_resource=evaluations, reduction_factor=factor
            )
        case "optuna-percentile":
            return pruners.PercentilePruner(
                100 / scheduler.reduction,
                n_startup_trials=PERCENTILE_STARTUP_TRIALS,
                n_warmup_steps=first,
            )
        case _:
            return pruners.NopPruner()
