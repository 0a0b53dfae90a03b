"""What `--law isoflop` finds in a table, as one plain object for people and programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.bootstrap import percentiles
from analysis.fitting.estimate import Fit, fit_law, solve
from analysis.fitting.isoflop import bootstrap_isoflop, data_seed, resampling_kind
from analysis.fitting.law import Array, Inputs
from analysis.fitting.laws import LAWS
from analysis.fitting.solver import Resampled
from analysis.profiles.analysis import IsoFLOP, isoflop
from analysis.profiles.refits import IsoFLOPRefits
from analysis.table_fit.allocation import TOLERANCE
from analysis.table_fit.isoflop_notes import far_from_budgets, notes, why_none
from analysis.table_fit.request import Request
from cola.errors import FitError

# Exponents by the name that is printed: what grows, and the sign. gamma_total is of the whole loss,
# unlike the laws' gamma, which is of the loss above its floor E.
EXPONENTS = {"a": ("size", 1.0), "b": ("tokens", 1.0), "gamma_total": ("loss", -1.0)}


def isoflop_group(rows: pd.DataFrame, request: Request) -> dict[str, Any]:
    """Exponents of the optima of the IsoFLOP profiles, the optima, predictions, warnings.

    Raises:
        FitError: without sizes, with fewer than two budgets that have a minimum, or a prediction
            that the optima cannot carry.
    """
    if "parameters" not in rows:
        raise FitError("IsoFLOP profiles need the number of parameters of each point (--n)")
    targets = compute_targets(request.predict)
    analysis = isoflop(rows, request.minimum)
    if analysis.size is None:
        raise FitError(why_none(analysis, rows))
    seed = data_seed(rows, request.seed)
    refits = bootstrap_isoflop(analysis, request.samples, seed, kind=request.kind)
    kind = resampling_kind(analysis, request.kind)
    result: dict[str, Any] = {
        "law": "isoflop",
        "minimum": request.minimum,
        "resampling": kind if refits is not None else None,
        "points": len(rows),
        "parameters": {n: s * exponent(analysis, g) for n, (g, s) in EXPONENTS.items()},
        "intervals": {
            n: list(percentiles(s * refits.exponent(g), request.level))
            if refits is not None
            else []
            for n, (g, s) in EXPONENTS.items()
        },
        "growth": {
            g: asdict(fit)
            for g, _ in EXPONENTS.values()
            if (fit := getattr(analysis, g)) is not None
        },
        "diagnostics": {
            "optima": optima(analysis, refits, request.level),
            "window_factor": analysis.window if request.minimum == "parabola" else None,
            "misfit": None if analysis.misfit is None else asdict(analysis.misfit),
        },
        "warnings": notes(
            analysis, rows, refits=refits, samples=request.samples, kind=request.kind
        ),
    }
    if targets:
        found, of_curve = predictions(analysis, refits, targets, level=request.level)
        result["predictions"] = found
        result["warnings"] += of_curve
    return result


def exponent(analysis: IsoFLOP, growth: str) -> float:
    """Of the size, tokens or loss of the optima in compute; NaN where it is not known."""
    fit = getattr(analysis, growth)
    return float("nan") if fit is None else float(fit.exponent)


def optima(analysis: IsoFLOP, refits: IsoFLOPRefits | None, level: float) -> list[dict[str, Any]]:
    """Every budget's optimum with its intervals."""
    rows, number = [], 0
    for optimum in analysis.optima:
        row: dict[str, Any] = asdict(optimum)
        if optimum.trouble is None:
            if refits is not None:
                of_budget = (v[:, number] for v in (refits.size, refits.tokens, refits.loss))
                names = ("parameters_interval", "tokens_interval", "loss_interval")
                for name, values in zip(names, of_budget, strict=True):
                    row[name] = list(percentiles(np.exp(values), level))
            number += 1
        rows.append(row)
    return rows


@dataclass(frozen=True)
class LossCurve:
    """Loss of the optima over compute: E + K C^-gamma where four budgets carry it, else a power
    law. theta_KP: internal parameters of the refits that have every minimum."""

    fit: Fit
    theta_KP: Array

    def at(self, compute: float) -> tuple[float, Array]:
        """Loss at this C, and of every refit."""
        point = Inputs(np.ones(1), np.array([compute]))
        refits = np.zeros(0)
        if len(self.theta_KP):
            refits = np.exp(self.fit.law.log_loss(self.theta_KP, point)[0][:, 0])
        return float(self.fit.loss(point)[0]), refits


