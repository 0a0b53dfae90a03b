"""The learning-rate schedule: a pure function of the step."""

from __future__ import annotations

import math

from cola.spec.run import ScheduleSpec


def learning_rate_factor(schedule: ScheduleSpec, step: int, total_steps: int) -> float:
    """Learning rate at `step` (0-based) of `total_steps`, as a fraction of the peak.

    Warm-up is linear and reaches the peak at its last step; cosine and WSD end at `final_ratio`.
    """
    warmup = round(schedule.warmup_fraction * total_steps)
    if step < warmup:
        return (step + 1) / warmup
    low = schedule.final_ratio
    if schedule.kind == "constant":
        return 1.0
    if schedule.kind == "cosine":
        progress = (step - warmup) / max(1, total_steps - 1 - warmup)
        return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    decay = max(1, round(schedule.decay_fraction * total_steps))
    left = total_steps - 1 - step
    return 1.0 if left >= decay else low + (1 - low) * left / decay
