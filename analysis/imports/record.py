"""The file of an imported study, `imported.json` in its folder, and its runs as reports take them.

The schema is that of our runs, as far as others have its numbers; the rest is not known.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat

from analysis.forecasts.register import digest
from analysis.imports.runs import SHARED_BUDGETS, ImportedRuns
from analysis.report.runs import StudyFrames
from analysis.report.splits import on_one_split, split_columns
from cola.errors import SpecError
from cola.families.registry import IMPORTED
from cola.files import read_record, storage_errors, write_atomically
from cola.records import STUDY_IMPORT, Artifact, Metric

FILE = STUDY_IMPORT
REMEDY = "import it again with --replace"
COMPUTE = "nominal"  # FLOPs as another project counts them


class Run(BaseModel):
    """A finished run of another project."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    place: str  # in the source
    family: str
    seed: int
    n: PositiveFloat | None  # parameters
    d: PositiveFloat | None  # tokens
    c: PositiveFloat  # FLOPs
    budget: PositiveFloat  # FLOPs
    loss: PositiveFloat  # nats a token


class Imported(BaseModel):
    """An imported study. `counted`: which parameters n are; None: not known."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = Field(1, alias="schema")
    study: str
    time: float
    kind: str
    source: str
    mapping: dict[str, str]
    counted: Literal["core", "total"] | None
    left_out: dict[str, list[str]]
    assumed: list[str]
    notes: list[str]
    runs: list[Run]


def imported_of(
    study: str,
    found: ImportedRuns,
    *,
    kind: str,
    source: str,
    mapping: Mapping[str, str],
    counted: Literal["core", "total"] | None,
) -> Imported:
    """The record of an import."""
    runs = [
        Run(
            name=str(row["name"]),
            place=str(row["place"]),
            family=str(row["family"]),
            seed=int(row["seed"]),
            n=known(row["n"]),
            d=known(row["d"]),
            c=float(row["c"]),
            budget=float(row["budget"]),
            loss=float(row["loss"]),
        )
        for _, row in found.rows.iterrows()
    ]
    return Imported(
        schema=1,
        study=study,
        time=time.time(),
        kind=kind,
        source=source,
        mapping=dict(mapping),
        counted=counted,
        left_out={reason: list(places) for reason, places in found.left_out.items()},
        assumed=list(found.assumed),
        notes=list(found.notes),
        runs=runs,
    )


def known(value: float) -> float | None:
    """A number; None where there is none."""
    return None if math.isnan(value) else float(value)


def write_import(folder: Path, imported: Imported, *, replace: bool) -> Path:
    """Write the record into the study's folder.

    Raises:
        SpecError: the folder is that of a study that this product trains, or of an earlier import.
        StorageError: it cannot be written.
    """
    if (folder / Artifact.STUDY).exists():
        raise SpecError(
            f"--study {imported.study}: {folder} is a study that was run here; give the import "
            "another name"
        )
    path = folder / FILE
    if path.exists() and not replace:
        raise SpecError(
            f"--study {imported.study}: {path} is there already; give --replace, or another name"
        )
    with storage_errors(path, remedy="make room, or check that this user may write there"):
        write_atomically(path, imported.model_dump_json(indent=1, by_alias=True) + "\n")
    return path


def read_import(folder: Path) -> Imported | None:
    """The record of a study's folder; None where it has none.

    Raises:
        StorageError: it is damaged.
    """
    return read_record(folder / FILE, Imported, what="an import", remedy=REMEDY)


def frames_of(imported: Imported) -> StudyFrames:
    """The study as a report takes it."""
    runs = pd.DataFrame([_row(imported, run) for run in imported.runs])
    runs["rung"] = runs["budget"].rank(method="dense").astype(int) - 1
    twice = runs.groupby("run_key").cumcount().astype(str)
    runs["run_key"] = runs["run_key"].where(twice == "0", runs["run_key"] + "-" + twice)
    runs["run_id"] = runs["run_key"]
    runs = runs.sort_values(["rung", "variant", "seed"], kind="stable").reset_index(drop=True)
    points = runs.assign(step=0, is_final=True)
    runs, points, split, _ = on_one_split(runs, points)
    columns = ["run", "family", "variant", "budget"]
    return StudyFrames(
        runs,
        points,
        pd.DataFrame(columns=["run_id", "variant", "budget", "tokens", "train_loss"]),
        pd.DataFrame(columns=[*columns, "diagnostic", "value"]),
        pd.DataFrame(),
        notes=sentences(imported),
        split=split,
        metrics={str(run["run_id"]): {Metric.NLL: float(run["nll"])} for _, run in runs.iterrows()},
    )


def _row(imported: Imported, run: Run) -> dict[str, Any]:
    # Of what identifies the run. Its loss may change; a budget that is assumed is one of all runs
    # near it; the place stands for a name that the source lacks, and moves with other rows.
    name = None if run.name == run.place else run.name
    key = digest([imported.study, name, run.family, run.seed, repr(run.n), repr(run.c)])
    size = 0 if run.n is None else round(run.n)
    return {
        "name": run.name,
        "started": 0,
        "ended": np.nan,
        "family": IMPORTED,
        "variant": run.family,
        "run_key": key,
        "budget": run.budget,
        "budget_assumed": SHARED_BUDGETS in imported.assumed,
        "unit": "flops",
        "amount": run.budget,
        "seed": run.seed,
        "status": "finished",
        "status_reason": "",
        "nll_kind": "exact",
        "compute": COMPUTE,
        "core_parameters": size,
        "embedding_parameters": 0,
        "head_parameters": np.nan,
        "total_parameters": size,
        "attempts": 0,
        "retry": 0,
        "data_order": {},
        "training": {},
        "nll": run.loss,
        "nll_standard_error": np.nan,
        "bits_per_byte": np.nan,
        "tokens": np.nan if run.d is None else run.d,
        "train_flops_executed": np.nan,
        "train_flops_nominal": run.c,
        "elapsed_seconds": np.nan,
        "steps": 0,
        "stage_steps": [],
        "stages": 0,
        **dict.fromkeys(split_columns({}), np.nan),
    }


def sentences(imported: Imported) -> list[str]:
    """What to know of an import before its numbers are quoted."""
    found = [f"imported from {imported.kind}, {imported.source}"]
    found += [f"assumed: {text}" for text in imported.assumed]
    if any(run.n is not None for run in imported.runs):
        found.append("core and total parameters of tables are both the n that was imported")
    if imported.counted is not None:
        found.append(f"parameters are {COUNTED[imported.counted]}")
    found += [
        f"{counted(places)} left out: {reason} ({', '.join(places[:8])}"
        f"{', ...' if len(places) > 8 else ''})"
        for reason, places in imported.left_out.items()
    ]
    return [*found, *imported.notes]


COUNTED = {"core": "without token embeddings and head", "total": "all, embeddings included"}


def counted(places: Sequence[str]) -> str:
    """`1 run is`, `3 runs are`."""
    return "1 run is" if len(places) == 1 else f"{len(places)} runs are"
