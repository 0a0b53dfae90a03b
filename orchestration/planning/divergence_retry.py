"""A second try for runs that diverged: the same run at a lower learning rate, as a run of its own.

What it trained at is part of its identity, so it never passes for the run that was planned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cola.spec.resources import DivergenceRetry
from orchestration.planning.plan import PlannedRun
from orchestration.state.ledger import Ledger


def with_retries(
    plan: Sequence[PlannedRun], retry: DivergenceRetry | None, ledger: Ledger
) -> list[PlannedRun]:
    """The plan with each diverged run replaced by the try that is left to it, if one is."""
    return [_current(run, retry, ledger) for run in plan]


def next_try(run: PlannedRun, retry: DivergenceRetry | None) -> PlannedRun | None:
    """The run once more from its start, at `factor` times its rate; None where it had its tries."""
    if retry is None or run.retry >= retry.times:
        return None
    optimizer = run.spec.training.optimizer
    lower = optimizer.model_copy(update={"learning_rate": optimizer.learning_rate * retry.factor})
    training = run.spec.training.model_copy(update={"optimizer": lower})
    number = run.retry + 1
    stem = run.name.removesuffix(f"-retry{run.retry}")
    return replace(
        run,
        spec=run.spec.model_copy(update={"training": training}),
        name=f"{stem}-retry{number}",
        retry=number,
    )


def _current(run: PlannedRun, retry: DivergenceRetry | None, ledger: Ledger) -> PlannedRun:
    while ledger.entry(run.key).state == "diverged":
        following = next_try(run, retry)
        if following is None:
            return run
        run = following
    return run
