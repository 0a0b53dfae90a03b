"""Conventions side by side: the same runs under every way to count parameters and compute.

Which one is taken decides exponents, so that all at hand are fitted, each judged by how it predicts
what it was not fitted to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.cross_validation import compute_steps, rolling_origin
from analysis.fitting.laws import LAWS
from analysis.fitting.table import Table
from analysis.profiles.analysis import isoflop
from analysis.table_fit.fit import fit_groups, seeds
from analysis.table_fit.request import Request
from analysis.tables.records import lines_text
from cola.errors import FitError

EXPONENTS = ("a", "b", "alpha", "beta", "gamma", "gamma_total")


@dataclass(frozen=True)
class Convention:
    """Names of the columns that N and C are taken from (None: the table has none)."""

    n: str | None
    flops: str | None

    def __str__(self) -> str:
        parts = {"N": self.n, "C": self.flops}
        return ", ".join(f"{name} = {column}" for name, column in parts.items() if column)


def apart(
    asked: Sequence[Convention], law: str, *, tokens: bool
) -> tuple[list[Convention], list[str]]:
    """The conventions that a law tells apart, and what to say of the others: a law of sizes reads
    no compute where tokens are given, one of compute no size where compute is given."""
    sized = law in LAWS and LAWS[law].needs_size
    of_compute = law in LAWS and not LAWS[law].needs_size
    kept, unread = list(asked), ""
    if sized and tokens:
        kept, unread = list({each.n: each for each in reversed(asked)}.values())[::-1], "compute"
    elif of_compute and asked[0].flops is not None:
        kept, unread = list({each.flops: each for each in reversed(asked)}.values())[::-1], "sizes"
    if len(kept) == len(asked):
        return kept, []
    reads = "N and D" if sized else "C"
    return kept, [f"law {law} reads {reads} alone: other columns of {unread} change nothing"]


def side_by_side(tables: Mapping[Convention, Table], request: Request) -> dict[str, Any]:
    """One row a convention and group: exponents with intervals, error on held-out rows; and by how
    much exponents differ between conventions. A convention that cannot be fitted has its reason.

    All are fitted to and judged on the same rows, which the first convention's compute divides into
    budgets.

    Raises:
        FitError: when none can be fitted, or no row has all the numbers.
    """
    frames, notes = _common_rows(tables)
    steps = _steps(next(iter(frames.values())))
    rows: list[dict[str, Any]] = []
    for convention, frame in frames.items():
        groups = Table(frame, (), tables[convention].counts).groups()
        for name, mine in groups.items():
            own = {"n": convention.n, "flops": convention.flops}
            row = own | ({"group": name} if len(groups) > 1 else {})
            # One law, so that exponents differ by the count alone.
            seeded = replace(request, seed=seeds(groups, request.seed)[name], usual=False)
            rows.append(row | _fitted(mine, seeded, steps.loc[mine.index]))
    if all("reason" in row for row in rows):
        reasons = "; ".join(f"{Convention(r['n'], r['flops'])}: {r['reason']}" for r in rows)
        raise FitError(f"no convention can be fitted ({reasons})")
    return {
        "law": request.law,
        "conventions": rows,
        "spread": _spread(rows),
        "held_out_splits": f"budgets by {next(iter(frames))}",
        "warnings": notes + _warnings(tables, rows),
    }


def _common_rows(
    tables: Mapping[Convention, Table],
) -> tuple[dict[Convention, pd.DataFrame], list[str]]:
    """The rows that all conventions have, by their line, and what is left out for that."""
    lines = [set(table.rows["line"]) for table in tables.values()]
    common, whole = set.intersection(*lines), set.union(*lines)
    if not common:
        raise FitError("no row has all the numbers of every convention; give fewer of them")
    frames = {
        each: table.rows[table.rows["line"].isin(common)].set_index("line", drop=False)
        for each, table in tables.items()
    }
    lost = sorted(whole - common)
    note = f"{lines_text(lost)}: left out, as not every convention has numbers there"
    return frames, [note] if lost else []


def _steps(rows: pd.DataFrame) -> pd.Series:
    """The budget of each row, group by group."""
    if "group" not in rows:
        return compute_steps(rows)
    return pd.concat([compute_steps(mine) for _, mine in rows.groupby("group")])


def _fitted(rows: pd.DataFrame, request: Request, steps: pd.Series) -> dict[str, Any]:
    try:
        result = fit_groups({"all": rows}, request)[0]["all"]
    except FitError as error:
        return {"reason": str(error)}
    numbers = {**result["parameters"], **result.get("derived", {})}
    intervals = {**result["intervals"], **result.get("derived_intervals", {})}
    return {
        "law": result["law"],
        "points": result["points"],
        "parameters": result["parameters"],
        "exponents": {n: numbers[n] for n in EXPONENTS if n in numbers},
        "intervals": {n: ends for n, ends in intervals.items() if ends},
        "held_out": _held_out(rows, request, steps, law=result["law"]),
        "warnings": result["warnings"],
    }


def _held_out(
    rows: pd.DataFrame, request: Request, steps: pd.Series, *, law: str
) -> dict[str, Any] | None:
    """Of laws the error on each next budget (rolling origin); of profiles that of the largest
    budget's N* from those of the others. None where there are too few budgets."""
    if law == "isoflop":
        return _next_optimum(rows, request)
    score = rolling_origin(
        law,
        rows,
        request.estimator,
        constraints=request.constraints,
        steps=steps,
        bands=False,
    )
    if score is None:
        return None
    return {
        "mean_absolute_error": score.mean_absolute_error,
        "signed_error": score.signed_error,
        "points": len(score.errors),
        "folds": len(score.folds),
    }


def _next_optimum(rows: pd.DataFrame, request: Request) -> dict[str, Any] | None:
    """N* of the largest budget that has one, from the budgets below it, over the one found there;
    None where these have fewer than two."""
    whole = isoflop(rows, request.minimum)
    if len(whole.good) < 3:
        return None
    last = max(whole.good, key=lambda optimum: optimum.compute)
    others = isoflop(rows[rows["budget"] < last.compute], request.minimum)
    if others.size is None:
        return None
    predicted = float(others.size.at(np.array([last.compute]))[0])
    return {"parameters_ratio": predicted / float(last.parameters), "points": 1, "folds": 1}


def _spread(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Least and largest value of each exponent over conventions, group by group."""
    found: dict[str, Any] = {}
    for group in dict.fromkeys(row.get("group", "all") for row in rows):
        mine = [r for r in rows if r.get("group", "all") == group and "exponents" in r]
        names = [n for n in EXPONENTS if sum(n in row["exponents"] for row in mine) > 1]
        found[group] = {
            name: [f(r["exponents"][name] for r in mine if name in r["exponents"])
                   for f in (min, max)]
            for name in names
        }  # fmt: skip
    return found


def _warnings(tables: Mapping[Convention, Table], rows: list[dict[str, Any]]) -> list[str]:
    notes = [f"{each}: {note}" for each, table in tables.items() for note in table.notes]
    for row in rows:
        where = str(Convention(row["n"], row["flops"]))
        where += f", {row['group']}" if "group" in row else ""
        notes += [f"{where}: {note}" for note in row.pop("warnings", [])]
        if "reason" in row:
            notes.append(f"{where}: not fitted: {row['reason']}")
    return notes
