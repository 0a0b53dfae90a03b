"""Retries of diverged runs: the same run at a lower learning rate, under another key and name.

The learning rate is part of a run's identity, so a retry never passes for the run that was planned.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from cola.spec.resources import DivergenceRetry
from orchestration.planning.plan import PlannedRun
from orchestration.state.ledger import Ledger

log = logging.getLogger(__name__)


def with_retries(
    plan: Sequence[PlannedRun], retry: DivergenceRetry | None, ledger: Ledger
) -> list[PlannedRun]:
    """The plan with each diverged run replaced by its next retry, where it has one left."""
    return [_latest_retry(run, retry, ledger) for run in plan]


def next_retry(run: PlannedRun, retry: DivergenceRetry | None) -> PlannedRun | None:
    """The run again from its start at `factor` times its rates; None after the last retry."""
    if retry is None or run.retry >= retry.times:
        return None
    optimizer = run.spec.training.optimizer
    lower = optimizer.model_copy(update={"learning_rate": optimizer.learning_rate * retry.factor})
    stages = {
        name: own
        if own.learning_rate is None
        else own.model_copy(update={"learning_rate": own.learning_rate * retry.factor})
        for name, own in run.spec.training.stages.items()
    }
    training = run.spec.training.model_copy(update={"optimizer": lower, "stages": stages})
    number = run.retry + 1
    stem = run.name.removesuffix(f"-retry{run.retry}")
    return replace(
        run,
        spec=run.spec.model_copy(update={"training": training}),
        name=f"{stem}-retry{number}",
        retry=number,
    )


def _latest_retry(run: PlannedRun, retry: DivergenceRetry | None, ledger: Ledger) -> PlannedRun:
    while ledger.known_entry(run.key).state == "diverged":
        following = next_retry(run, retry)
        if following is None:
            return run
        log.info("%s diverged: replaced by %s", run.name, following.name)
        run = following
    return run
