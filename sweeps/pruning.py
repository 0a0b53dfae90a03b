"""Optuna's pruners as Ray Tune's scheduler."""

from __future__ import annotations

from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from sweeps.tune_search import TuneSearch


class PrunerScheduler(FIFOScheduler):
    """Ends a trial where the search, which has the trials' Optuna study, says so."""

    def __init__(self, search: TuneSearch) -> None:
        super().__init__()
        self._search = search

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """After each evaluation."""
        ends = self._search.evaluated(trial.trial_id, result)
        return str(TrialScheduler.STOP if ends else TrialScheduler.CONTINUE)
