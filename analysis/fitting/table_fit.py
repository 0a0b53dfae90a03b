"""What `cola fit` asks for, and what it finds by IsoFLOP profiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from analysis.fitting.bootstrap import Kind, Progress, percentiles
from analysis.fitting.isoflop import (
    IsoFLOP,
    Method,
    bootstrap_isoflop,
    exponents,
    isoflop,
)
from cola.errors import FitError


@dataclass(frozen=True)
class Request:
    """The options of the command."""

    law: str
    estimator: str
    samples: int
    seed: int
    kind: Kind | None
    predict: tuple[Mapping[str, float], ...]
    chance: float = 0.0
    minimum: Method = "parabola"
    progress: Progress | None = None


def isoflop_group(rows: pd.DataFrame, request: Request) -> dict[str, Any]:
    """Exponents of the optima of the IsoFLOP profiles.

    Raises:
        FitError: without sizes, or with fewer than two budgets that have a minimum.
    """
    if "parameters" not in rows:
        raise FitError("IsoFLOP profiles need the number of parameters of each point (--n)")
    analysis = isoflop(rows, request.minimum)
    troubles = [f"budget {o.compute:.3g}: {o.trouble}" for o in analysis.optima if o.trouble]
    if analysis.size is None or analysis.tokens is None or analysis.loss is None:
        raise FitError(f"fewer than two budgets have a minimum inside ({'; '.join(troubles)})")
    names = {"a": "size", "b": "tokens", "gamma": "loss"}
    sign = {"a": 1.0, "b": 1.0, "gamma": -1.0}
    refits = bootstrap_isoflop(rows, request.samples, request.seed, method=request.minimum)
    return {
        "law": "isoflop",
        "points": len(rows),
        "parameters": {n: float(sign[n] * exponents([analysis], m)[0]) for n, m in names.items()},
        "intervals": {
            n: list(percentiles(sign[n] * exponents(refits, m))) if refits else []
            for n, m in names.items()
        },
        "diagnostics": {"optima": [asdict(optimum) for optimum in analysis.optima]},
        "warnings": troubles + two_optima(analysis),
    }


def two_optima(analysis: IsoFLOP) -> list[str]:
    """A line through two points fits them whatever they are."""
    if len(analysis.good) > 2:
        return []
    return ["exponents rest on two budgets: nothing tests that they are power laws"]
