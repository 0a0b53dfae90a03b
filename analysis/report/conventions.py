"""The same runs by every way to count compute, which exponents and multipliers depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.fitting.cross_validation import rolling_origin
from analysis.floors.choice import FloorChoice
from analysis.plotting.page_table import Column, Table, table
from analysis.report.comparisons import Pair, compare_pairs
from analysis.report.family_fits import (
    FamilyFit,
    best_size_runs,
    fit_family,
    fit_points,
    floor_of,
)
from analysis.report.tables import number
from cola.families.registry import IMPORTED

# Conventions of C by the column that has it; the last one is made here.
CONVENTIONS = {
    "executed": "executed FLOPs",
    "nominal": "nominal FLOPs: 6 N D of blocks and head",
    "total": "6 N D with all parameters",
}
# Of another project's runs, whose compute and sizes are as that project counts them.
IMPORTED_CONVENTIONS = {
    "nominal": "FLOPs as imported",
    "total": "6 N D of the imported sizes",
}


@dataclass(frozen=True)
class Convention:
    """Curves and comparisons by one convention of C, `label` for people; `own`: it is the
    study's."""

    name: str
    label: str
    own: bool
    fits: Mapping[str, FamilyFit]
    held_out: Mapping[str, float | None]  # mean error on each next budget, by curve
    pairs: list[Pair]


def conventions_of(
    fitted: pd.DataFrame,
    fits: Mapping[str, FamilyFit],
    pairs: list[Pair],
    *,
    compute: str,
    floor: FloorChoice,
) -> list[Convention]:
    """Every convention that the fitted runs tell apart, the study's own `compute` first; each curve
    keeps the law that was chosen for it there, and comparisons a floor in common."""
    rows = fitted.assign(train_flops_total=6.0 * fitted["total_parameters"] * fitted["tokens"])
    imported = bool((rows["family"] == IMPORTED).all())
    labels = CONVENTIONS | (IMPORTED_CONVENTIONS if imported else {})
    found: list[Convention] = []
    for name in sorted(CONVENTIONS, key=lambda name: name != compute):
        if not known(rows, name, [each.name for each in found]):
            continue
        own = name == compute
        mine = fits if own else {v: refitted(rows, fit, name) for v, fit in fits.items()}
        errors = {variant: held_out(rows, fit, name) for variant, fit in mine.items()}
        compared = pairs
        if not own:
            again = floor_of(mine, rows, name, other_text=floor.reason) if floor.used else None
            compared = compare_pairs(mine, rows, name, None if again is None else again.frontiers)
        found.append(Convention(name, labels[name], own, mine, errors, compared))
    return found if len(found) > 1 else []


def known(rows: pd.DataFrame, name: str, others: list[str]) -> bool:
    """Whether every run has this compute, and not that of another convention."""
    compute = rows[f"train_flops_{name}"].to_numpy(float)
    return bool(len(compute)) and bool((compute > 0).all()) and not any(
        np.allclose(compute, rows[f"train_flops_{other}"].to_numpy(float), rtol=1e-3)
        for other in others
    )  # fmt: skip


def refitted(rows: pd.DataFrame, fit: FamilyFit, name: str) -> FamilyFit:
    """A curve by another convention."""
    law = None if fit.fit is None else fit.fit.law.name
    mine = rows[rows["variant"] == fit.variant]
    return fit_family(fit.variant, fit.family, mine, kind=fit.kind, compute=name, law=law)


def held_out(rows: pd.DataFrame, fit: FamilyFit, name: str) -> float | None:
    """Mean error of the curve's law on each next budget, as a share of the loss."""
    if fit.fit is None:
        return None
    points = best_size_runs(fit_points(rows[rows["variant"] == fit.variant], name))
    score = rolling_origin(fit.fit.law.name, points, "least-squares", steps=points["budget"])
    return None if score is None else score.mean_absolute_error


def convention_table(conventions: list[Convention], labels: Mapping[str, str]) -> Table | None:
    """Every curve by every convention, for a page."""
    columns = [
        Column("curve", "curve"),
        Column("convention", "C", words=True),
        Column("law", "law"),
        Column("exponent", "exponent"),
        Column("interval", "95% interval"),
        Column("held_out", "held out"),
    ]
    rows = convention_rows(conventions)
    return table(columns, [row | {"curve": labels[row["variant"]]} for row in rows])


def convention_rows(conventions: list[Convention]) -> list[dict[str, str]]:
    """One row a curve and convention, formatted."""
    rows = []
    for convention in conventions:
        own = " (the study's)" if convention.own else ""
        for variant, fit in convention.fits.items():
            if fit.fit is None or fit.refits is None:
                continue
            ends = fit.refits.intervals().get("gamma")
            rows.append(
                {
                    "variant": variant,
                    "kind": fit.kind,
                    "convention": convention.label + own,
                    "law": fit.fit.law.name,
                    "exponent": number(fit.fit.parameters.get("gamma"), ".4f"),
                    "interval": "–" if ends is None else f"{ends[0]:.4f} to {ends[1]:.4f}",
                    "held_out": number(convention.held_out[variant], ".2%"),
                }
            )
    return sorted(rows, key=lambda row: list(conventions[0].fits).index(row["variant"]))


def convention_sentences(conventions: list[Convention]) -> list[str]:
    """Each pair's multiplier by the conventions that are not the study's."""
    return [
        f"By {each.label}: {pair.sentences[0]}"
        for each in conventions if not each.own for pair in each.pairs
    ]  # fmt: skip
