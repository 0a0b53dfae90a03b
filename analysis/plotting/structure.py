"""What latents hold of a text's structure, as a table: of runs of a study, or points of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from analysis.plotting.page_table import Column, Table, table
from cola.records import Metric

GAP, ERROR = "history_gap_at_time", "history_gap_error_at_time"
EXPLANATION = (
    "By how much the flow-matching loss at a time t of the flow grows with another text's history "
    "in place of the true one, and at the end the same of the second half of each block, which "
    "what reaches over a few tokens only does not touch. 0 is of a prior that takes nothing from "
    "the text before; noise is t = 1. Of generated text: blocks whose hidden topic a linear probe "
    "reads off the mean of their latents, the same off the counts of their tokens, blocks whose "
    "nearest neighbour in another text is of the same topic, and guessing the most frequent topic. "
    "± is the standard error over sequences."
)


def structure_table(
    name: str, rows: Sequence[tuple[str, Mapping[str, float | None]]]
) -> Table | None:
    """A row for each (name of a run or point, metrics by their names in MLflow) that has some."""
    measured = [(label, found) for label, found in rows if of_structure(found)]
    times = sorted({key.rpartition("/")[2] for _, found in measured for key in of_structure(found)})
    shares = {
        "accuracy": "topic by a probe",
        "from_tokens": "by token counts",
        "neighbour": "of the nearest",
        "majority": "most frequent",
    }
    columns = [
        Column("name", name),
        *(Column(time, f"gap at t = {time}") for time in times),
        *([Column("late", f"late, t = {times[-1]}")] if times else []),
        *(Column(key, title) for key, title in shares.items()),
    ]
    cells = []
    for label, found in measured:
        row = {"name": label} | {time: _with_error(found, GAP, ERROR, time) for time in times}
        row["late"] = _with_error(found, f"late_{GAP}", f"late_{ERROR}", times[-1])
        row |= {key: _share(_known(found, f"topic_probe/{key}")) for key in shares}
        cells.append(row)
    return table(columns, cells)


def of_structure(found: Mapping[str, float | None]) -> list[str]:
    """The names of the gaps among metrics."""
    prefix = Metric.diagnostic(f"{GAP}/")
    return [key for key in found if str(key).startswith(prefix) and not pd.isna(found[key])]


def _known(found: Mapping[str, float | None], name: str) -> float | None:
    value = found.get(Metric.diagnostic(name))
    return None if value is None or pd.isna(value) else float(value)


def _with_error(found: Mapping[str, float | None], name: str, error: str, time: str) -> str:
    value, doubt = (_known(found, f"{key}/{time}") for key in (name, error))
    if value is None:
        return "–"
    return f"{value:+.4f}" if doubt is None else f"{value:+.4f} ± {doubt:.4f}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
