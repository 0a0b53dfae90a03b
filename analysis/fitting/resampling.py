"""What a refit draws for a table: single runs, whole clusters of rows, or noise round the fit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.fitting.bootstrap import Refits, bootstrap
from analysis.fitting.choices import Kind, Progress
from analysis.fitting.estimate import Fit

FEW_RUNS = 5  # chosen: a budget with fewer runs is too small to resample
MANY_POINTS = 50  # chosen: points from which single runs are drawn over all budgets
# Clusters from which whole ones are drawn: below, their intervals hold the truth far less often
# than they claim (`python -m tests.benchmarks.law_coverage` measures it).
MANY_CLUSTERS = 8
LEAST_CLUSTERS = 5  # below, simulated ones do too: 91% at four
REPEATED_SIZE = 4  # token counts at one size from which rows may be checkpoints of one run


@dataclass(frozen=True)
class Plan:
    """How the rows of one group are resampled.

    strata, clusters: labels of the rows (None: all in one, each its own). none: why there are no
    intervals. notes: what a reader must know.
    """

    kind: Kind
    strata: list[object] | None = None
    clusters: list[object] | None = None
    none: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def nested(self) -> bool:
        """Whether runs have several rows, which are then not independent."""
        return self.clusters is not None or self.none is not None

    def refit(
        self, fit: Fit, samples: int, seed: int, *, progress: Progress | None = None
    ) -> Refits:
        """Refits of the fit to these rows; none of them where the plan refuses intervals."""
        return bootstrap(
            fit,
            0 if self.none else samples,
            seed,
            kind=self.kind,
            strata=self.strata,
            clusters=self.clusters,
            progress=progress,
        )


def plan_of(rows: pd.DataFrame, kind: Kind | None = None) -> Plan:
    """How to resample these rows; `kind` is what was asked for.

    Rows that name their run (column `run`) are drawn with it, however many they are.
    """
    clusters = None if "run" not in rows else rows["run"].astype(str).tolist()
    if clusters is None or len(set(clusters)) == len(rows):
        return _single_rows(rows, kind, notes=_checkpoint_notes(rows) if clusters is None else ())
    count = len(set(clusters))
    if count < MANY_CLUSTERS and _span_sizes(rows):
        note = (
            f"--run: its {count} values each span several sizes, so they are not single runs but "
            "seeds (or the like); rows are resampled as runs of their own. Where rows are "
            "checkpoints of one run, give a column that names the run"
        )
        return _single_rows(rows, kind, notes=(note,))
    strata = _strata(rows, clusters)
    if count >= MANY_CLUSTERS:
        return Plan(kind or "runs", strata, clusters)
    if count < LEAST_CLUSTERS or "parameters" not in rows:
        return Plan("residuals", none=_too_few(count, rows))
    if kind == "runs":
        note = (
            f"--resample runs draws from {count} runs only: such intervals hold the truth far "
            "less often than 95%; leave --resample out"
        )
        return Plan("runs", strata, clusters, notes=(note,))
    note = (
        f"{count} runs (--run) are too few to be drawn: refits simulate what rows of a run have in "
        "common from the fit's residuals"
    )
    return Plan("residuals", None, clusters, notes=(note,))


def _single_rows(rows: pd.DataFrame, kind: Kind | None, *, notes: tuple[str, ...]) -> Plan:
    several = bool(rows.groupby("budget").size().min() >= FEW_RUNS)
    strata = rows["budget"].tolist() if several else None
    default: Kind = "runs" if several or len(rows) >= MANY_POINTS else "residuals"
    return Plan(kind or default, strata, None, notes=notes)


def _strata(rows: pd.DataFrame, clusters: list[object]) -> list[object] | None:
    """Budgets, where every cluster lies inside one and each has enough of them."""
    budgets = pd.Series(rows["budget"].to_numpy()).groupby(pd.Series(clusters))
    if (budgets.nunique() > 1).any():
        return None
    per_budget = budgets.first().value_counts()
    return rows["budget"].tolist() if per_budget.min() >= FEW_RUNS else None


def _span_sizes(rows: pd.DataFrame) -> bool:
    """Whether most labels have rows of several sizes: a run has one."""
    if "parameters" not in rows:
        return False
    logs = np.round(np.log(rows["parameters"].to_numpy(float)), 2)
    sizes = pd.Series(logs).groupby(rows["run"].to_numpy()).nunique()
    return bool((sizes > 1).mean() > 0.5)


def _too_few(count: int, rows: pd.DataFrame) -> str:
    sized = "parameters" in rows
    known = "" if sized else ", and without sizes (--n) seeds cannot be distinguished from runs"
    least = LEAST_CLUSTERS if sized else MANY_CLUSTERS
    return (
        f"no intervals: --run names {count} different runs{known}; at least {least} are needed. "
        "Leave --run out if its values are seeds"
    )


def _checkpoint_notes(rows: pd.DataFrame) -> tuple[str, ...]:
    """The same size at many token counts may be one run's checkpoints."""
    if not {"parameters", "tokens"} <= set(rows.columns):
        return ()
    counts = rows.groupby("parameters")["tokens"].nunique()
    many = counts[counts >= REPEATED_SIZE]
    if len(many) < 2 or many.sum() < len(rows) / 2:
        return ()
    return (
        f"{len(many)} sizes have {REPEATED_SIZE} token counts or more each: if they are "
        "checkpoints of one run, name it with --run, else the intervals are too narrow",
    )
