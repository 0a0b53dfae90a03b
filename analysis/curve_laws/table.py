"""Training curves of a table: a row a logged step, with the run's learning rate there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.curve_laws.curves import Curve
from analysis.tables.columns import Columns, RowCounts, read_columns
from analysis.tables.records import lines_text
from cola.errors import SpecError

ONE = "all"  # name of the group, or the run, of a table that has one
ALIKE = 1e-9  # share by which rates, or sizes, of one run may differ by rounding


@dataclass(frozen=True)
class CurveSet:
    """Curves by group. losses: what they are of, for people."""

    groups: dict[str, list[Curve]]
    losses: str
    notes: tuple[str, ...]
    counts: RowCounts | None = None


def read_curve_table(path: Path, columns: Columns) -> CurveSet:
    """The curves of a table. Rows without a loss give the learning rate alone.

    Raises:
        SpecError: the file is no such table, or a step of a run has two losses or rates.
    """
    read = read_columns(path, columns)
    rows, notes = read.rows, list(read.notes)
    labels = [name for name in ("group", "run") if name in rows]
    for name in ("group", "run"):
        if name not in rows:
            rows = rows.assign(**{name: ONE})
    groups: dict[str, list[Curve]] = {}
    late, gaps = [], []
    for (group, run), mine in rows.groupby(["group", "run"], sort=False):
        mine = one_a_step(path, mine.sort_values("step", kind="stable"), named="run" in labels)
        curve = curve_of(path, str(run), mine)
        if curve is None:
            raise SpecError(f"{path}: run {run} has no loss in any row; remove it, or complete it")
        groups.setdefault(str(group), []).append(curve)
        first = float(mine["step"].iloc[0])
        late += [f"{run} ({first:,.0f})"] if first > 1 else []
        gaps += [f"{run}"] if (np.diff(mine["step"]) > 1).any() else []
    if late:
        notes.append(
            "rates before a run's first row are taken to be that row's (run, its first step): "
            + _few(late)
        )
    if gaps:
        notes.append(f"rates between rows are interpolated: runs {_few(gaps)}")
    lacking = rows.loc[rows["measured"].isna(), "line"].tolist()
    if lacking:
        notes.append(
            f"{len(lacking)} rows without a loss give the learning rate alone "
            f"({lines_text(lacking)})"
        )
    return CurveSet(groups, f"column {columns.measured!r}", tuple(notes), read.counts)


def one_a_step(path: Path, rows: pd.DataFrame, *, named: bool) -> pd.DataFrame:
    """Rows of a run with each step once: its rate, and its loss where one of its rows has one.

    Raises:
        SpecError: a step has two rates, or two losses.
    """
    kept: list[pd.Series] = []
    for row in _rows(rows):
        if not kept or row["step"] != kept[-1]["step"]:
            kept.append(row)
            continue
        before = kept[-1]
        for name, what in (("rate", "learning rates"), ("measured", "losses")):
            if _differ(before[name], row[name]):
                where = f"{path}: lines {before['line']:.0f} and {row['line']:.0f}"
                remedy = "mend one" if named else "name the runs of the table (--run)"
                raise SpecError(
                    f"{where}: step {row['step']:.0f} has two {what}, {before[name]:g} and "
                    f"{row[name]:g}; {remedy}"
                )
        if np.isnan(before["measured"]):
            kept[-1] = row
    return pd.DataFrame(kept)


def _rows(rows: pd.DataFrame) -> Iterator[pd.Series]:
    for _, row in rows.iterrows():
        yield row


def _differ(one: float, other: float) -> bool:
    """Whether two numbers that are both there differ."""
    if np.isnan(one) or np.isnan(other):
        return False
    return abs(one - other) > ALIKE * max(abs(one), abs(other))


def curve_of(path: Path, run: str, rows: pd.DataFrame) -> Curve | None:
    """A run's curve; None without a loss.

    Raises:
        SpecError: its rates are all zero, or its sizes differ.
    """
    steps, rates = rows["step"].to_numpy(float), rows["rate"].to_numpy(float)
    if not rates.max() > 0:
        raise SpecError(
            f"{path}: run {run}: its learning rates are all 0; give those that it was trained with"
        )
    size = None
    if "parameters" in rows:
        sizes = rows["parameters"].to_numpy(float)
        size = float(sizes[0])
        if _differ(float(sizes.min()), float(sizes.max())):
            raise SpecError(
                f"{path}: run {run} has sizes from {sizes.min():g} to {sizes.max():g} (--n); a "
                "run has one: name runs apart (--run)"
            )
    if steps[-1] < 1:
        raise SpecError(f"{path}: run {run} has no step after 0; give optimiser steps from 1")
    every = np.interp(np.arange(1, int(steps[-1]) + 1), steps, rates)
    measured = rows["measured"].notna().to_numpy() & (steps >= 1)
    if not measured.any():
        return None
    loss = rows["measured"].to_numpy(float)[measured]
    return Curve(run, steps[measured].astype(np.int64), loss, every, size)


def _few(names: list[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > 6 else ""
    return ", ".join(names[:6]) + more
