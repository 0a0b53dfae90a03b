"""One curve a family, or a variant: which points are fitted, the law, its bands, what to say."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.fitting.bootstrap import LEVEL, Refits, bootstrap
from analysis.fitting.choices import Kind
from analysis.fitting.compare import Prediction, predict
from analysis.fitting.cross_validation import Choice, choose, with_misfit
from analysis.fitting.estimate import Fit, count_distinct, fit_law
from analysis.fitting.frontier import Frontier, at_compute
from analysis.fitting.laws import LAWS, candidates
from analysis.fitting.table import inputs
from analysis.floors.choice import FloorChoice, chosen_floor
from analysis.plotting.variants import variants_of
from cola.errors import FitError
from cola.families.registry import curve_label, curve_seed
from cola.records import weakest_kind

log = logging.getLogger(__name__)

SAMPLES, SEED, CURVE_POINTS = 1000, 0, 60
FLOOR_NEEDS = 5  # chosen: budgets needed to separate an irreducible loss E from the power law
RUNS_NEEDED = 5  # chosen: runs in every budget for runs, not residuals, to be resampled


@dataclass(frozen=True)
class FamilyFit:
    """The curve of a family, or of a variant, or why it has none. `curve`: flops, loss, low, high
    (95% confidence band), new_low, new_high (95% prediction band of a new run)."""

    variant: str
    family: str
    kind: str
    refits: Refits | None
    curve: pd.DataFrame | None
    warnings: tuple[str, ...]
    choice: Choice | None = None

    @property
    def label(self) -> str:
        """The curve's name for people."""
        return curve_label(self.variant, self.family)

    @property
    def fit(self) -> Fit | None:
        """The fitted law."""
        return None if self.refits is None else self.refits.fit

    @property
    def frontier(self) -> Frontier | None:
        """The curve with its refits, for comparisons."""
        return None if self.refits is None else Frontier(self.refits)

    @property
    def formula(self) -> str:
        """The fitted law in words, C in units of the points' geometric mean."""
        if self.fit is None:
            return "no curve"
        values, scale = self.fit.parameters, float(np.exp(np.log(self.fit.points.compute).mean()))
        floor = f"{values['E']:.3f} + " if values.get("E") else ""
        coefficient = values["K"] * scale ** -values["gamma"]
        broken = f", broken at {values['C1']:.2g}" if "C1" in values else ""
        return f"L = {floor}{coefficient:.3f} (C / {scale:.3g})^-{values['gamma']:.4f}{broken}"

    @property
    def intervals(self) -> str:
        """95% intervals of the parameters that mean something by themselves."""
        if self.refits is None:
            return "–"
        by_name = self.refits.intervals()
        shown = [name for name in ("E", "gamma") if name in by_name]
        return ", ".join(f"{n} {by_name[n][0]:.3g} to {by_name[n][1]:.3g}" for n in shown)


def fit_families(final: pd.DataFrame, fitted: pd.DataFrame, compute: str) -> dict[str, FamilyFit]:
    """Fit validation NLL against training FLOPs, curve by curve: of the finished runs `final`
    those that are `fitted`."""
    kinds = final.groupby("variant")["nll_kind"].agg(weakest_kind)
    return {
        variant: fit_family(
            variant,
            family,
            fitted[fitted["variant"] == variant],
            kind=str(kinds[variant]),
            compute=compute,
        )
        for variant, family in variants_of(final).items()
    }


def fit_family(
    variant: str,
    family: str,
    fitted: pd.DataFrame,
    *,
    kind: str,
    compute: str,
    column: str = "nll",
    law: str | None = None,
    predicts: bool = True,
) -> FamilyFit:
    """The law that predicts larger budgets best (or this one), through the family's best size of
    every budget; `column` has the loss. predicts: whether bands are judged on larger budgets, as
    predictions need it."""
    rows = best_size_runs(fit_points(fitted, compute, column))
    try:
        if rows.empty:
            raise FitError("no run is better than token frequencies")
        law, choice = chosen_law(rows) if law is None else (law, None)
        log.info("%s: law %s through %d points", variant, law, len(rows))
        fit = fit_law(law, inputs(rows), "least-squares", seed=SEED)
    except FitError as error:
        log.info("%s: no curve: %s", variant, error)
        return FamilyFit(variant, family, kind, None, None, (f"no curve: {error}",))
    several = int(rows.groupby("budget").size().min()) >= RUNS_NEEDED
    strata = rows["budget"].tolist() if several else None
    kind_of_refit: Kind = "runs" if several else "residuals"
    # Curves are compared refit by refit: with draws in common their noise would cancel.
    seed = SEED + curve_seed(variant, family)
    refits = bootstrap(fit, SAMPLES, seed, kind=kind_of_refit, strata=strata)
    if predicts:
        refits = with_misfit(refits, rows)
    return FamilyFit(variant, family, kind, refits, curve_of(refits), fit.warnings, choice)


