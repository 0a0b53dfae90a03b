"""Which split a study's scores are of: the test split where every finished run was tested."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import pandas as pd

from cola.records import LIKELIHOOD_MEASUREMENTS, NO_LIKELIHOOD, REFERENCE_LINES, Metric

Split = Literal["test", "validation"]

# Columns of runs and final points that are taken from the split, by the validation's metric.
SCORES = {
    Metric.NLL: "nll",
    Metric.NLL_STANDARD_ERROR: "nll_standard_error",
    Metric.BITS_PER_BYTE: "bits_per_byte",
}
LINES = {Metric.reference(name): f"reference_{name}" for name in REFERENCE_LINES} | {
    Metric.REFERENCE_XZ: "reference_xz"
}
BESIDE = {Metric.val(name): name for name in LIKELIHOOD_MEASUREMENTS} | {
    Metric.CLUSTERS: "clusters"
}
TESTED = SCORES | LINES | BESIDE


def split_columns(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """A run's numbers beside its scores of the validation split, and all of the test split."""
    of_validation = {name: metrics.get(key) for key, name in (LINES | BESIDE).items()}
    of_test = {f"test_{name}": metrics.get(Metric.on_test(key)) for key, name in TESTED.items()}
    return of_validation | of_test | {"test_sequences": metrics.get(Metric.TEST_SEQUENCES)}


def on_one_split(
    runs: pd.DataFrame, points: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame, Split, list[str]]:
    """Runs and points whose final scores are of one split, which one, and what to note.

    They are of the test split where all finished runs have a score of it: scores of two splits are
    not compared. `split` has that of each row: of runs that are not finished, and of points before
    the end of a run, the validation split. `validation_nll` keeps the last validation's.
    """
    runs = runs.assign(validation_nll=runs["nll"], split="validation")
    points = points.assign(split="validation")
    finished = runs["status"] == "finished"
    tested = finished & runs["test_nll"].notna()
    if not finished.any():
        return runs, points, "validation", []
    if not tested.any():
        note = (
            "no run has a score of a test split (they are of an earlier release, or the held-out "
            "text is one sequence): all scores are of the validation split, which sweeps select by"
        )
        return runs, points, "validation", [note]
    scored = finished & (runs["nll_kind"] != NO_LIKELIHOOD)
    if not tested[scored].all():
        names = ", ".join(sorted(runs[scored & ~tested]["name"]))
        note = (
            "scores are of the validation split, which sweeps select by, since not all runs have "
            f"one of the test split; without: {names}"
        )
        return runs, points, "validation", [note]
    for name in TESTED.values():
        runs[name] = runs[f"test_{name}"].where(tested, runs[name])
    runs["split"] = runs["split"].where(~tested, "test")
    if not points.empty:
        by_run = runs.set_index("run_id")
        final = points["is_final"]
        for name in SCORES.values():
            of_test = points["run_id"].map(by_run[f"test_{name}"])
            points[name] = points[name].where(~final, of_test)
        points["split"] = points["split"].where(~final, "test")
    return runs, points, "test", []


def split_sentence(runs: pd.DataFrame, split: Split) -> str:
    """What the scores of a report are of, and what their standard error is over."""
    mine = runs[runs["status"] == "finished"]
    if split == "validation":
        return "Scores are of the validation split; sweeps select by the same text."
    sequences, clusters = (mine[name].dropna() for name in ("test_sequences", "test_clusters"))
    amount = ""
    if len(sequences) and len(clusters):
        amount = f" ({sequences.iloc[0]:,.0f} sequences of {clusters.iloc[0]:,.0f} documents)"
    return (
        f"Scores are of the test split{amount}, which neither training nor selection has seen; ± "
        "is the standard error over its documents (over pieces where few are held out)."
    )
