"""Numbers of a report as rows and sentences: predictions, choice of law, IsoFLOP optima."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from analysis.fitting.bootstrap import percentiles
from analysis.fitting.isoflop import LEAST_SIZES, IsoFLOP, bootstrap_isoflop, exponents, isoflop
from analysis.report.comparisons import Pair
from analysis.report.family_fits import SAMPLES, SEED, FamilyFit, fit_table, predictions
from cola.records import FAMILIES, FAMILY_LABELS

ISOFLOP_SAMPLES = SAMPLES // 4  # each is a whole analysis


@dataclass(frozen=True)
class Profiles:
    """IsoFLOP analyses of the families that were trained at several sizes a budget."""

    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    analyses: dict[str, IsoFLOP] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)


def study_profiles(final: pd.DataFrame, compute: str) -> Profiles:
    """Profiles where a budget has enough sizes; empty for a study of one size a budget."""
    found = Profiles()
    for family in FAMILIES:
        mine = final[final["family"] == family]
        rows = fit_table(mine, compute)
        sizes = rows.groupby("budget")["parameters"].nunique()
        if sizes.empty or sizes.max() < LEAST_SIZES:
            continue
        found.tables[family] = rows
        found.analyses[family] = isoflop(rows)
        found.kinds[family] = str(mine["nll_kind"].iloc[0])
    return found


def profile_sentences(profiles: Profiles) -> list[str]:
    """How the best size grows with compute, family by family."""
    said = []
    for family, analysis in profiles.analyses.items():
        label = FAMILY_LABELS[family]
        if analysis.size is None:
            said.append(f"{label}: too few IsoFLOP minima to say how the best size grows.")
            continue
        refits = bootstrap_isoflop(profiles.tables[family], ISOFLOP_SAMPLES, SEED)
        low, high = percentiles(exponents(refits))
        said.append(
            f"{label}: the best size (core parameters) grows as C^{analysis.size.exponent:.3f} "
            f"(95% interval {low:.3f} to {high:.3f}, from {len(analysis.good)} budgets)."
        )
    return said


def profile_warnings(profiles: Profiles) -> list[str]:
    """Profiles that have no minimum inside, and exponents that rest on two of them."""
    said = []
    for family, analysis in profiles.analyses.items():
        label = FAMILY_LABELS[family]
        said += [
            f"{label}, profile at {optimum.compute:.2g} FLOPs: {optimum.trouble}"
            for optimum in analysis.optima
            if optimum.trouble
        ]
        if len(analysis.good) == 2:
            said.append(f"{label}: the exponent of the best size rests on two budgets")
    return said


def optima_table(profiles: Profiles) -> pd.DataFrame:
    """One row a profile."""
    return pd.DataFrame(
        [
            {"family": family, **vars(optimum)}
            for family, analysis in profiles.analyses.items()
            for optimum in analysis.optima
        ]
    )


def multiplier_table(pairs: Sequence[Pair]) -> pd.DataFrame:
    """The multiplier curves of all pairs."""
    tables = [
        pair.curve.assign(one=pair.one.family, other=pair.other.family)
        for pair in pairs
        if pair.curve is not None
    ]
    return pd.concat(tables) if tables else pd.DataFrame()


def prediction_rows(fits: Mapping[str, FamilyFit], targets: list[float]) -> list[dict[str, str]]:
    """The table of predictions, formatted."""
    return [
        {
            "family": family,
            "kind": fits[family].kind,
            "compute": f"{found.compute:.3g}",
            "loss": f"{found.loss.value:.3f}",
            "confidence": f"{found.loss.low:.3f} to {found.loss.high:.3f}",
            "prediction": f"{found.prediction_low:.3f} to {found.prediction_high:.3f}",
            "words": found.words,
        }
        for family, each in predictions(fits, targets).items()
        for found in each
    ]


def choice_rows(fits: Mapping[str, FamilyFit]) -> list[str]:
    """How well each law predicts larger budgets, by family."""
    said = []
    for fit in fits.values():
        if fit.choice is None:
            continue
        scores = ", ".join(
            f"{score.law} {score.mean_absolute_error:.2%}" for score in fit.choice.scores
        )
        better = fit.choice.weights
        combined = f", a weighted combination {fit.choice.combined_error:.2%}" if better else ""
        said.append(f"{fit.label}: {scores}{combined}")
    return said
