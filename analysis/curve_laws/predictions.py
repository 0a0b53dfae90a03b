"""The end loss of another schedule, length or size, by a fit of curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from analysis.curve_laws.curves import Curve, at_steps
from analysis.curve_laws.fit import CurveFit
from analysis.fitting.bootstrap import Refits, percentiles
from analysis.fitting.law import Array, predicted
from cola.spec.training import ScheduleSpec
from cola.study.schedule import learning_rate_factor

NOISE_SEED = 1  # of a new run's noise


@dataclass(frozen=True)
class Schedule:
    """A run to predict: its schedule as a study has it, its steps, its peak rate, and N."""

    kind: Literal["cosine", "wsd", "constant"]
    steps: int
    lr: float
    warmup: float = 0.05
    decay: float = 0.2
    final: float = 0.1
    size: float | None = None

    def rates(self) -> Array:
        """The rate of every step."""
        schedule = ScheduleSpec(
            kind=self.kind,
            warmup_fraction=self.warmup,
            decay_fraction=self.decay,
            final_ratio=self.final,
        )
        factors = [learning_rate_factor(schedule, step, self.steps) for step in range(self.steps)]
        return self.lr * np.array(factors)


def prediction(
    found: CurveFit, refits: Refits, schedule: Schedule, errors: Sequence[float]
) -> dict[str, Any]:
    """The loss after the schedule's last step. `errors`: relative ones of end losses of held-out
    runs, whose scatter a new run has where it is larger than that of points."""
    curve = Curve("", np.array([schedule.steps]), np.ones(1), schedule.rates(), schedule.size)
    points = at_steps(curve, curve.steps, curve.loss, scale=found.scale)
    loss = float(found.fit.loss(points)[0])
    reached = float(found.points.compute.max())
    result: dict[str, Any] = {
        "schedule": {k: v for k, v in asdict(schedule).items() if v is not None},
        "loss": loss,
        "S1": float(points.compute[0]),
        "extrapolation": float(points.compute[0]) / reached,
    }
    if not len(refits.theta_KP):
        return result
    drawn = predicted(refits.fit.law, refits.theta_KP, points)[:, 0]
    scatter = max([refits.noise, *([float(np.sqrt(np.mean(np.square(errors))))] if errors else [])])
    noise = np.random.default_rng(NOISE_SEED).standard_normal(len(drawn))
    result["confidence_interval"] = list(percentiles(drawn))
    result["prediction_interval"] = list(percentiles(drawn * np.exp(scatter * noise)))
    return result
