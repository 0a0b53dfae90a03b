"""Any CSV of training runs -> the points of a fit, with stated rules for what is wrong in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.fitting.law import Inputs
from analysis.profiles.budgets import group_compute
from analysis.tables.columns import Columns, RowCounts, read_columns
from analysis.tables.numbers import parse_number, shown
from analysis.tables.records import lines_text
from analysis.tables.units import unit_notes
from cola.errors import SpecError

NOMINAL = 10.0  # chosen: nominal and counted FLOPs of one budget differ by less than this factor


@dataclass(frozen=True)
class Table:
    """Columns line (of the file), loss, compute, budget, and where known parameters, tokens, unique
    tokens, group, run, accuracy (NaN where it was not measured)."""

    rows: pd.DataFrame
    notes: tuple[str, ...]
    counts: RowCounts

    def groups(self) -> dict[str, pd.DataFrame]:
        """The rows of each group; one group named `all` where the file has none."""
        if "group" not in self.rows:
            return {"all": self.rows}
        return {str(name): rows for name, rows in self.rows.groupby("group", sort=True)}


def read_table(path: Path, columns: Columns, drop_largest_losses: int = 0) -> Table:
    """Read and check a CSV.

    Rules: rows that are equal in all columns of the file count once; rows without a number that is
    needed are left out; `drop_largest_losses` rows of largest loss are left out of each group. Each
    is in `notes` and `counts`.

    Raises:
        SpecError: a file that cannot be read, a column that it lacks, cells that are not what their
            column needs.
    """
    read = read_columns(path, columns)
    names, notes, counts = columns.given(), list(read.notes), read.counts
    rows, budget_notes = _completed(path, read.rows)
    notes += unit_notes(rows, names) + budget_notes
    if drop_largest_losses:
        kept, note = _without_largest(path, rows, drop_largest_losses)
        notes.append(note)
        counts = counts.without(note, sorted(set(rows["line"]) - set(kept["line"])))
        rows = kept
    return Table(rows.reset_index(drop=True), tuple(notes), counts)


def inputs(rows: pd.DataFrame) -> Inputs:
    """The points of a fit."""
    loss, compute = rows["loss"].to_numpy(float), rows["compute"].to_numpy(float)
    names = ("parameters", "tokens", "unique")
    size = (rows[name].to_numpy(float) if name in rows else None for name in names)
    return Inputs(loss, compute, *size)


def _completed(path: Path, rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Compute, tokens and budget where they follow from the rest, and notes on budgets."""
    known = set(rows.columns)
    if "compute" not in known:
        if not {"parameters", "tokens"} <= known:
            raise SpecError(
                f"{path}: give a column of compute (--flops), or of parameters (--n) and tokens "
                "(--d)"
            )
        rows = rows.assign(compute=6.0 * rows["parameters"] * rows["tokens"])
        _check_derived(path, rows, "compute", formula="6 N D")
    elif "parameters" in known and "tokens" not in known:
        rows = rows.assign(tokens=rows["compute"] / (6.0 * rows["parameters"]))
        _check_derived(path, rows, "tokens", formula="C / 6 N")
    if "budget" not in known:
        return rows.assign(budget=group_compute(rows["compute"].to_numpy(float))), []
    budget, notes = _named_budgets(rows["budget"].tolist(), rows["compute"].to_numpy(float))
    return rows.assign(budget=budget), notes


def _check_derived(path: Path, rows: pd.DataFrame, name: str, *, formula: str) -> None:
    """Raises: SpecError, for rows whose derived number is beyond what a float holds."""
    values = rows[name].to_numpy(float)
    wrong = rows.loc[~(np.isfinite(values) & (values > 0)), "line"].tolist()
    if wrong:
        raise SpecError(
            f"{path}: {lines_text(wrong)}: {formula} is beyond what a number holds; mend the row's "
            "parameters, tokens or compute, or remove it"
        )


def _named_budgets(labels: list[str], compute: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """A number for each row's budget: the one in its column where that is an amount of compute,
    else the mean compute of the runs of its label, which orders labels."""
    nominal = _amounts(labels)
    if nominal is not None:
        ratio = float(np.exp(np.median(np.log(nominal / compute))))
        if 1 / NOMINAL < ratio < NOMINAL:
            return nominal, []
    means: dict[str, float] = {}
    for label in dict.fromkeys(labels):
        members = np.array([each == label for each in labels])
        mean = float(np.exp(np.log(compute[members]).mean()))
        while mean in means.values():  # two labels of one compute stay two budgets
            mean = float(np.nextafter(mean, np.inf))
        means[label] = mean
    kind = "no amounts of compute" if nominal is None else f"{ratio:.2g} of the runs' compute"
    note = f"the budget's column holds {kind}: its {len(means)} values are labels of budgets"
    return np.array([means[label] for label in labels]), [note]


def _amounts(labels: list[str]) -> np.ndarray | None:
    try:
        values = np.array([parse_number(label) for label in labels])
    except ValueError:
        return None
    return values if bool((values > 0).all()) else None


def _without_largest(path: Path, rows: pd.DataFrame, count: int) -> tuple[pd.DataFrame, str]:
    groups = rows.groupby("group")["loss"] if "group" in rows else rows["loss"]
    rank = groups.rank(ascending=False, method="first")
    kept = rows[rank > count]
    if kept.empty:
        raise SpecError(
            f"--drop-largest-losses {count}: nothing is left of {path}; leave out fewer"
        )
    if "group" in rows:
        lost = sorted(set(rows["group"]) - set(kept["group"]))
        if lost:
            named = f"group{'s' if len(lost) > 1 else ''} {', '.join(map(shown, lost))}"
            raise SpecError(
                f"--drop-largest-losses {count}: nothing is left of {path}'s {named}; leave out "
                "fewer, or remove these rows"
            )
    return kept, f"the {count} largest losses (of each group) are left out"
