"""Rows of a source -> runs with N, D, C, a budget and a loss; what was left out or assumed."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

from analysis.imports.mapping import (
    NUMBERS,
    Condition,
    in_name,
    places_text,
)
from analysis.imports.rows import Row, Source
from analysis.profiles.budgets import group_compute
from analysis.tables.numbers import parse_number, shown
from analysis.tables.units import unit_notes
from cola.errors import SpecError

LossUnit = Literal["nats", "bits", "perplexity"]
Counted = Literal["core", "total"]
SHARED_BUDGETS = "runs within a factor of 1.2 in compute share a budget"  # what is assumed
OURS = {"n": "parameters", "d": "tokens", "c": "compute", "loss": "loss"}


@dataclass(frozen=True)
class Reading:
    """How rows are read: columns by field, a pattern of names, which rows count, units."""

    mapping: Mapping[str, str]
    pattern: re.Pattern[str] | None = None
    conditions: Sequence[Condition] = ()
    drop_missing: bool = False
    loss_unit: LossUnit | None = None
    counted: Counted | None = None
    family: str | None = None  # of all runs, where no column has it


@dataclass(frozen=True)
class ImportedRuns:
    """`rows`: place, name, family, n, d (NaN: not known), c, budget, loss, seed. `left_out`: places
    by reason."""

    rows: pd.DataFrame
    left_out: Mapping[str, tuple[str, ...]]
    assumed: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())


def read_runs(source: Source, reading: Reading) -> ImportedRuns:
    """The runs that count.

    Raises:
        SpecError: a number that is none or missing, fields that are not given, no run that is left.
    """
    check_fields(source, reading)
    left_out = dict(source.left_out)
    rows = []
    for row in source.rows:
        failed = next((each for each in reading.conditions if not each.holds(row)), None)
        if failed is not None:
            _leave(left_out, f"not {failed}", row.where)
            continue
        rows.append(row)
    values = [_values(source, row, reading) for row in rows]
    missing = dict[str, list[str]]()
    kept = []
    for row, found in zip(rows, values, strict=True):
        lacking = next((reason for reason in found.lacks), None)
        if lacking is None:
            kept.append(found.fields | {"place": row.where})
        else:
            missing.setdefault(lacking, []).append(row.where)
    if missing and not reading.drop_missing:
        reason, places = next(iter(missing.items()))
        raise SpecError(
            f"{source.place}: {places_text(places)}: {reason}; complete the source, or leave such "
            "runs out (--drop-missing)"
        )
    for reason, places in missing.items():
        left_out[reason] = (*left_out.get(reason, ()), *places)
    if not kept:
        reasons = "; ".join(f"{reason}: {places_text(p)}" for reason, p in left_out.items())
        raise SpecError(f"{source.place}: no run is left ({reasons or 'it holds none'})")
    frame = pd.DataFrame(kept)
    twice = frame.duplicated([name for name in frame if name != "place"])
    for place in frame.loc[twice, "place"]:
        _leave(left_out, "equal to another run in all that is read", str(place))
    frame, assumed = _completed(source, frame[~twice].reset_index(drop=True), reading)
    return ImportedRuns(frame, left_out, tuple(assumed), (*source.notes, *_notes(frame, reading)))


def _leave(left_out: dict[str, tuple[str, ...]], reason: str, place: str) -> None:
    left_out[reason] = (*left_out.get(reason, ()), place)


def check_fields(source: Source, reading: Reading) -> None:
    """Refuse readings that lack a loss or a compute.

    Raises:
        SpecError: with what to map.
    """
    given = set(reading.mapping) | set(reading.pattern.groupindex if reading.pattern else ())
    if "loss" not in reading.mapping:
        raise SpecError(
            f"{source.place}: which column has the loss? Map it (--map loss=COLUMN); it has "
            f"{', '.join(source.columns[:30])}"
        )
    if not ({"c"} <= given or {"n", "d"} <= given or {"budget"} <= given):
        raise SpecError(
            f"{source.place}: the compute of a run is needed: map c (FLOPs), or n and d, or a "
            "budget in FLOPs (--map, --name-pattern)"
        )
    twice = set(reading.mapping) & set(reading.pattern.groupindex if reading.pattern else ())
    if twice:
        raise SpecError(
            f"--name-pattern: {', '.join(sorted(twice))} has a column by --map already; leave one "
            "out"
        )
    if reading.family is not None and "family" in given:
        raise SpecError("--family: the runs have a column, or a part of their names, for it")


@dataclass(frozen=True)
class _Found:
    """Fields of a run, and what it lacks."""

    fields: dict[str, object]
    lacks: list[str]


def _values(source: Source, row: Row, reading: Reading) -> _Found:
    fields: dict[str, object] = {"name": row.name}
    lacks = []
    for name, column in reading.mapping.items():
        text = row.cells.get(column, "")
        if name not in NUMBERS:
            if not text:
                lacks.append(f"column {column!r} (for {name}) is empty")
            fields[name] = text
            continue
        try:
            value = parse_number(text)
            _check(name, value)
        except ValueError as error:
            raise SpecError(
                f"{source.place}: {row.where}, column {column!r} (for {name}): {shown(text)} "
                f"{error}"
            ) from None
        if math.isnan(value):
            lacks.append(f"column {column!r} (for {name}) holds no number")
        fields[name] = value
    if reading.pattern is not None:
        match = reading.pattern.search(str(fields["name"]))
        if match is None:
            lacks.append(f"the name {fields['name']} does not match --name-pattern")
        else:
            fields |= _of_name(source, row, match)
    return _Found(fields, lacks)


def _of_name(source: Source, row: Row, match: re.Match[str]) -> dict[str, object]:
    fields: dict[str, object] = {}
    for name, text in match.groupdict().items():
        if name not in NUMBERS:
            if not text:
                raise SpecError(
                    f"{source.place}: {row.where}: --name-pattern finds no {name} in "
                    f"{shown(match.string)}"
                )
            fields[name] = text
            continue
        try:
            fields[name] = value = in_name(name, text or "")
            _check(name, value)
        except ValueError as error:
            raise SpecError(f"{source.place}: {row.where}: {error}") from None
    return fields


def _check(name: str, value: float) -> None:
    """Raises: ValueError, for a number that the field cannot have."""
    if name == "seed" and not (math.isnan(value) or float(value).is_integer()):
        raise ValueError("is no seed; give whole numbers")
    if name != "seed" and value <= 0:
        raise ValueError("is not positive; mend it, or leave the run out (--where)")


def _completed(
    source: Source, frame: pd.DataFrame, reading: Reading
) -> tuple[pd.DataFrame, list[str]]:
    """All columns of a run, and what was assumed for those that the source lacks."""
    assumed = []
    if "family" not in frame:
        frame["family"] = reading.family or "imported"
    if "seed" not in frame:
        frame["seed"] = 0.0
    for name in ("n", "d"):
        if name not in frame:
            frame[name] = np.nan
    if "c" not in frame and frame["n"].notna().all() and frame["d"].notna().all():
        frame["c"] = 6.0 * frame["n"] * frame["d"]
        assumed.append("compute is 6 N D, as no column has it")
    elif "c" not in frame:
        frame["c"] = frame["budget"]
        assumed.append("each run has spent its whole budget, as no column has its compute")
    if not np.isfinite(frame["c"]).all():
        raise SpecError(f"{source.place}: 6 N D is beyond what a number holds; give counts")
    if "budget" not in frame:
        frame["budget"] = group_compute(frame["c"].to_numpy(float))
        assumed.append(SHARED_BUDGETS)
    unit = reading.loss_unit or "nats"
    if reading.loss_unit is None:
        assumed.append("the loss is in nats a token (--loss-unit says otherwise)")
    if unit == "bits":
        frame["loss"] = frame["loss"] * math.log(2)
    elif unit == "perplexity":
        if (frame["loss"] <= 1).any():
            place = frame.loc[frame["loss"] <= 1, "place"].iloc[0]
            raise SpecError(f"{source.place}: {place}: a perplexity of 1 or less is none")
        frame["loss"] = np.log(frame["loss"])
    if frame["n"].notna().any() and reading.counted is None:
        assumed.append(
            "n is one convention for all runs, whether with embeddings is not known (--parameters)"
        )
    assumed.append("the loss is the model's own NLL of its validation text, not a bound")
    return frame, assumed


def _notes(frame: pd.DataFrame, reading: Reading) -> list[str]:
    """What the numbers' sizes say about their units."""
    known = [name for name in OURS if frame[name].notna().all()]
    rows = frame[known].rename(columns=OURS).assign(line=range(1, len(frame) + 1))
    given = {OURS[n]: c for n, c in reading.mapping.items() if n in OURS and n in known}
    return unit_notes(rows, given)