def loss_curve(analysis: IsoFLOP, refits: IsoFLOPRefits | None) -> LossCurve:
    """The curve through the optima's losses.

    Raises:
        FitError: with fewer than three optima, or where their losses do not fall with compute.
    """
    good = analysis.good
    if len(good) < LAWS["compute-power"].least_budgets:
        raise FitError(
            f"--predict: a curve of the loss needs {LAWS['compute-power'].least_budgets} budgets "
            f"with a minimum, these are {len(good)}; add budgets, or leave the option out"
        )
    points = Inputs(np.array([o.loss for o in good]), np.array([o.compute for o in good]))
    law = "compute" if len(good) >= LAWS["compute"].least_budgets else "compute-power"
    fit = fit_law(law, points, "least-squares")
    if refits is None:
        return LossCurve(fit, np.zeros((0, len(fit.theta))))
    losses = refits.loss[np.isfinite(refits.loss).all(1)]
    start, data = np.tile(fit.theta, (len(losses), 1)), Resampled(np.ones_like(losses), losses)
    theta = solve(fit.law, points, start, estimator="least-squares", data=data).theta
    return LossCurve(fit, theta)


def predictions(
    analysis: IsoFLOP, refits: IsoFLOPRefits | None, targets: Sequence[float], *, level: float
) -> tuple[list[dict[str, Any]], list[str]]:
    """N*, D* and loss at amounts of compute, and what to know of the curve that gives the loss.

    Raises:
        FitError: see `loss_curve`.
    """
    curve = loss_curve(analysis, refits)
    found = [_prediction(analysis, refits, target, curve=curve, level=level) for target in targets]
    of_curve = [f"loss at the optima: {warning}" for warning in curve.fit.warnings]
    return found, of_curve + far_from_budgets(found, analysis)


def _prediction(
    analysis: IsoFLOP,
    refits: IsoFLOPRefits | None,
    target: float,
    *,
    curve: LossCurve,
    level: float,
) -> dict[str, Any]:
    loss, losses = curve.at(target)
    largest = max(optimum.compute for optimum in analysis.good)
    found: dict[str, Any] = {"c": target}
    for name, growth in (("parameters", "size"), ("tokens", "tokens")):
        fit = getattr(analysis, growth)
        if fit is None:
            continue
        found[name] = float(fit.at(np.array([target]))[0])
        if refits is not None:
            found[f"{name}_interval"] = list(percentiles(refits.at(growth, target), level))
    half = flatness(analysis)
    if half is not None and "parameters" in found:
        ends = [found["parameters"] * float(np.exp(sign * half)) for sign in (-1, 1)]
        found["near_optimal"] = {"within": TOLERANCE, "parameters": ends}
    found["loss"] = loss
    if len(losses):
        found["confidence_interval"] = list(percentiles(losses, level))
    return found | {"loss_law": curve.fit.law.name, "extrapolation": target / largest}


def flatness(analysis: IsoFLOP) -> float | None:
    """Log of the factor in N about a minimum within which the loss stays within `TOLERANCE` of the
    best: the median over the budgets' parabolas; None where none opens upwards."""
    widths = []
    for profile in analysis.fitted:
        curve = np.polyfit(profile.log_n, profile.loss, 2)
        least = curve[2] - curve[1] ** 2 / (4 * curve[0])
        if curve[0] > 0 and least > 0:
            widths.append(float(np.sqrt(TOLERANCE * least / curve[0])))
    return float(np.median(widths)) if widths else None


def compute_targets(targets: Sequence[Mapping[str, float]]) -> tuple[float, ...]:
    """The amounts of compute that predictions ask for.

    Raises:
        FitError: for any that asks for something else.
    """
    if any(set(target) != {"c"} for target in targets):
        raise FitError("--predict: law isoflop takes c=... (FLOPs) alone: N* and D* follow from it")
    return tuple(target["c"] for target in targets)
