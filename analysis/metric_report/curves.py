"""The curve of a quantity for each family, or variant: law, bands, parameters, predictions."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.fitting.bootstrap import LEVEL, percentiles
from analysis.fitting.compare import Estimate, ends
from analysis.fitting.frontier import Frontier, ScalingCurve
from analysis.fitting.law import Array, PowerOfCompute
from analysis.metric_laws.bounded import BoundedCurve, Shares, fit_bounded
from analysis.metric_report.measurements import Measurements
from analysis.metric_report.quantities import SHARE
from analysis.plotting.variants import variants_of
from analysis.report.family_fits import (
    CURVE_POINTS,
    SAMPLES,
    SEED,
    FamilyFit,
    best_size_runs,
    fit_family,
    fit_points,
)
from cola.errors import FitError
from cola.families.registry import curve_label, curve_seed
from cola.records import weakest_kind

log = logging.getLogger(__name__)

NEW_RUNS_SEED = 1


@dataclass(frozen=True)
class MetricCurve:
    """The curve of one family or variant; `curve` is None where there is none, and `notes` say why.

    band: flops, value, low, high (95% of curves), new_low, new_high (95% of new runs).
    """

    variant: str
    family: str
    kind: str
    runs: int
    law: str
    curve: ScalingCurve | None
    band: pd.DataFrame | None
    parameters: Mapping[str, Estimate]
    notes: tuple[str, ...]

    @property
    def label(self) -> str:
        """The curve's name for people."""
        return curve_label(self.variant, self.family)


def fit_curves(found: Measurements, informative: pd.Series, compute: str) -> dict[str, MetricCurve]:
    """Curves by variant. Of losses only runs that are `informative` (by run_id) are fitted."""
    return {
        variant: fit_curve(found, informative, compute, variant=variant, family=family)
        for variant, family in variants_of(found.rows).items()
    }


def fit_curve(
    found: Measurements,
    informative: pd.Series,
    compute: str,
    *,
    variant: str,
    family: str,
    law: str | None = None,
) -> MetricCurve:
    """The curve of one variant; `law`: of a loss, by default the one that predicts best."""
    rows = found.rows[found.rows["variant"] == variant]
    kind = weakest_kind(rows["nll_kind"])
    if found.quantity.range is None:
        fitted = rows[rows["run_id"].map(informative).astype(bool)]
        fit = fit_family(
            variant, family, fitted, kind=kind, compute=compute, column="value", law=law
        )
        return _of_loss(fit, len(fitted))
    try:
        return _of_share(found, rows, compute, variant=variant, family=family)
    except FitError as error:
        log.info("%s, %s: no curve: %s", found.quantity.key, variant, error)
        why = (f"no curve: {error}",)
        return MetricCurve(variant, family, "exact", len(rows), "none", None, None, {}, why)


def _of_loss(fit: FamilyFit, runs: int) -> MetricCurve:
    """A loss: the report's own laws."""
    band = None if fit.curve is None else fit.curve.rename(columns={"loss": "value"})
    shown: dict[str, Estimate] = {}
    if fit.refits is not None and fit.fit is not None:
        intervals = fit.refits.intervals()
        shown = {n: Estimate(v, *intervals[n]) for n, v in fit.fit.parameters.items()}
    law = "none" if fit.fit is None else fit.fit.law.name
    return MetricCurve(
        fit.variant, fit.family, fit.kind, runs, law, fit.frontier, band, shown, fit.warnings
    )


def _of_share(
    found: Measurements, rows: pd.DataFrame, compute: str, *, variant: str, family: str
) -> MetricCurve:
    """A quantity with a ceiling: the sigmoid of log compute through each budget's best size.

    Raises:
        FitError: what the runs cannot carry.
    """
    range_, chance = found.quantity.range or SHARE, found.chance
    points = fit_points(rows.assign(worse=1 - range_.share(rows["value"])), compute, "worse")
    best = best_size_runs(points)
    items = rows.loc[best.index, "items"].to_numpy(float)
    guess = 0.0 if chance is None else float(range_.share(np.array(chance)))
    shares = Shares(
        1 - best["loss"].to_numpy(float),
        best["compute"].to_numpy(float),
        guess,
        items if np.isfinite(items).all() and (items >= 1).all() else None,
    )
    seed = SEED + curve_seed(variant, family)
    curve = fit_bounded(shares, range_, samples=SAMPLES, seed=seed)
    law = "sigmoid with a ceiling" if curve.has_ceiling else "sigmoid"
    shown = {
        name: Estimate(float(values[0]), *ends(values[1:]))
        for name, values in curve.parameters().items()
        if name != "ceiling" or curve.has_ceiling
    }
    band = _band(curve)
    return MetricCurve(variant, family, "exact", len(rows), law, curve, band, shown, curve.notes)


def _band(curve: BoundedCurve) -> pd.DataFrame:
    flops = np.geomspace(*curve.span, CURVE_POINTS)
    values = curve.values(flops)
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(values[1:], [tail, 100 - tail], axis=0)
    new = np.percentile(curve.new_runs(flops, NEW_RUNS_SEED), [tail, 100 - tail], axis=0)
    columns = {"value": values[0], "low": low, "high": high, "new_low": new[0], "new_high": new[1]}
    return pd.DataFrame({"flops": flops, **columns})


@dataclass(frozen=True)
class Predicted:
    """A value at a budget with 95% intervals of the curve and of a new run; beyond: the budget over
    the largest measured compute."""

    compute: float
    value: Estimate
    new_low: float
    new_high: float
    beyond: float


def predictions(curve: ScalingCurve, targets: Sequence[float]) -> list[Predicted]:
    """The curve at these budgets."""
    found = []
    for target in targets:
        at = np.array([target])
        values = curve.values(at)[:, 0]
        if isinstance(curve, Frontier):
            centre, drawn = values[:1], values[1:, None]
            low, high = (float(e[0]) for e in curve.refits.new_run_band(centre, drawn, at))
        elif isinstance(curve, BoundedCurve):
            low, high = percentiles(curve.new_runs(at, NEW_RUNS_SEED)[:, 0])
        else:
            low = high = float("nan")
        estimate = Estimate(float(values[0]), *percentiles(values[1:]))
        found.append(Predicted(target, estimate, low, high, target / curve.span[1]))
    return found


def exponents(curve: ScalingCurve) -> Array | None:
    """(1 + K,): how fast the curve improves with compute: gamma of a loss above its floor, b of a
    sigmoid's odds; None where the law has no single one."""
    if isinstance(curve, BoundedCurve):
        return np.asarray(curve.theta[:, 1])
    if isinstance(curve, Frontier) and isinstance(curve.refits.fit.law, PowerOfCompute):
        return np.asarray(curve.refits.fit.law.growth(curve.theta)[1])
    return None
