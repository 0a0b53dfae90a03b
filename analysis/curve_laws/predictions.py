"""The end loss of another schedule, length or size, by a fit of curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from pydantic import ValidationError

from analysis.curve_laws.curves import Curve, at_steps
from analysis.curve_laws.fit import CurveFit
from analysis.fitting.bootstrap import Refits, percentiles
from analysis.fitting.law import Array, predicted
from cola.errors import SpecError
from cola.spec.training import ScheduleSpec
from cola.study.schedule import learning_rate_factor

NOISE_SEED = 1  # of a new run's noise
Kind = Literal["cosine", "wsd", "constant"]
FORM = "kind=wsd,steps=20000,lr=1e-3[,warmup=0.05][,decay=0.2][,final=0.1][,n=1e8]"
MOST_STEPS = 20_000_000


@dataclass(frozen=True)
class Schedule:
    """A run to predict: its schedule as a study has it, its steps, its peak rate, and N."""

    kind: Kind
    steps: int
    lr: float
    warmup: float = 0.05
    decay: float = 0.2
    final: float = 0.1
    size: float | None = None

    @property
    def spec(self) -> ScheduleSpec:
        """As a study has it."""
        return ScheduleSpec(
            kind=self.kind,
            warmup_fraction=self.warmup,
            decay_fraction=self.decay,
            final_ratio=self.final,
        )

    @property
    def values(self) -> dict[str, Any]:
        """By the names that are typed, what has an effect."""
        unread = {"constant": ("decay", "final"), "cosine": ("decay",), "wsd": ()}[self.kind]
        values = {k: v for k, v in asdict(self).items() if v is not None and k not in unread}
        return {NAMES.get(k, k): v for k, v in values.items()}

    @property
    def text(self) -> str:
        """As it is typed."""
        return ",".join(f"{name}={value}" for name, value in self.values.items())

    def rates(self) -> Array:
        """The rate of every step."""
        schedule = self.spec
        factors = [learning_rate_factor(schedule, step, self.steps) for step in range(self.steps)]
        return self.lr * np.array(factors)


NAMES = {"size": "n"}  # fields by other names as they are typed


def parse_schedule(text: str) -> Schedule:
    """`kind=wsd,steps=20000,lr=1e-3` -> a schedule; shares of warm-up and decay, and the final rate
    over the peak, are a study's defaults unless they are given.

    Raises:
        SpecError: it is not of that form.
    """
    values: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = (each.strip() for each in part.partition("="))
        if not equals or name in values:
            raise SpecError(f"--predict {text}: write it as {FORM}, each once")
        values[name] = value
    kinds = get_args(Kind)
    missing = [name for name in ("kind", "steps", "lr") if name not in values]
    unknown = set(values) - {"kind", "steps", "lr", "warmup", "decay", "final", "n"}
    if missing or unknown or values["kind"] not in kinds:
        problem = (
            f"lacks {', '.join(missing)}"
            if missing
            else f"has no {', '.join(sorted(unknown))}"
            if unknown
            else f"kind {values['kind']!r} is none of {', '.join(kinds)}"
        )
        raise SpecError(f"--predict {text}: {problem}; law annealing takes {FORM}")
    numbers = {name: _number(text, name, value) for name, value in values.items() if name != "kind"}
    steps = numbers["steps"]
    if not steps.is_integer() or steps > MOST_STEPS:
        raise SpecError(
            f"--predict {text}: steps are whole optimiser steps, at most {MOST_STEPS:g}"
        )
    if values["kind"] != "wsd" and "decay" in values:
        raise SpecError(f"--predict {text}: decay has no effect but on kind=wsd; leave it out")
    if values["kind"] == "constant" and "final" in values:
        raise SpecError(f"--predict {text}: final has no effect on kind=constant; leave it out")
    shares = {name: numbers[name] for name in ("warmup", "decay", "final") if name in numbers}
    schedule = Schedule(
        values["kind"],  # type: ignore[arg-type]
        int(steps),
        numbers["lr"],
        size=numbers.get("n"),
        **shares,
    )
    try:
        schedule.spec  # noqa: B018
    except ValidationError:
        raise SpecError(
            f"--predict {text}: warmup, decay and final are shares; give 0 to 1"
        ) from None
    return schedule


def _number(text: str, name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    least = 0.0 if name in ("warmup", "decay", "final") else math.ulp(0.0)
    if not least <= number < math.inf:
        raise SpecError(f"--predict {text}: {name}={value} is no positive number; write {FORM}")
    return number


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
        "schedule": schedule.values,
        "loss": loss,
        "S1": float(points.compute[0]),
        "extrapolation": float(points.compute[0]) / reached,
    }
    if not len(refits.theta_KP):
        return result
    drawn = predicted(refits.fit.law, refits.theta_KP, points)[:, 0]
    scatter = max([refits.noise, *([float(np.sqrt(np.mean(np.square(errors))))] if errors else [])])
    noise = np.random.default_rng(NOISE_SEED).standard_normal(len(drawn))
    result["confidence_interval"] = list(percentiles(drawn, refits.level))
    result["prediction_interval"] = list(percentiles(drawn * np.exp(scatter * noise), refits.level))
    return result
