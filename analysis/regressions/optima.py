"""A table of optima of budgets (C, N*, D*, L*): how they grow with compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.bootstrap import LEVEL, bootstrap, percentiles
from analysis.fitting.estimate import fit_law
from analysis.fitting.frontier import at_compute
from analysis.fitting.law import predicted
from analysis.fitting.laws import LAWS
from analysis.fitting.table import inputs
from analysis.profiles.budgets import group_compute
from analysis.regressions.log_regression import LogRegression, regress
from cola.errors import FitError

GROWTHS = {"a": ("parameters", 1), "b": ("tokens", 1), "gamma_total": ("loss", -1)}
LEAST = 3  # budgets: with two there is no scatter to tell an interval from
SAME = 0.02  # chosen: end points that differ by less than this from least squares agree


def optima_group(
    rows: pd.DataFrame,
    predict: Sequence[Mapping[str, float]],
    *,
    samples: int,
    seed: int,
    level: float = LEVEL,
) -> dict[str, Any]:
    """Exponents of N*, D* and the loss with intervals, by least squares and between the first and
    the last budget; E + K C^-gamma from four budgets on; predictions; warnings.

    Raises:
        FitError: rows that are no optima (several at one budget), fewer than three budgets, or a
            prediction of something else than c=...
    """
    _check(rows, predict)
    rows = rows.sort_values("compute")
    compute = rows["compute"].to_numpy(float)
    fits = {
        name: regress(("C",), [compute], rows[column].to_numpy(float), level=level)
        for name, (column, _) in GROWTHS.items()
    }
    sign = {name: each for name, (_, each) in GROWTHS.items()}
    result: dict[str, Any] = {
        "law": "optima",
        "formula": "N* ~ C^a, D* ~ C^b, L* ~ C^-gamma_total (whole loss)",
        "points": len(rows),
        "parameters": {n: sign[n] * float(fit.theta[1]) for n, fit in fits.items()},
        "intervals": {n: sorted(sign[n] * e for e in f.intervals["C"]) for n, f in fits.items()},
        "end_points": {
            n: sign[n] * _between_ends(compute, rows[column].to_numpy(float))
            for n, (column, _) in GROWTHS.items()
        },
        "tokens_per_parameter": (rows["tokens"] / rows["parameters"]).tolist(),
        "diagnostics": {"scatter": {n: fit.scatter for n, fit in fits.items()}},
        "warnings": _notes(fits),
    }
    curve, warnings = _loss_curve(rows, samples, seed, level=level)
    result["warnings"] += warnings
    if curve is not None:
        result["loss_curve"] = curve["printed"]
    if predict:
        result["predictions"] = [_prediction(fits, curve, p["c"], compute.max()) for p in predict]
    return result


def _check(rows: pd.DataFrame, predict: Sequence[Mapping[str, float]]) -> None:
    if "parameters" not in rows:
        raise FitError("optima need the number of parameters N* of each budget (--n)")
    budgets = group_compute(rows["compute"].to_numpy(float))
    for budget, mine in rows.groupby(budgets):
        if len(mine) > 1:
            lines = ", ".join(str(line) for line in mine["line"].tolist()[:5])
            raise FitError(
                f"{len(mine)} rows have nearly the same compute ({float(str(budget)):.4g} FLOPs, "
                f"lines {lines}): optima have one row a budget. Runs of several sizes are for "
                "--law isoflop or chinchilla"
            )
    if len(rows) < LEAST:
        raise FitError(f"{len(rows)} budgets have no intervals; {LEAST} are the least. Add optima")
    if any(set(place) != {"c"} for place in predict):
        raise FitError("--predict: law optima takes c=... (FLOPs) alone: N* and D* follow from it")


def _between_ends(compute: np.ndarray, values: np.ndarray) -> float:
    return float(np.log(values[-1] / values[0]) / np.log(compute[-1] / compute[0]))


def _notes(fits: Mapping[str, LogRegression]) -> list[str]:
    total = fits["a"].theta[1] + fits["b"].theta[1]
    if abs(total - 1) < SAME:
        return []
    return [
        f"a + b is {total:.3f}, not 1: compute is not proportional to N D in this table (embeddings"
        " counted or left out, attention); each exponent is of its own column"
    ]


def _loss_curve(
    rows: pd.DataFrame, samples: int, seed: int, *, level: float
) -> tuple[dict[str, Any] | None, list[str]]:
    """E + K C^-gamma through the optima, with refits."""
    if len(rows) < LAWS["compute"].least_budgets:
        return None, ["the loss is not predicted: its curve E + K C^-gamma needs four budgets"]
    try:
        fit = fit_law("compute", inputs(rows), "least-squares", seed=seed)
    except FitError as error:
        return None, [f"the loss is not predicted: {error}"]
    refits = replace(bootstrap(fit, samples, seed, kind="residuals"), level=level)
    ends = {n: list(i) for n, i in refits.intervals().items()} if samples else {}
    printed = {"law": "compute", "parameters": fit.parameters, "intervals": ends}
    warnings = [f"loss of the optima: {warning}" for warning in fit.warnings]
    return {"refits": refits, "printed": printed}, warnings


def _prediction(
    fits: Mapping[str, LogRegression], curve: Mapping[str, Any] | None, c: float, largest: float
) -> dict[str, Any]:
    found: dict[str, Any] = {"c": c}
    for name, column in (("a", "parameters"), ("b", "tokens")):
        found[column], found[f"{column}_interval"] = fits[name].at([c])
    if curve is not None:
        refits, point = curve["refits"], at_compute(np.array([c]))
        found["loss"] = float(refits.fit.loss(point)[0])
        if len(refits.theta_KP):
            losses = predicted(refits.fit.law, refits.theta_KP, point)[:, 0]
            found["confidence_interval"] = list(percentiles(losses, refits.level))
    return found | {"extrapolation": c / largest}
