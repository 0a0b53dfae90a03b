"""Ray Tune's schedulers for `scheduler.kind`, which end trials early."""

from __future__ import annotations

from typing import Any, Protocol

from ray.tune import schedulers

from sweeps.space.spec import SweepSpec
from sweeps.trials.trainable import SPENT

# A chosen value: fewer trials have no median that is worth comparing with.
MEDIAN_MIN_TRIALS = 3
HYPERBAND_BRACKETS = 3  # as `scheduler.kind` says: three values of `grace` side by side


class Pruner(Protocol):
    """Decides at an evaluation whether a trial ends."""

    def evaluated(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether the trial ends here."""


class PrunerScheduler(schedulers.FIFOScheduler):
    """Ends a trial where the pruner says so: the search, which has the trials' Optuna study."""

    def __init__(self, pruner: Pruner) -> None:
        super().__init__()
        self._pruner = pruner

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Tune's decision after an evaluation."""
        ends = self._pruner.evaluated(trial.trial_id, result)
        scheduler = schedulers.TrialScheduler
        return str(scheduler.STOP if ends else scheduler.CONTINUE)


def scheduler_of(sweep: SweepSpec, pruner: Pruner) -> schedulers.TrialScheduler:
    """The scheduler of a sweep; its clock is the share of a run's budget that is spent."""
    spec, goal = sweep.scheduler, sweep.metrics[0]
    mode = "min" if goal.direction == "minimize" else "max"
    common = {"time_attr": SPENT, "metric": goal.name, "mode": mode}
    if spec.kind in ("asha", "hyperband"):
        return schedulers.AsyncHyperBandScheduler(
            **common,
            max_t=1.0,
            grace_period=spec.grace,
            reduction_factor=spec.reduction,
            brackets=HYPERBAND_BRACKETS if spec.kind == "hyperband" else 1,
        )
    if spec.kind == "median":
        return schedulers.MedianStoppingRule(
            **common,
            grace_period=spec.grace,
            min_samples_required=MEDIAN_MIN_TRIALS,
            min_time_slice=2.0,  # beyond the whole budget: trials are ended, never paused
            hard_stop=True,
        )
    return PrunerScheduler(pruner) if spec.is_pruner else schedulers.FIFOScheduler()
