"""Algorithms that draw points: a grid, and Optuna's samplers with its pruners."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, Protocol

from sweeps.space.domains import Space
from sweeps.space.space import Point, grid, suggest_point
from sweeps.space.spec import SweepSpec

Course = list[tuple[float, float]]  # (share of the budget spent, value) at each evaluation


class Algorithm(Protocol):
    """Draws points and learns from results; each draw has an id."""

    def draw(self, draw: str) -> Point | None:
        """The next point, or None where there is none left."""

    def report(self, draw: str, spent: float, value: float) -> bool:
        """An evaluation of the first metric after a share of the budget; whether to end there."""

    def tell(self, draw: str, metrics: dict[str, float] | None, stopped: bool = False) -> None:
        """What a drawn point gave (`stopped`: before its budget was spent); None where nothing."""


class Grid:
    """All points of a finite space, then none; learns nothing and ends nothing."""

    def __init__(self, space: Space, first: list[Point]) -> None:
        self._points: Iterator[Point] = iter([*first, *grid(space)])

    def draw(self, draw: str) -> Point | None:
        """See Algorithm."""
        return next(self._points, None)

    def report(self, draw: str, spent: float, value: float) -> bool:
        """See Algorithm."""
        return False

    def tell(self, draw: str, metrics: dict[str, float] | None, stopped: bool = False) -> None:
        """See Algorithm."""


class OptunaAlgorithm:
    """An Optuna study, asked and told; a pruner's clock is the evaluation points passed."""

    def __init__(
        self, sweep: SweepSpec, space: Space, name: str, points: int, drawn_before: int
    ) -> None:
        """`points`: evaluations of a whole run. `drawn_before` continues the random numbers of an
        earlier driver instead of repeating them. HyperBand's brackets follow from `name`."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space, self._goals, self._points = space, sweep.metrics, points
        self._learns_from_stopped = sweep.algorithm.kind in ("tpe", "random")
        self._trials: dict[str, Any] = {}
        self._study = optuna.create_study(
            study_name=name,
            directions=[goal.direction for goal in sweep.metrics],
            sampler=sampler_of(sweep, sweep.algorithm.seed + drawn_before),
            pruner=pruner_of(sweep, points),
        )

    def draw(self, draw: str) -> Point:
        """See Algorithm."""
        self._trials[draw] = trial = self._study.ask()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a value outside of a changed space
            return suggest_point(self._space, trial)

    def draw_known(self, draw: str, parameters: dict[str, Any]) -> None:
        """Draw this point (in Optuna's values)."""
        self._study.enqueue_trial(parameters)
        self.draw(draw)

    def enqueue(self, parameters: dict[str, Any]) -> None:
        """The point (in Optuna's values) is drawn before others."""
        self._study.enqueue_trial(parameters)

    def report(self, draw: str, spent: float, value: float) -> bool:
        """See Algorithm."""
        trial = self._trials.get(draw)
        if trial is None or len(self._goals) > 1:
            return False
        trial.report(value, max(1, round(spent * self._points)))
        return bool(trial.should_prune())

    def tell(self, draw: str, metrics: dict[str, float] | None, stopped: bool = False) -> None:
        """See Algorithm. TPE ranks a stopped trial by how far it came and its value there; other
        samplers would leave it out, so they are told its value as if it were a whole trial's."""
        from optuna.trial import TrialState

        trial = self._trials.pop(draw)
        if metrics is None or any(goal.name not in metrics for goal in self._goals):
            self._study.tell(trial, state=TrialState.FAIL)
        elif stopped and self._learns_from_stopped:
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, [metrics[goal.name] for goal in self._goals])


def sampler_of(sweep: SweepSpec, seed: int) -> Any:
    """Optuna's sampler of an algorithm."""
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


def pruner_of(sweep: SweepSpec, points: int) -> Any:
    """Optuna's pruner, in evaluation points (of `points` in a run); one that ends nothing where
    trials are ended otherwise."""
    from optuna import pruners

    chosen = sweep.scheduler
    first = max(1, round(chosen.grace * points))
    factor = round(chosen.reduction)
    match chosen.kind:
        case "optuna-halving":
            return pruners.SuccessiveHalvingPruner(min_resource=first, reduction_factor=factor)
        case "optuna-hyperband":
            return pruners.HyperbandPruner(
                min_resource=first, max_resource=points, reduction_factor=factor
            )
        case "optuna-percentile":
            return pruners.PercentilePruner(
                100 / chosen.reduction, n_startup_trials=3, n_warmup_steps=first
            )
        case _:
            return pruners.NopPruner()
