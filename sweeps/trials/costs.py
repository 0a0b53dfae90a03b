"""What the attempts of a trial cost."""

from __future__ import annotations

import time
from dataclasses import dataclass

from orchestration.planning.plan import PlannedRun
from sweeps.trials.readings import Position, flops_between


@dataclass
class TrialCosts:
    """Sums over the attempts that a trial's process made; seconds as in `TrialFinished`."""

    flops: float = 0.0
    shared_flops: float = 0.0
    accelerator_hours: float = 0.0
    training_seconds: float = 0.0
    working_seconds: float = 0.0

    def add_devices(self, run: PlannedRun, began: float) -> None:
        """Add the devices that the run has held since `began` (Unix seconds)."""
        self.accelerator_hours += (time.time() - began) / 3600 * run.resources.accelerators

    def add_steps(
        self, run: PlannedRun, before: Position, after: Position, *, charges_shared: bool
    ) -> None:
        """Add the steps of an attempt; with `charges_shared`, those of others before it too."""
        self.flops += flops_between(run.spec, before.step, after.step)
        if before.shared and charges_shared:
            self.shared_flops += flops_between(run.spec, 0, before.step)
        self.training_seconds += max(0.0, after.elapsed_seconds - before.elapsed_seconds)
        self.working_seconds += after.working_seconds
