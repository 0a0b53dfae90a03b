"""What `cola fit` finds in a table: one plain object for people and programs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.accuracy import chained, fit_accuracy
from analysis.fitting.bootstrap import (
    Kind,
    Refits,
    bootstrap,
    delta_method,
    percentiles,
    seed_noise,
)
from analysis.fitting.compare import losses_overlap, multiplier_at
from analysis.fitting.cross_validation import Choice, Score, choose, leave_one_budget_out
from analysis.fitting.estimate import Fit, fit_law
from analysis.fitting.isoflop import (
    IsoFLOP,
    Method,
    bootstrap_isoflop,
    compare_isoflop,
    exponents,
    isoflop,
)
from analysis.fitting.law import Inputs
from analysis.fitting.laws import LAWS, SharedLaw, candidates
from analysis.fitting.power_law import PowerLaw
from analysis.fitting.table import Table, inputs
from cola.errors import FitError

log = logging.getLogger(__name__)

FEW_RUNS = 5  # chosen: a budget with fewer runs is too small to resample


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


def fit_table(table: Table, request: Request) -> dict[str, Any]:
    """Fit every group; one group's result is the object itself.

    Raises:
        FitError: when a group cannot be fitted.
    """
    groups = table.groups()
    single = isoflop_group if request.law == "isoflop" else law_group
    results: dict[str, dict[str, Any]] = {}
    for name, rows in groups.items():
        try:
            results[name] = single(rows, request)
        except FitError as error:
            where = f"group {name}: " if len(groups) > 1 else ""
            raise FitError(f"{where}{error}") from None
    notes = list(table.notes)
    if len(results) == 1:
        (only,) = results.values()
        return only | {"warnings": notes + only["warnings"]}
    warnings = notes + [f"{name}: {w}" for name, each in results.items() for w in each["warnings"]]
    combined: dict[str, Any] = {"law": request.law, "groups": results}
    for key in ("parameters", "intervals", "diagnostics"):
        combined[key] = {name: each[key] for name, each in results.items()}
    comparison, not_compared = compare_groups(groups, request)
    shared = LAWS[request.law].shared if request.law in LAWS else None
    if shared is not None:
        combined["shared"] = shared_exponents(table, request, shared)
    return combined | {"comparison": comparison, "warnings": warnings + not_compared}


def shared_exponents(
    table: Table, request: Request, make: Callable[[Inputs], PowerLaw]
) -> dict[str, Any]:
    """One law for all groups whose exponents they have in common: floors and coefficients apart."""
    groups = table.groups()
    rows = pd.concat(groups.values(), ignore_index=True)
    number = np.repeat(np.arange(len(groups)), [len(each) for each in groups.values()])
    points = inputs(rows)
    law = SharedLaw(make(points), number, tuple(groups))
    fit = fit_law(request.law, points, request.estimator, starts=16, seed=request.seed, law=law)
    apart = list(zip(number.tolist(), rows["budget"].tolist(), strict=True))
    kind = request.kind or "residuals"
    refits = (
        bootstrap(fit, request.samples, request.seed, kind=kind, strata=apart)
        if request.samples
        else None
    )
    return {
        "parameters": fit.parameters,
        "intervals": {} if refits is None else {n: list(i) for n, i in refits.intervals().items()},
        "diagnostics": asdict(fit.diagnostics),
        "warnings": list(fit.warnings),
    }


def law_group(rows: pd.DataFrame, request: Request) -> dict[str, Any]:
    """A law's parameters, intervals, diagnostics, predictions."""
    choice = None
    law = request.law
    if law == "auto":
        choice = choose(candidates("parameters" in rows), rows, request.estimator)
        law = choice.best
        log.info("law %s chosen among %d by rolling origin", law, len(choice.scores))
    fit = fit_law(law, inputs(rows), request.estimator, seed=request.seed)
    result: dict[str, Any] = {
        "law": law,
        "estimator": request.estimator,
        "convention": "loss in nats, compute in FLOPs, as the table gives them",
        "points": len(rows),
        "parameters": fit.parameters,
        "derived": derived(fit),
        "diagnostics": asdict(fit.diagnostics),
        "intervals": {},
        "warnings": list(fit.warnings),
    }
    if request.samples:
        refits = refit_resampled(fit, rows, request)
        result["intervals"] = {n: list(i) for n, i in refits.intervals().items()}
        result["derived_intervals"] = derived_intervals(refits)
        result["standard_errors"] = {
            "bootstrap": dict(zip(fit.law.names, refits.public.std(0).tolist(), strict=True)),
            "delta_method": delta_method(fit),
        }
        result["predictions"] = [predict_at(refits, target) for target in request.predict]
        result["warnings"] += far_predictions(result["predictions"])
    elif request.predict:
        result["predictions"] = [
            dict(p) | {"loss": float(fit.loss(point_of(fit, p))[0])} for p in request.predict
        ]
    if "accuracy" in rows:
        result["accuracy"] = accuracy_chain(rows, request)
        result["warnings"] += result["accuracy"]["warnings"]
    repeats = seed_noise(rows["loss"].to_numpy(float), repeated(rows))
    if repeats is not None:
        result["seed_noise"] = {"sd_of_log_loss": repeats[0], "degrees_of_freedom": repeats[1]}
    return result | (
        {"choice": choice_as_json(choice, rows, request)} if choice is not None else {}
    )


