"""The same runs by every way to count compute and parameters, which exponents and multipliers
depend on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.cross_validation import rolling_origin
from analysis.fitting.table import Table as Rows
from analysis.floors.choice import FloorChoice
from analysis.plotting.page_table import Column, Table, table
from analysis.profiles.profile import LEAST_SIZES
from analysis.report.comparisons import Pair, compare_pairs
from analysis.report.family_fits import (
    SAMPLES,
    SEED,
    FamilyFit,
    best_size_runs,
    fit_family,
    fit_points,
    floor_of,
)
from analysis.report.tables import number
from analysis.table_fit.conventions import Convention as Columns
from analysis.table_fit.conventions import side_by_side
from analysis.table_fit.intervals import with_interval
from analysis.table_fit.request import Request
from analysis.tables.columns import RowCounts
from cola.errors import FitError
from cola.families.registry import IMPORTED

# Conventions of C by the column that has it; those of 6 N D are made here.
CONVENTIONS = {
    "executed": "executed FLOPs",
    "nominal": "nominal FLOPs: 6 N D of blocks and head",
    "core": "6 N D with core parameters",
    "head": "6 N D with core parameters and head",
    "total": "6 N D with all parameters",
}
# Of another project's runs, whose compute and sizes are as that project counts them.
IMPORTED_CONVENTIONS = {
    "nominal": "FLOPs as imported",
    "core": "6 N D of the imported sizes",
}
# Conventions of N, as laws of sizes take them.
SIZES = {
    "core": "core parameters",
    "head": "core parameters and head",
    "total": "all parameters",
}
SAME = 0.005  # chosen: counts that agree so well in every run are one
SIZED_LAWS = ("chinchilla", "isoflop")
# Of exponents: of the loss above the floor, of the whole loss at the optima of profiles, of N*.
DIGITS = {"gamma": ".4f", "gamma_total": ".4f", "a": ".3f"}
ENDS = ("low", "high")


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


@dataclass(frozen=True)
class Conventions:
    """of_compute: every way to count C; none where the runs tell fewer than two apart. of_sizes: by
    curve and law of sizes what each way to count N gives (see `side_by_side`), or why none. kinds:
    of each curve's likelihood."""

    of_compute: list[Convention]
    of_sizes: Mapping[str, Mapping[str, dict[str, Any]]]
    kinds: Mapping[str, str]


def conventions_of(
    fitted: pd.DataFrame,
    fits: Mapping[str, FamilyFit],
    pairs: list[Pair],
    *,
    compute: str,
    floor: FloorChoice,
) -> Conventions:
    """Every convention that the fitted runs tell apart, of C the study's own `compute` first; each
    curve keeps the law that was chosen for it there, and comparisons a floor in common."""
    rows = counted(fitted)
    imported = bool((rows["family"] == IMPORTED).all())
    labels = CONVENTIONS | (IMPORTED_CONVENTIONS if imported else {})
    found: list[Convention] = []
    for name in sorted(CONVENTIONS, key=lambda name: name != compute):
        if not known(rows, f"train_flops_{name}", [f"train_flops_{each.name}" for each in found]):
            continue
        own = name == compute
        mine = fits if own else {v: refitted(rows, fit, name) for v, fit in fits.items()}
        errors = {variant: held_out(rows, fit, name) for variant, fit in mine.items()}
        compared = pairs
        if not own:
            again = floor_of(mine, rows, name, other_text=floor.reason) if floor.used else None
            compared = compare_pairs(mine, rows, name, None if again is None else again.frontiers)
        found.append(Convention(name, labels[name], own, mine, errors, compared))
    kinds = {variant: fit.kind for variant, fit in fits.items()}
    return Conventions(found if len(found) > 1 else [], sizes_of(rows, compute), kinds)


def counted(fitted: pd.DataFrame) -> pd.DataFrame:
    """The runs with N in every convention (`size_core`, ...), and the 6 N D of each."""
    core = fitted["core_parameters"].astype(float)
    head = fitted["head_parameters"].astype(float)
    sizes = {"core": core, "head": core + head, "total": fitted["total_parameters"].astype(float)}
    return fitted.assign(
        **{f"size_{name}": n for name, n in sizes.items()},
        **{f"train_flops_{name}": 6.0 * n * fitted["tokens"] for name, n in sizes.items()},
    )


def known(rows: pd.DataFrame, column: str, others: list[str]) -> bool:
    """Whether every run has this count, and not that of another convention."""
    values = rows[column].to_numpy(float)
    return bool(len(values)) and bool((values > 0).all()) and not any(
        np.allclose(values, rows[other].to_numpy(float), rtol=SAME) for other in others
    )  # fmt: skip


def refitted(rows: pd.DataFrame, fit: FamilyFit, name: str) -> FamilyFit:
    """A curve by another convention."""
    law = None if fit.fit is None else fit.fit.law.name
    mine = rows[rows["variant"] == fit.variant]
    return fit_family(
        fit.variant, fit.family, mine, kind=fit.kind, compute=name, law=law, predicts=False
    )


def held_out(rows: pd.DataFrame, fit: FamilyFit, name: str) -> float | None:
    """Mean error of the curve's law on each next budget, as a share of the loss."""
    if fit.fit is None:
        return None
    points = best_size_runs(fit_points(rows[rows["variant"] == fit.variant], name))
    score = rolling_origin(
        fit.fit.law.name, points, "least-squares", steps=points["budget"], bands=False
    )
    return None if score is None else score.mean_absolute_error


