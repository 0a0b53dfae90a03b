"""Tables of runs: CSV (a project of W&B as it is exported, or any), JSON lines, JSON, Parquet."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.imports.rows import Row, Source, cell, flattened
from analysis.tables.records import read_records
from cola.errors import SpecError, one_line

NAMES = ("Name", "name", "run", "run_name", "run_id", "id", "ID")  # columns that may name runs
STATES = {"State", "state", "status"}  # a tracker's, where their values are those below
FINISHED = {"finished", "completed", "success", "succeeded"}
UNFINISHED = {"running", "crashed", "failed", "killed", "preempted", "preempting", "pending",
              "scheduled"}  # fmt: skip
PARTS = ("__MIN", "__MAX")  # columns of a chart that W&B exports


def read_csv(path: Path, wanted: Sequence[str]) -> Source:
    """The rows of a CSV with a header.

    Raises:
        SpecError: it cannot be read, or is the export of a chart.
    """
    records = read_records(path, wanted)
    header = records.header.fields
    charts = [name for name in header if name.endswith(PARTS)]
    if charts and any(name.removesuffix(PARTS[0]) in header for name in charts):
        raise SpecError(
            f"{path}: is a chart that W&B exports (a column a run: {charts[0]}); export the "
            "project's table of runs as CSV instead"
        )
    repeated = sorted({name for name in header if name and header.count(name) > 1})
    if repeated:
        raise SpecError(
            f"{path}: line {records.header.line} names two columns {repeated[0]!r}; rename one"
        )
    filled = [row for row in records.rows if not row.is_empty]
    cells = [dict(zip(header, row.fields, strict=True)) for row in filled]
    places = [f"line {row.line}" for row in filled]
    return finished_rows("a CSV", str(path), zip(places, cells, strict=True))


def read_json(path: Path, text: str) -> Source:
    """JSON lines, an object a run; or one array of such objects.

    Raises:
        SpecError: with the line that is no object.
    """
    if text.lstrip().startswith("["):
        values = _parsed(path, text, "the file")
        items = [(f"entry {number}", value) for number, value in enumerate(values, 1)]
    else:
        # Not splitlines(): JSON texts may hold other line separators.
        lines = [(f"line {n}", line) for n, line in enumerate(text.split("\n"), 1)]
        items = [(place, _parsed(path, line, place)) for place, line in lines if line.strip()]
    rows = []
    for place, value in items:
        if not isinstance(value, Mapping):
            raise SpecError(f"{path}: {place} is no JSON object; give one object a run")
        rows.append((place, dict(flattened(value))))
    if not rows:
        raise SpecError(f"{path}: is empty: it holds no runs")
    return finished_rows("JSON", str(path), rows)


def _parsed(path: Path, text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecError(
            f"{path}: {place} is no JSON ({one_line(error, 80)}); mend or remove it"
        ) from None


def read_parquet(path: Path) -> Source:
    """The rows of a Parquet file.

    Raises:
        SpecError: it cannot be read.
    """
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        values = parquet.read_table(path).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise SpecError(
            f"{path}: cannot be read as Parquet ({one_line(error, 120)}); is it cut off?"
        ) from None
    rows = [(f"row {n}", dict(flattened(value))) for n, value in enumerate(values, 1)]
    if not rows:
        raise SpecError(f"{path}: is empty: it holds no runs")
    return finished_rows("Parquet", str(path), rows)


def finished_rows(kind: str, place: str, items: Iterable[tuple[str, Mapping[str, str]]]) -> Source:
    """A source of these cells, without the runs that their tracker does not call finished."""
    found = list(items)
    columns = list(dict.fromkeys(name for _, cells in found for name in cells))
    name_column = next((name for name in NAMES if name in columns), None)
    state_column = next((name for name in columns if _is_state(name, found)), None)
    rows, left_out = [], dict[str, tuple[str, ...]]()
    for where, cells in found:
        name = cells.get(name_column, "") if name_column else ""
        state = cells.get(state_column, "") if state_column else ""
        if state_column is not None and state.casefold() not in FINISHED:
            reason = f"{state_column} is {cell(state) or 'empty'}, not finished"
            left_out[reason] = (*left_out.get(reason, ()), where)
            continue
        rows.append(Row(where, name or where, cells))
    notes = () if state_column is None else (f"runs count where {state_column} is finished",)
    return Source(kind, place, tuple(rows), left_out, notes)


def _is_state(name: str, found: Sequence[tuple[str, Mapping[str, str]]]) -> bool:
    """Whether a column has a tracker's states and nothing else."""
    if name not in STATES:
        return False
    values = {cells.get(name, "").casefold() for _, cells in found} - {""}
    return bool(values) and values <= FINISHED | UNFINISHED
