"""Numbers of a report as rows and sentences: predictions, choice of law, IsoFLOP optima."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from analysis.fitting.bootstrap import percentiles
from analysis.fitting.compare import Crossover, Multiplier
from analysis.fitting.isoflop import bootstrap_isoflop
from analysis.plotting.variants import variants_of
from analysis.profiles.analysis import IsoFLOP, isoflop
from analysis.profiles.profile import LEAST_SIZES
from analysis.profiles.refits import IsoFLOPRefits
from analysis.report.comparisons import Pair
from analysis.report.family_fits import SAMPLES, SEED, FamilyFit, fit_points, predictions
from analysis.table_fit.isoflop_notes import of_intervals, off_centre, troubles
from cola.families.registry import curve_label, definition_of
from cola.records import (
    GAUSSIAN_COST,
    LIKELIHOOD_MEASUREMENTS,
    PRIOR_COST,
    SOLVER_DIFFERENCE,
    weakest_kind,
)


@dataclass(frozen=True)
class Profiles:
    """IsoFLOP analyses of the curves that were trained at several sizes a budget, by variant, and
    their refits (None: too few minima, or no run beyond the parabolas' coefficients)."""

    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    analyses: dict[str, IsoFLOP] = field(default_factory=dict)
    refits: dict[str, IsoFLOPRefits | None] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    families: dict[str, str] = field(default_factory=dict)

    def label(self, variant: str) -> str:
        """The curve's name for people."""
        return curve_label(variant, self.families[variant])


def study_profiles(final: pd.DataFrame, compute: str) -> Profiles:
    """Profiles where a budget has enough sizes; empty for a study of one size a budget."""
    profiles = Profiles()
    for variant, family in variants_of(final).items():
        mine = final[final["variant"] == variant]
        rows = fit_points(mine, compute)
        sizes = rows.groupby("budget")["parameters"].nunique()
        if sizes.empty or sizes.max() < LEAST_SIZES:
            continue
        profiles.tables[variant] = rows
        analysis = profiles.analyses[variant] = isoflop(rows)
        profiles.refits[variant] = bootstrap_isoflop(analysis, SAMPLES, SEED)
        profiles.kinds[variant] = weakest_kind(mine["nll_kind"])
        profiles.families[variant] = family
    return profiles


def profile_sentences(profiles: Profiles) -> list[str]:
    """How the best size grows with compute, curve by curve."""
    sentences = []
    for variant, analysis in profiles.analyses.items():
        label = profiles.label(variant)
        if analysis.size is None:
            sentences.append(f"{label}: too few IsoFLOP minima to say how the best size grows.")
            continue
        refits = profiles.refits[variant]
        interval, none = "", of_intervals(analysis, refits, SAMPLES)
        if refits is not None and not none:
            low, high = percentiles(refits.exponent())
            interval = f"95% interval {low:.3f} to {high:.3f}, "
        sentences.append(
            f"{label}: the best size (core parameters) grows as C^{analysis.size.exponent:.3f} "
            f"({interval}from {len(analysis.good)} budgets)."
        )
    return sentences


def profile_warnings(profiles: Profiles) -> list[str]:
    """Profiles that have no minimum inside or one near an end, exponents that rest on two of them
    or have no interval."""
    warnings = []
    for variant, analysis in profiles.analyses.items():
        label = profiles.label(variant)
        found = [*troubles(analysis), *off_centre(analysis)]
        if analysis.size is not None:
            found += of_intervals(analysis, profiles.refits[variant], SAMPLES)
        warnings += [f"{label}, IsoFLOP profiles: {text}" for text in found]
        if len(analysis.good) == 2:
            warnings.append(f"{label}: the exponent of the best size rests on two budgets")
    return warnings


def optima_table(profiles: Profiles) -> pd.DataFrame:
    """One row a profile."""
    return pd.DataFrame(
        [
            {"family": profiles.families[variant], "variant": variant, **vars(optimum)}
            for variant, analysis in profiles.analyses.items()
            for optimum in analysis.optima
        ]
    )


def latent_rows(runs: pd.DataFrame) -> list[dict[str, str]]:
    """The table of what latents hold and cost, formatted, of runs that have any."""
    measured = runs[runs["rate_nats_per_token"].notna()]
    return [
        {
            "run": str(run["name"]),
            "rate": with_error(run, "rate"),
            "distortion": with_error(run, "distortion"),
            "diffusion_bound": with_error(run, "diffusion_bound"),
            "difference": number(run[SOLVER_DIFFERENCE], "+.4f"),
            "prior": number(run[PRIOR_COST], ".3f"),
            "gaussian": number(run[GAUSSIAN_COST], ".3f"),
        }
        for _, run in measured.iterrows()
    ]


def with_error(run: pd.Series, name: str) -> str:
    """A measurement in nats a token with its standard error."""
    value = number(run[f"{name}_nats_per_token"], ".3f")
    return f"{value} ± {number(run[f'{name}_standard_error'], '.3f')}" if value != "–" else value


def number(value: float | None, form: str) -> str:
    """A formatted number, or a dash."""
    return "–" if value is None or pd.isna(value) else format(value, form)


def latent_warnings(runs: pd.DataFrame, lines: Mapping[str, float]) -> list[str]:
    """Finished runs whose latents hold nothing or whose prior has learned nothing."""
    if "unigram" not in lines:
        return []
    warnings = []
    for _, run in runs[runs["status"] == "finished"].iterrows():
        values = {name: run[name] for name in LIKELIHOOD_MEASUREMENTS if pd.notna(run[name])}
        problem = definition_of(run["family"]).problem(values, lines["unigram"])
        if problem is not None:
            warnings.append(f"{run['name']}: {problem}")
    return warnings


def multiplier_table(pairs: Sequence[Pair]) -> pd.DataFrame:
    """The multiplier curves of all pairs."""
    tables = [
        pair.curve.assign(one=pair.one.variant, other=pair.other.variant)
        for pair in pairs
        if not pair.curve.empty
    ]
    return pd.concat(tables).rename(columns={"value": "loss"}) if tables else pd.DataFrame()


def comparison_table(pairs: Sequence[Pair]) -> pd.DataFrame:
    """One row a pair: the multiplier (compute of `one` over that of `other` at a loss) with its
    interval or bound, and where the curves cross. floor: `shared` or each one's `own`. at_true_nll:
    what the multiplier is at the true NLL of one that is scored by a bound, `at least` its
    interval's low end or `at most` its high one."""
    return pd.DataFrame(
        [
            {
                "one": pair.one.variant,
                "other": pair.other.variant,
                "floor": pair.floor,
                **multiplier_row(pair.multiplier),
                "at_true_nll": pair.one_sided,
                **crossing_row(pair.crossing),
            }
            for pair in pairs
        ]
    )


def multiplier_row(found: Multiplier) -> dict[str, object]:
    """A multiplier as columns; `bound` says which end alone is known."""
    return {
        "at": found.at,
        "multiplier": found.value,
        "multiplier_low": found.low,
        "multiplier_high": found.high,
        "bound": found.bound,
        "supported_by": found.supported_by,
    }


def crossing_row(found: Crossover | None) -> dict[str, object]:
    """A crossing as columns, empty where the curves do not cross."""
    return {
        "crossover": None if found is None else found.compute.value,
        "crossover_low": None if found is None else found.compute.low,
        "crossover_high": None if found is None else found.compute.high,
        "crossover_share_of_refits": None if found is None else found.share,
        "crossover_beyond": None if found is None else found.beyond,
    }


def prediction_rows(fits: Mapping[str, FamilyFit], targets: list[float]) -> list[dict[str, str]]:
    """The table of predictions, formatted."""
    return [
        {
            "variant": variant,
            "kind": fits[variant].kind,
            "compute": f"{prediction.compute:.3g}",
            "loss": f"{prediction.loss.value:.3f}",
            "confidence": f"{prediction.loss.low:.3f} to {prediction.loss.high:.3f}",
            "prediction": f"{prediction.prediction_low:.3f} to {prediction.prediction_high:.3f}",
            "note": prediction.extrapolation_note,
        }
        for variant, of_variant in predictions(fits, targets).items()
        for prediction in of_variant
    ]


def choice_rows(fits: Mapping[str, FamilyFit]) -> list[str]:
    """How well each law predicts larger budgets, by curve."""
    rows = []
    for fit in fits.values():
        if fit.choice is None:
            continue
        scores = ", ".join(
            f"{score.law} {score.mean_absolute_error:.2%}" for score in fit.choice.scores
        )
        better = fit.choice.weights
        combined = f", a weighted combination {fit.choice.combined_error:.2%}" if better else ""
        rows.append(f"{fit.label}: {scores}{combined}")
    return rows