def sizes_of(rows: pd.DataFrame, compute: str) -> dict[str, dict[str, dict[str, Any]]]:
    """By curve and law of sizes, where a budget has several sizes: every convention of N side by
    side, over tokens and the study's own compute."""
    names: list[str] = []
    for name in SIZES:
        if known(rows, f"size_{name}", [f"size_{each}" for each in names]):
            names.append(name)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for variant, mine in rows.groupby("variant", sort=False) if len(names) > 1 else ():
        points = fit_points(mine, compute).assign(line=range(len(mine)))
        if points.groupby("budget")["parameters"].nunique().max() < LEAST_SIZES:
            continue
        tables = {
            Columns(SIZES[name], None): Rows(
                points.assign(parameters=mine[f"size_{name}"]), (), RowCounts(len(mine))
            )
            for name in names
        }
        found[str(variant)] = {law: _sized(law, tables) for law in SIZED_LAWS}
    return found


def _sized(law: Any, tables: Mapping[Columns, Rows]) -> dict[str, Any]:
    """The law under every convention, or the `reason` why none carries it."""
    request = Request(law, "least-squares", SAMPLES, SEED, None, ())
    try:
        return side_by_side(tables, request)
    except FitError as error:
        return {"reason": str(error)}


def convention_table(found: Conventions, labels: Mapping[str, str]) -> Table | None:
    """Every curve by every convention, for a page."""
    columns = [
        Column("curve", "curve"),
        Column("convention", "counted", words=True),
        Column("law", "law"),
        Column("gamma", "exponent of the loss"),
        Column("a", "exponent of N*"),
        Column("held_out", "held out"),
    ]
    rows = convention_rows(found)
    return table(columns, [_cells(row) | {"curve": labels[row["variant"]]} for row in rows])


def _cells(row: Mapping[str, Any]) -> dict[str, str]:
    cells = {name: str(row[name]) for name in ("variant", "kind", "convention", "law")}
    for name, digits in DIGITS.items():
        if name in row:
            cells[name] = with_interval(row[name], [row[f"{name}_{e}"] for e in ENDS], digits)
    if "gamma_total" in cells:
        cells["gamma"] = f"{cells.pop('gamma_total')} of the whole loss"
    error = number(row["held_out_error"], ".2%")
    ratio = row.get("next_size_ratio")
    return cells | {"held_out": error if ratio is None else f"N* x {ratio:.3f}"}


def convention_rows(found: Conventions) -> list[dict[str, Any]]:
    """One row a curve, law and convention: exponents with their 95% intervals, the mean error on
    each next budget, and of profiles N* of the largest budget from the others over the one found
    there."""
    rows = []
    for convention in found.of_compute:
        own = " (the study's)" if convention.own else ""
        for variant, fit in convention.fits.items():
            if fit.fit is None or fit.refits is None:
                continue
            rows.append(
                {
                    "variant": variant,
                    "kind": fit.kind,
                    "convention": f"C: {convention.label}{own}",
                    "law": fit.fit.law.name,
                    **_exponents(fit.fit.parameters, fit.refits.intervals()),
                    "held_out_error": convention.held_out[variant],
                }
            )
    rows += [
        row
        for variant, laws in found.of_sizes.items()
        for law, each in laws.items()
        for row in _size_rows(variant, found.kinds[variant], law, each)
    ]
    order = list(dict.fromkeys(row["variant"] for row in rows))
    return sorted(rows, key=lambda row: order.index(row["variant"]))


def _size_rows(
    variant: str, kind: str, law: str, found: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    for row in found.get("conventions", ()):
        if "exponents" not in row:
            continue
        score = row["held_out"] or {}
        yield {
            "variant": variant,
            "kind": kind,
            "convention": f"N: {row['n']}",
            "law": law,
            **_exponents(row["exponents"], row["intervals"]),
            "held_out_error": score.get("mean_absolute_error"),
            "next_size_ratio": score.get("parameters_ratio"),
        }


def _exponents(values: Mapping[str, float], ends: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Those that have a meaning in any convention, with their intervals."""
    found: dict[str, Any] = {}
    for name in (each for each in DIGITS if each in values):
        low, high = ends.get(name) or (None, None)
        found |= {name: values[name], f"{name}_low": low, f"{name}_high": high}
    return found


def convention_sentences(found: Conventions, labels: Mapping[str, str]) -> list[str]:
    """Each pair's multiplier by the conventions of C that are not the study's, how far N* moves by
    those of N, and what was not fitted."""
    sentences = [
        f"By {each.label}: {pair.sentences[0]}"
        for each in found.of_compute if not each.own for pair in each.pairs
    ]  # fmt: skip
    for variant, laws in found.of_sizes.items():
        for law, each in laws.items():
            sentences += list(_size_sentences(labels[variant], law, each))
    return sentences


def _size_sentences(label: str, law: str, found: Mapping[str, Any]) -> Iterator[str]:
    if "reason" in found:
        yield f"{label}: law {law} is not fitted to the sizes: {found['reason']}."
        return
    ends = found["spread"].get("all", {}).get("a")
    if ends is not None:
        yield (
            f"{label}: by how parameters are counted the best size grows as C^{ends[0]:.3f} to "
            f"C^{ends[1]:.3f} (law {law})."
        )
    for row in found["conventions"]:
        if "reason" in row:
            yield f"{label}: law {law} is not fitted with N of {row['n']}: {row['reason']}."
