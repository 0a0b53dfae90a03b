"""Any CSV of training runs -> the points of a fit, with stated rules for what is wrong in it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.fitting.law import Inputs
from analysis.profiles.budgets import group_compute
from cola.errors import SpecError, one_line


@dataclass(frozen=True)
class Columns:
    """Names of the CSV's columns; None: the file has none. Compute defaults to 6 N D, tokens to
    C / (6 N)."""

    loss: str = "loss"
    n: str | None = None
    d: str | None = None
    compute: str | None = None
    group: str | None = None
    budget: str | None = None
    run: str | None = None
    accuracy: str | None = None

    def given(self) -> dict[str, str]:
        """What is read from the file, by our name."""
        names = {
            "loss": self.loss,
            "parameters": self.n,
            "tokens": self.d,
            "compute": self.compute,
            "group": self.group,
            "budget": self.budget,
            "run": self.run,
            "accuracy": self.accuracy,
        }
        return {ours: theirs for ours, theirs in names.items() if theirs is not None}


@dataclass(frozen=True)
class Table:
    """Columns loss, compute, budget, and where known parameters, tokens, group, run."""

    rows: pd.DataFrame
    notes: tuple[str, ...]

    def groups(self) -> dict[str, pd.DataFrame]:
        """The rows of each group; one group named `all` where the file has none."""
        if "group" not in self.rows:
            return {"all": self.rows}
        return {str(name): rows for name, rows in self.rows.groupby("group", sort=True)}


def read_table(path: Path, columns: Columns, drop_largest_losses: int = 0) -> Table:
    """Read and check a CSV.

    Rules: exact duplicates count once; rows with a missing number are an error that names them;
    `drop_largest_losses` rows of largest loss are left out of each group.

    Raises:
        SpecError: a file that cannot be read, a column that it lacks, numbers that are none.
    """
    try:
        frame = pd.read_csv(path)
    except (OSError, ValueError, UnicodeDecodeError) as error:
        raise SpecError(
            f"{path}: is not a CSV file that can be read ({one_line(error)}); give another"
        ) from None
    given = columns.given()
    for ours, theirs in given.items():
        if theirs not in frame:
            raise SpecError(
                f"{path}: has no column {theirs!r} (for {ours}); it has "
                f"{', '.join(map(str, frame.columns))}"
            )
    rows, notes = frame[list(given.values())].set_axis(list(given), axis=1), []
    for name in set(given) - {"group", "run", "accuracy"}:
        rows[name] = pd.to_numeric(rows[name], errors="coerce")
        wrong = rows.index[~(np.isfinite(rows[name]) & (rows[name] > 0))]
        if len(wrong):
            lines = ", ".join(str(row + 2) for row in wrong[:8])
            raise SpecError(
                f"{path}: column {given[name]!r} holds no positive number in {len(wrong)} rows "
                f"(lines {lines}{', ...' if len(wrong) > 8 else ''}); remove or mend them"
            )
    twice = int(rows.duplicated().sum())
    if twice:
        rows = rows.drop_duplicates()
        notes.append(f"{twice} rows are exact duplicates of others and count once")
    rows = _completed(path, rows)
    if drop_largest_losses:
        rows, note = _without_largest(path, rows, drop_largest_losses)
        notes.append(note)
    return Table(rows.reset_index(drop=True), tuple(notes))


def inputs(rows: pd.DataFrame) -> Inputs:
    """The points of a fit."""
    loss, compute = rows["loss"].to_numpy(float), rows["compute"].to_numpy(float)
    size = (rows[n].to_numpy(float) if n in rows else None for n in ("parameters", "tokens"))
    return Inputs(loss, compute, *size)


def _completed(path: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """Compute, tokens and budget where they follow from the rest."""
    known = set(rows.columns)
    if "compute" not in known:
        if not {"parameters", "tokens"} <= known:
            raise SpecError(
                f"{path}: give a column of compute (--flops), or of parameters (--n) and tokens "
                "(--d)"
            )
        rows = rows.assign(compute=6.0 * rows["parameters"] * rows["tokens"])
    elif "parameters" in known and "tokens" not in known:
        rows = rows.assign(tokens=rows["compute"] / (6.0 * rows["parameters"]))
    if "budget" not in known:
        rows = rows.assign(budget=group_compute(rows["compute"].to_numpy(float)))
    return rows


def _without_largest(path: Path, rows: pd.DataFrame, count: int) -> tuple[pd.DataFrame, str]:
    groups = rows.groupby("group")["loss"] if "group" in rows else rows["loss"]
    rank = groups.rank(ascending=False, method="first")
    kept = rows[rank > count]
    if kept.empty:
        raise SpecError(f"--drop-largest-losses {count}: nothing is left of {path}")
    return kept, f"the {count} largest losses (of each group) are left out"
