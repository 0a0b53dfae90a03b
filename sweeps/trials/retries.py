"""Trials whose process died (killed, out of memory, hung): they are taken up again, from the
checkpoints of their runs, as often as `resources.max_failures` allows."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from cola.records import TrialFinished, TrialRequested
from orchestration.state.ledger import Ledger
from orchestration.state.paths import output_root
from sweeps.space.points import PlannedPoint
from sweeps.trials.readings import flops_since

PROCESS_DIED = "the trial's process died"


@dataclass(frozen=True)
class LostWork:
    """What the processes of a trial that died have done, `times` of them from `began` on.

    `told`: the share of the first run's budget up to which its evaluations are known.
    """

    began: float
    times: int = 0
    told: float = 0.0
    flops: float = 0.0
    hours: float = 0.0


class Retries:
    """Of the trials of one driver, by their numbers."""

    def __init__(self) -> None:
        self._lost: dict[int, LostWork] = {}

    def again(
        self, asked: TrialRequested, candidate: PlannedPoint, began: float, told: float
    ) -> int | None:
        """Which retry it is that a trial gets whose process, of `began`, died; None for none."""
        lost = self._lost.get(asked.trial, LostWork(began))
        needs = candidate.runs[0].resources
        if lost.times >= needs.max_failures:
            return None
        ledger = Ledger(output_root(candidate.study))
        done = sum(
            flops_since(run.spec, ledger.run_folder(run.key), began) for run in candidate.runs
        )
        units = needs.accelerators
        self._lost[asked.trial] = replace(
            lost,
            times=lost.times + 1,
            told=max(lost.told, told),
            flops=lost.flops + done,
            hours=lost.hours + (time.time() - began) / 3600 * units,
        )
        return lost.times + 1

    def told(self, asked: TrialRequested) -> float:
        """The share of the budget up to which the trial's evaluations are known."""
        lost = self._lost.get(asked.trial)
        return lost.told if lost is not None else 0.0

    def began(self, asked: TrialRequested, latest: float) -> float:
        """When the trial began; `latest` is when its last process did (Unix seconds)."""
        lost = self._lost.get(asked.trial)
        return lost.began if lost is not None else latest

    def whole(self, ended: TrialFinished) -> TrialFinished:
        """What the last process told, with what those before it took."""
        lost = self._lost.get(ended.trial)
        if lost is None:
            return ended
        hours = ended.accelerator_hours + lost.hours
        return ended.model_copy(
            update={"flops": ended.flops + lost.flops, "accelerator_hours": hours}
        )