def floor_of(
    fits: Mapping[str, FamilyFit], fitted: pd.DataFrame, compute: str, *, other_text: str
) -> FloorChoice:
    """Whether these curves are compared with one floor in common; `other_text`: why their scores
    are, or may be, of different texts."""
    curves = {variant: fit for variant, fit in fits.items() if fit.fit is not None}
    rows = {
        variant: best_size_runs(fit_points(fitted[fitted["variant"] == variant], compute))
        for variant in curves
    }
    laws = {variant: fit.fit.law.name for variant, fit in curves.items() if fit.fit is not None}
    bounds = tuple(fit.label for fit in curves.values() if fit.kind == "bound")
    return chosen_floor(
        rows, laws, other_text=other_text, bounds=bounds, samples=SAMPLES, seed=SEED
    )


def fit_points(final: pd.DataFrame, compute: str, column: str = "nll") -> pd.DataFrame:
    """Finished runs under the names that fits use; `column` has the loss."""
    return pd.DataFrame(
        {
            "loss": final[column],
            "compute": final[f"train_flops_{compute}"],
            "parameters": final["core_parameters"],
            "tokens": final["tokens"],
            "budget": final["budget"],
            "seed": final["seed"],
        }
    )


def best_size_runs(rows: pd.DataFrame) -> pd.DataFrame:
    """At every budget the size of lowest mean loss, with all its seeds."""
    means = rows.groupby(["budget", "parameters"])["loss"].mean()
    best = dict(means.groupby("budget").idxmin().tolist())
    return rows[rows["parameters"] == rows["budget"].map(best)]


def chosen_law(rows: pd.DataFrame) -> tuple[str, Choice | None]:
    """By rolling origin where there are enough budgets to test on; else what they can carry."""
    budgets = count_distinct(rows["compute"].to_numpy(float))
    if budgets < FLOOR_NEEDS:
        return "compute-power", None
    # One budget more than a law needs is held out.
    testable = [name for name in candidates(sized=False) if budgets > LAWS[name].least_budgets]
    try:
        choice = choose(testable, rows, "least-squares")
    except FitError:
        return "compute", None
    return choice.best, choice


def curve_of(refits: Refits) -> pd.DataFrame:
    """The curve over the measured budgets with both bands."""
    compute = refits.fit.points.compute
    at = at_compute(np.geomspace(compute.min(), compute.max(), CURVE_POINTS))
    low, high = refits.confidence_band(at, LEVEL)
    new_low, new_high = refits.prediction_band(at, SEED, LEVEL)
    return pd.DataFrame(
        {
            "flops": at.compute,
            "loss": refits.fit.loss(at),
            "low": low,
            "high": high,
            "new_low": new_low,
            "new_high": new_high,
        }
    )


def predictions(fits: Mapping[str, FamilyFit], targets: list[float]) -> dict[str, list[Prediction]]:
    """Each curve's loss at the target budgets."""
    return {
        variant: [predict(fit.refits, target) for target in targets]
        for variant, fit in fits.items()
        if fit.refits is not None
    }


def grouped_warnings(fits: Mapping[str, FamilyFit]) -> list[str]:
    """Each distinct warning of the fits, prefixed by the curves that it applies to."""
    families: dict[str, list[str]] = {}
    for fit in fits.values():
        for warning in fit.warnings:
            families.setdefault(warning, []).append(fit.label)
    return [f"{', '.join(names)}: {warning}" for warning, names in families.items()]


def falls_with_budget(points: pd.DataFrame, variant: str) -> bool:
    """Whether the curve's best final NLL (mean over seeds) falls at every step up the ladder."""
    final = points[points["is_final"] & (points["variant"] == variant)]
    means = final.groupby(["budget", "core_parameters"])["nll"].mean().groupby("budget").min()
    return bool((means.sort_index().diff().dropna() < 0).all())
