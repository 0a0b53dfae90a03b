"""Numbers of a report as rows and sentences: predictions, choice of law, IsoFLOP optima."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from analysis.fitting.bootstrap import percentiles
from analysis.fitting.compare import Crossover, Multiplier
from analysis.fitting.isoflop import bootstrap_isoflop
from analysis.plotting.page_table import Column, Table, table
from analysis.plotting.variants import variants_of
from analysis.profiles.analysis import IsoFLOP, isoflop
from analysis.profiles.profile import LEAST_SIZES
from analysis.profiles.refits import IsoFLOPRefits
from analysis.report.comparisons import Pair
from analysis.report.family_fits import SAMPLES, SEED, FamilyFit, fit_points, predictions
from analysis.table_fit.isoflop_notes import of_intervals, off_centre, troubles
from cola.families.registry import curve_label, definition_of
from cola.records import (
    EXCESS,
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


def latent_table(runs: pd.DataFrame) -> Table | None:
    """What latents hold and cost, of runs that have any."""
    columns = [
        Column("run", "run"),
        Column("rate", "rate"),
        Column("distortion", "distortion"),
        Column("diffusion_bound", "diffusion's bound"),
        Column("difference", "2 N steps"),
        Column("prior", "prior, nats a dimension"),
        Column("gaussian", "Gaussian"),
    ]
    return table(columns, latent_rows(runs))


def latent_rows(runs: pd.DataFrame) -> list[dict[str, str]]:
    """What latents hold and cost, formatted, of runs that have any."""
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
    return plus_minus(run[f"{name}_nats_per_token"], run[f"{name}_standard_error"], ".3f")


def plus_minus(value: float | None, error: float | None, form: str) -> str:
    """A value with its standard error, which is left out where it is not known."""
    shown, doubt = number(value, form), number(error, form)
    return shown if "–" in (shown, doubt) else f"{shown} ± {doubt}"


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


def prediction_table(
    fits: Mapping[str, FamilyFit], targets: Sequence[float], compute: str
) -> Table | None:
    """The curves' losses at these budgets, with the digits that their intervals leave."""
    columns = [
        Column("family", "family"),
        Column("compute", f"at FLOPs ({compute})"),
        Column("loss", "predicted loss, nats per token"),
        Column("confidence", "95% of curves"),
        Column("prediction", "95% of new runs"),
        Column("note", "how far", words=True),
    ]
    return table(columns, prediction_rows(fits, targets))


def prediction_rows(
    fits: Mapping[str, FamilyFit], targets: Sequence[float]
) -> list[dict[str, str]]:
    """The rows of predictions, formatted."""
    rows = []
    for variant, of_variant in predictions(fits, list(targets)).items():
        fit = fits[variant]
        for each in of_variant:
            digits = significant_decimals(each.prediction_high - each.prediction_low)
            rows.append(
                {
                    "variant": variant,
                    "kind": fit.kind,
                    "family": fit.label + (f" ({fit.kind})" if fit.kind != "exact" else ""),
                    "compute": f"{each.compute:.3g}",
                    "loss": f"{each.loss.value:.{digits}f}",
                    "confidence": f"{each.loss.low:.{digits}f} to {each.loss.high:.{digits}f}",
                    "prediction": f"{each.prediction_low:.{digits}f} to "
                    f"{each.prediction_high:.{digits}f}",
                    "note": each.extrapolation_note,
                }
            )
    return rows


def significant_decimals(width: float) -> int:
    """Decimals of a value whose interval is so wide: two digits of the width."""
    if not np.isfinite(width) or width <= 0:
        return 3
    return int(min(4, max(0, 1 - np.floor(np.log10(width)))))


def fit_table(fits: Mapping[str, FamilyFit], compute: str) -> Table | None:
    """The fitted curves."""
    columns = [
        Column("family", "family"),
        Column("nll_kind", "NLL"),
        Column("formula", f"law (C in {compute} FLOPs)", words=True),
        Column("intervals", "95% intervals", words=True),
        Column("runs", "runs"),
        Column("scatter", "scatter of log loss"),
    ]
    rows = [
        {
            "variant": fit.variant,
            "kind": fit.kind,
            "family": fit.label,
            "nll_kind": fit.kind,
            "formula": fit.formula,
            "intervals": fit.intervals,
            "runs": "–" if fit.fit is None else str(len(fit.fit.points)),
            "scatter": "–" if fit.fit is None else f"{fit.fit.diagnostics.residual_sd:.2%}",
        }
        for fit in fits.values()
    ]
    return table(columns, rows)


def run_table(runs: pd.DataFrame, compute: str, split: str) -> Table | None:
    """All runs; the names of those that are not finished have their state."""
    columns = [
        Column("run", "run"),
        Column("core", "core parameters"),
        Column("total", "all parameters"),
        Column("tokens", "tokens"),
        Column("steps", "steps"),
        Column("executed", "executed FLOPs"),
        Column("nominal", "nominal FLOPs"),
        Column("spent", "of budget"),
        Column("nll", f"{split} NLL, nats/token"),
        Column("excess", "over the truth"),
        Column("validation", "on validation"),
        Column("nll_kind", "NLL is"),
        Column("bits_per_byte", "bits/byte"),
        Column("seconds", "training, s"),
    ]
    if split == "validation":
        columns = [each for each in columns if each.key != "validation"]
    return table(columns, [run_row(run, compute, split) for _, run in runs.iterrows()])


def run_row(run: pd.Series, compute: str, split: str) -> dict[str, str]:
    """A run, formatted."""
    score = plus_minus(run["nll"], run["nll_standard_error"], ".4f")
    other = " (validation)" if run["split"] != split and score != "–" else ""
    state = "" if run["status"] == "finished" else f" ({run['status']})"
    return {
        "variant": str(run["variant"]),
        "kind": str(run["nll_kind"]),
        "run": f"{run['name']}{state}",
        "core": number(run["core_parameters"] or None, ",.0f"),
        "total": number(run["total_parameters"] or None, ",.0f"),
        "tokens": number(run["tokens"], ",.0f"),
        "steps": number(run["steps"] or None, ",.0f"),
        "executed": number(run["train_flops_executed"], ".3g"),
        "nominal": number(run["train_flops_nominal"], ".3g"),
        "spent": number(run[f"train_flops_{compute}"] / run["budget"], ".2%"),
        "nll": f"{score}{other}",
        "excess": with_error(run, EXCESS),
        "validation": number(run["validation_nll"], ".4f"),
        "nll_kind": str(run["nll_kind"]),
        "bits_per_byte": number(run["bits_per_byte"], ".4f"),
        "seconds": number(run["elapsed_seconds"], ",.0f"),
    }


def diagnostic_table(diagnostics: pd.DataFrame) -> Table | None:
    """The diagnostics of each curve's largest budget."""
    if diagnostics.empty:
        return None
    largest = diagnostics.groupby("variant")["budget"].transform("max")
    chosen = diagnostics[diagnostics["budget"] == largest]
    columns = [Column("run", "run"), Column("diagnostic", "diagnostic"), Column("value", "value")]
    rows = [
        {"run": row["run"], "diagnostic": row["diagnostic"], "value": number(row["value"], ".4g")}
        for _, row in chosen.iterrows()
    ]
    return table(columns, rows)


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
        left = ", ".join(fit.choice.unjudged)
        unjudged = f"; too few budgets to judge {left}" if left else ""
        rows.append(f"{fit.label}: {scores}{combined}{unjudged}")
    return rows
