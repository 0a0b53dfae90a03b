"""Trials whose process died (killed, out of memory, hung).

They resume from their runs' checkpoints in another process, up to `resources.max_failures` times.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace

from cola.records import TrialFinished, TrialRequested
from orchestration.state.ledger import Ledger
from orchestration.state.paths import output_root
from sweeps.space.points import PlannedPoint
from sweeps.trials.readings import flops_since

log = logging.getLogger(__name__)

PROCESS_DIED = "the trial's process died"


@dataclass(frozen=True)
class LostWork:
    """What the processes of a trial spent that died: `deaths` of them, the first from `began` on.

    Evaluations are known up to the share `reported_up_to` of the first run's budget.
    """

    began: float
    deaths: int = 0
    reported_up_to: float = 0.0
    flops: float = 0.0
    hours: float = 0.0


class Retries:
    """Retries of one driver's trials, by their numbers."""

    def __init__(self) -> None:
        self._lost: dict[int, LostWork] = {}

    def next_retry(
        self,
        request: TrialRequested,
        planned: PlannedPoint,
        *,
        began: float,
        reported_up_to: float,
    ) -> int | None:
        """Number of the retry after a process died that had `began` then; None where none is left.

        Times are Unix seconds.
        """
        lost = self._lost.get(request.trial, LostWork(began))
        resources = planned.runs[0].resources
        if lost.deaths >= resources.max_failures:
            log.warning("trial %d: its process died; no retry is left", request.trial)
            return None
        ledger = Ledger(output_root(planned.study))
        flops = sum(
            flops_since(run.spec, ledger.run_folder(run.key), began) for run in planned.runs
        )
        retry = lost.deaths + 1
        self._lost[request.trial] = replace(
            lost,
            deaths=retry,
            reported_up_to=max(lost.reported_up_to, reported_up_to),
            flops=lost.flops + flops,
            hours=lost.hours + (time.time() - began) / 3600 * resources.accelerators,
        )
        log.warning("trial %d: its process died; retry %d", request.trial, retry)
        return retry

    def reported_up_to(self, request: TrialRequested) -> float:
        """The share of the budget up to which the trial's evaluations are known."""
        lost = self._lost.get(request.trial)
        return lost.reported_up_to if lost is not None else 0.0

    def began(self, request: TrialRequested, latest: float) -> float:
        """When the trial began; `latest` is when its last process did (Unix seconds)."""
        lost = self._lost.get(request.trial)
        return lost.began if lost is not None else latest

    def with_lost_work(self, outcome: TrialFinished) -> TrialFinished:
        """The outcome that the last process reported, plus what the processes before it spent."""
        lost = self._lost.get(outcome.trial)
        if lost is None:
            return outcome
        return outcome.model_copy(
            update={
                "flops": outcome.flops + lost.flops,
                "accelerator_hours": outcome.accelerator_hours + lost.hours,
            }
        )
