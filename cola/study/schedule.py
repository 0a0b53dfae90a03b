"""The learning-rate schedule: a pure function of the step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from cola.spec.training import ScheduleSpec

if TYPE_CHECKING:
    from cola.study.run import RunSpec


def learning_rate_factor(
    schedule: ScheduleSpec, step: int, total_steps: int, *, first_step: int = 0
) -> float:
    """Learning rate at `step` (0-based) of a stage's `total_steps`, as a fraction of the peak.

    Warm-up is linear and reaches the peak at its last step; cosine and WSD end at `final_ratio`.
    With `horizon_steps` the cosine runs over the run's steps, of which the stage's first is
    `first_step`.
    """
    warmup = warmup_steps(schedule, total_steps)
    if schedule.horizon_steps is not None:
        ramp = min(1.0, (step + 1) / warmup) if warmup else 1.0
        return ramp * _cosine(schedule, first_step + step - warmup, schedule.horizon_steps - warmup)
    if step < warmup:
        return (step + 1) / warmup
    low = schedule.final_ratio
    if schedule.kind == "constant":
        return 1.0
    if schedule.kind == "cosine":
        return _cosine(schedule, step - warmup, total_steps - warmup)
    decay = total_steps - stable_steps(schedule, total_steps)
    left = total_steps - 1 - step
    return 1.0 if left >= decay else low + (1 - low) * left / decay


def _cosine(schedule: ScheduleSpec, step: int, total_steps: int) -> float:
    """From 1 at step 0 (and before) to `final_ratio` at the last of `total_steps`."""
    low, progress = schedule.final_ratio, step / max(1, total_steps - 1)
    progress = min(1.0, max(0.0, progress))
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress))


def final_learning_rates(run: RunSpec) -> dict[str, float]:
    """Learning rate of each stage's last step."""
    rates, first_step = {}, 0
    for stage in run.stages:
        training, last = run.training.of_stage(stage.name), stage.steps - 1
        factor = learning_rate_factor(
            training.schedule, last, stage.steps, first_step=first_step
        ) * rate_change_factor(run, first_step + last)
        rates[stage.name] = factor * training.optimizer.learning_rate
        first_step += stage.steps
    return rates


def rate_change_factor(run: RunSpec, step: int) -> float:
    """Factor on the schedule's rate at `step` (0-based, over all stages)."""
    passed = [
        change.factor
        for change in run.training.schedule.rate_changes
        if run.step_at(change.at) <= step
    ]
    return passed[-1] if passed else 1.0


def warmup_steps(schedule: ScheduleSpec, total_steps: int) -> int:
    """Steps until the peak rate is reached."""
    if schedule.warmup_steps is not None:
        return min(schedule.warmup_steps, total_steps)
    return round(schedule.warmup_fraction * total_steps)


def stable_steps(schedule: ScheduleSpec, total_steps: int) -> int:
    """Number of first steps whose rate does not depend on the total number of steps."""
    if schedule.kind == "wsd":
        return total_steps - max(1, round(schedule.decay_fraction * total_steps))
    return total_steps if schedule.kind == "constant" else 0
