"""The question at which rate the bound is best at every budget, and how that rate grows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from cola.rate_points import LADDER, budget_of, is_of_training
from cola.records import Metric
from cola.spec import Spec
from sweeps.space.domains import Space, values_of

LEAST_BUDGETS = 2  # of a power law


class RateQuestion(Spec):
    """At which rate of the latents is the bound best, and how does it grow with compute?"""

    kind: Literal["rate"] = Field(
        default="rate",
        description="At which rate (nats a token that latents cost) is the bound best at every "
        "budget, and how does that rate grow with compute? The space has `ladder` with a budget "
        "each, and keys that move the rate; of keys of training the best value counts.",
    )
    forecast: bool = Field(
        default=True,
        description="Train the largest budget last, once its best rate has been forecast from the "
        "others and the forecast is written to `forecasts.jsonl`.",
    )


def held_out_budget(answer: Any, space: Space) -> float | None:
    """The budget that is trained after its forecast; None where there is none."""
    if not isinstance(answer, RateQuestion) or not answer.forecast or LADDER not in space:
        return None
    return max(budget_of({LADDER: value}) for value in values_of(space[LADDER]) or [])


def check_rate(
    answer: RateQuestion, spaces: Mapping[str, Space], *, algorithm: str, metrics: Sequence[str]
) -> None:
    """Refuse a sweep from which the question cannot be answered.

    Raises:
        ValueError: naming the key, and what it needs.
    """
    if metrics[0] != Metric.NLL:
        raise ValueError(f"metrics.0.name: answer.kind=rate is about {Metric.NLL}; name it first")
    if algorithm != "grid":
        raise ValueError(f"algorithm.kind={algorithm!r}: answer.kind=rate needs a profile at every "
                         "budget; use grid")  # fmt: skip
    least = LEAST_BUDGETS + answer.forecast
    for space in spaces.values():
        if LADDER not in space:
            raise ValueError(
                "space: answer.kind=rate needs the key ladder, whose values are lists of one rung: "
                "[{budget: 1.0e+12, core_parameters: 300_000}]"
            )
        budgets = []
        for index, value in enumerate(values_of(space[LADDER]) or []):
            if not _is_one_rung(value):
                raise ValueError(
                    f"space.{LADDER}.values.{index}: is no list of one rung with a budget in FLOPs"
                )
            budgets.append(budget_of({LADDER: value}))
        if len(set(budgets)) < len(budgets):
            raise ValueError(f"space.{LADDER}: has a budget twice; give each budget once")
        if len(budgets) < least:
            raise ValueError(
                f"space.{LADDER}: has {len(budgets)} budgets; answer.kind=rate needs at least "
                f"{least}{', the largest of which is forecast' if answer.forecast else ''}"
            )
        if not any(moves_the_rate(key) for key in space):
            raise ValueError(
                "space: answer.kind=rate needs a key that moves the rate, as "
                "families.cola.latent_dim, patch_size, log_snr or objective.stage1.beta"
            )


def moves_the_rate(key: str) -> bool:
    """Whether a key of the space is neither the budget nor of training, whose best value counts."""
    return key != LADDER and not is_of_training(key)


def _is_one_rung(value: Any) -> bool:
    if not (isinstance(value, list) and len(value) == 1 and isinstance(value[0], dict)):
        return False
    try:
        return 0 < float(value[0]["budget"]) < math.inf
    except (KeyError, TypeError, ValueError):
        return False