def accuracy_chain(rows: pd.DataFrame, request: Request) -> dict[str, Any]:
    """Loss -> accuracy by a sigmoid, and accuracy at the predicted places through the loss.

    Raises:
        FitError: when the accuracies carry no curve.
    """
    measured = rows[rows["accuracy"].notna()]
    loss, accuracy = measured["loss"].to_numpy(float), measured["accuracy"].to_numpy(float)
    fitted = fit_accuracy(
        loss, accuracy, request.chance, samples=request.samples, seed=request.seed
    )
    names = ("ceiling", "slope", "middle")
    refits = {n: np.array([getattr(s, n) for s in fitted.refits]) for n in names}
    result: dict[str, Any] = {
        "law": "sigmoid",
        "points": len(measured),
        "parameters": asdict(fitted.sigmoid),
        "intervals": {n: list(percentiles(v)) for n, v in refits.items() if len(v)},
        "residual_sd": fitted.residual_sd,
        "warnings": list(fitted.warnings),
    }
    targets = [target["c"] for target in request.predict if "c" in target]
    if targets and request.samples:
        law = fit_law("compute-power", inputs(best_runs(rows)), request.estimator)
        curve = bootstrap(law, request.samples, request.seed, kind="residuals")
        result["predictions"] = [asdict(p) for p in chained(curve, fitted, np.array(targets))]
    return result


def refit_resampled(fit: Fit, rows: pd.DataFrame, request: Request) -> Refits:
    """Resampled by runs: within budgets where each has enough of them, else over all points."""
    several = bool(rows.groupby("budget").size().min() >= FEW_RUNS)
    strata = rows["budget"].tolist() if several else None
    clusters = rows["run"].tolist() if "run" in rows else None
    kind: Kind = request.kind or ("runs" if several or len(rows) >= 50 else "residuals")
    return bootstrap(
        fit, request.samples, request.seed, kind=kind, strata=strata, clusters=clusters
    )


def derived(fit: Fit) -> dict[str, float]:
    """What follows from the parameters: exponents of the compute-optimal size, tokens and loss."""
    values = fit.law.public(fit.theta[None])
    return {name: float(f(values)[0]) for name, f in derivations(fit).items()}


def derived_intervals(refits: Refits) -> dict[str, list[float]]:
    """The same with intervals from the refits."""
    return {
        name: list(percentiles(f(refits.public))) for name, f in derivations(refits.fit).items()
    }


def derivations(fit: Fit) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Functions of public parameters (K, names)."""
    if fit.law.name == "chinchilla":
        return {
            "a": lambda v: v[:, 4] / (v[:, 3] + v[:, 4]),
            "b": lambda v: v[:, 3] / (v[:, 3] + v[:, 4]),
            "gamma": lambda v: v[:, 3] * v[:, 4] / (v[:, 3] + v[:, 4]),
        }
    return {}


def point_of(fit: Fit, target: Mapping[str, float]) -> Inputs:
    """The point that a prediction asks for: n and d, or c.

    Raises:
        FitError: when the law needs what is not given.
    """
    if LAWS[fit.law.name].needs_size:
        if not {"n", "d"} <= set(target):
            raise FitError(f"--predict: law {fit.law.name} needs n=... and d=...")
        n, d = np.array([target["n"]]), np.array([target["d"]])
        return Inputs(np.ones(1), 6 * n * d, n, d)
    if "c" not in target and not {"n", "d"} <= set(target):
        raise FitError(f"--predict: law {fit.law.name} needs c=... (FLOPs), or n=... and d=...")
    compute = target.get("c") or 6 * target["n"] * target["d"]
    return Inputs(np.ones(1), np.array([compute]))


def predict_at(refits: Refits, target: Mapping[str, float]) -> dict[str, Any]:
    """Loss with confidence and prediction interval, and how far it extrapolates in compute."""
    point = point_of(refits.fit, target)
    low, high = refits.confidence_band(point)
    new_low, new_high = refits.prediction_band(point)
    return dict(target) | {
        "loss": float(refits.fit.loss(point)[0]),
        "confidence_interval": [float(low[0]), float(high[0])],
        "prediction_interval": [float(new_low[0]), float(new_high[0])],
        "extrapolation": float(point.compute[0] / refits.fit.points.compute.max()),
    }


def far_predictions(predictions: list[dict[str, Any]]) -> list[str]:
    """Predictions that rest on the law and not on data."""
    return [
        f"a prediction lies {p['extrapolation']:,.0f} times beyond the largest compute of the data"
        for p in predictions
        if p["extrapolation"] > 10
    ]


def repeated(rows: pd.DataFrame) -> list[object]:
    """Labels that runs of one specification share: the same size, tokens and compute."""
    known = [name for name in ("parameters", "tokens", "compute") if name in rows]
    return [tuple(row) for row in rows[known].itertuples(index=False)]


def choice_as_json(choice: Choice, rows: pd.DataFrame, request: Request) -> dict[str, Any]:
    """Laws by how well they predict larger budgets than they were fitted to, and left-out ones."""
    left_out = [
        leave_one_budget_out(score.law, rows, request.estimator, seed=request.seed)
        for score in choice.scores
    ]
    combination = {"weights": choice.weights, "mean_absolute_error": choice.combined_error}
    return {
        "rolling_origin": {score.law: score_as_json(score) for score in choice.scores},
        "leave_one_budget_out": {s.law: score_as_json(s) for s in left_out if s is not None},
        "combination": combination if choice.weights else None,
    }


def score_as_json(score: Score) -> dict[str, float]:
    """A law's errors on held-out points, as the JSON reports them."""
    return {
        "mean_absolute_error": score.mean_absolute_error,
        "signed_error": score.signed_error,
        "coverage_of_90%_intervals": score.coverage,
        "folds": len(score.folds),
    }


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


def compare_groups(
    groups: Mapping[str, pd.DataFrame], request: Request
) -> tuple[dict[str, Any], list[str]]:
    """Comparison of each pair of groups by label, and why any pair was not compared."""
    names, compared, not_compared = list(groups), {}, []
    for index, one in enumerate(names):
        for other in names[index + 1 :]:
            pair = {one: groups[one], other: groups[other]}
            label = f"{one} / {other}"
            if request.law == "isoflop":
                compared[label] = compare_isoflop(
                    pair, request.samples, request.seed, method=request.minimum
                )
                continue
            try:
                compared[label] = compare_at_common_loss(pair, request)
            except FitError as error:
                not_compared.append(f"{label}: not compared, {error}")
    return compared, not_compared


def compare_at_common_loss(pair: Mapping[str, pd.DataFrame], request: Request) -> dict[str, Any]:
    """Compute multiplier at the loss in the middle of what both families reach.

    Raises:
        FitError: where the families' losses do not overlap, or have no curve over compute.
    """
    one, other = (
        fit_law("compute-power", inputs(best_runs(rows)), request.estimator)
        for rows in pair.values()
    )
    if not losses_overlap(one, other):
        raise FitError("the losses of the two do not overlap: no loss is reached by both")
    refits = [
        bootstrap(fit, max(request.samples, 1), request.seed + k, kind="residuals")
        for k, fit in enumerate((one, other))
    ]
    low = max(fit.points.loss.min() for fit in (one, other))
    high = min(fit.points.loss.max() for fit in (one, other))
    loss = float(np.sqrt(low * high))
    multiplier = multiplier_at(refits[0], refits[1], loss)
    return {
        "at_loss": loss,
        "multiplier": multiplier.value,
        "interval": [multiplier.low, multiplier.high] if request.samples else [],
        "meaning": "compute of the first over compute of the second for this loss",
    }


def best_runs(rows: pd.DataFrame) -> pd.DataFrame:
    """The best run of every budget."""
    return rows.loc[rows.groupby("budget")["loss"].idxmin()]
